"""Videos and questions about them, for the families whose prompts may show one; what a stock model makes of them."""

from dataclasses import dataclass

import torch
from PIL import Image

from helpers.families import make_picture
from tokensel import ScoringMethod
from tokensel.data import Question, Video

VIDEO_FAMILIES = ("llava_next_video", "video_llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def make_video(frames: int = 4, size: tuple[int, int] = (100, 60), seed: int = 0) -> Video:
    """A video whose frames differ a little from each other, and more in the middle."""
    first, other = make_picture(size, seed), make_picture(size, seed + 1)
    shares = [0.1 * frame + 0.4 * (frame >= frames // 2) for frame in range(frames)]
    return Video([Image.blend(first, other, share) for share in shares])


def make_video_question(id: str, words: int, frames: int = 4, size: tuple[int, int] = (100, 60)) -> Question:
    video = make_video(frames, size, seed=sum(map(ord, id)))
    return Question(id=id, text="what? " * words, choices=("red", "teal"), answer=0, image=None, video=video)


VIDEO_QUESTIONS = [make_video_question("a", 1), make_video_question("b", 4), make_video_question("c", 2)]


@dataclass
class Loudest(ScoringMethod):
    """The tokens with the largest norm."""

    def score(self, context):
        return context.tokens.norm(dim=2)


def one(loaded, row):
    """The arguments for one video question alone."""
    return loaded.prepare(VIDEO_QUESTIONS[row : row + 1])


def entering(model, inputs):
    """What the stock model gives its decoder: embeddings [T, D], position ids [T] or [3, T], and what each of the first
    layers adds, [T, D]."""
    seen = {}

    def keep(module, args, kwargs):
        seen.update(kwargs)

    decoder = model.model.language_model
    handle = decoder.register_forward_pre_hook(keep, with_kwargs=True)
    model(**inputs)
    handle.remove()
    positions = seen["position_ids"]
    length = seen["inputs_embeds"].shape[1]
    positions = (
        torch.arange(length) if positions is None else positions[-3:, 0] if positions.ndim == 3 else positions[0]
    )
    added = [torch.zeros_like(seen["inputs_embeds"][0]) for _ in seen.get("deepstack_visual_embeds") or ()]
    for layer, features in zip(added, seen.get("deepstack_visual_embeds") or (), strict=True):
        layer[seen["visual_pos_masks"][0]] = features
    return seen["inputs_embeds"][0], positions, added


def visual_places(family, loaded, inputs):
    """Where the frames' visual tokens stand, frame by frame, found token by token."""
    ids, video = inputs["input_ids"][0].tolist(), loaded.model.config.video_token_id
    places = [place for place, token in enumerate(ids) if token == video]
    if family == "llava_onevision":
        places = places[:-1]  # the newline that ends the video
    frames = 2 if family.startswith("qwen") else 4
    each = len(places) // frames
    return [places[frame * each : (frame + 1) * each] for frame in range(frames)]
