"""Traces a reduction on one picture or video: which tokens survive, what each gathers, and what the model answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analysis.frames import Sheet
from tokensel.data import LETTERS, Question
from tokensel.data.prompts import is_yes_no
from tokensel.data.protocol import Protocol
from tokensel.data.scorers import exact
from tokensel.engine.reduce import reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import Stage
from tokensel.engine.state import State
from tokensel.errors import TokenselError
from tokensel.evaluation.answers import ANSWER_TOKENS, row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.functional import cosine_to, inverse_norms, take
from tokensel.models import LoadedModel
from tokensel.models.families import pixels_of
from tokensel.models.loaded import Encoded


@dataclass(frozen=True)
class Survivors:
    """The result of one grid point on one picture.

    positions    [M] indices into the picture's visual tokens (row by row), in the order that the decoder now has; of a
                 video, into its frames as `Tracer.picture` lays them out
    weights      [M, N] float32: the weights with which each survivor gathers the N visual tokens of the picture, or of
                 the frames as they are laid out. They sum to 1 for each survivor. None if nothing is gathered or if the
                 method computes the values itself
    gathers      "cross_attention", "mean", "none", or "own" (the method computes the values)
    layer        the decoder layer before which the tokens were chosen
    answer       the choice's letter, Yes or No, or the text that the model writes
    margin       logit of the answer minus that of the second-best choice; None for text that the model writes
    tokens       [M] indices into the visual tokens as the model has them: frame by frame for a video
    """

    point: GridPoint
    positions: tuple[int, ...]
    weights: np.ndarray | None
    gathers: str
    layer: int
    answer: str
    margin: float | None
    tokens: tuple[int, ...] = ()


def choice_name(question: Question, choice: int) -> str:
    """Returns the answer that stands for a choice: its letter, or Yes or No itself."""
    return question.choices[choice] if is_yes_no(question) else LETTERS[choice]


def is_right(answer: str, correct: str | None) -> bool | None:
    """Whether an answer is the correct one, or one of several between " / ", apart from case and a full stop; None if
    the correct one is not known."""
    if correct is None:
        return None
    return any(exact(answer, [each]) for each in (correct, *correct.split(" / ")))


def gathered_weights(queries: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Computes the weights of `cross_attention`: softmax(cosine(queries, tokens) / temperature).

    queries [B, M, D], tokens [B, N, D] -> float32 [B, M, N]; the last dimension sums to 1.
    """
    return (_cosines(queries, tokens).transpose(1, 2) / temperature).softmax(-1)


def mean_weights(queries: Tensor, tokens: Tensor) -> Tensor:
    """Computes the weights of `nearest_mean`.

    Shapes are those of `gathered_weights`. A query that is nearest to no token has weights of 0.
    """
    nearest = torch.nn.functional.one_hot(_cosines(queries, tokens).argmax(2), queries.shape[1])
    members = nearest.transpose(1, 2).float()
    return members / members.sum(2, keepdim=True).clamp_min(1)


def _cosines(queries: Tensor, tokens: Tensor) -> Tensor:
    """Returns cosines [B, N, M]."""
    values, queries = tokens.float(), queries.float()
    return cosine_to(values, inverse_norms(values), queries * inverse_norms(queries).unsqueeze(-1))


@dataclass(frozen=True)
class TextOnly(Protocol):
    """A protocol whose prompt is the question's text alone, without choices or instruction."""

    def text(self, question: Question) -> str:
        return question.text

    question_text = text


class Tracer:
    """Runs one question about one picture or video at any number of grid points.

    in_words: the model writes its answer, and choices are ignored; the prompt is the question's text alone, unless it
    asks for free text.

    Raises TokenselError if the question shows nothing, or if the visual tokens do not form one grid.
    """

    def __init__(self, loaded: LoadedModel, question: Question, in_words: bool = False) -> None:
        if not question.is_visual:
            raise TokenselError(f"question={question.id}: has no picture and no video; choose a question with one")
        self.in_words, self.question = in_words, question
        kept = {name: getattr(loaded.protocol, name) for name in ("conv", "image_aspect")}
        bare = in_words and question.form != "text"
        self.loaded = loaded.with_protocol(TextOnly(**kept)) if bare else loaded
        encoded = self.loaded.encode([question])
        self.inputs: dict[str, Any] = self.loaded.arguments(encoded)
        self.about: dict[str, Any] = {
            "row_keys": row_keys([question], loaded.device),
            "questions": [self.loaded.protocol.question_text(question)],
            "picture_sizes": encoded.picture_sizes,
        }
        self.split = SplitModel(loaded.model, tokenizer=loaded.processor.tokenizer)
        self.sheet = self._sheet(encoded)
        ids = self.inputs["input_ids"]
        self.visual_tokens = self.sheet.count if self.sheet else int((ids == loaded.image_token_id).sum())
        self.grid = self.sheet.grid if self.sheet else self._grid()

    def _sheet(self, encoded: Encoded) -> Sheet | None:
        """How the video's frames are laid out; None for a picture."""
        if not encoded.video:
            return None
        (grid,) = self.loaded.family.video_grids(self.loaded.model.config, encoded.pictures)
        return Sheet(*grid)

    def _grid(self) -> tuple[int, int]:
        """Rows and columns of the picture's visual tokens."""
        given = {name: value for name, value in self.inputs.items() if name not in ("input_ids", "attention_mask")}
        rows, columns = self.loaded.family.grid(self.loaded.model.config, given) or (0, 0)
        if (rows, columns) == (0, 0):
            rows = columns = math.isqrt(self.visual_tokens)
        if rows * columns != self.visual_tokens or rows == 0:
            raise TokenselError(
                f"model.path={self.loaded.path}: its {self.visual_tokens} visual tokens do not form one grid, so "
                "survivors cannot be drawn on the picture; choose a model such as LLaVA-1.5"
            )
        return rows, columns

    def picture(self) -> np.ndarray:
        """Returns the picture that the vision tower sees, resized and cropped by the processor: uint8 [H, W, 3].

        Of a video, its frames side by side.
        """
        if self.sheet:
            pixels = self.inputs["pixel_values_videos"]
            whole = pixels.ndim == 5  # else patches, as below
            frames = [Image.fromarray(self._seen(each)) for each in pixels[0]] if whole else self.question.load_frames()
            return np.asarray(self.sheet.draw(frames))
        pixels = pixels_of(self.inputs)
        if pixels.ndim != 4:  # a sequence of patches: such processors resize pictures but do not crop them
            return np.asarray(self.loaded.prepare_image(self.question.load_image()))
        return self._seen(pixels[0])

    def _seen(self, pixels: Tensor) -> np.ndarray:
        """Pixels [3, H, W], as the tower receives them, as a picture: uint8 [H, W, 3]."""
        processor = self.loaded.processor.image_processor
        channels = pixels.float().cpu().permute(1, 2, 0).numpy()
        shown = channels * np.array(processor.image_std) + np.array(processor.image_mean)
        return (255 * shown).round().clip(0, 255).astype(np.uint8)

    def places(self, tokens: Sequence[int]) -> list[int]:
        """Returns where visual tokens are in `picture`, as indices into `grid`, row by row."""
        return self.sheet.places(tokens) if self.sheet else list(tokens)

    @torch.inference_mode()
    def full_answer(self) -> tuple[str, float | None]:
        """Returns the answer of the full model, and its margin."""
        return self._answer(GridPoint("full"), self.split.embed(**self.inputs, **self.about))

    @torch.inference_mode()
    def survivors(self, point: GridPoint) -> Survivors:
        """Runs one grid point. With several stages, the result describes the last stage that left any visual token.

        Raises TokenselError if the point keeps all visual tokens or none.
        """
        stages = [stage for stage in point.stages(self.split.num_layers) if stage.layer < self.split.num_layers]
        config = self.loaded.model.config
        uses_vision = any(stage.method.reads_tower(config) for stage in stages)
        state = self.split.embed(**self.inputs, **self.about, uses_vision=uses_vision)
        last: tuple[State, State, Stage] | None = None
        for stage in stages:
            entering = self.split.run(state, stage.layer)
            state = self.split.reduce(entering, stage)
            if state is not entering and state.positions is not None and state.positions.shape[1]:
                last = entering, state, stage
        if last is None:
            raise TokenselError(
                f"method={point.method} kept={point.final_kept}: keeps all or none of the {self.visual_tokens} visual "
                "tokens, so there are no survivors to draw; choose a method that selects, and a smaller kept"
            )
        entering, left, stage = last
        positions: Any = left.positions
        weights, gathers = self._weights(entering, positions, stage)
        answer, margin = self._answer(point, state)
        tokens = positions[0].tolist()
        if self.sheet and weights is not None:
            weights = self.sheet.spread(weights)
        return Survivors(
            point, tuple(self.places(tokens)), weights, gathers, stage.layer, answer, margin, tuple(tokens)
        )

    def _weights(self, entering: State, positions: Tensor, stage: Stage) -> tuple[np.ndarray | None, str]:
        if stage.method.returns_values:
            return None, "own"
        if stage.aggregation not in ("cross_attention", "learned", "mean"):
            return None, "none"
        tokens = take(entering.hidden, entering.visual_index)
        # Visual tokens that enter the stage, [1, count], and where among them the survivors are, [1, M].
        every = torch.arange(self.visual_tokens, device=tokens.device).unsqueeze(0)
        present = every if entering.positions is None else entering.positions
        chosen = (positions.unsqueeze(2) == present.unsqueeze(1)).to(torch.uint8).argmax(2)
        queries = take(tokens, chosen)
        if stage.learned is not None:
            weights = stage.learned.weights(queries, tokens).mean(1)  # of all heads
        elif stage.aggregation == "mean":
            weights = mean_weights(queries, tokens)
        else:
            weights = gathered_weights(queries, tokens, stage.temperature)
        over_picture = weights.new_zeros(weights.shape[1], self.visual_tokens)
        over_picture.index_copy_(1, present[0], weights[0])
        return over_picture.cpu().numpy(), str(stage.aggregation)

    def _answer(self, point: GridPoint, state: State) -> tuple[str, float | None]:
        if self.in_words:
            return self._write(point), None
        letters = self.loaded.answer_ids(self.question)
        scores = self.split.logits(self.split.run(state, self.split.num_layers))[0, letters].float().cpu()
        best = scores.topk(min(2, len(scores)))
        answer = choice_name(self.question, int(best.indices[0]))
        return answer, float(best.values[0] - best.values[-1])

    def _write(self, point: GridPoint) -> str:
        tokenizer = self.loaded.processor.tokenizer
        with reduce_tokens(
            self.loaded.model, point.make_method(), tokenizer=tokenizer, **self.about, **point.reduction()
        ):
            most = self.question.max_new_tokens or ANSWER_TOKENS
            written = self.loaded.model.generate(**self.inputs, do_sample=False, max_new_tokens=most)
        new = written[0, self.inputs["input_ids"].shape[1] :]
        return self.loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def effective_tokens(weights: np.ndarray) -> np.ndarray:
    """Computes how many tokens each survivor effectively gathers from: exp of the entropy of its weights.

    weights [M, N] -> [M], from 1 (a single token) to N (all tokens equally).
    """
    logs = np.log(np.where(weights > 0, weights, 1))
    return np.exp(-(weights * logs).sum(1))
