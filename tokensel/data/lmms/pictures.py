"""The pictures of a task's documents: how many each shows, and which are equal, without decoding any."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image
from pyarrow import ListScalar

from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from datasets import Dataset

    from tokensel.data.lmms.task import Task

# Columns that name a document's picture, in the data sets that lmms-eval's tasks read.
_ID_COLUMNS = ("image_id", "imageId", "image_source", "img_id", "image_name", "image_path", "file_name")
_EVERY = "*"


@dataclass(frozen=True)
class Visual:
    """One of the pictures that a document shows, made when called, by the task's own `doc_to_visual`."""

    task: "Task"
    document: int
    number: int

    def __call__(self) -> Image.Image:
        return self.task.doc_to_visual(self.task.eval_docs[self.document])[self.number]


class Pictures:
    """The pictures of all documents of a task.

    `doc_to_visual` sees documents with small blank pictures, which tells how many pictures each shows and what it
    reads of a document.

    Raises TokenselError for a document that shows anything but pictures.
    """

    def __init__(self, task: "Task", name: str) -> None:
        self.task, self.name = task, name

    def of(self, document: int, words: dict[str, Any]) -> tuple[tuple[Visual, ...], str]:
        """A document's pictures and their id; "" if no other document's are known to be equal.

        words: the document without pictures.
        """
        if self.task.config.doc_to_visual is None:
            return (), ""
        stored = self._stored[document] if self._columns else {}
        seen = Watched({**words, **{column: _blank(each) for column, each in stored.items()}})
        count = self._count(document, seen)
        visuals = tuple(Visual(self.task, document, number) for number in range(count))
        return visuals, self._id(words, stored) if seen.read <= set(self._columns) else ""

    def _count(self, document: int, seen: "Watched") -> int:
        try:
            shown = self.task.doc_to_visual(seen)
        except Exception:  # code that looks into the picture: at its size, or into a box of it
            seen.read.add(_EVERY)
            try:
                shown = self.task.doc_to_visual(self.task.eval_docs[document])
            except Exception:  # a broken picture, which is an error of its question
                return 1
        shown = [] if shown is None else list(shown)
        others = [type(each).__name__ for each in shown if not isinstance(each, Image.Image)]
        if others:
            raise TokenselError(
                f"data.task={self.name}: document {document} shows {others[0]} instead of a picture; "
                "videos and sounds are not supported"
            )
        return len(shown)

    def _id(self, words: dict[str, Any], stored: dict[str, Any]) -> str:
        parts = [f"{column}:{'+'.join(each or '-' for each in _listed(keys))}" for column, keys in stored.items()]
        named = [str(words[column]) for column in self._named[:1]]
        return " ".join([*named, *parts]) if any(map(_listed, stored.values())) else ""

    @cached_property
    def _columns(self) -> list[str]:
        """The columns that hold pictures."""
        return [name for name, kind in self.task.eval_docs.features.items() if holds_pictures(kind)]

    @cached_property
    def _named(self) -> list[str]:
        return [name for name in _ID_COLUMNS if name in self.task.eval_docs_no_media.column_names]

    @cached_property
    def _stored(self) -> list[dict[str, Any]]:
        return list(_stored(self.task.eval_docs, self._columns, digests=not self._named))


class Watched(dict[str, Any]):
    """A document that notes which of its fields are read."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.read.add(_EVERY)
        return super().__iter__()

    def keys(self) -> Any:
        self.read.add(_EVERY)
        return super().keys()

    def values(self) -> Any:
        self.read.add(_EVERY)
        return super().values()

    def items(self) -> Any:
        self.read.add(_EVERY)
        return super().items()

    def copy(self) -> dict[str, Any]:
        self.read.add(_EVERY)
        return super().copy()


def holds_pictures(kind: Any) -> bool:
    """Whether a column of this type holds a picture or a list of pictures."""
    import datasets

    return isinstance(kind.feature if isinstance(kind, datasets.Sequence) else kind, datasets.Image)


def _stored(documents: "Dataset", columns: list[str], digests: bool) -> Iterator[dict[str, Any]]:
    """For each document and column, a key of each stored picture: None for none; a digest of its bytes, or only how
    many these are; the path of a file. Lists of pictures give lists of keys.

    digests: whether the bytes are read; with a column that names the picture, their number is enough.
    """
    batches = documents.select_columns(columns).with_format("arrow").iter(batch_size=256)
    for batch in batches:
        values = {column: batch[column] for column in columns}
        for row in range(len(batch)):
            yield {column: _keys(each[row], digests) for column, each in values.items()}


def _keys(scalar: Any, digests: bool) -> Any:
    if not scalar.is_valid:
        return None
    if isinstance(scalar, ListScalar):
        return [_keys(each, digests) for each in scalar]
    content, path = scalar["bytes"], scalar["path"]
    if not content.is_valid:
        return path.as_py()
    data = content.as_buffer()
    return hashlib.sha256(data).hexdigest()[:32] if digests else str(len(data))


def _blank(key: Any) -> Any:
    """A blank picture for each stored one."""
    if isinstance(key, list):
        return [_blank(each) for each in key]
    return None if key is None else Image.new("RGB", (8, 8))


def _listed(keys: Any) -> list[Any]:
    return keys if isinstance(keys, list) else [] if keys is None else [keys]
