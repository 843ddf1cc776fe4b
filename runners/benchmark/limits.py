"""What a prefill and a decoding step cost by formula, and how measured times compare with the hardware's limits."""

from dataclasses import dataclass
from typing import Any

from runners.benchmark.output import TableRow
from runners.benchmark.timing import Machine
from tokensel.evaluation.flops import Cost
from tokensel.models.parts import find_parts


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights that a prefill reads: vision tower and projector, each decoder layer, output head."""

    vision: int
    layers: tuple[int, ...]
    head: int


def weights_of(model: Any) -> Weights:
    """Embeddings do not count, because only those of the prompt's tokens are read."""
    parts = find_parts(model)
    decoder = _bytes(parts.decoder)
    return Weights(
        vision=_bytes(parts.llava) - decoder if parts.llava is not None else 0,
        layers=tuple(_bytes(layer) for layer in parts.layers),
        head=_bytes(parts.head) if parts.head is not None else 0,
    )


def _bytes(module: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def prefill_work(cost: Cost, weights: Weights) -> list[tuple[float, float]]:
    """(FLOPs, bytes) of a prefill's steps in order. Activations are assumed to stay in the processor's caches."""
    layers = list(zip(cost.layers, weights.layers, strict=True))
    return [(cost.vision + cost.projector, weights.vision), *layers, (cost.selection, 0), (cost.head, weights.head)]


def decode_work(cost: Cost, weights: Weights) -> list[tuple[float, float]]:
    """(FLOPs, bytes) of the second token: reads the decoder's weights and the KV cache once; FLOPs are negligible."""
    return [(0, sum(weights.layers) + weights.head + cost.kv_bytes)]


def compare_with_limits(cost: Cost, full: Cost, figures: TableRow, machine: Machine, weights: Weights) -> TableRow:
    """The point's cost by formula, and the measured times relative to it.

    implied          speed-up of the prefill that FLOPs imply, with attention counted in full
    implied_causal   the same without the FLOPs that a causal kernel avoids
    roofline_ms      the shortest time that the machine's bandwidth and FLOP rate allow
    """
    implied = full.total / cost.total
    causal = (full.total - full.causal_savings) / (cost.total - cost.causal_savings)
    prefill = 1000 * machine.roofline(prefill_work(cost, weights))
    decode = 1000 * machine.roofline(decode_work(cost, weights))
    return {
        "flops": cost.total,
        "implied": implied,
        "measured_over_implied": figures["speedup"] / implied,
        "implied_causal": causal,
        "measured_over_causal": figures["speedup"] / causal,
        "kv_bytes": cost.kv_bytes,
        "roofline_ms": prefill,
        "over_roofline": figures["prefill_ms"]["p50"] / prefill,
        "decode_roofline_ms": decode,
        "decode_over_roofline": figures["decode_ms"]["p50"] / decode,
    }
