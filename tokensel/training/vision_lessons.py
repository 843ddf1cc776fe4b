"""The vision stage's training data and loss: the tower learns to name what every patch shows.

Labels of every patch train a small tower in minutes, where captions would take days: each patch predicts the kind and
colour of what is drawn on it, its row and column, and whether an object's centre lies there; the class token predicts
everything in the picture. The prediction heads are discarded afterwards: as in LLaVA, the language model reads the
features.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tokensel.data.diagrams import draw_diagram, draw_mixed_scene
from tokensel.data.drawing import COLORS, GRID, KINDS, PATCH, SIDE, Canvas, PatchLabels, per_patch
from tokensel.training.lessons import DIAGRAM_FAMILIES

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def to_pixels(picture: Image.Image) -> Tensor:
    """A square picture as CLIP's image processor returns it: [3, 336, 336]."""
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    values = (np.asarray(picture.convert("RGB"), dtype=np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def label_easy_vqa(picture: Image.Image, shape: str, color: str) -> PatchLabels:
    """The patch labels of an easy-VQA picture, which shows one shape on an even background."""
    pixels = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), dtype=np.int64)
    corners = np.stack([pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]])
    background = np.median(corners, axis=0)
    on_object = np.abs(pixels - background).sum(-1) > 60
    rows, columns = np.nonzero(on_object)
    center = np.zeros((GRID, GRID), dtype=np.int64)
    center[int(rows.mean()) // PATCH, int(columns.mean()) // PATCH] = 1
    return PatchLabels(
        kind=per_patch(on_object * KINDS.index(shape), len(KINDS)),
        color=per_patch(on_object * (1 + COLORS.index(color)), len(COLORS) + 1),
        center=center,
    )


@dataclass(frozen=True)
class EasyVQAPicture:
    """An easy-VQA training picture, with its shape and colour according to its training questions."""

    path: str
    shape: str
    color: str


class VisionTrainer(nn.Module):
    """The tower with the prediction heads that only training needs."""

    def __init__(self, tower: nn.Module, width: int):
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict(
            {
                "kind": nn.Linear(width, len(KINDS)),
                "color": nn.Linear(width, len(COLORS) + 1),
                "center": nn.Linear(width, 2),
                "row": nn.Linear(width, GRID),
                "column": nn.Linear(width, GRID),
            }
        )
        self.class_norm = nn.LayerNorm(width)
        self.summary = nn.Linear(width, len(KINDS) + len(COLORS))

    def forward(self, pixels: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss, and per label the share of object patches that are predicted right.

        pixels: [B, 3, 336, 336]. labels: LongTensor[B, 576] each, but "summary": [B, kinds + colours].
        """
        output = self.tower(pixels, output_hidden_states=True)
        patches = self.norm(output.hidden_states[-2][:, 1:])
        on_object = labels["kind"] > 0
        losses, right = [], {}
        for name, weight in (("kind", 1.0), ("color", 1.0), ("center", 1.0), ("row", 0.1), ("column", 0.1)):
            logits, target = self.heads[name](patches), labels[name]
            loss = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
            emphasis = 0.1 + on_object.float() if name in ("kind", "color", "center") else torch.ones_like(loss)
            losses.append(weight * (loss * emphasis).sum() / emphasis.sum())
            right[name] = (logits.argmax(-1) == target)[on_object].float().mean().item()
        summary = self.summary(self.class_norm(output.hidden_states[-1][:, 0]))
        losses.append(0.3 * F.binary_cross_entropy_with_logits(summary, labels["summary"]))
        right["center"] = (
            (self.heads["center"](patches).argmax(-1) == labels["center"])[labels["center"] > 0].float().mean().item()
        )
        return torch.stack(losses).sum(), right


def _as_targets(labels: PatchLabels) -> dict[str, Tensor]:
    kind, color = torch.from_numpy(labels.kind).flatten(), torch.from_numpy(labels.color).flatten()
    summary = torch.zeros(len(KINDS) + len(COLORS))
    summary[kind.unique()] = 1
    summary[len(KINDS) - 1 + color.unique()[color.unique() > 0]] = 1
    return {
        "kind": kind,
        "color": color,
        "center": torch.from_numpy(labels.center).flatten(),
        "row": torch.arange(GRID).repeat_interleave(GRID),
        "column": torch.arange(GRID).repeat(GRID),
        "summary": summary,
    }


def vision_batch(step: int, size: int, easy: list[EasyVQAPicture]) -> tuple[Tensor, dict[str, Tensor]]:
    """The pictures of one step, [B, 3, 336, 336], and their labels. Depends only on the step, the size and `easy`."""
    rng = random.Random(f"vision/{step}")
    pixels, targets = [], []
    for number in range(size):
        share = rng.random()
        if easy and share < 0.15:
            one = rng.choice(easy)
            picture = Image.open(one.path).convert("RGB")
            labels = label_easy_vqa(picture, one.shape, one.color)
        elif share < 0.8:
            canvas = draw_mixed_scene(Canvas(random.Random(f"vision/{step}/{number}")), rng.randint(1, 4)).canvas
            picture, labels = canvas.picture(), canvas.labels()
        else:
            family = rng.choice(DIAGRAM_FAMILIES)
            canvas = draw_diagram(family, "train", rng.randrange(10**9)).canvas
            picture, labels = canvas.picture(), canvas.labels()
        pixels.append(to_pixels(picture))
        targets.append(_as_targets(labels))
    return torch.stack(pixels), {key: torch.stack([t[key] for t in targets]) for key in targets[0]}
