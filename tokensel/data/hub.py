"""Examples of a data set on the hub, or of a folder that `datasets` saved; their pictures stay undecoded until needed.

`datasets` is imported only here, and only when such a data set is loaded. Every failure ends in one line that says what
to set and how to continue without a network.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from PIL import Image

from tokensel.errors import TokenselError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

# Time limit of one request. huggingface_hub itself retries an unreachable host six times, for 23 s.
_REACH_SECONDS = 3.0
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_SPLIT = re.compile(r"\w+([.-]\w+)*")


class EncodedImage(TypedDict):
    """A picture as `datasets` stores it: its bytes, or the path of its file."""

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True)
class Source:
    """Where examples come from, according to a data set's options.

    Parameters:
        path: a folder, or the name of a data set on the hub; an existing folder takes precedence
        split: the name of one of its splits
        config: the name of one of its configurations, for data sets with several; None: the default one
        revision: a branch, tag or commit on the hub; None: the newest
        original: a description of the data set's original folder, for messages; "" if there is none that works
    """

    path: str
    split: str
    config: str | None
    revision: str | None
    original: str = ""

    @property
    def folders(self) -> str:
        """A description, for messages, of the folders that work without a network."""
        if not self.original:
            return "a folder that save_to_disk wrote, or a copy of the hub's"
        return f"a folder that save_to_disk wrote, a copy of the hub's, or {self.original}"

    def error(self, problem: str) -> TokenselError:
        """An error about data.path."""
        return TokenselError(f"data.path={self.path}: {problem}")


@dataclass(frozen=True)
class ExamplePicture:
    """The picture of one example, read and decoded when called.

    Parameters:
        pictures: examples whose column is not decoded
        column: its name
        place: of a column with lists of pictures, which of the list; None: the column has one picture each
    """

    pictures: Dataset
    index: int
    column: str = "image"
    place: int | None = None

    def __call__(self) -> Image.Image:
        """Raises FileNotFoundError if the picture's file is missing, ValueError if there is no picture."""
        image = self.pictures[self.index][self.column]
        if self.place is not None:
            image = image[self.place]
        if not has_picture(image):
            raise ValueError(f"example {self.index} has none")
        return Image.open(BytesIO(_content(image)))


def local_folder(path: str) -> Path | None:
    """The folder at `path`, or None if there is none."""
    folder = Path(os.path.expanduser(str(path)))  # str: a configuration may contain null or a number
    return folder if os.path.isdir(folder) else None


def load_examples(source: Source, columns: tuple[str, ...], picture_columns: tuple[str, ...] = ("image",)) -> Dataset:
    """The examples of a split. Its columns of pictures hold encoded ones, {"bytes", "path"} or None, or lists of these.

    Parameters:
        columns: the required columns
        picture_columns: the columns of pictures; of these, the ones that exist

    Raises TokenselError for a folder, data set, split, configuration or revision that does not exist, a gated data set
    without access, an unreachable hub, and a missing column.
    """
    try:
        import datasets
    except ImportError as error:
        raise source.error("needs the datasets package: pip install datasets") from error

    if not _SPLIT.fullmatch(source.split):
        raise TokenselError(f"data.split={source.split}: must be the plain name of a split; use limit for a part of it")
    with redirect_stdout(sys.stderr):  # standard output is reserved for the caller's results
        examples = _load(source, datasets)
        missing = [column for column in columns if column not in examples.column_names]
        if missing:
            present = ", ".join(examples.column_names)
            raise source.error(f"has no column {', '.join(missing)}; its columns are {present}")
        for column in picture_columns:
            if column in examples.column_names:
                examples = _undecoded(examples, column, source, datasets)
        return examples


def has_picture(image: EncodedImage | None) -> bool:
    """Whether there is a picture."""
    return image is not None and (image["bytes"] is not None or bool(image["path"]))


def picture_id(image: EncodedImage) -> str:
    """A digest of the encoded picture, or of its path if the file is missing."""
    try:
        content = _content(image)
    except OSError as error:
        content = str(error.filename).encode()
    return content_id(content)


def content_id(content: bytes) -> str:
    """A digest of the bytes."""
    return hashlib.sha256(content).hexdigest()[:32]


def _content(image: EncodedImage) -> bytes:
    if image["bytes"] is not None:
        return image["bytes"]
    path = Path(image["path"] or "")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "is not a file", str(path))  # a pipe would be read for ever
    return path.read_bytes()


def _load(source: Source, datasets: Any) -> Dataset:
    folder = local_folder(source.path)
    try:
        if folder is None:
            check_reachable(source, datasets)
            return datasets.load_dataset(source.path, source.config, split=source.split, revision=source.revision)
        if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return datasets.load_dataset(
                str(folder), source.config, split=source.split, cache_dir=cache_of(folder, datasets)
            )
        return _saved(source, datasets.load_from_disk(str(folder)), datasets)
    except TokenselError:
        raise
    except Exception as error:  # network, server, cache and disk raise errors of many classes
        raise explained(source, error) from error


def _undecoded(examples: Dataset, column: str, source: Source, datasets: Any) -> Dataset:
    kind = examples.features[column]
    listed = isinstance(kind, datasets.List)
    one = kind.feature if listed else kind
    if isinstance(one, datasets.Image):
        encoded = datasets.Image(decode=False)
        return examples.cast_column(column, datasets.List(encoded) if listed else encoded)
    if one == datasets.Value("null") or (isinstance(one, dict) and {"bytes", "path"} <= set(one)):
        return examples
    raise source.error(f"column {column} holds {kind!r:.60}; pictures (datasets.Image) are needed")


def _saved(source: Source, saved: Any, datasets: Any) -> Dataset:
    """The split of a folder that `save_to_disk` wrote."""
    if isinstance(saved, datasets.DatasetDict):
        splits = list(saved)
        examples = saved.get(source.split)
    else:
        splits = [str(saved.split)]
        examples = saved if saved.split is None or str(saved.split).split("[")[0] == source.split else None
    if examples is None:
        raise TokenselError(f"data.split={source.split}: {source.path} has {', '.join(splits)}")
    return examples


def cache_of(folder: Path, datasets: Any) -> str:
    """Where `datasets` keeps what it reads from a local folder: another place for each state of its files.

    By itself it keeps a folder that has a README under the folder's name alone, and then takes a changed folder, or
    another one of that name, for the one it knows.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        with suppress(OSError):  # a link to nothing; `datasets` says so if it needs it
            state = file.stat()
            digest.update(f"{file}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return os.path.join(datasets.config.HF_DATASETS_CACHE, "folders", digest.hexdigest()[:32])


def check_reachable(source: Source, datasets: Any) -> None:
    """Raises within seconds if the hub does not answer or does not have the data set."""
    if os.path.isfile(os.path.expanduser(source.path)):
        raise source.error(f"is a file; {source.folders} is needed")
    if not _REPOSITORY.fullmatch(source.path):
        raise source.error(f"no such folder; {source.folders} is needed, or the name of a data set on the hub")
    if not datasets.config.HF_HUB_OFFLINE:
        from huggingface_hub import HfApi

        HfApi().dataset_info(source.path, revision=source.revision, timeout=_REACH_SECONDS)


def explained(source: Source, error: Exception) -> TokenselError:
    """The error of `datasets` or the hub as one line that says what to set."""
    from datasets import config
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reason = first_line(error)
    offline = f"or, without a network, set data.path=FOLDER: {source.folders}"
    if isinstance(error, GatedRepoError) or "gated dataset" in reason:
        return source.error(f"is gated: request access on its page and set HF_TOKEN to your token; {offline}")
    if isinstance(error, RevisionNotFoundError) or reason.startswith("Revision "):
        return TokenselError(f"data.revision={source.revision}: {source.path} has no such branch, tag or commit")
    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError):
        problem = "no such folder, and no such data set on the hub (if it is private, set HF_TOKEN)"
        return source.error(f"{problem}; {offline}")
    if _unreachable(error):
        cached = "HF_HOME to the cache of an earlier download"
        if config.HF_HUB_OFFLINE:
            return source.error(f"HF_HUB_OFFLINE is set and the cache lacks this data set; set {cached} {offline}")
        return source.error(f"the hub cannot be reached ({reason}); set HF_HUB_OFFLINE=1 and {cached} {offline}")
    if isinstance(error, ValueError) and "split" in reason.lower():
        return TokenselError(f"data.split={source.split}: {_offered(source, error)}")
    if isinstance(error, ValueError) and "config" in reason.lower():
        return TokenselError(f"data.config={source.config or 'null'}: {_offered(source, error)}")
    return source.error(f"cannot be loaded ({type(error).__name__}: {reason}); {source.folders} is needed")


def _offered(source: Source, error: Exception) -> str:
    """The allowed values, taken from a list in the message of `datasets`."""
    listed = re.search(r"\[(.*?)\]", str(error), re.DOTALL)
    if listed is None:
        return f"{source.path}: {first_line(error)}"
    return f"{source.path} has {', '.join(listed[1].replace(chr(39), '').split(', '))}"


def _unreachable(error: Exception) -> bool:
    """Whether the error means that the hub could not be reached."""
    client = type(error).__module__.split(".")[0]
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or client in ("httpx", "httpx2", "requests")
        or "LocalEntryNotFoundError" in f"{type(error).__name__} {error}"
    )
