"""Settings that suit every method, and how many tokens they leave."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokensel import METHODS
from tokensel.engine.stages import Stage


@contextmanager
def methods_forgotten() -> Iterator[None]:
    """Methods that are registered inside the block are unknown after it."""
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


def kept_of(method: str, kept: int = 4) -> int | None:
    """`kept` as this method takes it: the full model takes none, no_image takes 0."""
    return {"full": None, "no_image": 0}.get(method, kept)


def left_of(stages: list[Stage], count: int) -> int:
    """How many of a picture's `count` visual tokens are left after all stages."""
    left = count
    for stage in stages:
        kept = stage.kept_of(count)
        if kept < left:
            remaining = stage.remaining(kept, left)
            left = kept if remaining is None else remaining
    return left
