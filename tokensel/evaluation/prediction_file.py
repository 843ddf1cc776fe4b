"""Reads predictions.jsonl block by block, so that memory does not grow with the file."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tokensel.errors import TokenselError
from tokensel.evaluation.fields import check_prediction

_BLOCK_BYTES = 2**18
# Put between lines that are parsed at once. No line contains it, so none is taken for a part of another.
_BETWEEN = secrets.token_hex(8)
# What parsing or checking a line raises if it is no prediction.
_INVALID = (ValueError, KeyError, TypeError, RecursionError)


@contextmanager
def open_stored(path: Path) -> Iterator[BinaryIO | None]:
    """A stored file, open for reading; None if there is none.

    Raises TokenselError for what cannot be read, such as a folder or a loop of links, and for a pipe, which would be
    read for ever.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, "Not a file")
        try:
            file = path.open("rb")
        except FileNotFoundError:
            yield None
            return
        with file:
            yield file
    except OSError as error:
        raise TokenselError(f"{path}: cannot be read ({error.strerror}); move it away") from error


class PredictionFile:
    """The records of a predictions.jsonl in their order; iterating reads the file once, a block at a time.

    An incomplete last line is ignored, and so is a last line that is no prediction: a crash of the machine can leave
    the length without the contents. Any other line that is no prediction raises TokenselError, with its number.

    complete: how many bytes the lines have that were read so far; after the last record, all that are valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.complete = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.complete = number = 0
        for lines, last in self._blocks():
            records = _parsed(lines)
            if records is None:
                yield from self._one_by_one(lines, number, last)
            else:
                self.complete += sum(map(len, lines)) + len(lines)
                yield from records
            number += len(lines)

    def _blocks(self) -> Iterator[tuple[list[bytes], bool]]:
        """The complete lines of each block, and whether none follow."""
        lines: list[bytes] = []
        begun: list[bytes] = []  # parts of a line that is not complete yet
        with open_stored(self.path) as file:
            while file is not None and (data := file.read(_BLOCK_BYTES)):
                begun.append(data)
                if b"\n" in data:
                    if lines:
                        yield lines, False
                    *lines, rest = b"".join(begun).split(b"\n")
                    begun = [rest]
        if lines:
            yield lines, True

    def _one_by_one(self, lines: list[bytes], before: int, last: bool) -> Iterator[dict[str, Any]]:
        """The records of a block with an invalid line. before: the number of lines before it."""
        for place, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                check_prediction(record)
            except _INVALID as error:
                if last and place == len(lines):
                    return
                raise TokenselError(
                    f"{self.path}: line {before + place} is not a prediction; delete the line, and it is computed again"
                ) from error
            self.complete += len(line) + 1
            yield record


def _parsed(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """The records of these lines, parsed at once, which takes a third of the time; None if one is invalid."""
    try:
        values = json.loads(b"[" + f',"{_BETWEEN}",'.encode().join(lines) + b"]")
        if values[1::2] != [_BETWEEN] * (len(lines) - 1) or len(values) != 2 * len(lines) - 1:
            return None
        records = values[::2]
        for record in records:
            check_prediction(record)
    except _INVALID:
        return None
    return records
