"""Time and memory of one prompt at batch 1. Grid points alternate with the full model, so that ratios are paired.

What is timed is what a user runs: the model under `reduce_tokens`, with a prefill into a KV cache and then greedy
decoding; or the same with compiled graphs. Vision and selection are timed separately, with the model run piece by
piece.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from tokensel.data import Question
from tokensel.engine.checks import while_timing
from tokensel.engine.kept import Kept
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.engine.writing import Writer
from tokensel.evaluation.downsample import with_downsampled
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.timed_prompt import Runs, TimedPrompt
from tokensel.models import LoadedModel
from tokensel.models.families import picture_arguments

QUARTILES = {"p25": 25, "p50": 50, "p75": 75}


class LatencyMeter:
    """Times grid points on one question.

    repeats          timed runs of each point, each paired with a run of the full model
    warmup           untimed runs of each point before that
    decode_tokens    tokens decoded after the first one
    compiled         run the points and the full model with compiled graphs (`Writer`). Graphs are compiled during
                     the warm-up, which then has at least one run. What cannot be compiled is named by a warning and in
                     `not_compiled`
    """

    def __init__(
        self,
        loaded: LoadedModel,
        question: Question,
        *,
        repeats: int = 5,
        warmup: int = 1,
        decode_tokens: int = 4,
        compiled: bool = False,
    ) -> None:
        self.loaded, self.question = loaded, question
        self.model, self.device = loaded.model, loaded.device
        self.repeats, self.warmup, self.decode_tokens = repeats, max(warmup, int(compiled)), decode_tokens
        self._prompts: dict[Kept | None, TimedPrompt] = {None: TimedPrompt.of(loaded, question)}
        self.tokenizer = loaded.processor.tokenizer
        self.split = SplitModel(loaded.model, compiled, text_multiple=1, tokenizer=self.tokenizer)
        self.writer = Writer(self.split) if self.split.graphs is not None else None
        self._vision: dict[Kept | None, list[float]] = {}
        self._prefixes: dict[tuple[Kept | None, bool, int], State] = {}

    @property
    def inputs(self) -> dict[str, Any]:
        """The model's keyword arguments for the question."""
        return self._prompts[None].inputs

    def _kept(self, point: GridPoint | None) -> Kept | None:
        """The picture that a point's prompt has: that of this kept, or None for the question's own.

        A picture that is scaled back costs what the question's own does, so that one is timed.
        """
        return None if point is None or self.loaded.family.fixed_size else point.picture_kept

    def _prompt(self, kept: Kept | None) -> TimedPrompt:
        if kept not in self._prompts:
            self._prompts[kept] = TimedPrompt.of(self.loaded, with_downsampled(self.loaded, self.question, kept))
        return self._prompts[kept]

    @property
    def not_compiled(self) -> dict[str, str]:
        """The kinds of work that could not be compiled, each with its reason; empty without compiled."""
        return dict(self.split.not_compiled)

    def measure(self, point: GridPoint) -> dict[str, Any]:
        """The times of one point, as from `measure_together`. Raises whatever the point raises."""
        (times,) = self.measure_together([point])
        if isinstance(times, Exception):
            raise times
        return times

    @torch.inference_mode()
    @while_timing()
    def measure_together(
        self, points: Sequence[GridPoint], tick: Callable[[float], None] = lambda points: None
    ) -> list[dict[str, Any] | Exception]:
        """Each point's times, or the exception that it raised.

        In every round the full model and each point run once; the first place rotates. With fewer points, a point's
        run is closer in time to the full model's, and drift matters less.

        select_ms               selection and aggregation, of all stages; None if the point has no stage
        vision_ms               the vision tower; None if the question has no picture
        prefill_ms              time to the first token, vision tower included
        decode_ms               one later token
        total_ms                prefill and all decoding steps
        speedup, speedup_total  prefill_ms and total_ms of the full model, divided by the point's in the same round; the
                                median over the rounds
        peak_memory_bytes       of the point's runs on CUDA; None on a CPU

        Each time is a dictionary {"p25", "p50", "p75"}.

        tick: called after each run of a point, with the share of all its runs that this one is.
        """
        full, failed = Runs(), dict[int, Exception]()
        # The point of method full shares the runs of the full model.
        runs = [
            full if point.make_method().passes_through and self._kept(point) is None else Runs() for point in points
        ]
        contenders: list[int | None] = [None, *(index for index, run in enumerate(runs) if run is not full)]
        for repeat in range(-self.warmup, self.repeats):
            first = repeat % len(contenders)
            for index in contenders[first:] + contenders[:first]:
                if index in failed:
                    continue
                try:
                    run, peak = self._run_with_peak(None if index is None else points[index])
                except Exception as error:  # a user's method may raise anything; the other points continue
                    if index is None:
                        return [error for _ in points]
                    failed[index] = error
                    continue
                if index is not None:
                    tick(1 / (self.warmup + self.repeats))
                if repeat >= 0:
                    (full if index is None else runs[index]).add(run, peak)
        found: list[dict[str, Any] | Exception] = []
        for index, point in enumerate(points):
            try:
                found.append(failed[index] if index in failed else self._figures(point, runs[index], full))
            except Exception as error:
                found.append(error)
        return found

    def _figures(self, point: GridPoint, runs: Runs, full: Runs) -> dict[str, Any]:
        kept = self._kept(point)
        if kept not in self._vision:
            self._vision[kept] = self._time_vision(kept)
        return {
            "select_ms": _quartiles(self._time_selection(point)),
            "vision_ms": _quartiles(self._vision[kept]),
            "prefill_ms": _quartiles(runs.prefill),
            "decode_ms": _quartiles(np.ravel(runs.decode)),
            "total_ms": _quartiles(runs.total),
            "speedup": float(np.median(np.divide(full.prefill, runs.prefill))),
            "speedup_total": float(np.median(full.total / runs.total)),
            "peak_memory_bytes": runs.peak,
        }

    def _run_with_peak(self, point: GridPoint | None) -> tuple[tuple[float, list[float]], int | None]:
        """One run, and its peak memory in bytes on CUDA; None on a CPU."""
        run = self._run if self.writer is None else partial(self._run_compiled, self.writer)
        if self.device.type != "cuda":
            return run(point), None
        torch.cuda.reset_peak_memory_stats(self.device)
        return run(point), torch.cuda.max_memory_allocated(self.device)

    def _run(self, point: GridPoint | None) -> tuple[float, list[float]]:
        """Milliseconds of one prefill and of each decoding step. point: None runs the full model."""
        prompt = self._prompt(self._kept(point))
        reducing: AbstractContextManager[Any] = nullcontext()
        if point is not None and point.picture_kept is None:
            reducing = reduce_tokens(
                self.model, point.make_method(), tokenizer=self.tokenizer, **prompt.about, **point.reduction()
            )
        mask = prompt.inputs["attention_mask"]
        length = mask.shape[1]
        with reducing:
            began = self._now()
            output = self.model(**prompt.inputs, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1:].argmax(-1)
            prefill = 1000 * (self._now() - began)
            steps = []
            for step in range(self.decode_tokens):
                began = self._now()
                mask = torch.cat([mask, mask.new_ones(1, 1)], 1)
                output = self.model(
                    input_ids=token,
                    attention_mask=mask,
                    position_ids=torch.full_like(token, length + step),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                )
                token = output.logits[:, -1:].argmax(-1)
                steps.append(1000 * (self._now() - began))
        return prefill, steps

    def _run_compiled(self, writer: Writer, point: GridPoint | None) -> tuple[float, list[float]]:
        stages = [] if point is None else point.stages(self.split.num_layers)
        uses_vision = any(stage.method.reads_tower(self.model.config) for stage in stages)
        prompt = self._prompt(self._kept(point))
        pictures = picture_arguments(prompt.inputs)
        began = self._now()
        if uses_vision or not pictures:
            state = self.split.embed(**prompt.inputs, **prompt.about, uses_vision=uses_vision)
        else:
            words = {name: value for name, value in prompt.inputs.items() if name not in pictures}
            features = writer.features(pictures)
            state = self.split.embed(**words, image_features=features, **prompt.about, pictures=pictures)
        decoding = writer.prefill(writer.begin(state, self.decode_tokens), stages)
        token = decoding.logits.argmax(-1, keepdim=True)
        prefill = 1000 * (self._now() - began)
        steps = []
        for _ in range(self.decode_tokens):
            began = self._now()
            token = writer.step(decoding, token).argmax(-1, keepdim=True)
            steps.append(1000 * (self._now() - began))
        return prefill, steps

    def _time_vision(self, kept: Kept | None) -> list[float]:
        pictures = picture_arguments(self._prompt(kept).inputs)
        features = self.split.features if self.writer is None else self.writer.features
        return self._repeat(lambda: features(pictures)) if pictures else []

    def _time_selection(self, point: GridPoint) -> list[float]:
        """Milliseconds of selection, aggregation and layout, summed over the stages; empty without stages."""
        stages = [stage for stage in point.stages(self.split.num_layers) if stage.layer < self.split.num_layers]
        uses_vision = any(stage.method.reads_tower(self.model.config) for stage in stages)
        if not stages:
            return []
        state = self._prefix(self._kept(point), uses_vision, stages[0].layer)
        total: list[float] = []
        for stage in stages:
            entering = self.split.run(state, stage.layer)
            times = self._repeat(partial(self._reduce_copy, entering, stage))
            total = [a + b for a, b in zip(total, times, strict=True)] if total else times
            state = self.split.reduce(entering, stage)
        return total

    def _reduce_copy(self, state: State, stage: Stage) -> State:
        # A fresh copy: a state caches what a selection computed from it.
        return self.split.reduce(state.followed_by(), stage)

    def _prefix(self, kept: Kept | None, uses_vision: bool, layer: int) -> State:
        """The unreduced prompt on entering a layer, shared by all points of this picture; see `_kept`."""
        key = (kept, uses_vision, layer)
        if key not in self._prefixes:
            prompt = self._prompt(kept)
            self._prefixes[key] = (
                self.split.run(self._prefix(kept, uses_vision, 0), layer)
                if layer
                else self.split.embed(**prompt.inputs, **prompt.about, uses_vision=uses_vision)
            )
        return self._prefixes[key]

    def _repeat(self, work: Callable[[], object]) -> list[float]:
        times = []
        for repeat in range(-self.warmup, self.repeats):
            began = self._now()
            work()
            if repeat >= 0:
                times.append(1000 * (self._now() - began))
        return times

    def _now(self) -> float:
        """The time in seconds, after the device has finished its queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _quartiles(times: Any) -> dict[str, float] | None:
    """The quartiles of times in milliseconds; None if there are no times."""
    if len(times) == 0:
        return None
    return {name: float(np.percentile(times, share)) for name, share in QUARTILES.items()}
