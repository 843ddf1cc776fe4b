"""Rows of a data set of the hub, or of a folder that `datasets` saved, with pictures that stay unread.

`datasets` is imported only here and only when asked for. Whatever goes wrong ends in one line that says what to set
and how to go on without a network.
"""

from __future__ import annotations

import hashlib
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from PIL import Image

from tokensel.errors import TokenselError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

# huggingface_hub tries a host that does not answer six times, 23 s; whether it answers shows at the first try.
_REACH_SECONDS = 3.0
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SPLIT = re.compile(r"\w+([.-]\w+)*")


class EncodedImage(TypedDict):
    """A picture as `datasets` keeps it: its bytes, or the path of its file."""

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True)
class Source:
    """Where rows come from: what the options of a data set say.

    path      a folder, or the name of a data set on the hub; a folder of that name goes first
    split     one of its splits, by name
    config    one of its configurations, for data sets that have several; None: its default
    revision  a branch, tag or commit of the hub's; None: the newest
    original  what the data set's own folder is, in words, for messages
    """

    path: str
    split: str
    config: str | None
    revision: str | None
    original: str

    @property
    def folders(self) -> str:
        """The folders that work without a network, in words."""
        return f"a folder that save_to_disk wrote, a copy of the hub's, or {self.original}"

    def wrong(self, what: str) -> TokenselError:
        """What is wrong with the path."""
        return TokenselError(f"data.path={self.path}: {what}")


@dataclass(frozen=True)
class RowPicture:
    """The picture of one row; calling it reads and decodes. pictures: rows with an undecoded column "image"."""

    pictures: Dataset
    row: int

    def __call__(self) -> Image.Image:
        """Raises FileNotFoundError for a picture kept outside the rows and lost, ValueError if there is none."""
        image = self.pictures[self.row]["image"]
        if not has_picture(image):
            raise ValueError(f"row {self.row} has none")
        return Image.open(BytesIO(_content(image)))


def local_folder(path: str) -> Path | None:
    """The folder at `path`, if there is one."""
    folder = Path(str(path)).expanduser()  # a configuration may hold null, or a number
    return folder if folder.is_dir() else None


def load_rows(source: Source, columns: tuple[str, ...]) -> Dataset:
    """The rows of a split; the column "image" holds encoded pictures, {"bytes", "path"} or None.

    columns   what it must have

    Raises TokenselError for a folder, data set, split, configuration or revision that does not exist, a gated data set
    without access, no network, and a missing column.
    """
    try:
        import datasets
    except ImportError as error:
        raise source.wrong("needs the datasets package: pip install datasets") from error

    if not _SPLIT.fullmatch(source.split):
        raise TokenselError(f"data.split={source.split}: the plain name of a split is needed; limit takes a part of it")
    with redirect_stdout(sys.stderr):  # standard output belongs to the caller's results
        rows = _load(source, datasets)
        missing = [column for column in columns if column not in rows.column_names]
        if missing:
            raise source.wrong(f"has no column {', '.join(missing)}; its columns are {', '.join(rows.column_names)}")
        return _undecoded(rows, source, datasets)


def has_picture(image: EncodedImage | None) -> bool:
    """Whether there is a picture at all."""
    return image is not None and (image["bytes"] is not None or bool(image["path"]))


def picture_id(image: EncodedImage) -> str:
    """A digest of the encoded picture; of its path, if it is lost."""
    try:
        content = _content(image)
    except OSError as error:
        content = str(error.filename).encode()
    return content_id(content)


def content_id(content: bytes) -> str:
    """The same for the same bytes, whatever they are called."""
    return hashlib.sha256(content).hexdigest()[:32]


def _content(image: EncodedImage) -> bytes:
    content = image["bytes"]
    return Path(image["path"] or "").read_bytes() if content is None else content


def _load(source: Source, datasets: Any) -> Dataset:
    folder = local_folder(source.path)
    try:
        if folder is None:
            _check_reachable(source, datasets)
            return datasets.load_dataset(source.path, source.config, split=source.split, revision=source.revision)
        if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return datasets.load_dataset(str(folder), source.config, split=source.split)
        return _saved(source, datasets.load_from_disk(str(folder)), datasets)
    except TokenselError:
        raise
    except Exception as error:  # a network, a server, a cache and a disk can fail in any way
        raise _explained(source, error) from error


def _undecoded(rows: Dataset, source: Source, datasets: Any) -> Dataset:
    kind = rows.features["image"]
    if isinstance(kind, datasets.Image):
        return rows.cast_column("image", datasets.Image(decode=False))
    if kind == datasets.Value("null") or (isinstance(kind, dict) and {"bytes", "path"} <= set(kind)):
        return rows
    raise source.wrong(f"column image holds {kind!r:.60}; pictures (datasets.Image) are needed")


def _saved(source: Source, saved: Any, datasets: Any) -> Dataset:
    """The split of what `save_to_disk` wrote."""
    if isinstance(saved, datasets.DatasetDict):
        splits = list(saved)
        rows = saved.get(source.split)
    else:
        splits = [str(saved.split)]
        rows = saved if saved.split is None or str(saved.split).split("[")[0] == source.split else None
    if rows is None:
        raise TokenselError(f"data.split={source.split}: {source.path} has {', '.join(splits)}")
    return rows


def _check_reachable(source: Source, datasets: Any) -> None:
    """Fails within seconds where the hub does not answer, or does not know the data set."""
    if Path(source.path).expanduser().is_file():
        raise source.wrong(f"is a file; {source.folders} is needed")
    if not _REPOSITORY.fullmatch(source.path):
        raise source.wrong(f"no such folder; {source.folders} is needed, or the name of a data set on the hub")
    if not datasets.config.HF_HUB_OFFLINE:
        from huggingface_hub import HfApi

        HfApi().dataset_info(source.path, revision=source.revision, timeout=_REACH_SECONDS)


def _explained(source: Source, error: Exception) -> TokenselError:
    from datasets import config
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    said = first_line(error)
    otherwise = f"or, without a network, set data.path=FOLDER: {source.folders}"
    if isinstance(error, GatedRepoError) or "gated dataset" in said:
        return source.wrong(f"is gated: ask for access on its page and set HF_TOKEN to your token; {otherwise}")
    if isinstance(error, RevisionNotFoundError) or said.startswith("Revision "):
        return TokenselError(f"data.revision={source.revision}: {source.path} has none of that name")
    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError):
        return source.wrong(f"no folder here and none on the hub (if it is private, set HF_TOKEN); {otherwise}")
    if _unreachable(error):
        cached = "HF_HOME to the cache of an earlier download"
        if config.HF_HUB_OFFLINE:
            return source.wrong(f"HF_HUB_OFFLINE is set and the cache has none; set {cached} {otherwise}")
        return source.wrong(f"the hub cannot be reached ({said}); set HF_HUB_OFFLINE=1 and {cached} {otherwise}")
    if isinstance(error, ValueError) and "split" in said.lower():
        return TokenselError(f"data.split={source.split}: {_offered(source, error)}")
    if isinstance(error, ValueError) and "config" in said.lower():
        return TokenselError(f"data.config={source.config or 'null'}: {_offered(source, error)}")
    return source.wrong(f"cannot be loaded ({type(error).__name__}: {said}); {source.folders} is needed")


def _offered(source: Source, error: Exception) -> str:
    """What may be chosen instead, from the list in a message of `datasets`."""
    listed = re.search(r"\[(.*?)\]", str(error), re.DOTALL)
    if listed is None:
        return f"{source.path}: {first_line(error)}"
    return f"{source.path} has {', '.join(listed[1].replace(chr(39), '').split(', '))}"


def _unreachable(error: Exception) -> bool:
    client = type(error).__module__.split(".")[0]
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or client in ("httpx", "httpx2", "requests")
        or "LocalEntryNotFoundError" in f"{type(error).__name__} {error}"
    )
