"""Messages between a driver and one worker as lines of two files, for workers that share nothing but a file system.

    <folder>/inbox.jsonl    what the driver tells
    <folder>/outbox.jsonl   what the worker replies

Only whole lines count. Each file has one writer, so no locks are needed; and what a worker has replied outlives its
driver.
"""

import os
from collections.abc import Iterator
from pathlib import Path

INBOX, OUTBOX = "inbox.jsonl", "outbox.jsonl"


def add_line(path: Path, line: bytes) -> None:
    """Appends a line, which is on disk when this returns. A broken line of an earlier writer is ended first."""
    with path.open("ab") as file:
        if file.tell() and not _ends_whole(path):
            file.write(b"\n")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


class Lines:
    """Reads the whole lines of a file that grows, each once. A file that does not exist yet has none."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, 0

    def new(self) -> Iterator[bytes]:
        """The lines since the last call."""
        # Opened anew: network file systems show what others have written only then.
        try:
            with self.path.open("rb") as file:
                file.seek(self.place)
                found = file.read()
        except FileNotFoundError:
            return
        whole = found[: found.rfind(b"\n") + 1]
        self.place += len(whole)
        yield from whole.splitlines()
