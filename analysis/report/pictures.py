"""Encodes the pictures of questions as data URIs, within a budget of bytes."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from PIL import Image, ImageOps

from analysis.frames import Sheet, contact_sheet
from tokensel.data import Question
from tokensel.errors import BadSampleError

GALLERY_SIDE = 336
THUMBNAIL_SIDE = 176
_QUALITY = 82


@dataclass
class Pictures:
    """Encoded pictures.

    uris        data URIs by question id
    lost        reason by question id, for pictures that could not be read
    left_out    number of pictures beyond the budget
    """

    uris: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    left_out: int = 0

    @property
    def bytes(self) -> int:
        return sum(map(len, self.uris.values()))


def as_seen(picture: Image.Image, image_aspect: str | None) -> Image.Image:
    """Returns the square that LLaVA's vision tower sees of a picture.

    image_aspect: of the protocol. "pad" pads the picture to a square; anything else crops its centre.
    """
    side = max(picture.size)
    if image_aspect == "pad" and picture.size != (side, side):
        # LLaVA pads with CLIP's mean colour.
        square = Image.new("RGB", (side, side), (122, 116, 104))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        return square
    return ImageOps.fit(picture, (min(picture.size),) * 2)


def whole(question: Question) -> Image.Image:
    """Returns the question's picture, or the frames of its video. Raises BadSampleError if it cannot be read."""
    return contact_sheet(question.load_frames()) if question.video else question.load_image()


def seen_by_model(question: Question, image_aspect: str | None, sheet: Sheet | None) -> Image.Image:
    """Returns what the model saw of a question, so that survivors can be drawn on it.

    image_aspect: see `as_seen`. sheet: how the frames of a video are laid out; without it they are drawn as they are.

    Raises BadSampleError if the picture or video cannot be read.
    """
    if question.video is None:
        return as_seen(question.load_image(), image_aspect)
    frames = question.load_frames()
    return contact_sheet(frames) if sheet is None else sheet.draw(frames)


def data_uri(picture: Image.Image, side: int) -> str:
    """Encodes the picture as a WebP data URI whose longer side has at most `side` pixels."""
    scaled = picture.copy()
    scaled.thumbnail((side, side))
    if max(scaled.size) < side // 2:  # a browser would blur small pictures when it enlarges them
        factor = math.ceil(side / 2 / max(scaled.size))
        scaled = scaled.resize((scaled.width * factor, scaled.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    scaled.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def encode_pictures(
    wanted: Iterable[str],
    questions: Mapping[str, Question],
    *,
    side: int,
    budget_bytes: int,
    shown: Callable[[Question], Image.Image] = whole,
) -> Pictures:
    """Encodes the pictures of the wanted questions, in that order, until the budget is used up.

    wanted          ids of questions; those without a picture are ignored
    side            largest width or height in pixels; twice as much for the frames of a video
    shown           what is encoded of a question: its whole picture, or what the model saw
    """
    pictures = Pictures()
    for id in wanted:
        question = questions.get(id)
        if question is None or not question.is_visual:
            continue
        if pictures.bytes >= budget_bytes:
            pictures.left_out += 1
            continue
        try:
            picture = shown(question)
        except BadSampleError as error:
            pictures.lost[id] = str(error)
            continue
        pictures.uris[id] = data_uri(picture, side if question.video is None else 2 * side)
    return pictures
