"""How a setting is declared: its default, its meaning, what is allowed, and whom it concerns."""

import math
from typing import Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from tokensel.engine.kept import read_kept
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.budget import read_budget

# The largest integer that everything downstream can hold.
MOST = 2**31 - 1
# The largest integer that JSON and floats hold exactly: that of options, which have no limit of their own.
LARGEST = 2**53
# File systems allow names of 255 bytes; files in a folder get longer names than the folder.
_NAME_BYTES = 200
# Who a setting belongs to. point: one grid point. group: the points that share a model, questions and scoring. Both may
# differ between the jobs of a grid. sweep: one value for all of them.
Scope = Literal["point", "group", "sweep"]


def setting(
    default: Any, meaning: str, allowed: str, scope: Scope = "sweep", in_key: bool = False, **limits: Any
) -> Any:
    """Declares a setting.

    meaning: for `--help`. allowed: its values in words, for `--help` and errors. in_key: whether it can change a
    prediction, and so is part of the point's key. limits: pydantic's, such as ge=1.
    """
    return Field(
        default, description=meaning, json_schema_extra={"allowed": allowed, "scope": scope, "in_key": in_key}, **limits
    )


def one_of(choices: tuple[str, ...]) -> str:
    """The choices in words, for `allowed`."""
    return f"choose one of {', '.join(choices)}"


def among(choices: tuple[str, ...]) -> AfterValidator:
    """Allows these values and None."""

    def check(value: Any) -> Any:
        if value is not None and value not in choices:
            raise ValueError(value)
        return value

    return AfterValidator(check)


def folder_name(value: str | int) -> str:
    """The value as text. Raises ValueError unless it can be a folder's name."""
    name = str(value)
    if not name.strip(". ") or "/" in name or not name.isprintable() or len(name.encode()) > _NAME_BYTES:
        raise ValueError(value)
    return name


def checked_kept(value: int | float | str) -> int | float | str:
    """The value as it is. Raises ValueError for what `read_kept` refuses."""
    try:
        read_kept(value)
    except TokenselError as error:
        raise ValueError(value) from error
    return value


def checked_budget(value: str | None) -> str | None:
    """The budget in its one spelling, or None. Raises ValueError for what `read_budget` refuses."""
    try:
        return None if value is None else str(read_budget(value))
    except TokenselError as error:
        raise ValueError(value) from error


def wrong_number(value: object) -> str:
    """What is wrong with a number, or one in a list, that no setting can have; "" if it is usable."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(wrong_number, value)), "")
    if isinstance(value, int) and abs(value) > LARGEST:
        return "must be an integer of at most 2^53"
    return "must be a finite number" if isinstance(value, float) and not math.isfinite(value) else ""


def wrong_text(value: object) -> str:
    """What is wrong with text, or text in a list, that nothing can store; "" if it is usable."""
    if isinstance(value, list | tuple):
        return next(filter(None, map(wrong_text, value)), "")
    broken = isinstance(value, str) and any(0xD800 <= ord(letter) < 0xE000 or letter == "\0" for letter in value)
    return "must be text in UTF-8" if broken else ""


def names_in_key(kind: type[BaseModel]) -> list[str]:
    """The fields that are part of a point's key."""
    return [name for name, field in kind.model_fields.items() if declaration(field).get("in_key")]


def declaration(field: Any) -> dict[str, Any]:
    """What `setting` declared of a field: allowed, scope, in_key."""
    return field.json_schema_extra or {}
