"""Time and memory of one prompt at batch 1, each grid point in turn with the full model: paired ratios.

What is timed is what a user runs: the model itself under `reduce_tokens`, prefill with a KV cache and then
greedy steps. Vision and selection are timed apart, in the model run piece by piece.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from tokensel.data import Question
from tokensel.evaluate import GridPoint, row_keys
from tokensel.families import picture_arguments
from tokensel.models import LoadedModel
from tokensel.reduce import reduce_tokens
from tokensel.split import SplitModel

QUARTILES = {"p25": 25, "p50": 50, "p75": 75}


class LatencyMeter:
    """Times grid points on one question.

    repeats          timed runs of each point, each beside one of the full model
    warmup           runs of each before that, not counted
    decode_tokens    greedy steps after the first token
    """

    def __init__(
        self,
        loaded: LoadedModel,
        question: Question,
        *,
        repeats: int = 5,
        warmup: int = 1,
        decode_tokens: int = 4,
    ) -> None:
        self.model, self.device = loaded.model, loaded.device
        self.repeats, self.warmup, self.decode_tokens = repeats, warmup, decode_tokens
        self.inputs: dict[str, Any] = loaded.prepare([question])
        self.keys = row_keys([question], loaded.device)
        self.split = SplitModel(loaded.model)

    @torch.inference_mode()
    def measure(self, point: GridPoint) -> dict[str, Any]:
        """The point's times: select_ms, vision_ms, prefill_ms, decode_ms, total_ms, each {"p25", "p50",
        "p75"}.

        prefill_ms is the time to the first token, vision tower included; decode_ms one later token; total_ms
        all of them; select_ms is None where nothing is chosen. Also speedup and speedup_total: the full model's
        prefill and total over the point's, median of the paired ratios; peak_memory_bytes of the point's runs on
        CUDA, None on a CPU, which keeps no such count.
        """
        full: list[tuple[float, list[float]]] = []
        reduced: list[tuple[float, list[float]]] = []
        peak = None
        for repeat in range(-self.warmup, self.repeats):
            # Who goes first takes turns: the second finds warmer caches.
            for mine in (True, False) if repeat % 2 else (False, True):
                if mine and self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(self.device)
                run = self._run(point if mine else None)
                if mine and self.device.type == "cuda":
                    peak = max(peak or 0, torch.cuda.max_memory_allocated(self.device))
                if repeat >= 0:
                    (reduced if mine else full).append(run)
        prefill, decode = (np.array(values) for values in zip(*reduced, strict=True))
        full_prefill, full_decode = (np.array(values) for values in zip(*full, strict=True))
        total, full_total = prefill + decode.sum(1), full_prefill + full_decode.sum(1)
        return {
            "select_ms": _quartiles(self._time_selection(point)),
            "vision_ms": _quartiles(self._time_vision()),
            "prefill_ms": _quartiles(prefill),
            "decode_ms": _quartiles(decode.ravel()),
            "total_ms": _quartiles(total),
            "speedup": float(np.median(full_prefill / prefill)),
            "speedup_total": float(np.median(full_total / total)),
            "peak_memory_bytes": peak,
        }

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

    def _time_vision(self) -> list[float]:
        pictures = picture_arguments(self.inputs)
        return self._repeat(lambda: self.split.picture_features(pictures)) if pictures else []

    def _time_selection(self, point: GridPoint) -> list[float]:
        """Choosing, aggregating and laying out, all stages, on the states that enter their layers."""
        stages = [stage for stage in point.stages(self.split.num_layers) if stage.layer < self.split.num_layers]
        looks = any(stage.method.uses_vision for stage in stages)
        state = self.split.embed(**self.inputs, row_keys=self.keys, looks=looks)
        total: list[float] = []
        for stage in stages:
            entering = self.split.run(state, stage.layer)
            times = self._repeat(partial(self.split.reduce, entering, stage))
            total = [a + b for a, b in zip(total, times, strict=True)] if total else times
            state = self.split.reduce(entering, stage)
        return total

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


def _quartiles(times: Any) -> dict[str, float] | None:
    """The quartiles of times in milliseconds; None for none."""
    if len(times) == 0:
        return None
    return {name: float(np.percentile(times, share)) for name, share in QUARTILES.items()}
