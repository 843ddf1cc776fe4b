"""downsample: a smaller picture in place of fewer tokens, the control that every method has to beat."""

from dataclasses import dataclass
from typing import ClassVar

from tokensel.methods.base import Method
from tokensel.methods.registry import register_method


@register_method
@dataclass
class Downsample(Method):
    """Reduce the picture to as many patches as are kept; the model then reads it without any reduction.

    Where every picture has the same number of visual tokens, the small picture is scaled back up: as many tokens as
    ever enter, and they show no more than `kept` patches could (`tokensel.evaluation.downsample`). A method that is
    less accurate has chosen worse than a picture of lower resolution would have done without any choice.

    Source: Liao et al., "Are We Using the Right Benchmark", https://arxiv.org/abs/2510.07143 (VTC-Bench), whose
    baseline it is.
    Parameters: none.
    """

    name: ClassVar[str] = "downsample"
    passes_through: ClassVar[bool] = True
    changes_picture: ClassVar[bool] = True
    min_kept: ClassVar[int] = 1
