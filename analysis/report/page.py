"""Assembles a page from template, styles, scripts and data: one file that makes no requests and escapes all texts."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
# Characters that could end the element around the data, or that old engines take for the end of a line of script.
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Html(str):
    """Markup that is safe to insert: made by `tag` and `join`, or written in this package."""


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Makes an element. Attributes are escaped, and so are children that are not Html; None children are left out.

    attributes: class_ stands for class, data_value for data-value. None and False omit an attribute; True gives it no
    value.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value), quote=True)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Concatenates the children. Those that are not Html are escaped; None is left out."""
    return Html(
        "".join(child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None)
    )


def to_json(value: Any) -> str:
    """Encodes a value as JSON that is safe inside a script element. NaN and infinities become null."""
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
    """Reads a style, script or template of this package."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def assemble(
    *, title: str, name: str, meta: Html, nav: Html, body: Html, data: Any, scripts: Sequence[str], styles: str = ""
) -> str:
    """Assembles the whole page.

    title       of the browser's tab; name: the heading
    meta        line below the heading; nav: links to the sections; body: the sections
    data        values that the scripts read
    scripts     names of files of this package, in the order in which they run
    styles      CSS to append to style.css

    The page's Content-Security-Policy contains the digests of these scripts and styles, so no others can run, and it
    forbids all requests.
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
    # The template is filled in one pass, so that "{{name}}" within a text is never replaced.
    pieces = read_part("page.html").split("{{")
    filled = [parts[key] + rest for key, _, rest in (piece.partition("}}") for piece in pieces[1:])]
    return pieces[0] + "".join(filled)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
