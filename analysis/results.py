"""Loads what sweeps wrote to disk into one frame: a row for every grid point, complete, failed or unfinished."""

import glob
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.columns import FIGURES, PROTOCOL, SETTINGS, TIMES, pool_of, tidy, typed
from tokensel.engine.kept import count_of, read_kept
from tokensel.errors import TokenselError
from tokensel.evaluation.store import PointStore

_FILES = ("config.yaml", "metrics.json", "predictions.jsonl", "error.json")
_UNKNOWN_QUESTIONS = "questions=?"
_KEY = re.compile(r"[0-9a-f]{12}")


def load_results(source: str | Path) -> pd.DataFrame:
    """Loads one typed row per grid point, in the order of the sweep's own table where there is one.

    source    a sweep's folder, a folder of sweeps, one point's folder, a results.parquet, or a glob of any of these

    Columns:
    COLUMN_TYPES    of `analysis.columns` lists the columns that every frame has
    yes_no_X        figure X that MME and POPE add
    method.X        option X of a method
    status          "complete", "failed" (error says why) or "unfinished"
    pool            identifies the model's revision, the data, the questions, the scoring and the protocol. Only rows of
                    the same pool may be compared or averaged
    code            digest of the code that computed the point
    kept            a count. Where a share was asked for, kept_share has it, and kept is that share of a usual picture
    budget          the budgets that kept was solved for, such as "average_tokens:64, flops:0.4"
    in_table        whether the sweep's latest table lists the point. A folder also keeps points of earlier runs and of
                    earlier code, which that table does not list

    Accuracies and their limits are shares from 0 to 1; times are in milliseconds. Unknown values are NA: for example,
    old folders do not state their protocol, and points that are not complete have no figures.

    The points' folders are enough. A results.parquet beside them adds chance, in_table and the order. A
    results.parquet without its points' folders can be loaded too, and gives only the columns it contains.

    Raises TokenselError if the source holds no grid point or if a file is damaged.
    """
    found = [record for path in _paths(source) for record in _records(path)]
    if not found:
        raise TokenselError(
            f"source={source}: holds no grid point; choose a sweep's folder, a folder of sweeps or a results.parquet"
        )
    frame = typed(pd.DataFrame(_with_pools_completed(found)))
    return frame[~frame["folder"].duplicated() | frame["folder"].isna()].reset_index(drop=True)


def _paths(source: str | Path) -> list[Path]:
    if Path(source).exists():
        return [Path(source)]
    found = [Path(path) for path in sorted(glob.glob(str(source), recursive=True))]
    if not found:
        raise TokenselError(f"source={source}: does not exist")
    return found


def _records(path: Path) -> list[dict[str, Any]]:
    """One record per grid point under the path. Files that a glob matched but no sweep wrote are ignored."""
    if path.is_file():
        return _parquet_records(path) if path.suffix == ".parquet" else []
    if _is_point(path):
        return [_record(path)]
    points = sorted(folder for folder in path.iterdir() if _is_point(folder))
    if not points:
        sweeps = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name != "wandb")
        return [record for sweep in sweeps if _is_sweep(sweep) for record in _records(sweep)]
    return _as_in_table([_record(folder) for folder in points], path / "results.parquet")


def _is_point(folder: Path) -> bool:
    # The name alone would match an empty folder; the files alone would match folders that W&B writes.
    return bool(_KEY.fullmatch(folder.name)) and any((folder / name).exists() for name in _FILES)


def _is_sweep(folder: Path) -> bool:
    return any(_is_point(inside) for inside in folder.iterdir())


def _as_in_table(records: list[dict[str, Any]], parquet: Path) -> list[dict[str, Any]]:
    """Sorts records as in the sweep's table and adds chance and in_table. Points that the table lacks come last."""
    if not parquet.exists():
        return sorted(records, key=_default_order)
    table = pd.read_parquet(parquet)
    order = {key: index for index, key in reversed(list(enumerate(table["key"])))}
    chances = dict(zip(zip(table["key"], table["n"], strict=True), table["chance"], strict=True))
    for record in records:
        record["chance"] = chances.get((record["key"], record.get("n")))
        record["in_table"] = record["key"] in order
    return sorted(records, key=lambda record: (order.get(record["key"], len(order)), _default_order(record)))


def _with_pools_completed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Assigns points without figures to their sweep's pool, if exactly one pool of the sweep matches.

    The files of such a point do not state its questions, so its own pool is incomplete.
    """
    known: dict[tuple, set[str]] = {}
    for record in records:
        known.setdefault((record["sweep"], _without_questions(record["pool"])), set())
        if _UNKNOWN_QUESTIONS not in record["pool"]:
            known[record["sweep"], _without_questions(record["pool"])].add(record["pool"])
    for record in records:
        candidates = known[record["sweep"], _without_questions(record["pool"])]
        if _UNKNOWN_QUESTIONS in record["pool"] and len(candidates) == 1:
            record["pool"] = next(iter(candidates))
    return records


def _without_questions(pool: str) -> str:
    return re.sub(r"questions=\S+", "", pool)


def _default_order(record: Mapping[str, Any]) -> tuple:
    """Sort key: full first, then by kept, no_image last."""
    kept = record.get("kept")
    return record.get("method") == "no_image", -1 if kept is None else kept, str(record.get("method")), record["key"]


def _parquet_records(parquet: Path) -> list[dict[str, Any]]:
    table = pd.read_parquet(parquet)
    if "key" not in table.columns:
        raise TokenselError(f"source={parquet}: not a sweep's results.parquet; it has no column key")
    folders = [parquet.parent / key for key in dict.fromkeys(table["key"])]
    if all(_is_point(folder) for folder in folders):
        return _as_in_table([_record(folder) for folder in folders], parquet)
    return tidy(table).assign(sweep=parquet.parent.name).to_dict("records")  # type: ignore[return-value]


def _record(folder: Path) -> dict[str, Any]:
    metrics = PointStore(folder).metrics()
    settings = metrics if metrics is not None else _config(folder)
    error = _error(folder)
    record: dict[str, Any] = {"key": folder.name, "folder": str(folder), "sweep": folder.parent.name, "error": error}
    record["status"] = "failed" if error else "unfinished" if metrics is None else "complete"
    record |= _identity(settings)
    record |= {name: settings.get(name) for name in ("method", *SETTINGS)}
    record |= _kept(settings)
    record |= {f"method.{name}": value for name, value in (settings.get("method_options") or {}).items()}
    return record | _figures(metrics or {})


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """kept as a count, the share if it was one, and the budgets that it was solved for."""
    kept = settings.get("kept")
    budgets = ", ".join(settings.get("budgets") or ()) or None
    if not isinstance(kept, str):
        return {"kept": kept, "kept_share": None, "budget": budgets}
    visual_tokens = ((settings.get("provenance") or {}).get("protocol") or {}).get("visual_tokens")
    count = None if visual_tokens is None else count_of(read_kept(kept), visual_tokens)
    return {"kept": count, "kept_share": kept, "budget": budgets}


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    model, data = settings.get("model") or {}, settings.get("data") or {}
    protocol = settings.get("protocol")
    # The path is left out: a checkpoint that was moved is still the same model.
    known = " ".join(f"{name}={model[name]}" for name in sorted(model) if name != "path" and model[name] is not None)
    questions = f"questions={settings['questions']}" if settings.get("questions") else _UNKNOWN_QUESTIONS
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
        "pool": pool_of(
            known, f"{data.get('name')}@{data.get('digest')}", questions, settings.get("scoring"), protocol
        ),
    }


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: metrics.get(name) for name in FIGURES}
    for time in TIMES:
        quartiles = metrics.get(time) or {}
        figures |= {f"{time}_{name}": quartiles.get(name) for name in ("p25", "p50", "p75")}
    yes_no = metrics.get("yes_no") or {}
    figures |= {f"yes_no_{name}": figure for name, figure in yes_no.items() if not isinstance(figure, dict)}
    provenance = metrics.get("provenance") or {}
    figures |= {name: provenance.get(name) for name in ("command", "device", "threads", "commit")}
    versions = provenance.get("versions") or {}
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
            f"{folder / 'config.yaml'}: cannot be read; delete the point's folder and run its sweep again"
        ) from error
    return settings if isinstance(settings, dict) else {}


def _error(folder: Path) -> str | None:
    try:
        stored = json.loads((folder / "error.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "error.json cannot be read"
    return str(stored.get("error") if isinstance(stored, dict) else stored)
