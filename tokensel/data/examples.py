"""What the named data sets share in reading their examples: each mistake is one line that names the example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tokensel.data.hub import EncodedImage, Source, content_id, has_picture, picture_id
from tokensel.data.question import LETTERS
from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from datasets import Dataset


def each_example(
    examples: Dataset, source: Source, pictures: tuple[str, ...] = ("image",)
) -> Iterator[tuple[int, Example]]:
    """Each example's index, and its columns without those of pictures, which are not read."""
    hidden = [column for column in pictures if column in examples.column_names]
    for index, fields in enumerate(examples.remove_columns(hidden)):
        yield index, Example(fields, f"data.path={source.path}: example {index}")


class Example:
    """The columns of one example. Every method raises TokenselError, in one line, for a value that cannot be used."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields, self.where = fields, where

    def error(self, problem: str) -> TokenselError:
        return TokenselError(f"{self.where}: {problem}")

    def get(self, name: str) -> str:
        """A column as text; "" where it is missing, empty or "nan", as tables write what is missing."""
        value = self.fields.get(name)
        return "" if value is None or str(value).strip() in ("", "nan") else str(value)

    def text(self, name: str) -> str:
        """The words of a column, which must have some."""
        if not (words := self.get(name).strip()):
            raise self.error(f"has no {name}")
        return words

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise self.error(f"{name} {value!r:.40} must be a list of texts")
        return tuple(value)

    def people(self, name: str = "answers") -> tuple[str, ...]:
        """What several people answered."""
        if not self.fields.get(name) or not any(self.fields[name]):
            raise self.no_answer()
        return self.texts(name)

    def no_answer(self) -> TokenselError:
        return self.error("has no answer: those of this split are not public; choose another with data.split")

    def choice(self, name: str, choices: tuple[str, ...]) -> int:
        """The index of the choice whose letter, or whose index, a column holds."""
        value = self.text(name)
        if value in tuple(LETTERS[: len(choices)]):
            return LETTERS.index(value)
        if value.isdecimal() and int(value) < len(choices):
            return int(value)
        raise self.error(f"{name} {value!r:.40} is none of its {len(choices)} choices")


def digests(examples: Dataset, column: str = "image") -> list[str]:
    """For each example, a digest of its picture or list of pictures: equal where these are; "" where there is none."""
    return [_digest(value) for value in examples.select_columns([column])[column]]


def _digest(value: EncodedImage | list[EncodedImage] | None) -> str:
    if isinstance(value, list):
        return content_id(" ".join(map(_digest, value)).encode()) if value else ""
    return picture_id(value) if value is not None and has_picture(value) else ""
