"""What is verified: a model, a prompt with a picture, and a choice of visual tokens that is known beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokensel.data import Question
from tokensel.errors import TokenselError
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.verify.by_hand import Trace
from tokensel.methods import Context, Method, Selection
from tokensel.models import LoadedModel
from tokensel.models.parts import ModelParts, find_parts

# The most visual tokens that remain, unless kept is given; of fewer tokens a quarter.
USUAL_KEPT = 64


@dataclass
class Spaced(Method):
    """Visual tokens at even distances, the last one first: known without running anything."""

    name: ClassVar[str] = "spaced"
    min_kept: ClassVar[int] = 1

    def select(self, context: Context) -> Selection:
        chosen = torch.tensor(spaced(context.count, context.kept), device=context.row_keys.device)
        return Selection(chosen.expand(len(context.row_keys), -1))


def spaced(count: int, kept: int) -> list[int]:
    """What `Spaced` chooses of `count` tokens."""
    return [(2 * place + 1) * count // (2 * kept) for place in reversed(range(kept))]


class Subject:
    """The model and the first question's prompt.

    questions: with pictures of their own, the first ones of a batch. kept: visual tokens that remain; None: 64, or a
    quarter of a smaller picture's. new_tokens: how many are written.

    Raises TokenselError where kept is not below the picture's number of visual tokens.
    """

    def __init__(self, loaded: LoadedModel, questions: Sequence[Question], kept: int | None, new_tokens: int) -> None:
        self.loaded, self.model, self.questions, self.new_tokens = loaded, loaded.model, questions, new_tokens
        self.parts: ModelParts = find_parts(loaded.model)
        self._alone: dict[str, dict[str, Any]] = {}
        self.inputs = self.alone(questions[0])
        self.visual = (self.inputs["input_ids"][0] == loaded.image_token_id).nonzero()[:, 0].tolist()
        self.count, self.length = len(self.visual), self.inputs["input_ids"].shape[1]
        self.kept = max(1, min(USUAL_KEPT, self.count // 4)) if kept is None else kept
        if not 0 < self.kept < self.count:
            raise TokenselError(f"kept={kept}: must be from 1 to {self.count - 1}; the picture has {self.count} tokens")
        self.depth = self.parts.num_layers
        self.layers = sorted({layer for layer in (0, 1, 2, self.depth - 1) if layer < self.depth})
        self.dtype: torch.dtype = loaded.model.dtype

    @property
    def chosen(self) -> list[int]:
        """The visual tokens that `Spaced` keeps, in its order."""
        return spaced(self.count, self.kept)

    @cached_property
    def middle(self) -> int:
        """A layer for checks that look at one alone."""
        return self.layers[len(self.layers) // 2]

    @cached_property
    def plain(self) -> Tensor:
        """The stock model's logits, [1, T, V]."""
        return self.logits(self.inputs)

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        return self.model(**inputs, use_cache=False).logits

    @cached_property
    def trace(self) -> Trace:
        """What stock layers are given for the prompt."""
        return Trace(self.parts, self.inputs, self.visual, self.model, self.layers)

    def longer_trace(self, written: Tensor) -> Trace:
        """What stock layers are given for the prompt with `written` behind it, LongTensor[1, n]."""
        return Trace(self.parts, self.longer(written), self.visual, self.model, self.layers)

    def longer(self, written: Tensor) -> dict[str, Any]:
        """The model's arguments for the prompt with what was written behind it."""
        ids = torch.cat([self.inputs["input_ids"], written], 1)
        along = self.loaded.family.along_prompt(ids, self.model.config)
        # What was written is text, whatever it says.
        for name in along:
            along[name][:, self.length :] = 0
        return {**self.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), **along}

    def alone(self, question: Question) -> dict[str, Any]:
        """The model's arguments for one question."""
        if question.id not in self._alone:
            self._alone[question.id] = self.loaded.prepare([question])
        return self._alone[question.id]

    def keys(self, questions: Sequence[Question]) -> Tensor:
        return row_keys(questions, self.loaded.device)

    @property
    def greedy(self) -> dict[str, Any]:
        """Arguments of `generate` for new_tokens tokens and the logits behind each."""
        config = self.model.config
        names = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")
        unwritten = {getattr(config, name) for name in names if getattr(config, name, None) is not None}
        return {
            "do_sample": False,
            "num_beams": 1,
            "repetition_penalty": 1.0,
            "max_new_tokens": self.new_tokens,
            "eos_token_id": None,
            "suppress_tokens": sorted(unwritten),  # a stock model fails on a picture's token where there is no picture
            "output_logits": True,
            "return_dict_in_generate": True,
        }
