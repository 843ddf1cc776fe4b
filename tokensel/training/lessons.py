"""Second lesson of the embedded model: questions about pictures, packed so that two processor cores can teach them.

One sequence holds a picture's visual tokens and several questions about it. Each question attends to the picture and to
itself alone and starts at the same position, so it is trained exactly as it will be asked. Targets sit where the model
can know something: after the question (the answer's word), after each choice (right or wrong), and at the answer.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from tokensel.data import LETTERS, Question
from tokensel.data.diagrams import FAMILIES, Diagram, Item, draw_diagram, draw_mixed_scene
from tokensel.data.drawing import GRID, Canvas
from tokensel.data.prompts import INSTRUCTION

N_VISUAL = GRID * GRID
#: Words that stand for "this choice is the right one" and "is not", as targets after each choice.
RIGHT, WRONG = " right", " wrong"
IGNORED = -100
#: How hard each kind of target counts.
WEIGHTS = {"letter": 1.0, "open": 1.0, "word": 0.5, "choice": 0.5}
PREFIX = "USER: "
DIAGRAM_FAMILIES = tuple(f for f in FAMILIES if f not in ("color", "shape", "place", "count"))


def corpus() -> tuple[list[str], list[str]]:
    """Texts for the tokenizer to learn its words from, and the hints, which recur word for word."""
    texts, hints = {f"{RIGHT}{WRONG} Context: The answer is right."}, set()
    for family in FAMILIES:
        for index in range(120):
            for item in draw_diagram(family, "train", index, inked=False).items:
                texts.add(
                    item.text + "".join(f"\n{letter}. {c}" for letter, c in zip(LETTERS, item.choices, strict=False))
                )
                texts.update(f" {letter}" for letter in LETTERS[:8])
                if item.hint:
                    hints.add(item.hint)
    return sorted(texts), sorted(hints)


@dataclass(frozen=True)
class Taught:
    """One question as tokens after the picture, with its targets. All lists have the same length."""

    ids: list[int]
    targets: list[int]
    kinds: list[str]


class Teacher:
    """Turns questions into tokens and targets. style: "choice", "open", or "told" (the hint gives the answer away)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.prefix = tokenizer(PREFIX).input_ids
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def word(self, text: str) -> int:
        """The last token of an answer: the one that tells it from the others."""
        return self.ids(f" {text}")[-1]

    def teach(self, item: Item, style: str, rng: random.Random) -> Taught:
        ids: list[int] = []
        marks: dict[int, tuple[int, str]] = {}
        hint = f"The answer is {item.short}." if style == "told" else item.hint
        ids += self.ids(f"\nContext: {hint}") if hint else []
        ids += self.ids(f"\n{item.text}")
        if style == "open":
            ids += self.ids(" ASSISTANT:")
            marks[len(ids) - 1] = (self.word(item.short), "open")
        else:
            order = rng.sample(range(len(item.choices)), len(item.choices))
            marks[len(ids) - 1] = (self.word(item.short), "word")
            for letter, k in zip(LETTERS, order, strict=False):
                ids += self.ids(f"\n{letter}.") + self.ids(f" {item.choices[k]}")
                marks[len(ids) - 1] = (self.word((RIGHT if k == item.answer else WRONG).strip()), "choice")
            ids += self.ids(f"\n{INSTRUCTION}") + self.ids(" ASSISTANT:")
            marks[len(ids) - 1] = (self.word(LETTERS[order.index(item.answer)]), "letter")
        nothing = (IGNORED, "")
        return Taught(
            ids,
            [marks.get(k, nothing)[0] for k in range(len(ids))],
            [marks.get(k, nothing)[1] for k in range(len(ids))],
        )


@dataclass(frozen=True)
class Picture:
    """Where a training picture comes from; a pure name, so that a batch can be made again from it."""

    family: str
    index: int
    size: int

    def diagram(self, inked: bool = True) -> Diagram:
        if self.family == "scene":
            rng = random.Random(f"tokensel/train/scene/{self.size}/{self.index}")
            return draw_mixed_scene(Canvas(rng, inked), self.size)
        return draw_diagram(self.family, "train", self.index, inked)


class EasyLessons:
    """easy-VQA's training questions, by picture."""

    def __init__(self, questions: list[Question]):
        self.by_picture: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            self.by_picture[question.image_id].append(question)
        self.names = sorted(self.by_picture)

    def picture(self, index: int) -> Image.Image:
        return self.by_picture[self.names[index]][0].load_image()

    def items(self, index: int, rng: random.Random, count: int) -> list[Item]:
        questions = self.by_picture[self.names[index]]
        chosen = rng.sample(questions, min(count, len(questions)))
        return [Item(q.text, q.choices, q.answer, q.choices[q.answer]) for q in chosen]


def assemble(
    teacher: Teacher,
    taught: list[list[Taught]],
    features: Tensor,
    patches: Tensor,
    embed: torch.nn.Module,
) -> dict[str, Tensor]:
    """Packs a batch. features: [B, V, D] projected; patches: [B, V] their places on the grid, rising.

    Returns inputs_embeds [B, L, D], attention_mask [B, 1, L, L] (True = attend), position_ids [B, L], targets and
    weights [B, L], all with targets at the place that predicts them.
    """
    device = features.device
    start = len(teacher.prefix)
    n_visual = features.shape[1]
    longest = max(sum(len(t.ids) for t in row) for row in taught)
    length = start + n_visual + longest
    ids = torch.zeros(len(taught), length, dtype=torch.long)
    segment = torch.full((len(taught), length), -1)
    position = torch.zeros(len(taught), length, dtype=torch.long)
    targets = torch.full((len(taught), length), IGNORED)
    weights = torch.zeros(len(taught), length)
    ids[:, :start] = torch.tensor(teacher.prefix)
    segment[:, : start + n_visual] = 0
    position[:, :start] = torch.arange(start)
    position[:, start : start + n_visual] = start + patches.cpu()
    for b, row in enumerate(taught):
        at = start + n_visual
        for k, t in enumerate(row):
            span = slice(at, at + len(t.ids))
            ids[b, span] = torch.tensor(t.ids)
            segment[b, span] = k + 1
            position[b, span] = start + N_VISUAL + torch.arange(len(t.ids))
            targets[b, span] = torch.tensor(t.targets)
            weights[b, span] = torch.tensor([WEIGHTS.get(kind, 0.0) for kind in t.kinds])
            at += len(t.ids)
    embeds = embed(ids.to(device))
    embeds = torch.cat([embeds[:, :start], features, embeds[:, start + n_visual :]], 1)
    same = segment[:, :, None] == segment[:, None, :]
    allowed = (same | (segment == 0)[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    allowed |= torch.eye(length, dtype=torch.bool)  # a padded row must attend to something
    return {
        "inputs_embeds": embeds,
        "attention_mask": allowed[:, None].to(device),
        "position_ids": position.to(device),
        "targets": targets.to(device),
        "weights": weights.to(device),
    }


def lesson_loss(hidden: Tensor, head: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy at the taught places alone, and which of them are right. hidden: [B, L, D]"""
    taught = batch["targets"] != IGNORED
    logits = head(hidden[taught])
    targets, weights = batch["targets"][taught], batch["weights"][taught]
    loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    return loss, (logits.argmax(-1) == targets)
