"""What sweeps have left on disk, as one tidy frame: a row per grid point, finished, failed or unfinished."""

import glob
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tokensel.data.protocol import CHOICES
from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore

PROTOCOL = tuple(CHOICES)
# What tells two points of one method apart, beside kept and the method's own options.
SETTINGS = ("agg_layer", "stages", "temperature", "aggregation", "layout", "position", "seed", "code")
# Compared with every kept, for they have no choice of it.
CONTROLS = ("full", "no_image")
TIMES = ("select_ms", "vision_ms", "prefill_ms", "decode_ms", "total_ms")
_IDENTITY = ("model", "model_revision", "dtype", "data", "data_options", "data_digest", "questions", "scoring")
_QUARTILES = tuple(f"{time}_{quartile}" for time in TIMES for quartile in ("p25", "p50", "p75"))
_COSTS = ("speedup", "speedup_total", "flops", "flops_ratio", "kv_bytes", "tokens_layer_mean", "peak_memory_bytes")
_FIGURES = ("n", "correct", "skipped", "accuracy", "ci_low", "ci_high", *_COSTS, "min_margin", "near_ties")
# Every column, in order, with its type.
KINDS = (
    dict.fromkeys(("key", "folder", "sweep", "status", "error"), "string")
    | {"in_table": "boolean"}
    | dict.fromkeys((*_IDENTITY, *PROTOCOL, "pool", "method"), "string")
    | {"kept": "Int64", "agg_layer": "Int64", "stages": "string", "temperature": "Float64"}
    | dict.fromkeys(("aggregation", "layout", "position"), "string")
    | {"seed": "Int64", "code": "string"}
    | dict.fromkeys(("n", "correct", "skipped"), "Int64")
    | dict.fromkeys(("accuracy", "ci_low", "ci_high", "chance"), "Float64")
    | dict.fromkeys((*_QUARTILES, "speedup", "speedup_total"), "Float64")
    | {"flops": "Int64", "flops_ratio": "Float64", "kv_bytes": "Int64", "tokens_layer_mean": "Float64"}
    | {"peak_memory_bytes": "Int64", "min_margin": "Float64", "near_ties": "Int64"}
    | {"command": "string", "device": "string", "threads": "Int64", "versions": "string", "commit": "string"}
)
_FILES = ("config.yaml", "metrics.json", "predictions.jsonl", "error.json")
_UNKNOWN = "questions=?"
_KEY = re.compile(r"[0-9a-f]{12}")


def load_results(source: str | Path) -> pd.DataFrame:
    """One row per grid point, typed, in the order of the sweep's own table where there is one.

    source    a sweep's folder, a folder of sweeps, one point's folder, a results.parquet, or a glob of any of these

    Columns: those of KINDS, `yes_no_X` for each figure X that MME and POPE add, `method.X` for each option X of a
    method. status is "complete", "failed" (error says why) or "unfinished". pool names the model's revision, the data,
    the questions asked, the scoring and the protocol: only rows of one pool may be compared or averaged. code is a
    digest of the code that computed the point, in_table whether the sweep's last table holds it: a folder keeps what
    earlier starts and code have left. Accuracies and their limits are shares, times milliseconds. What a row does
    not have is NA: older folders tell no protocol, a point that is not complete has no figures.

    The points' own files are enough; a results.parquet beside them adds chance, in_table and the order. Without its
    points' folders a results.parquet gives what it holds itself.

    Raises TokenselError for a source that holds no grid point, and for files that are damaged.
    """
    found = [row for path in _paths(source) for row in _rows(path)]
    if not found:
        raise TokenselError(
            f"source={source}: holds no grid point; choose a sweep's folder, a folder of sweeps or a results.parquet"
        )
    frame = typed(pd.DataFrame(_adopted(found)))
    return frame[~frame["folder"].duplicated() | frame["folder"].isna()].reset_index(drop=True)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame in the form of results.parquet in that of `load_results`; one that has it already is given back.

    Such a frame does not tell digests: its pools are told apart by the names of model and data, and by limit.
    """
    if "pool" in frame.columns:
        return frame
    rows = []
    for record in frame.to_dict("records"):
        row = {str(name): value for name, value in record.items() if not str(name).startswith("vs_")}
        row["error"] = row.get("error") or None
        row["status"] = "failed" if row["error"] else "unfinished" if pd.isna(row.get("accuracy")) else "complete"
        protocol = {name: row[name] for name in PROTOCOL if not _missing(row.get(name))}
        limit = row.pop("limit", None)
        asked = "all questions" if _missing(limit) else f"limit={limit:.0f}"
        row["pool"] = _pool(f"model={row['model']}", row["data"], asked, row["scoring"], protocol or None)
        rows.append(row)
    return typed(pd.DataFrame(rows, columns=None if rows else list(frame.columns)))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all columns of KINDS, each of its type, then the figures of yes / no questions and the options."""
    more = [
        name for prefix in ("yes_no_", "method.") for name in sorted(map(str, frame.columns)) if name.startswith(prefix)
    ]
    frame = frame.reindex(columns=[*KINDS, *more])
    return frame.astype(KINDS | {name: "Float64" for name in more if name.startswith("yes_no_")})


def complete(results: pd.DataFrame) -> pd.DataFrame:
    """The rows that may be drawn and compared, each point once in its pool, though several sweeps may hold it."""
    rows = tidy(results)
    rows = rows[(rows["status"] == "complete") & rows["accuracy"].notna()]
    return rows.sort_values("prefill_ms_p50", kind="stable").drop_duplicates(["pool", "key"]).sort_index()


def option_columns(results: pd.DataFrame) -> list[str]:
    """The columns that hold the methods' own options."""
    return [name for name in results.columns if name.startswith("method.")]


def pool_titles(results: pd.DataFrame) -> dict[str, str]:
    """A short name for each pool: its model and data, and what else tells it from the other pools."""
    rows = tidy(results).sort_values("status", kind="stable")  # of a pool, a complete row tells most
    firsts = rows.drop_duplicates("pool").set_index("pool")
    firsts["asked"] = firsts["n"].map("{} questions".format, na_action="ignore")
    shown = ["model", "data"]
    for name in ("asked", "scoring", *PROTOCOL, "dtype", "model_revision", "data_options", "data_digest", "questions"):
        if firsts[[*shown, name]].drop_duplicates().shape[0] > firsts[shown].drop_duplicates().shape[0]:
            shown.append(name)
    named = {**dict.fromkeys(PROTOCOL, "{name}={value}"), "data_options": "{value}"}
    return {
        str(pool): ", ".join(
            named.get(name, "{value}").format(name=name, value=row[name]) for name in shown if not _missing(row[name])
        )
        for pool, row in firsts.iterrows()
    }


def _paths(source: str | Path) -> list[Path]:
    if Path(source).exists():
        return [Path(source)]
    found = [Path(path) for path in sorted(glob.glob(str(source), recursive=True))]
    if not found:
        raise TokenselError(f"source={source}: does not exist")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one path. A glob may well match files that are none of a sweep's: they give nothing."""
    if path.is_file():
        return _parquet_rows(path) if path.suffix == ".parquet" else []
    if _is_point(path):
        return [_row(path)]
    points = sorted(folder for folder in path.iterdir() if _is_point(folder))
    if not points:
        sweeps = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name != "wandb")
        return [row for sweep in sweeps if _is_sweep(sweep) for row in _rows(sweep)]
    return _as_in_table([_row(folder) for folder in points], path / "results.parquet")


def _is_point(folder: Path) -> bool:
    # The name alone would take an empty folder, the files alone those that W&B writes.
    return bool(_KEY.fullmatch(folder.name)) and any((folder / name).exists() for name in _FILES)


def _is_sweep(folder: Path) -> bool:
    return any(_is_point(inside) for inside in folder.iterdir())


def _as_in_table(rows: list[dict[str, Any]], parquet: Path) -> list[dict[str, Any]]:
    """The rows in the order of the sweep's table and with its chances. Those that no table names come last."""
    if not parquet.exists():
        return sorted(rows, key=_place)
    table = pd.read_parquet(parquet)
    places = {key: place for place, key in reversed(list(enumerate(table["key"])))}
    chances = dict(zip(zip(table["key"], table["n"], strict=True), table["chance"], strict=True))
    for row in rows:
        row["chance"] = chances.get((row["key"], row.get("n")))
        row["in_table"] = row["key"] in places
    return sorted(rows, key=lambda row: (places.get(row["key"], len(places)), _place(row)))


def _adopted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, those without figures in the pool of the others of their sweep, where these have only one that fits:
    such a point does not tell which questions it was to be asked."""
    known: dict[tuple, set[str]] = {}
    for row in rows:
        known.setdefault((row["sweep"], _less_questions(row["pool"])), set())
        if _UNKNOWN not in row["pool"]:
            known[row["sweep"], _less_questions(row["pool"])].add(row["pool"])
    for row in rows:
        beside = known[row["sweep"], _less_questions(row["pool"])]
        if _UNKNOWN in row["pool"] and len(beside) == 1:
            row["pool"] = next(iter(beside))
    return rows


def _less_questions(pool: str) -> str:
    return re.sub(r"questions=\S+", "", pool)


def _place(row: Mapping[str, Any]) -> tuple:
    """full first, then by kept, no_image last."""
    kept = row.get("kept")
    return row.get("method") == "no_image", -1 if kept is None else kept, str(row.get("method")), row["key"]


def _parquet_rows(parquet: Path) -> list[dict[str, Any]]:
    table = pd.read_parquet(parquet)
    if "key" not in table.columns:
        raise TokenselError(f"source={parquet}: is not the results.parquet of a sweep")
    folders = [parquet.parent / key for key in dict.fromkeys(table["key"])]
    if all(_is_point(folder) for folder in folders):
        return _as_in_table([_row(folder) for folder in folders], parquet)
    return tidy(table).assign(sweep=parquet.parent.name).to_dict("records")  # type: ignore[return-value]


def _row(folder: Path) -> dict[str, Any]:
    metrics = PointStore(folder).metrics()
    settings = metrics if metrics is not None else _config(folder)
    error = _error(folder)
    row: dict[str, Any] = {"key": folder.name, "folder": str(folder), "sweep": folder.parent.name, "error": error}
    row["status"] = "failed" if error else "unfinished" if metrics is None else "complete"
    row |= _identity(settings)
    row |= {name: settings.get(name) for name in ("method", "kept", *SETTINGS)}
    row |= {f"method.{name}": value for name, value in (settings.get("method_options") or {}).items()}
    return row | _figures(metrics or {})


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    model, data = settings.get("model") or {}, settings.get("data") or {}
    protocol = settings.get("protocol")
    told = " ".join(f"{name}={model[name]}" for name in sorted(model) if name != "path" and model[name] is not None)
    asked = f"questions={settings['questions']}" if settings.get("questions") else _UNKNOWN
    return {
        "model": model.get("path"),
        "model_revision": model.get("revision"),
        "dtype": model.get("dtype"),
        "data": data.get("name"),
        "data_options": json.dumps(data.get("options") or {}, sort_keys=True),
        "data_digest": data.get("digest"),
        "questions": settings.get("questions"),
        "scoring": settings.get("scoring"),
        **{name: (protocol or {}).get(name) for name in PROTOCOL},
        "pool": _pool(told, f"{data.get('name')}@{data.get('digest')}", asked, settings.get("scoring"), protocol),
    }


def _pool(model: str, data: Any, asked: str, scoring: Any, protocol: Mapping[str, Any] | None) -> str:
    told = "protocol=?"
    if protocol is not None:
        told = " ".join(f"{name}={protocol[name]}" for name in PROTOCOL if protocol.get(name) is not None)
    return " | ".join((model, f"data={data}", asked, f"scoring={scoring}", told))


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: metrics.get(name) for name in _FIGURES}
    for time in TIMES:
        quartiles = metrics.get(time) or {}
        figures |= {f"{time}_{name}": quartiles.get(name) for name in ("p25", "p50", "p75")}
    told = metrics.get("yes_no") or {}
    figures |= {f"yes_no_{part}": figure for part, figure in told.items() if not isinstance(figure, dict)}
    told = metrics.get("provenance") or {}
    figures |= {name: told.get(name) for name in ("command", "device", "threads", "commit")}
    versions = told.get("versions") or {}
    figures["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items()) or None
    return figures


def _config(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TokenselError(
            f"{folder / 'config.yaml'}: cannot be read; delete the point's folder, it is remade"
        ) from error
    return settings if isinstance(settings, dict) else {}


def _error(folder: Path) -> str | None:
    try:
        told = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "error.json cannot be read"
    return str(told.get("error") if isinstance(told, dict) else told)


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))
