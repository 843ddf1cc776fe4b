"""A grid point: one setting of method, kept, layer, aggregation and layout."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tokensel.engine.checks import is_ours
from tokensel.engine.kept import Kept, kept_text
from tokensel.engine.stages import Stage, make_stages
from tokensel.engine.ties import TieWatch
from tokensel.methods import Method, make_method
from tokensel.training.aggregator import aggregator_digest

# Settings of every method that stand among its own options, and only where they are not the default.
_WITH_OPTIONS = ("precision", "scope")
# In the settings as a digest of what it holds.
_AGGREGATOR = "aggregator"


@dataclass(frozen=True)
class GridPoint:
    """One setting of everything that a sweep varies. The arguments mean the same as those of `reduce_tokens`.

    kept            visual tokens that remain: a count, a share ("25%" or 0.25, stored as 0.25), or as many as cover the
                    picture ("auto", "auto:0.9:4-64" or Auto(0.9, 4, 64), stored as Auto); a tuple has one entry per
                    stage; None only for methods that leave no choice (full, no_image)
    agg_layer       the layer, or a tuple of them; None: the method's own
    seed            for methods that choose at random
    method_options  values of the method's fields
    precision       in which the method computes: float32, or model, see `tokensel.engine.precision`
    scope           of a video: frames are reduced together ("video"), or each by itself ("frame")
    aggregator      of aggregation="learned": a file, or "tiny", the embedded model's

    Raises TokenselError for a setting that no model could run.
    """

    method: str
    kept: Kept | str | tuple[Kept | str, ...] | None = None
    agg_layer: int | tuple[int, ...] | None = None
    temperature: float = 0.1
    aggregation: str | None = None
    layout: str = "compact"
    position: str | None = None
    seed: int = 0
    method_options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    scope: str = "video"
    aggregator: str | None = None

    def __post_init__(self) -> None:
        stages = self.stages()
        kept = [stage.kept for stage in stages]
        if isinstance(self.kept, tuple):
            object.__setattr__(self, "kept", tuple(kept[: len(self.kept)]))
        elif self.kept is not None:
            object.__setattr__(self, "kept", kept[0])

    def make_method(self) -> Method:
        """The method with its options, and with the seed if it has one."""
        options = dict(self.method_options)
        method = make_method(self.method, **options)
        if "seed" in (option.name for option in fields(method)):
            method = make_method(self.method, **{"seed": self.seed} | options)
        return method

    def stages(
        self,
        num_layers: int | None = None,
        watch: TieWatch | None = None,
        asks_twice: bool = False,
        width: int | None = None,
    ) -> list[Stage]:
        """The point's stages, with a fresh instance of the method.

        num_layers: the decoder's, to check agg_layer and to scale a method's own layers. width: its hidden size, to
        check an aggregator. watch: finds choices that hang
        on a tie. asks_twice: see `Stage`; of no use for tokensel's own methods.
        """
        stages = make_stages(self.make_method(), **self.reduction(), num_layers=num_layers, width=width)
        twice = asks_twice and not is_ours(stages[0].method)
        return [replace(stage, watch=watch, asks_twice=twice) for stage in stages] if watch or twice else stages

    @property
    def final_kept(self) -> Kept | None:
        """Visual tokens that remain after the last stage, a count or a share; None: all."""
        kept: Any = self.kept[-1] if isinstance(self.kept, tuple) else self.kept
        return self.make_method().fixed_kept if kept is None else kept

    @property
    def picture_kept(self) -> Kept | None:
        """To how many patches the pictures are reduced before the model sees them; None: they are not."""
        return self.final_kept if self.make_method().changes_picture else None

    @property
    def in_model(self) -> "GridPoint":
        """What is left to do inside the model once the pictures are reduced: nothing, where that is all."""
        return self if self.picture_kept is None else GridPoint("full")

    def reduction(self) -> dict[str, Any]:
        """The keyword arguments of `reduce_tokens`, without the method."""
        names = ("kept", "agg_layer", "temperature", "aggregation", "layout", "position", *_WITH_OPTIONS, _AGGREGATOR)
        return {name: getattr(self, name) for name in names}

    def settings(self, config: Any | None = None) -> dict[str, Any]:
        """Everything that determines the point's predictions, and nothing else. config: the model's, where it is known.

        Points that always predict the same have equal settings: a temperature that no aggregation uses, or a seed that
        the method does not use, is None. kept is a count, or text: "25%", "auto" or "auto:0.9". aggregator, a digest of
        what was trained, is there only with aggregation="learned".
        """
        method, stages = self.make_method(), self.stages()
        options = {name: value for name, value in asdict(method).items() if name != "seed"}
        options |= method.resolved_settings(config)
        settings: dict[str, Any] = {"method": self.method, "method_options": options}
        names = [name for name in self.reduction() if name not in (*_WITH_OPTIONS, _AGGREGATOR)]
        if not method.passes_through:
            changed = {name: getattr(self, name) for name in _WITH_OPTIONS}
            options |= {name: value for name, value in changed.items() if value != getattr(GridPoint, name)}
        reduced = dict.fromkeys((*names, "stages", "seed"))
        if self.picture_kept is not None:
            reduced["kept"] = _kept_setting(self.picture_kept)
        if not method.passes_through:
            first = stages[0]
            reduced |= {name: getattr(first, name) for name in names if name not in ("kept", "agg_layer")}
            kept = None if method.decides_count() else self.final_kept
            reduced |= {"kept": _kept_setting(kept), "agg_layer": first.layer}
            if len(stages) > 1:
                reduced["stages"] = self._stages_text(stages)
                reduced["agg_layer"] = None if self.agg_layer is None else first.layer
            if any(method.draws(stage.layer) for stage in stages):
                reduced["seed"] = getattr(method, "seed", None)
            if first.aggregation != "cross_attention":
                reduced["temperature"] = None
            if first.learned is not None:
                reduced[_AGGREGATOR] = aggregator_digest(first.learned)
        return settings | reduced

    def _stages_text(self, stages: list[Stage]) -> str:
        """Kept and layer of each stage, as "288@2 72@8". A star stands for what the method decides itself."""
        own = isinstance(self.kept, tuple) and not stages[0].method.decides_count()
        kept = [kept_text(stage.kept or 0) for stage in stages] if own else ["*"] * len(stages)
        layers = ["*" if self.agg_layer is None else str(stage.layer) for stage in stages]
        return " ".join(f"{count}@{layer}" for count, layer in zip(kept, layers, strict=True))


def _kept_setting(kept: Kept | None) -> int | str | None:
    """A count as it is, anything else as text."""
    return kept if kept is None or isinstance(kept, int) else kept_text(kept)
