"""Time and memory of one prompt at batch 1, grid points in turn with the full model: paired ratios.

What is timed is what a user runs: the model itself under `reduce_tokens`, prefill with a KV cache and then
greedy steps; or the same by compiled graphs. Vision and selection are timed apart, in the model run piece by piece.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from tokensel.data import Question
from tokensel.engine.cached import CachedModel, cannot_cache
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel, State
from tokensel.engine.stages import Stage
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import LoadedModel
from tokensel.models.families import picture_arguments

QUARTILES = {"p25": 25, "p50": 50, "p75": 75}


class LatencyMeter:
    """Times grid points on one question.

    repeats          timed runs of each point, each beside one of the full model
    warmup           runs of each before that, not counted
    decode_tokens    greedy steps after the first token
    compiled         by `CachedModel` with graphs, the full model too; those are made in the warm-up, at least one run.
                     Where that is not possible a warning says so; `not_compiled` has what was not, and why
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
        self.model, self.device = loaded.model, loaded.device
        self.repeats, self.warmup, self.decode_tokens = repeats, max(warmup, int(compiled)), decode_tokens
        self.inputs: dict[str, Any] = loaded.prepare([question])
        self.keys = row_keys([question], loaded.device)
        self.split = SplitModel(loaded.model, compiled, text_multiple=1)
        self.cached: CachedModel | None = None
        if self.split.graphs is not None:
            if why := cannot_cache(self.split):
                self.split.graphs.go_without("times", why)
            else:
                self.cached = CachedModel(self.split)
        self._vision: list[float] | None = None
        self._prefixes: dict[tuple[bool, int], State] = {}

    @property
    def not_compiled(self) -> dict[str, str]:
        """What was to be compiled and could not be: kinds of work, and why."""
        return {} if self.split.graphs is None else dict(self.split.graphs.failed)

    def measure(self, point: GridPoint) -> dict[str, Any]:
        """The times of one point, see `measure_together`. Raises what the point raises."""
        (times,) = self.measure_together([point])
        if isinstance(times, Exception):
            raise times
        return times

    @torch.inference_mode()
    def measure_together(self, points: Sequence[GridPoint]) -> list[dict[str, Any] | Exception]:
        """Each point's times, or what it raised. In every round each point and the full model run once, who begins
        takes turns. The fewer the points, the nearer the full model's run.

        select_ms, vision_ms, prefill_ms, decode_ms, total_ms, each {"p25", "p50", "p75"}: prefill_ms is the time to
        the first token, vision tower included; decode_ms one later token; total_ms all of them; select_ms is None
        where nothing is chosen. Also speedup and speedup_total: the full model's prefill and total over the point's,
        median of the ratios within a round; peak_memory_bytes of the point's runs on CUDA, None on a CPU, which keeps
        no such count.
        """
        full, failed = _Runs(), dict[int, Exception]()
        # Method full is the full model.
        runs = [full if point.make_method().passes_through else _Runs() for point in points]
        contenders: list[int | None] = [None, *(place for place, run in enumerate(runs) if run is not full)]
        for repeat in range(-self.warmup, self.repeats):
            first = repeat % len(contenders)
            for place in contenders[first:] + contenders[:first]:
                if place in failed:
                    continue
                try:
                    run, peak = self._run_watched(None if place is None else points[place])
                except Exception as error:  # whatever a user's method raises: the other points go on
                    if place is None:
                        return [error for _ in points]
                    failed[place] = error
                    continue
                if repeat >= 0:
                    (full if place is None else runs[place]).add(run, peak)
        found: list[dict[str, Any] | Exception] = []
        for place, point in enumerate(points):
            try:
                found.append(failed[place] if place in failed else self._figures(point, runs[place], full))
            except Exception as error:
                found.append(error)
        return found

    def _figures(self, point: GridPoint, runs: "_Runs", full: "_Runs") -> dict[str, Any]:
        if self._vision is None:
            self._vision = self._time_vision()
        return {
            "select_ms": _quartiles(self._time_selection(point)),
            "vision_ms": _quartiles(self._vision),
            "prefill_ms": _quartiles(runs.prefill),
            "decode_ms": _quartiles(np.ravel(runs.decode)),
            "total_ms": _quartiles(runs.total),
            "speedup": float(np.median(np.divide(full.prefill, runs.prefill))),
            "speedup_total": float(np.median(full.total / runs.total)),
            "peak_memory_bytes": runs.peak,
        }

    def _run_watched(self, point: GridPoint | None) -> tuple[tuple[float, list[float]], int | None]:
        """A run, and the most memory that it took on CUDA, in bytes."""
        run = self._run if self.cached is None else partial(self._run_compiled, self.cached)
        if self.device.type != "cuda":
            return run(point), None
        torch.cuda.reset_peak_memory_stats(self.device)
        return run(point), torch.cuda.max_memory_allocated(self.device)

    def _run(self, point: GridPoint | None) -> tuple[float, list[float]]:
        """One answer: milliseconds of the prefill, and of every decoding step."""
        reducing: AbstractContextManager[Any] = nullcontext()
        if point is not None:
            reducing = reduce_tokens(self.model, point.make_method(), row_keys=self.keys, **point.reduction())
        mask = self.inputs["attention_mask"]
        length = mask.shape[1]
        with reducing:
            began = self._now()
            output = self.model(**self.inputs, use_cache=True, logits_to_keep=1)
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

    def _run_compiled(self, cached: CachedModel, point: GridPoint | None) -> tuple[float, list[float]]:
        stages = [] if point is None else point.stages(self.split.num_layers)
        looks = any(stage.method.uses_vision for stage in stages)
        pictures = picture_arguments(self.inputs)
        began = self._now()
        if looks or not pictures:
            state = self.split.embed(**self.inputs, row_keys=self.keys, looks=looks)
        else:
            prompt = {name: value for name, value in self.inputs.items() if name not in pictures}
            features = cached.features(pictures)
            state = self.split.embed(**prompt, image_features=features, row_keys=self.keys, pictures=pictures)
        decoding = cached.prefill(state, stages, self.decode_tokens)
        token = decoding.logits.argmax(-1, keepdim=True)
        prefill = 1000 * (self._now() - began)
        steps = []
        for _ in range(self.decode_tokens):
            began = self._now()
            token = cached.step(decoding, token).argmax(-1, keepdim=True)
            steps.append(1000 * (self._now() - began))
        return prefill, steps

    def _time_vision(self) -> list[float]:
        pictures = picture_arguments(self.inputs)
        see = self.split.picture_features if self.cached is None else self.cached.features
        return self._repeat(lambda: see(pictures)) if pictures else []

    def _time_selection(self, point: GridPoint) -> list[float]:
        """Choosing, aggregating and laying out, all stages, on the states that enter their layers."""
        stages = [stage for stage in point.stages(self.split.num_layers) if stage.layer < self.split.num_layers]
        looks = any(stage.method.uses_vision for stage in stages)
        if not stages:
            return []
        state = self._prefix(looks, stages[0].layer)
        total: list[float] = []
        for stage in stages:
            entering = self.split.run(state, stage.layer)
            times = self._repeat(partial(self._reduce_anew, entering, stage))
            total = [a + b for a, b in zip(total, times, strict=True)] if total else times
            state = self.split.reduce(entering, stage)
        return total

    def _reduce_anew(self, state: State, stage: Stage) -> State:
        # A copy, as the state itself remembers what was seen in it.
        return self.split.reduce(state.followed_by(), stage)

    def _prefix(self, looks: bool, layer: int) -> State:
        """The prompt about to enter a layer, the same for all points."""
        if (looks, layer) not in self._prefixes:
            before = self._prefix(looks, 0) if layer else None
            self._prefixes[looks, layer] = (
                self.split.embed(**self.inputs, row_keys=self.keys, looks=looks)
                if before is None
                else self.split.run(before, layer)
            )
        return self._prefixes[looks, layer]

    def _repeat(self, work: Callable[[], object]) -> list[float]:
        times = []
        for repeat in range(-self.warmup, self.repeats):
            began = self._now()
            work()
            if repeat >= 0:
                times.append(1000 * (self._now() - began))
        return times

    def _now(self) -> float:
        """Seconds, once the device has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass
class _Runs:
    """What several runs of one contender took. prefill: milliseconds of each; decode: of each run's steps; peak:
    bytes."""

    prefill: list[float] = field(default_factory=list)
    decode: list[list[float]] = field(default_factory=list)
    peak: int | None = None

    def add(self, run: tuple[float, list[float]], peak: int | None) -> None:
        self.prefill.append(run[0])
        self.decode.append(run[1])
        if peak is not None:
            self.peak = max(self.peak or 0, peak)

    @property
    def total(self) -> np.ndarray:
        return np.array(self.prefill) + np.array(self.decode).sum(1)


def _quartiles(times: Any) -> dict[str, float] | None:
    """The quartiles of times in milliseconds; None for none."""
    if len(times) == 0:
        return None
    return {name: float(np.percentile(times, share)) for name, share in QUARTILES.items()}
