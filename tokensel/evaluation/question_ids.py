"""Question ids as numbers, so that a stored prediction costs a few bytes of memory, whichever points it belongs to."""

import hashlib
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from itertools import count, islice

import numpy as np


def ids_digest(ids: Iterable[str]) -> str:
    """A digest of a set of question ids, in any order: shows whether stored figures belong to the wanted questions."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


class QuestionIds:
    """Numbers question ids from 0 in the order in which they are first seen.

    Everything in memory shares one numbering, see `shared`, so that the points of a sweep hold each id once.
    """

    def __init__(self) -> None:
        # Looking up an unknown id numbers it in one step, so threads never give one number twice.
        self.numbers: defaultdict[str, int] = defaultdict(count().__next__)
        self._names: list[str] = []
        self._digests: dict[bytes, str] = {}

    @staticmethod
    def shared() -> "QuestionIds":
        """The numbering that all its present users have in common. It is freed with the last of them."""
        global _shared
        with _lock:
            known = _shared()
            if known is None:
                known = QuestionIds()
                _shared = weakref.ref(known)
            return known

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> list[str]:
        """The ids by number."""
        if len(self._names) < len(self.numbers):
            self._names += islice(self.numbers, len(self._names), None)
        return self._names

    def digest(self, numbers: np.ndarray) -> str:
        """`ids_digest` of the ids with these numbers. Points usually have the same ones: they are sorted only once."""
        key = hashlib.sha256(np.sort(numbers).tobytes()).digest()
        if key not in self._digests:
            names = self.names
            self._digests[key] = ids_digest(names[number] for number in numbers)
        return self._digests[key]


_lock = threading.Lock()
_shared: "weakref.ref[QuestionIds]" = weakref.ref(QuestionIds())


class IdSet(Set[str]):
    """A set of question ids that takes one byte for each id of the shared numbering."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids = QuestionIds.shared()
        self._has = bytearray()
        self._count = 0
        for id in ids:
            self.add(id)

    def add(self, id: str) -> bool:
        """Adds an id. Returns whether it was new."""
        number = self.ids.numbers[id]
        if number >= len(self._has):
            self._has.extend(bytes(number + 1024 - len(self._has)))
        if self._has[number]:
            return False
        self._has[number] = 1
        self._count += 1
        return True

    def __contains__(self, id: object) -> bool:
        number = self.ids.numbers.get(id, len(self._has))  # type: ignore[call-overload]
        return number < len(self._has) and self._has[number] == 1

    def __iter__(self) -> Iterator[str]:
        names = self.ids.names
        return (names[number] for number in np.flatnonzero(np.frombuffer(bytes(self._has), dtype=bool)))

    def __len__(self) -> int:
        return self._count
