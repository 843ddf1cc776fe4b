"""A local copy of a task's data set, in place of the one on the hub.

Of a folder, in this order:

    save_to_disk    FOLDER or FOLDER/CONFIGURATION, as `datasets` saved it
    the hub's copy  FOLDER with a README.md that lists its configurations and their files
    Parquet files   SPLIT.parquet, SPLIT-00000-of-00001.parquet, SPLIT/*.parquet in FOLDER/CONFIGURATION, or in FOLDER
                    or its sub-folders where there is no such one
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensel.data.hub import cache_of, local_folder
from tokensel.errors import TokenselError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

_SAVED = ("dataset_dict.json", "state.json")
# In the header of a data set's README.md.
_CONFIGURATIONS = re.compile(r"\A---\r?\n(?:.*\n)*?configs:")


@dataclass(frozen=True)
class LocalData:
    """A folder with a data set."""

    folder: Path

    def splits(self, configuration: str | None, wanted: Iterable[str]) -> "dict[str, Dataset]":
        """The splits of a configuration that are wanted, and others that come with them.

        Raises TokenselError for a wanted split that the folder does not have.
        """
        wanted = list(wanted)
        try:
            found = self._found(configuration, wanted)
        except TokenselError:
            raise
        except Exception as error:  # `datasets` and pyarrow raise errors of many classes
            raise self._error(f"cannot be loaded ({type(error).__name__}: {first_line(error)})") from error
        missing = [split for split in wanted if split not in found]
        if missing:
            raise self._error(f"has no split {missing[0]}; it has {', '.join(found)}")
        return found

    def load_dataset(self, path: str, name: str | None = None, split: str | None = None, **_: Any) -> Any:
        """In place of `datasets.load_dataset`: a configuration of this folder, whatever the path."""
        found = self.splits(name, [] if split is None else [split])
        return found if split is None else found[split]

    def _found(self, configuration: str | None, wanted: list[str]) -> "dict[str, Dataset]":
        import datasets
        from datasets import DatasetDict, load_from_disk
        from datasets.load import load_dataset  # `datasets.load_dataset` may be this object's own

        inner = self.folder / (configuration or "")
        place = inner if inner.is_dir() else self.folder
        saved = next((each for each in (place, self.folder) if any((each / name).is_file() for name in _SAVED)), None)
        if saved is not None:
            loaded = load_from_disk(str(saved))
            return dict(loaded) if isinstance(loaded, DatasetDict) else {str(loaded.split or wanted[0]): loaded}
        readme = self.folder / "README.md"
        if readme.is_file() and _CONFIGURATIONS.search(readme.read_text(encoding="utf-8")):
            return dict(load_dataset(str(self.folder), configuration, cache_dir=cache_of(self.folder, datasets)))
        files = _named_files(place)
        if not files:
            raise self._error("has no data set: neither Parquet files nor save_to_disk's, nor a folder for this task")
        return dict(load_dataset("parquet", data_files=files))

    def _error(self, problem: str) -> TokenselError:
        return TokenselError(f"data.path={self.folder}: {problem}")


def local_data(path: str | None, task: str) -> LocalData | None:
    """The local copy that data.path names: its sub-folder of the task's name, if there is one; None without a path.

    Raises TokenselError if there is no such folder.
    """
    if path is None:
        return None
    folder = local_folder(path)
    if folder is None:
        raise TokenselError(f"data.path={path}: no such folder; set it to a local copy of the task's data set, or null")
    return LocalData(folder / task if (folder / task).is_dir() else folder)


def _named_files(place: Path) -> dict[str, list[str]]:
    """By split, the Parquet files: a file's split is its name without numbers, or the folder in which it lies."""
    files: dict[str, list[str]] = {}
    for file in sorted([*place.glob("*.parquet"), *place.glob("*/*.parquet")]):
        is_part = re.fullmatch(r"(part|data)?[-_.]?\d*(-of-\d+)?", file.stem) and file.parent != place
        split = file.parent.name if is_part else re.sub(r"-\d+-of-\d+$", "", file.stem)
        files.setdefault(split, []).append(str(file))
    return files
