"""Settings that suit every method."""


def kept_of(method: str, kept: int = 4) -> int | None:
    """`kept` as this method takes it: the full model takes none, no_image takes 0."""
    return {"full": None, "no_image": 0}.get(method, kept)
