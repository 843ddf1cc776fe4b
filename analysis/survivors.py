"""Which visual tokens of a picture survive a reduction, what each centroid gathers, and what the model then answers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokensel.data import LETTERS, Question
from tokensel.data.prompts import is_yes_no
from tokensel.data.protocol import Protocol
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import Stage
from tokensel.engine.state import State
from tokensel.errors import TokenselError
from tokensel.evaluation.accuracy import ANSWER_TOKENS
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.functional import cosine_to, inverse_norms, take
from tokensel.models import LoadedModel


@dataclass(frozen=True)
class Survivors:
    """What one grid point leaves of one picture.

    positions    [M] indices into the picture's visual tokens in reading order, in the order in which they now stand
    weights      [M, N] float32, each row what a survivor gathers from the picture's N visual tokens, summing to 1;
                 None where nothing is gathered, or the method makes the values itself (gathers says which)
    gathers      "cross_attention", "mean", "none", or "own": values of the method's making
    layer        the decoder layer before which they were chosen
    answer       the choice's letter, Yes or No, or what is written where the question is put in words
    margin       by how much the answer's logit leads; None for written text
    """

    point: GridPoint
    positions: tuple[int, ...]
    weights: np.ndarray | None
    gathers: str
    layer: int
    answer: str
    margin: float | None


def gathered_weights(queries: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """softmax(cosine(queries, tokens) / temperature): the weights by which `cross_attention`
    gathers. queries [B, M, D], tokens [B, N, D] -> float32 [B, M, N], rows summing to 1."""
    return (_cosines(queries, tokens).transpose(1, 2) / temperature).softmax(-1)


def mean_weights(queries: Tensor, tokens: Tensor) -> Tensor:
    """The weights of `nearest_mean`: the same shapes; a query nobody is nearest to has zeros."""
    nearest = torch.nn.functional.one_hot(_cosines(queries, tokens).argmax(2), queries.shape[1])
    members = nearest.transpose(1, 2).float()
    return members / members.sum(2, keepdim=True).clamp_min(1)


def _cosines(queries: Tensor, tokens: Tensor) -> Tensor:
    """[B, N, M]"""
    values, asked = tokens.float(), queries.float()
    return cosine_to(values, inverse_norms(values), asked * inverse_norms(asked).unsqueeze(-1))


@dataclass(frozen=True)
class AsItIs(Protocol):
    """A protocol that puts the question's text alone, without choices and instruction."""

    def text(self, question: Question) -> str:
        return question.text


class Tracer:
    """Asks a model one question about one picture, under as many grid points as wanted.

    in_words: the question's text is put as it is, and answered in words; its choices play no part.

    Raises TokenselError for a question without a picture, or a model whose visual tokens form no grid.
    """

    def __init__(self, loaded: LoadedModel, question: Question, in_words: bool = False) -> None:
        if question.image is None:
            raise TokenselError(f"question {question.id}: has no picture to draw on")
        self.in_words, self.question = in_words, question
        kept = {name: getattr(loaded.protocol, name) for name in ("conv", "image_aspect")}
        self.loaded = loaded.with_protocol(AsItIs(**kept)) if in_words else loaded
        self.inputs: dict[str, Any] = self.loaded.prepare([question])
        self.keys = row_keys([question], loaded.device)
        self.split = SplitModel(loaded.model)
        self.visual_tokens = int((self.inputs["input_ids"] == loaded.processor.image_token_id).sum())
        self.grid = self._grid()

    def _grid(self) -> tuple[int, int]:
        """Rows and columns of the picture's visual tokens."""
        given = {name: value for name, value in self.inputs.items() if name not in ("input_ids", "attention_mask")}
        rows, columns = self.loaded.family.grid(self.loaded.model.config, given) or (0, 0)
        if (rows, columns) == (0, 0):
            rows = columns = math.isqrt(self.visual_tokens)
        if rows * columns != self.visual_tokens or rows == 0:
            raise TokenselError(
                f"model.path={self.loaded.path}: its {self.visual_tokens} visual tokens form no single grid, so "
                "survivors cannot be drawn on the picture; choose a model of LLaVA-1.5's kind"
            )
        return rows, columns

    def picture(self) -> np.ndarray:
        """The picture as the vision tower gets it, scaled and cut by the checkpoint's processor: uint8 [H, W, 3]."""
        pixels, processor = self.inputs["pixel_values"], self.loaded.processor.image_processor
        if pixels.ndim != 4:  # patches in a row: the processor scales such pictures and cuts nothing
            return np.asarray(self.loaded.prepare_image(self.question.load_image()))
        channels = pixels[0].float().cpu().permute(1, 2, 0).numpy()
        shown = channels * np.array(processor.image_std) + np.array(processor.image_mean)
        return (255 * shown).round().clip(0, 255).astype(np.uint8)

    @torch.inference_mode()
    def full_answer(self) -> tuple[str, float | None]:
        """The unreduced model's answer, and its margin."""
        return self._answer(GridPoint("full"), self.split.embed(**self.inputs, row_keys=self.keys))

    @torch.inference_mode()
    def survivors(self, point: GridPoint) -> Survivors:
        """Runs one point. Where several stages choose, positions and weights are those of the last that leaves any.

        Raises TokenselError for a point that leaves nothing to draw: full, no_image, kept of all visual tokens.
        """
        stages = [stage for stage in point.stages(self.split.num_layers) if stage.layer < self.split.num_layers]
        state = self.split.embed(
            **self.inputs, row_keys=self.keys, looks=any(stage.method.uses_vision for stage in stages)
        )
        last: tuple[State, State, Stage] | None = None
        for stage in stages:
            entering = self.split.run(state, stage.layer)
            state = self.split.reduce(entering, stage)
            if state is not entering and state.positions is not None and state.positions.shape[1]:
                last = entering, state, stage
        if last is None:
            raise TokenselError(
                f"method={point.method} kept={point.final_kept}: leaves all or none of the {self.visual_tokens} visual "
                "tokens, so there are no survivors to draw; choose a method that selects and a smaller kept"
            )
        entering, left, stage = last
        positions: Any = left.positions
        weights, gathers = self._weights(entering, positions, stage)
        answer, margin = self._answer(point, state)
        return Survivors(point, tuple(positions[0].tolist()), weights, gathers, stage.layer, answer, margin)

    def _weights(self, entering: State, positions: Tensor, stage: Stage) -> tuple[np.ndarray | None, str]:
        if stage.method.returns_values:
            return None, "own"
        if stage.aggregation not in ("cross_attention", "mean"):
            return None, "none"
        tokens = take(entering.hidden, entering.visual_index)
        whole = torch.arange(self.visual_tokens, device=tokens.device).unsqueeze(0)
        there = whole if entering.positions is None else entering.positions  # [1, tokens now]
        places = (positions.unsqueeze(2) == there.unsqueeze(1)).to(torch.uint8).argmax(2)
        queries = take(tokens, places)
        if stage.aggregation == "mean":
            now = mean_weights(queries, tokens)
        else:
            now = gathered_weights(queries, tokens, stage.temperature)
        over_picture = now.new_zeros(now.shape[1], self.visual_tokens)
        over_picture.index_copy_(1, there[0], now[0])
        return over_picture.cpu().numpy(), str(stage.aggregation)

    def _answer(self, point: GridPoint, state: State) -> tuple[str, float | None]:
        if self.in_words:
            return self._write(point), None
        letters = self.loaded.answer_ids(self.question)
        scores = self.split.logits(self.split.run(state, self.split.num_layers))[0, letters].float().cpu()
        best = scores.topk(min(2, len(scores)))
        choice = int(best.indices[0])
        said = self.question.choices[choice] if is_yes_no(self.question) else LETTERS[choice]
        return said, float(best.values[0] - best.values[-1])

    def _write(self, point: GridPoint) -> str:
        with reduce_tokens(self.loaded.model, point.make_method(), row_keys=self.keys, **point.reduction()):
            written = self.loaded.model.generate(**self.inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS)
        new = written[0, self.inputs["input_ids"].shape[1] :]
        return self.loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def effective_tokens(weights: np.ndarray) -> np.ndarray:
    """How many tokens each row of weights [M, N] in effect gathers from, exp of its entropy: 1 for one, N for all."""
    logs = np.log(np.where(weights > 0, weights, 1))
    return np.exp(-(weights * logs).sum(1))
