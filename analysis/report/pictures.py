"""Pictures of questions as data URIs, the way the model saw them, within a budget of bytes."""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from tokensel.data import Question
from tokensel.errors import BadSampleError

GALLERY_SIDE = 336
THUMBNAIL_SIDE = 176
_QUALITY = 82


@dataclass
class Pictures:
    """Data URIs by question id. lost: why some could not be read, one line each; left_out: those beyond the budget."""

    uris: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    left_out: int = 0

    @property
    def bytes(self) -> int:
        return sum(map(len, self.uris.values()))


def as_seen(picture: Image.Image, image_aspect: str | None) -> Image.Image:
    """The square that a LLaVA's vision tower gets of a picture. image_aspect: the protocol's; "pad" fills up to a
    square, anything else cuts the middle out."""
    side = max(picture.size)
    if image_aspect == "pad" and picture.size != (side, side):
        # Grey is what LLaVA's mean colour comes to; here it only shows where the picture ends.
        square = Image.new("RGB", (side, side), (122, 116, 104))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square
    return ImageOps.fit(picture, (min(picture.size),) * 2)


def data_uri(picture: Image.Image, side: int) -> str:
    """The picture as a WebP data URI, its longer side at most `side` pixels."""
    scaled = picture.copy()
    scaled.thumbnail((side, side))
    if max(scaled.size) < side // 2:  # small originals stay sharp where a browser would blur them
        factor = math.ceil(side / 2 / max(scaled.size))
        scaled = scaled.resize((scaled.width * factor, scaled.height * factor), Image.Resampling.NEAREST)
    written = io.BytesIO()
    scaled.save(written, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"


def encode_pictures(
    wanted: Iterable[str],
    questions: Mapping[str, Question],
    *,
    side: int,
    budget_bytes: int,
    image_aspect: str | None = None,
    seen: bool = False,
) -> Pictures:
    """The pictures of the wanted questions, in that order, until the budget is used up.

    seen: cut or padded to the model's square, for survivors to be drawn on. Questions without a picture are left out.
    """
    pictures = Pictures()
    for id in wanted:
        question = questions.get(id)
        if question is None or question.image is None:
            continue
        if pictures.bytes >= budget_bytes:
            pictures.left_out += 1
            continue
        try:
            picture = question.load_image()
        except BadSampleError as error:
            pictures.lost[id] = str(error)
            continue
        pictures.uris[id] = data_uri(as_seen(picture, image_aspect) if seen else picture, side)
    return pictures
