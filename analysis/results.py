"""Loads what sweeps wrote to disk into one frame: a row for every setting, complete, failed or unfinished."""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import FIGURES, PROTOCOL, SETTINGS, TIMES, pool_of, tidy, typed
from tokensel.auto import Auto
from tokensel.data import data_label
from tokensel.engine.kept import count_of, read_kept
from tokensel.errors import TokenselError
from tokensel.evaluation.stored import StoredPoint, is_point, read_point, read_points
from tokensel.evaluation.sweep.rows import TableRow, table_rows

Source = str | Path | Sequence[str | Path]


def load_results(source: Source, each_seed: bool = False) -> pd.DataFrame:
    """Loads one typed row per setting: everything that the folders hold, in an order that depends on it alone.

    source      a sweep's folder, a folder of sweeps, one point's folder, a results.parquet, a glob of any of these, or
                a list of them
    each_seed   True: one row per grid point. False: complete points that differ in their seed alone and answered
                equally many questions are one row. Its accuracy is their mean, with an interval over questions and
                seeds; key, folder and times are those of one seed

    Columns:
    COLUMN_TYPES    of `analysis.columns` lists the columns that every frame has
    yes_no_X        figure X that MME and POPE add
    benchmark_X     figure X of the questions' own benchmark
    method.X        option X of a method
    status          "complete", "failed" (error says why) or "unfinished"
    pool            identifies the model's revision, the data, the scoring and the protocol. Only rows of the same pool
                    may be compared; each has its own n
    code            digest of the code that computed the point
    superseded      whether there is a newer point of the same settings, of other code, with as many questions
    kept            a count. Where a share was asked for, kept_share has it, and kept is that share of a usual picture;
                    where auto was, kept_share is "auto" or "auto:0.9", and kept is kept_mean, rounded
    kept_mean       visual tokens that remained, averaged over the questions, where the picture decides how many;
                    kept_sd: their standard deviation
    budget          the budgets that kept was solved for, such as "average_tokens:64, flops:0.4"
    seeds           of a row of several points, such as "0, 1, 2"; accuracy_sd: standard deviation of their accuracies
    keys            the keys of the row's points, with blanks between them

    Accuracies and their limits are shares from 0 to 1; times are in milliseconds. Unknown values are NA: for example,
    old folders do not state their protocol, and points that are not complete have no figures.

    results.parquet is a cache of the points beside it, which are read in its place. Without them it can be loaded too,
    and gives only the columns it contains. A point in several folders is one row: that with most questions.

    Raises TokenselError if the source holds no grid point or if a file is damaged.
    """
    return _loaded(source, each_seed)[0]


def load_with_points(source: Source) -> tuple[pd.DataFrame, dict[str, StoredPoint]]:
    """`load_results`, and by key the points that its rows stand for, each of which is read once.

    Raises TokenselError as `load_results` does, and for a results.parquet without its points.
    """
    results, points = _loaded(source, each_seed=False)
    if not points:
        raise TokenselError(f"source={source}: the points' folders, which store the predictions, are not beside it")
    return results, points


def _loaded(source: Source, each_seed: bool) -> tuple[pd.DataFrame, dict[str, StoredPoint]]:
    points: list[StoredPoint] = []
    records: list[dict[str, Any]] = []
    for path in _all_paths(source):
        found = _points(path)
        points += found
        if not found and path.suffix == ".parquet":
            records += _parquet_records(path)
    rows = [*_in_order_of_folders(table_rows(points, each_seed), points), *_unfinished(points)]
    records += [_record(row) for row in rows]
    if not records:
        named = ", ".join(map(str, _listed(source)))
        raise TokenselError(
            f"source={named}: holds no grid point; choose a sweep's folder, a folder of sweeps or a results.parquet"
        )
    return typed(pd.DataFrame(records)), {point.key: point for row in rows for point in row.points}


def _in_order_of_folders(rows: Sequence[TableRow], points: Sequence[StoredPoint]) -> list[TableRow]:
    """The rows, those of a pool that an earlier folder holds first."""
    places = {parent: place for place, parent in enumerate(dict.fromkeys(point.folder.parent for point in points))}
    first: dict[tuple[str, ...], int] = {}
    for row in rows:
        place = min(places[point.folder.parent] for point in row.points)
        first[row.pool] = min(place, first.get(row.pool, place))
    return sorted(rows, key=lambda row: first[row.pool])


def stored_points(source: Source) -> list[StoredPoint]:
    """The grid points of a source, as they are stored; none for a results.parquet alone."""
    return [point for path in _all_paths(source) for point in _points(path)]


def _listed(source: Source) -> list[str | Path]:
    return [source] if isinstance(source, str | Path) else list(source)


def _all_paths(source: Source) -> list[Path]:
    paths: list[Path] = []
    for each in _listed(source):
        found = (
            [Path(each)]
            if os.path.exists(each)
            else [Path(path) for path in sorted(glob.glob(str(each), recursive=True))]
        )
        if not found:
            raise TokenselError(f"source={each}: does not exist")
        paths += found
    return paths


def _points(path: Path) -> list[StoredPoint]:
    """The grid points under a path. Files that a glob matched but no sweep wrote are ignored."""
    if path.suffix == ".parquet" and path.parent.is_dir():
        return read_points(path.parent)
    if not path.is_dir():
        return []
    if is_point(path):
        return [read_point(path)]
    sweeps = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name != "wandb")
    return read_points(path) or [point for sweep in sweeps for point in read_points(sweep)]


def _parquet_records(parquet: Path) -> list[dict[str, Any]]:
    try:
        table = pd.read_parquet(parquet)
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise TokenselError(f"source={parquet}: is damaged, and no points are beside it to read instead") from error
    if "key" not in table.columns:
        raise TokenselError(f"source={parquet}: not a sweep's results.parquet; it has no column key")
    return tidy(table).assign(sweep=parquet.parent.name).to_dict("records")  # type: ignore[return-value]


def _unfinished(points: Sequence[StoredPoint]) -> list[TableRow]:
    """A row for each point without figures, unless another folder has them."""
    done = {point.key for point in points if point.metrics or point.error}
    left = {point.key: point for point in points if point.key not in done}
    return [TableRow(dict(point.settings), {}, [point], None) for point in left.values()]


def _record(row: TableRow) -> dict[str, Any]:
    point = row.points[0]
    settings = point.settings
    status = "failed" if row.error else "complete" if row.metrics else "unfinished"
    record: dict[str, Any] = {"key": point.key, "keys": " ".join(row.keys), "folder": str(point.folder)}
    record |= {"sweep": point.folder.parent.name, "error": row.error or None, "status": status}
    record |= {"superseded": row.superseded, "seeds": row.setting.get("seeds")}
    record |= _identity(settings)
    record |= {name: settings.get(name) for name in ("method", *SETTINGS)}
    record |= _kept({**settings, "budgets": row.budgets}, row.metrics)
    record |= {f"method.{name}": value for name, value in (settings.get("method_options") or {}).items()}
    if len(row.points) > 1:
        record["seed"] = None
    return record | _figures(row.metrics) | {"chance": row.chance}


def _kept(settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """kept as a count, the text if it was a share or auto, and the budgets that it was solved for."""
    kept = settings.get("kept")
    budgets = ", ".join(settings.get("budgets") or ()) or None
    if not isinstance(kept, str):
        return {"kept": kept, "kept_share": None, "budget": budgets}
    if isinstance(read_kept(kept), Auto):
        mean = metrics.get("kept_mean")
        return {"kept": None if mean is None else round(mean), "kept_share": kept, "budget": budgets}
    visual_tokens = ((settings.get("provenance") or {}).get("protocol") or {}).get("visual_tokens")
    count = None if visual_tokens is None else count_of(read_kept(kept), visual_tokens)
    return {"kept": count, "kept_share": kept, "budget": budgets}


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    model, data = settings.get("model") or {}, settings.get("data") or {}
    protocol = settings.get("protocol")
    # The path is left out: a checkpoint that was moved is still the same model.
    known = " ".join(f"{name}={model[name]}" for name in sorted(model) if name != "path" and model[name] is not None)
    return {
        "model": model.get("path"),
        "model_revision": model.get("revision"),
        "dtype": model.get("dtype"),
        "data": data_label(data.get("name"), data.get("options")),
        "data_options": json.dumps(data.get("options") or {}, sort_keys=True),
        "data_digest": data.get("digest"),
        "questions": settings.get("questions"),
        "scoring": settings.get("scoring"),
        **{name: (protocol or {}).get(name) for name in PROTOCOL},
        "pool": pool_of(known, f"{data.get('name')}@{data.get('digest')}", settings.get("scoring"), protocol),
    }


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: metrics.get(name) for name in FIGURES}
    for time in TIMES:
        quartiles = metrics.get(time) or {}
        figures |= {f"{time}_{name}": quartiles.get(name) for name in ("p25", "p50", "p75")}
    for own in ("yes_no", "benchmark"):
        given = metrics.get(own) or {}
        figures |= {f"{own}_{name}": figure for name, figure in given.items() if isinstance(figure, int | float | None)}
    provenance = metrics.get("provenance") or {}
    figures |= {name: provenance.get(name) for name in ("command", "device", "threads", "commit")}
    versions = provenance.get("versions") or {}
    figures["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items()) or None
    return figures
