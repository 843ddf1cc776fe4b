"""Which patches of a picture that was padded to a square show nothing of it."""


def padding_patches(width: int, height: int, patches: int = 24, patch: int = 14) -> list[int]:
    """The patches wholly inside the bars that pad a picture to a square, ascending, in reading order.

    width, height: of the picture before padding. patches: of a side of the square, each of `patch` pixels. The shorter
    side is scaled with the picture and rounded; an odd row or column of pixels belongs to the second bar.

    Source: MMTok (arXiv 2508.18264), its release, for LLaVA-1.5.
    """
    side = patches * patch
    shown = round(min(width, height) * side / max(width, height))
    first = (side - shown) // 2
    bars = [*range(first // patch), *range(patches - (side - shown - first) // patch, patches)]
    if width >= height:
        return [row * patches + column for row in bars for column in range(patches)]
    return [row * patches + column for row in range(patches) for column in bars]
