"""From Hydra's configs to what one start of the sweep has to do: checked grid points and their controls."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tokensel.data.protocol import Protocol
from tokensel.errors import TokenselError
from tokensel.evaluation.accuracy import BAD_SAMPLE_POLICIES, SCORINGS
from tokensel.evaluation.grid_point import GridPoint
from tokensel.methods import METHODS, find_method

# These hold for the whole start; everything else can differ from point to point.
SHARED = ("name", "output_dir", "batch_size", "compile", "on_bad_sample", "controls", "latency", "logger")


@dataclass(frozen=True)
class Row:
    """One line of the final table: a grid point over the first `limit` questions. None: all."""

    point: GridPoint
    limit: int | None


@dataclass
class Group:
    """Rows that share a model, a data set, a scoring and a protocol, and so one pass over the questions.

    model: the arguments of `load_model`.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    scoring: str
    protocol: Protocol = field(default_factory=Protocol)
    rows: list[Row] = field(default_factory=list)

    @property
    def protocol_settings(self) -> dict[str, str | None]:
        """The protocol as far as it can change a prediction: scoring=letter reads no answer."""
        return asdict(self.protocol) | ({} if self.scoring == "generate" else {"reading": None})

    @property
    def identity(self) -> str:
        """Equal for two groups that are one."""
        return json.dumps([self.model, self.data, self.scoring, self.protocol_settings], sort_keys=True)


@dataclass(frozen=True)
class Plan:
    """All that one start of the sweep asks for. shared: the keys of SHARED."""

    shared: dict[str, Any]
    groups: list[Group]


def make_plan(configs: Sequence[DictConfig]) -> Plan:
    """Checks every job's config and adds the controls; equal points are asked for once.

    Raises TokenselError, naming key, value and what is allowed.
    """
    settings = [_plain(config) for config in configs]
    for each in settings:
        _check(each)
    shared = {key: settings[0][key] for key in SHARED}
    for key in SHARED:
        values = {json.dumps(each[key]) for each in settings}
        if len(values) > 1:
            raise TokenselError(f"{key}={','.join(sorted(values))}: must be one value for a whole sweep")
    if shared["compile"]:
        shared["latency"] |= {"compiled": True}  # times of another thing
    groups: dict[str, Group] = {}
    for each in settings:
        group = _group(each)
        group = groups.setdefault(group.identity, group)
        group.rows.append(Row(_point(each, each["method"]["name"]), each["limit"]))
    for group in groups.values():
        group.rows = _distinct([*_controls(group.rows, shared["controls"]), *group.rows])
    return Plan(shared, list(groups.values()))


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        # Hydra's own section holds values that are only known inside a job.
        keys = [str(key) for key in config if key != "hydra"]
        plain = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise TokenselError(f"{error.full_key or error}: missing; give it a value") from error
    except OmegaConfBaseException as error:
        raise TokenselError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _group(settings: dict[str, Any]) -> Group:
    """The job's group, without its rows. Raises TokenselError for a protocol that there is not."""
    names = [each.name for each in fields(Protocol)]
    model = {key: value for key, value in settings["model"].items() if key not in names}
    own = {key: value for key, value in settings["model"].items() if key in names}
    chosen = {name: settings[name] for name in names if settings.get(name) is not None}
    return Group(model, settings["data"], settings["scoring"], Protocol(**own | chosen))


def _point(settings: dict[str, Any], method: str) -> GridPoint:
    options = {key: value for key, value in settings["method"].items() if key not in ("name", "file")}
    # A user's own class, where another process than the one that was given its file composes the job.
    kind = find_method(settings["method"].get("file") or method)
    no_choice = kind.passes_through or kind.fixed_kept is not None
    return GridPoint(
        method=method,
        kept=None if no_choice else _one_or_several(settings["kept"]),
        # no_image is the control of what the text alone gives: before the first layer, wherever the others
        # reduce.
        agg_layer=None if no_choice else _one_or_several(settings["agg_layer"]),
        temperature=settings["temperature"],
        aggregation=None if no_choice else settings["aggregation"],
        layout="compact" if no_choice else settings["layout"],
        position=None if no_choice else settings["position"],
        seed=settings["seed"],
        method_options=options,
    )


def _one_or_several(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _controls(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """full and no_image once per question set; the others at every kept, first layer and layout that the rows
    have."""
    controls = []
    for row in rows:
        for name in names:
            kind, point = find_method(name), row.point
            if kind.passes_through or kind.fixed_kept is not None:
                controls.append(Row(GridPoint(name), row.limit))
            elif point.kept is not None:
                layer = point.agg_layer[0] if isinstance(point.agg_layer, tuple) else point.agg_layer
                layout = point.layout
                if layout == "mask" and (kind.returns_values or kind.default_aggregation != "none"):
                    layout = "compact"
                control = GridPoint(name, point.final_kept, layer, layout=layout, seed=point.seed)
                controls.append(Row(control, row.limit))
    return controls


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Rows without repetition, in the table's order: full, then by kept, no_image last."""
    distinct = {json.dumps([row.point.settings(), row.limit], sort_keys=True): row for row in rows}

    def place(row: Row) -> tuple:
        point = row.point
        kind = find_method(point.method)
        end = -1 if kind.passes_through else 1 if kind.fixed_kept is not None else 0
        layers = [stage.layer for stage in point.stages()]
        return (row.limit or math.inf, end, point.final_kept or 0, point.method, layers)

    return sorted(distinct.values(), key=place)


def _integer(least: int | None = None) -> tuple[Callable[[Any], bool], str]:
    def is_integer(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)

    return is_integer, "must be an integer" if least is None else f"must be an integer from {least}"


def _integers(key: str, optional: bool) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        values = value if isinstance(value, list) and value else [value]
        return (optional and value is None) or all(_integer()[0](each) for each in values)

    return fits, f"must be an integer, or a list of them, one per stage: {key}=[..]" + (
        "; or null for each method's own" if optional else ""
    )


def _choice(*allowed: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in allowed, f"choose one of {', '.join(allowed)}"


def _check(settings: dict[str, Any]) -> None:
    """Checks the keys that no grid point checks itself; GridPoint does the rest."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "kept": _integers("kept", optional=False),
        "agg_layer": _integers("agg_layer", optional=True),
        "batch_size": _integer(1),
        "compile": (lambda value: isinstance(value, bool), "must be true or false"),
        "seed": _integer(0),
        "latency.repeats": _integer(0),
        "latency.warmup": _integer(0),
        "latency.decode_tokens": _integer(1),
        "scoring": _choice(*SCORINGS),
        "on_bad_sample": _choice(*BAD_SAMPLE_POLICIES),
        "limit": (
            lambda value: value is None or _integer(1)[0](value),
            "must be an integer from 1, or null for all questions",
        ),
        "name": (
            lambda value: isinstance(value, str | int) and bool(str(value).strip(".")) and "/" not in str(value),
            "must be a folder name without /",
        ),
        "output_dir": (lambda value: isinstance(value, str) and bool(value), "must be a folder"),
    }
    for key, (is_allowed, allowed) in rules.items():
        value: Any = settings
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise TokenselError(f"{key}: missing")
            value = value[part]
        if not is_allowed(value):
            raise TokenselError(f"{key}={value}: {allowed}")
    controls = settings["controls"]
    if not isinstance(controls, list):
        raise TokenselError(f"controls={controls}: must be a list of methods: {', '.join(sorted(METHODS))}; or []")
    for name in controls:
        if name not in METHODS:
            raise TokenselError(f"controls={controls}: {name} is unknown; choose from {', '.join(sorted(METHODS))}")
    for group in ("method", "model", "data", "logger"):
        if not isinstance(settings[group], dict):
            raise TokenselError(f"{group}={settings[group]}: must be the name of a file in conf/{group}")
