"""Groups rows of results into the panels and series of a figure, and names them. Nothing is averaged."""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pandas as pd

from analysis.columns import AT_EVERY_KEPT, CONTROLS, SETTINGS, option_columns, pool_titles, tidy

_MAX_SHADES = 4  # settings of one method that get a shade each; with more settings, all get the same shade
_MAX_NAMED = 6  # failed points that a note names


def shortfall(results: pd.DataFrame) -> str:
    """Returns one sentence naming the points that failed or are unfinished and so are not drawn; "" if none."""
    rows = tidy(results)
    parts = []
    for status in ("failed", "unfinished"):
        names = [
            f"{method} at {kept} kept" if not pd.isna(kept) else str(method)
            for method, kept in rows.loc[rows["status"] == status, ["method", "kept"]].itertuples(index=False)
        ]
        if names:
            more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            parts.append(f"{len(names)} {status} ({', '.join(names[:_MAX_NAMED])}{more})")
    return f"Not shown: {'; '.join(parts)}." if parts else ""


def variants(rows: pd.DataFrame, ignore: Collection[str] = ()) -> pd.Series:
    """Describes each row by the settings in which rows of its method differ, such as "agg_layer 2, seed 0".

    A count or share kept never is such a setting, nor are the columns in `ignore`; kept=auto is, as its points belong
    to no line over kept. The text is "" where nothing differs.
    """
    columns = [name for name in (*SETTINGS, *option_columns(rows)) if name not in ignore]
    settings = rows[columns].astype(object).where(rows[columns].notna(), "")
    # A stage is written count@layer. The counts belong to kept, so only the layers count as a setting.
    settings["stages"] = settings["stages"].map(lambda text: re.sub(r"\S+@", "@", text))
    settings["kept"] = auto_text(rows)
    columns = ["kept", *columns]
    parts = [pd.Series(dtype=object)]
    for _, same in settings.groupby(rows["method"]):
        differing = [name for name in columns if _differs(name, same[name].map(str))]
        words = [_words(dict(zip(differing, row, strict=True))) for row in same[differing].to_numpy()]
        parts.append(pd.Series(words, index=same.index, dtype=object))
    return pd.concat(parts).reindex(rows.index)


def auto_text(rows: pd.DataFrame) -> pd.Series:
    """ "auto" or "auto:0.9" where a row was asked for that, else ""."""
    asked = rows["kept_share"].fillna("").astype(object)
    return asked.where(asked.str.startswith("auto"), "")


def _differs(name: str, values: pd.Series) -> bool:
    # Points that draw nothing, and rows of several seeds, have no seed: that tells no two points apart.
    return (values[values != ""] if name == "seed" else values).nunique() > 1


def _words(settings: dict[str, Any]) -> str:
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    if "code" in texts:
        texts["code"] = texts["code"][:6]
    return ", ".join(f"{name.removeprefix('method.')} {text}" for name, text in texts.items() if text)


def point_words(method: str, kept: Any, setting: str) -> str:
    """Returns the text that names a point for a reader, such as "fps, 8 kept, agg_layer 2"."""
    return ", ".join(filter(None, (method, "" if method in CONTROLS else f"{kept} kept", setting)))


def series_of(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, float]]:
    """Yields one series for each method and setting: (naming arguments of a Series, rows by rising kept, shift).

    shift is a factor for x on a logarithmic axis. It draws points of the same kept beside each other.
    """
    rows = rows.assign(setting=variants(rows))
    parts = list(rows.groupby([_ranks(rows["method"]), "setting"], sort=True))
    settings = pd.Series([part["method"].iloc[0] for _, part in parts]).value_counts()
    seen: dict[str, int] = {}
    step = min(1.03, 1.3 ** (1 / max(len(parts) - 1, 1)))
    for index, ((_, setting), part) in enumerate(parts):
        method = str(part["method"].iloc[0])
        count, nth = int(settings[method]), seen.get(method, 0)
        seen[method] = nth + 1
        name, strength = method, 1.0
        if 1 < count <= _MAX_SHADES:
            name, strength = f"{method}, {setting or 'otherwise'}", 1 - 0.65 * nth / (count - 1)
        elif count > _MAX_SHADES:
            name, strength = f"{method}, {count} settings", 0.5
        yield (
            {"name": name, "method": method, "strength": strength},
            part.sort_values("kept", kind="stable"),
            step ** (index - (len(parts) - 1) / 2),
        )


def _ranks(methods: pd.Series) -> pd.Series:
    """Sort keys: methods by name, then controls of every kept, then full and no_image."""
    order: Callable[[str], tuple] = lambda name: (name in CONTROLS, name in AT_EVERY_KEPT, name)  # noqa: E731
    return methods.map(order)


def facets(rows: pd.DataFrame, by: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields (title, rows) for each combination of the values of `by`. The title names only what differs.

    by: names of columns; the first must be "pool".
    """
    titles = pool_titles(rows) if len(rows) else {}
    shown = [name for name in by[1:] if name in ("method", "kept", "setting") or rows[name].nunique(dropna=False) > 1]
    for values, same in rows.groupby(by, sort=False, dropna=False):
        value: dict[str, Any] = dict(zip(by, values, strict=True))
        forms = {"kept": "{} kept", "threads": "{} threads"}
        parts = [forms.get(name, "{}").format(value[name]) for name in shown if not pd.isna(value[name])]
        yield ", ".join(part for part in (titles[value["pool"]], *parts) if part), same


def kept_ticks(rows: pd.DataFrame) -> tuple[list[tuple[float, str]], bool]:
    """Returns one tick (position, text) for each kept, and whether the axis can be logarithmic."""
    kept = sorted({int(value) for value in rows["kept"].dropna()})
    return [(float(value), str(value)) for value in kept], bool(kept) and kept[0] > 0


def floats(column: pd.Series) -> list[float]:
    """Returns the column's values as floats, with NaN for NA."""
    return [float(value) for value in column.astype("Float64").fillna(float("nan"))]


def percent(column: pd.Series) -> list[float]:
    """Returns a column of shares in percent."""
    return [100 * value for value in floats(column)]


def limits(rows: pd.DataFrame, low: str, high: str, unit: float) -> list[tuple[float, float]]:
    """Returns (low, high) for each row, from two columns, in multiples of `unit`."""
    return [(a / unit, b / unit) for a, b in zip(floats(rows[low]), floats(rows[high]), strict=True)]


def span(counts: pd.Series) -> str:
    """Returns the range of the counts as text: "200", or "60 to 200"."""
    least, most = int(counts.min()), int(counts.max())
    return str(least) if least == most else f"{least} to {most}"


def hover(rows: pd.DataFrame, *more: str) -> list[str]:
    """Returns the text shown on hover for each row of `series_of`: the point's name, n, and the columns in `more`."""
    lines = []
    for row in rows[["method", "kept", "setting", "n", *more]].to_dict("records"):
        parts = [point_words(row["method"], row["kept"], row["setting"]), f"n = {row['n']}"]
        parts += [f"{name} {row[name]:.3g}" if isinstance(row[name], float) else f"{name} {row[name]}" for name in more]
        lines.append(", ".join(parts))
    return lines
