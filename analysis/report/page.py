"""Puts a page together: template, styles, scripts and data in one file that loads nothing and trusts no text."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
# What could end the element that holds the data, or a line of script in old engines.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Html(str):
    """Markup that is safe to stand in a page: made by `tag`, or written in this package."""


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. Children that are not Html are escaped; so are attributes. None children are left out.

    attributes: class_ for class, data_value for data-value; None and False leave one out, True gives it no value.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value), quote=True)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """The children one after the other, those that are not Html escaped; None is left out."""
    return Html(
        "".join(child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None)
    )


def to_json(value: Any) -> str:
    """JSON that can stand inside a script element whatever texts it holds. NaN and infinities are null."""
    written = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, code in _UNSAFE.items():
        written = written.replace(character, code)
    return written


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_part(name: str) -> str:
    """A file of this package: a style, a script or a template."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def assemble(
    *, title: str, name: str, meta: Html, nav: Html, body: Html, data: Any, scripts: Sequence[str], styles: str = ""
) -> str:
    """The whole page. scripts: files of this package, in order; styles: added to style.css; data: what they read.

    Only these scripts and styles may run: the page's Content-Security-Policy names their digests, and forbids any
    request.
    """
    style = read_part("style.css") + styles
    script = "\n".join(read_part(file) for file in scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": escape(policy),
        "title": escape(title),
        "style": style,
        "name": escape(name),
        "meta": meta,
        "nav": nav,
        "body": body,
        "data": to_json(data),
        "script": script,
    }
    # One pass over the template, so that no text of the data is ever taken for a place in it.
    pieces = read_part("page.html").split("{{")
    filled = [parts[key] + rest for key, _, rest in (piece.partition("}}") for piece in pieces[1:])]
    return pieces[0] + "".join(filled)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
