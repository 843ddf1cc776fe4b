"""One setting of a sweep's grid."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tokensel.engine.stages import Stage, make_stages
from tokensel.methods import Method, make_method


@dataclass(frozen=True)
class GridPoint:
    """One setting of method, aggregation and layout. Arguments mean what they mean for `reduce_tokens`.

    kept      visual tokens that remain; None only for methods that leave no choice (full, no_image); a tuple has
              one entry for each of several stages
    agg_layer likewise; None: the method's own
    seed      for methods that choose at random

    Raises TokenselError for anything that no model could run.
    """

    method: str
    kept: int | tuple[int, ...] | None = None
    agg_layer: int | tuple[int, ...] | None = None
    temperature: float = 0.1
    aggregation: str | None = None
    layout: str = "compact"
    position: str | None = None
    seed: int = 0
    method_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stages()

    def make_method(self) -> Method:
        """The method with its options, and with the seed if it has one."""
        options = dict(self.method_options)
        method = make_method(self.method, **options)
        if "seed" in (option.name for option in fields(method)):
            method = make_method(self.method, **{"seed": self.seed} | options)
        return method

    def stages(self, num_layers: int | None = None) -> list[Stage]:
        """The point's stages, as `SplitModel.reduce` takes them one by one; num_layers: the decoder's."""
        return make_stages(self.make_method(), **self.reduction(), num_layers=num_layers)

    @property
    def final_kept(self) -> int | None:
        """How many visual tokens remain after the last stage that chooses any; None: all."""
        kept = self.kept[-1] if isinstance(self.kept, tuple) else self.kept
        return self.make_method().fixed_kept if kept is None else kept

    def reduction(self) -> dict[str, Any]:
        """The keyword arguments of `reduce_tokens`, less the method."""
        names = ("kept", "agg_layer", "temperature", "aggregation", "layout", "position")
        return {name: getattr(self, name) for name in names}

    def settings(self) -> dict[str, Any]:
        """What determines the point's predictions, and nothing else: points that cannot differ have equal
        settings.

        A temperature that no aggregation uses, a seed that nothing draws from and the like are None.
        """
        method, stages = self.make_method(), self.stages()
        options = {name: value for name, value in asdict(method).items() if name != "seed"}
        settings: dict[str, Any] = {"method": self.method, "method_options": options}
        reduced = dict.fromkeys((*self.reduction(), "stages", "seed"))
        if not method.passes_through:
            first = stages[0]
            reduced |= {name: getattr(first, name) for name in self.reduction() if name not in ("kept", "agg_layer")}
            reduced |= {"kept": self.final_kept, "agg_layer": first.layer}
            if len(stages) > 1:
                reduced["stages"] = self._stages_text(stages)
                reduced["agg_layer"] = None if self.agg_layer is None else first.layer
            if any(method.draws(stage.layer) for stage in stages):
                reduced["seed"] = getattr(method, "seed", None)
            if first.aggregation != "cross_attention":
                reduced["temperature"] = None
        return settings | reduced

    def _stages_text(self, stages: list[Stage]) -> str:
        """What tells points of several stages apart: "288@2 72@8", or which of the two the method decides."""
        kept = [str(stage.kept) for stage in stages] if isinstance(self.kept, tuple) else ["*"] * len(stages)
        layers = ["*" if self.agg_layer is None else str(stage.layer) for stage in stages]
        return " ".join(f"{count}@{layer}" for count, layer in zip(kept, layers, strict=True))
