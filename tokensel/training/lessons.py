"""The language stage's training data: questions about pictures, packed several to a sequence so that a CPU can train.

A sequence holds one picture's visual tokens and several questions about it. Each question attends to the picture and to
itself only, and its positions start right after the picture, exactly as in inference. Targets are placed where the
model can know the answer: after the question (the answer's word), after each choice (right or wrong), and at the
answer.
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
#: Targets after each choice: whether it is the right one.
RIGHT, WRONG = " right", " wrong"
IGNORED = -100
#: Loss weight of each kind of target.
WEIGHTS = {"letter": 1.0, "open": 1.0, "word": 0.5, "choice": 0.5}
PREFIX = "USER: "
#: The families whose pictures are not scenes.
DIAGRAM_FAMILIES = tuple(f for f in FAMILIES if f not in ("color", "shape", "place", "count"))


def corpus() -> tuple[list[str], list[str]]:
    """The texts that the tokenizer is trained on, and the hints, each of which becomes one token."""
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
class QuestionTokens:
    """The tokens of one question, which follow the picture, with their targets. All lists have the same length."""

    ids: list[int]
    targets: list[int]
    kinds: list[str]


class QuestionEncoder:
    """Turns questions into tokens and targets.

    Styles: "choice" lists the choices; "open" does not; "stated" lists them and has a hint that states the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.prefix = tokenizer(PREFIX).input_ids
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of the text, without special tokens."""
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def word(self, text: str) -> int:
        """The last token of an answer: the one that distinguishes it from the other answers."""
        return self.ids(f" {text}")[-1]

    def encode(self, item: Item, style: str, rng: random.Random) -> QuestionTokens:
        """The question in one of the styles, with its choices in a random order."""
        ids: list[int] = []
        targets: dict[int, tuple[int, str]] = {}
        hint = f"The answer is {item.short}." if style == "stated" else item.hint
        ids += self.ids(f"\nContext: {hint}") if hint else []
        ids += self.ids(f"\n{item.text}")
        if style == "open":
            ids += self.ids(" ASSISTANT:")
            targets[len(ids) - 1] = (self.word(item.short), "open")
        else:
            order = rng.sample(range(len(item.choices)), len(item.choices))
            targets[len(ids) - 1] = (self.word(item.short), "word")
            for letter, k in zip(LETTERS, order, strict=False):
                ids += self.ids(f"\n{letter}.") + self.ids(f" {item.choices[k]}")
                targets[len(ids) - 1] = (self.word((RIGHT if k == item.answer else WRONG).strip()), "choice")
            ids += self.ids(f"\n{INSTRUCTION}") + self.ids(" ASSISTANT:")
            targets[len(ids) - 1] = (self.word(LETTERS[order.index(item.answer)]), "letter")
        nothing = (IGNORED, "")
        return QuestionTokens(
            ids,
            [targets.get(k, nothing)[0] for k in range(len(ids))],
            [targets.get(k, nothing)[1] for k in range(len(ids))],
        )


@dataclass(frozen=True)
class TrainingPicture:
    """Names a training picture. It is drawn from this name alone, so a batch can be made again.

    size: the number of shapes in a scene; other families ignore it.
    """

    family: str
    index: int
    size: int

    def diagram(self, inked: bool = True) -> Diagram:
        """The picture and its questions; inked=False: the questions only."""
        if self.family == "scene":
            rng = random.Random(f"tokensel/train/scene/{self.size}/{self.index}")
            return draw_mixed_scene(Canvas(rng, inked), self.size)
        return draw_diagram(self.family, "train", self.index, inked)


class EasyVQAQuestions:
    """easy-VQA's training questions, grouped by picture."""

    def __init__(self, questions: list[Question]):
        self.by_picture: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            self.by_picture[question.image_id].append(question)
        self.image_ids = sorted(self.by_picture)

    def picture(self, index: int) -> Image.Image:
        """The picture at this index of `image_ids`."""
        return self.by_picture[self.image_ids[index]][0].load_image()

    def items(self, index: int, rng: random.Random, count: int) -> list[Item]:
        """At most `count` random questions about the picture at this index of `image_ids`."""
        questions = self.by_picture[self.image_ids[index]]
        chosen = rng.sample(questions, min(count, len(questions)))
        return [Item(q.text, q.choices, q.answer, q.choices[q.answer]) for q in chosen]


def pack_batch(
    encoder: QuestionEncoder,
    questions: list[list[QuestionTokens]],
    features: Tensor,
    patches: Tensor,
    embed: torch.nn.Module,
) -> dict[str, Tensor]:
    """Packs the questions of each picture into one sequence.

    features: [B, V, D], projected. patches: LongTensor[B, V], their positions in the picture, ascending.

    Returns inputs_embeds [B, L, D], attention_mask [B, 1, L, L] (True = attend), position_ids [B, L], and targets and
    weights [B, L]. A target is placed at the position that predicts it.
    """
    device = features.device
    start = len(encoder.prefix)
    n_visual = features.shape[1]
    longest = max(sum(len(question.ids) for question in row) for row in questions)
    length = start + n_visual + longest
    ids = torch.zeros(len(questions), length, dtype=torch.long)
    segment = torch.full((len(questions), length), -1)
    position = torch.zeros(len(questions), length, dtype=torch.long)
    targets = torch.full((len(questions), length), IGNORED)
    weights = torch.zeros(len(questions), length)
    ids[:, :start] = torch.tensor(encoder.prefix)
    segment[:, : start + n_visual] = 0
    position[:, :start] = torch.arange(start)
    position[:, start : start + n_visual] = start + patches.cpu()
    for b, row in enumerate(questions):
        begin = start + n_visual
        for k, question in enumerate(row):
            span = slice(begin, begin + len(question.ids))
            ids[b, span] = torch.tensor(question.ids)
            segment[b, span] = k + 1
            position[b, span] = start + N_VISUAL + torch.arange(len(question.ids))
            targets[b, span] = torch.tensor(question.targets)
            weights[b, span] = torch.tensor([WEIGHTS.get(kind, 0.0) for kind in question.kinds])
            begin += len(question.ids)
    embeds = embed(ids.to(device))
    embeds = torch.cat([embeds[:, :start], features, embeds[:, start + n_visual :]], 1)
    same = segment[:, :, None] == segment[:, None, :]
    allowed = (same | (segment == 0)[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    allowed |= torch.eye(length, dtype=torch.bool)  # padding must attend to something
    return {
        "inputs_embeds": embeds,
        "attention_mask": allowed[:, None].to(device),
        "position_ids": position.to(device),
        "targets": targets.to(device),
        "weights": weights.to(device),
    }


def question_loss(hidden: Tensor, head: torch.nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The weighted cross-entropy over all targets, and which of them are predicted right. hidden: [B, L, D]."""
    is_target = batch["targets"] != IGNORED
    logits = head(hidden[is_target])
    targets, weights = batch["targets"][is_target], batch["weights"][is_target]
    loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()
    return loss, (logits.argmax(-1) == targets)
