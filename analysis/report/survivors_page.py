"""Builds a page that shows the survivors of one picture, and a map of the weights that each centroid gathers with."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from analysis.maps import GATHERED, HEAT
from analysis.report.page import assemble, join, read_part, tag
from analysis.report.pictures import data_uri
from analysis.style import BLACK, method_style
from analysis.survivors import Survivors, effective_tokens, is_right

SCRIPTS = ("dom.js", "gallery.js", "survivors.js")
_PICTURE_SIDE = 672
_NOTE = (
    "The kept visual tokens are bright. Each small map shows the weights with which one centroid gathers tokens, "
    "relative to its largest weight; the centroid's own token is outlined. To enlarge a map, point at it or move to it "
    "with the tab key."
)


def survivors_page(
    picture: np.ndarray,
    table: Sequence[Sequence[Survivors]],
    grid: tuple[int, int],
    question: str,
    meta: str,
    full: str,
    correct: str | None = None,
    whole_name: str = "the whole picture",
) -> str:
    """Builds the page as HTML.

    picture     uint8 [H, W, 3], as the model sees it
    table       usually one line per kept and one column per method
    grid        rows and columns of the picture's visual tokens
    question    plain text for the heading; meta: plain text below it
    full        the full model's answer; correct: the correct one, if it is known
    whole_name  what the picture is called
    """
    methods = list(dict.fromkeys(survivors.point.method for line in table for survivors in line))
    data = {
        "picture": data_uri(Image.fromarray(picture), _PICTURE_SIDE),
        "grid": list(grid),
        "whole": whole_name,
        "colors": _base64((255 * HEAT(np.arange(256))[:, :3]).round().astype(np.uint8)),
        "columns": len(table[0]),
        "full": {"answer": full, "right": is_right(full, correct)},
        "cells": [
            _cell(survivors, methods) | {"right": is_right(survivors.answer, correct)}
            for line in table
            for survivors in line
        ],
    }
    return assemble(
        title=f"Survivors: {question}",
        name=question,
        meta=join(meta),
        nav=join(),
        body=join(tag("p", _NOTE, class_="note"), tag("div", id="bar"), tag("div", id="cells", class_="cells")),
        data=data,
        scripts=SCRIPTS,
        styles=read_part("survivors.css") + _colors(methods) + f":root {{ --columns: {len(table[0]) + 1}; }}\n",
    )


def _cell(survivors: Survivors, methods: Sequence[str]) -> dict[str, Any]:
    weights, effective = None, []
    if survivors.weights is not None:
        largest = np.maximum(survivors.weights.max(1, keepdims=True), 1e-12)
        weights = _base64((255 * survivors.weights / largest).round().astype(np.uint8))
        effective = [round(float(count), 1) for count in effective_tokens(survivors.weights)]
    method = survivors.point.method
    return {
        "label": f"{method}, {len(survivors.positions)} kept before layer {survivors.layer}",
        "color": f"c{methods.index(method)}",
        "positions": list(survivors.positions),
        "weights": weights,
        "effective": effective,
        "description": f"each {GATHERED[survivors.gathers]}",
        "answer": survivors.answer,
    }


def _colors(methods: Sequence[str]) -> str:
    colors = (method_style(method).color for method in methods)
    return "".join(
        f".c{index} {{ --c: {'var(--text)' if color == BLACK else color}; }}\n" for index, color in enumerate(colors)
    )


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
