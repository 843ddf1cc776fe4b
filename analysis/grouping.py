"""Rows of results put in order for a figure: panels, series, and the words that name them. Nothing is averaged."""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pandas as pd

from analysis.results import CONTROLS, SETTINGS, option_columns, pool_titles, tidy

_TOLD_APART = 4  # so many settings of one method are shaded differently; more look alike
_NAMED = 6  # so many failed points are named in a note


def shortfall(results: pd.DataFrame) -> str:
    """One sentence on the points that are not shown because they failed or are not finished; "" if there are none."""
    rows = tidy(results)
    parts = []
    for status in ("failed", "unfinished"):
        names = [
            f"{method} at {kept} kept" if not pd.isna(kept) else str(method)
            for method, kept in rows.loc[rows["status"] == status, ["method", "kept"]].itertuples(index=False)
        ]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{len(names)} {status} ({', '.join(names[:_NAMED])}{more})")
    return f"Not shown: {'; '.join(parts)}." if parts else ""


def variants(rows: pd.DataFrame, but: Collection[str] = ()) -> pd.Series:
    """For each row what tells it from the other settings of its method, kept and `but` aside: "agg_layer 2, seed 0"."""
    columns = [name for name in (*SETTINGS, *option_columns(rows)) if name not in but]
    told = rows[columns].astype(object).where(rows[columns].notna(), "")
    # Of several stages the counts go with kept; the layers are the setting.
    told["stages"] = told["stages"].map(lambda text: re.sub(r"\S+@", "@", text))
    parts = [pd.Series(dtype=object)]
    for _, same in told.groupby(rows["method"]):
        differing = [name for name in columns if same[name].map(str).nunique() > 1]
        words = [_words(dict(zip(differing, row, strict=True))) for row in same[differing].to_numpy()]
        parts.append(pd.Series(words, index=same.index, dtype=object))
    return pd.concat(parts).reindex(rows.index)


def _words(settings: dict[str, Any]) -> str:
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    if "code" in texts:
        texts["code"] = texts["code"][:6]
    return ", ".join(f"{name.removeprefix('method.')} {text}" for name, text in texts.items() if text)


def point_words(method: str, kept: Any, setting: str) -> str:
    """What names a point to a reader: "fps, 8 kept, agg_layer 2"."""
    return ", ".join(filter(None, (method, "" if method in CONTROLS else f"{kept} kept", setting)))


def apart(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, float]]:
    """The rows of each method and setting by rising kept, with what a Series is named by, and a factor that puts the
    series beside each other."""
    rows = rows.assign(setting=variants(rows))
    parts = list(rows.groupby([_ranks(rows["method"]), "setting"], sort=True))
    settings = pd.Series([part["method"].iloc[0] for _, part in parts]).value_counts()
    seen: dict[str, int] = {}
    step = min(1.03, 1.3 ** (1 / max(len(parts) - 1, 1)))
    for place, ((_, setting), part) in enumerate(parts):
        method = str(part["method"].iloc[0])
        count, nth = int(settings[method]), seen.get(method, 0)
        seen[method] = nth + 1
        name, strength = method, 1.0
        if 1 < count <= _TOLD_APART:
            name, strength = f"{method}, {setting or 'otherwise'}", 1 - 0.65 * nth / (count - 1)
        elif count > _TOLD_APART:
            name, strength = f"{method}, {count} settings", 0.5
        yield (
            {"name": name, "method": method, "strength": strength},
            part.sort_values("kept", kind="stable"),
            step ** (place - (len(parts) - 1) / 2),
        )


def _ranks(methods: pd.Series) -> pd.Series:
    """Sorts methods by name, what they are compared with last."""
    order: Callable[[str], tuple] = lambda name: (name in CONTROLS, name in ("fastv", "random"), name)  # noqa: E731
    return methods.map(order)


def facets(rows: pd.DataFrame, by: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each value of `by`, whose first is pool, with a title that names what differs."""
    titles = pool_titles(rows) if len(rows) else {}
    shown = [name for name in by[1:] if name in ("method", "kept", "setting") or rows[name].nunique(dropna=False) > 1]
    for values, same in rows.groupby(by, sort=False, dropna=False):
        told: dict[str, Any] = dict(zip(by, values, strict=True))
        named = {"kept": "{} kept", "threads": "{} threads"}
        parts = [named.get(name, "{}").format(told[name]) for name in shown if not pd.isna(told[name])]
        yield ", ".join(part for part in (titles[told["pool"]], *parts) if part), same


def kept_ticks(rows: pd.DataFrame) -> tuple[list[tuple[float, str]], bool]:
    """A tick at every kept, and whether the axis can be logarithmic."""
    kept = sorted({int(value) for value in rows["kept"].dropna()})
    return [(float(value), str(value)) for value in kept], bool(kept) and kept[0] > 0


def floats(column: pd.Series) -> list[float]:
    """The column's values, NaN for NA."""
    return [float(value) for value in column.astype("Float64").fillna(float("nan"))]


def percent(column: pd.Series) -> list[float]:
    """A column of shares in percent."""
    return [100 * value for value in floats(column)]


def limits(rows: pd.DataFrame, low: str, high: str, unit: float) -> list[tuple[float, float]]:
    """The values of two columns, row by row, in a unit."""
    return [(a / unit, b / unit) for a, b in zip(floats(rows[low]), floats(rows[high]), strict=True)]


def span(counts: pd.Series) -> str:
    """The counts in words: "200", or "60 to 200"."""
    least, most = int(counts.min()), int(counts.max())
    return str(least) if least == most else f"{least} to {most}"


def hover(rows: pd.DataFrame, *more: str) -> list[str]:
    """Of each row of `apart` what names it, n, and more of its columns."""
    lines = []
    for row in rows[["method", "kept", "setting", "n", *more]].to_dict("records"):
        parts = [point_words(row["method"], row["kept"], row["setting"]), f"n = {row['n']}"]
        parts += [f"{name} {row[name]:.3g}" if isinstance(row[name], float) else f"{name} {row[name]}" for name in more]
        lines.append(", ".join(parts))
    return lines
