"""Survivors of one picture as a page of its own: every centroid's gathered weights, small and large."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from analysis.maps import GATHERED, HEAT
from analysis.report.page import assemble, join, read_part, tag
from analysis.report.pictures import data_uri
from analysis.style import BLACK, method_style
from analysis.survivors import Survivors, effective_tokens

SCRIPTS = ("dom.js", "gallery.js", "survivors.js")
_PICTURE_SIDE = 672
_NOTE = (
    "Bright: the visual tokens that are left. The small maps show what each centroid gathers, coloured to its own "
    "maximum, its own token outlined. Point at one, or walk through them with the tab key, to see it large."
)


def survivors_page(
    picture: np.ndarray, table: Sequence[Sequence[Survivors]], grid: tuple[int, int], question: str, meta: str
) -> str:
    """The page: a row of `table` for each kept, a column for each method.

    picture: uint8 [H, W, 3] as the model sees it. grid: rows and columns of its visual tokens. question, meta: shown as
    they are.
    """
    methods = list(dict.fromkeys(survivors.point.method for line in table for survivors in line))
    data = {
        "picture": data_uri(Image.fromarray(picture), _PICTURE_SIDE),
        "grid": list(grid),
        "colors": _base64((255 * HEAT(np.arange(256))[:, :3]).round().astype(np.uint8)),
        "cells": [_cell(survivors, methods) for line in table for survivors in line],
    }
    return assemble(
        title=f"Survivors: {question}",
        name=question,
        meta=join(meta),
        nav=join(),
        body=join(tag("p", _NOTE, class_="note"), tag("div", id="cells", class_="cells")),
        data=data,
        scripts=SCRIPTS,
        styles=read_part("survivors.css") + _colors(methods) + f":root {{ --columns: {len(table[0])}; }}\n",
    )


def _cell(survivors: Survivors, methods: Sequence[str]) -> dict[str, Any]:
    weights, effective = None, []
    if survivors.weights is not None:
        most = np.maximum(survivors.weights.max(1, keepdims=True), 1e-12)
        weights = _base64((255 * survivors.weights / most).round().astype(np.uint8))
        effective = [round(float(count), 1) for count in effective_tokens(survivors.weights)]
    method = survivors.point.method
    return {
        "label": f"{method}, {len(survivors.positions)} kept before layer {survivors.layer}",
        "color": f"c{methods.index(method)}",
        "positions": list(survivors.positions),
        "weights": weights,
        "effective": effective,
        "told": f"each {GATHERED[survivors.gathers]}",
        "answer": survivors.answer,
    }


def _colors(methods: Sequence[str]) -> str:
    colors = (method_style(method).color for method in methods)
    return "".join(
        f".c{place} {{ --c: {'var(--text)' if color == BLACK else color}; }}\n" for place, color in enumerate(colors)
    )


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
