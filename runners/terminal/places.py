"""Whether results can be written to a place, found out before anything is loaded."""

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokensel.errors import TokenselError, as_typed

# Room that must be left. A sweep of one point on a few questions takes less.
NEEDED_BYTES = 1 << 20
# Files are first written under a longer name.
_LONGEST_NAME = 240


def check_folder(folder: Path, key: str, value: object = None) -> None:
    """Checks that files can be written to this folder, and leaves nothing there that was not.

    key, value: the setting that named it, for messages; value: where it is not the folder itself. Raises TokenselError
    for a place that is no folder, cannot be written to, or is full.
    """
    new: list[Path] = []
    try:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(NEEDED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        named = f"{key}={as_typed(str(folder if value is None else value))}"
        raise TokenselError(
            f"{named}: cannot write to {as_typed(str(folder))} ({reason}); choose a folder with room for files"
        ) from error
    finally:
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def check_results(folder: Path, files: Iterable[str], key: str, value: object = None) -> None:
    """Checks that results can be written to this folder, whatever it already holds.

    files: names of the files that will be written or replaced there. Raises TokenselError as `check_folder` does, and
    for a folder or a device that has the name of one of them.
    """
    check_folder(folder, key, value)
    for path in (folder / name for name in files):
        if path.exists() and not path.is_file():
            named = f"{key}={as_typed(str(folder if value is None else value))}"
            raise TokenselError(f"{named}: {as_typed(str(path))} is no file; move it away, results are written there")


def check_file(path: Path, key: str = "output") -> None:
    """Checks that a file can be written here.

    Raises TokenselError for a folder or a device of that name, and as `check_folder` does.
    """
    try:
        too_long = len(os.fsencode(path.name)) > _LONGEST_NAME
        if too_long or (path.exists() and not stat.S_ISREG(path.stat().st_mode)):
            named = f"{key}={as_typed(str(path))}"
            raise TokenselError(f"{named}: must be a file, with a name of at most {_LONGEST_NAME} bytes")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TokenselError(f"{key}={as_typed(str(path))}: cannot be written ({reason})") from error
    check_folder(path.parent, key, path)
