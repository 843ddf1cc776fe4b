"""What a check found, and how far numbers may lie apart."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# Largest difference of logits, relative to the largest logit. by_hand: the same products in the same shapes, so that
# little but the attention kernel may differ. batched: other shapes, whose kernels round differently.
BY_HAND = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
BATCHED = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@dataclass
class Outcome:
    """The result of one check.

    text: what was compared, in a few words. figure: the largest difference found, None = what was compared is equal or
    not. tolerance: the largest allowed. problems: what is wrong, a line each; none = passed. details: every figure by
    what it belongs to.
    """

    text: str
    figure: float | None = None
    tolerance: float | None = None
    problems: list[str] = field(default_factory=list)
    details: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.problems

    def compare(self, what: str, found: Tensor, expected: Tensor) -> None:
        """Notes by how much logits differ; more than the tolerance, another shape or a NaN is a problem."""
        assert self.tolerance is not None
        if found.shape != expected.shape:
            self.problems.append(f"{what}: has shape {list(found.shape)}, not {list(expected.shape)}")
            return
        distance = difference(found, expected)
        if not math.isfinite(distance):
            self.problems.append(f"{what}: a number is not finite")
            return
        self.details[what] = distance
        self.figure = max(distance, self.figure or 0.0)
        if distance > self.tolerance:
            self.problems.append(f"{what}: differs by {distance:.2g}")

    def expect(self, holds: bool, problem: str) -> None:
        """Notes a problem unless this holds."""
        if not holds:
            self.problems.append(problem)

    def record(self, name: str) -> dict[str, Any]:
        """As verify.json has it."""
        return {
            "name": name,
            "passed": self.passed,
            "text": self.text,
            "figure": self.figure,
            "tolerance": self.tolerance,
            "problems": self.problems,
            "details": self.details,
        }


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest of the expected numbers; NaN where one number is
    not finite."""
    found, expected = found.float().cpu(), expected.float().cpu()
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("nan")
    return float((found - expected).abs().amax() / expected.abs().amax().clamp_min(1e-12))
