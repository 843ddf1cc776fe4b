"""What a point costs, on the prompt of middling length: FLOPs, memory, and visual tokens that remain."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch

from tokensel.data import Question
from tokensel.engine.kept import Kept
from tokensel.engine.stages import Stage
from tokensel.errors import BadSampleError
from tokensel.evaluation.batches import order_questions
from tokensel.evaluation.downsample import with_downsampled
from tokensel.evaluation.flops import Cost, prefill_cost
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import LoadedModel

PARTS = ("vision", "projector", "decoder", "head", "selection")


@dataclass(frozen=True)
class CostedPrompt:
    """A prompt by its lengths, and the model that reads it. The same for all points, so that their costs compare.

    pictures: the processor's output for its pictures or video. device: cpu or cuda. bytes_per_value: of the KV cache.
    video_grid: frames, rows and columns of its video's visual tokens; None without a video.
    downsampled: for points that reduce the picture first, the prompt with the picture of this kept.
    """

    config: Any
    text_tokens: int
    visual_tokens: int
    pictures: Mapping[str, torch.Tensor]
    device: str
    bytes_per_value: int = 4
    video_grid: tuple[int, ...] | None = None
    downsampled: Callable[[Kept], "CostedPrompt"] | None = field(default=None, compare=False, repr=False)

    @property
    def num_layers(self) -> int:
        return getattr(self.config, "text_config", self.config).num_hidden_layers

    def cost(self, stages: Sequence[Stage] = (), remaining: Mapping[int, int] | None = None) -> Cost:
        """The cost of its prefill under these stages; none: of the full model. remaining: see `prefill_cost`."""
        return prefill_cost(
            self.config,
            text_tokens=self.text_tokens,
            visual_tokens=self.visual_tokens,
            stages=stages,
            bytes_per_value=self.bytes_per_value,
            pictures=self.pictures,
            device=self.device,
            remaining=remaining,
        )

    @cached_property
    def full(self) -> Cost:
        """The full model's cost."""
        return self.cost()

    def figures(self, point: GridPoint, records: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """A point's costs, as metrics.json has them. records: its predictions.

        Where the picture decides how many visual tokens remain, costs are averaged over the numbers in the records.

        flops, flops_ratio (to the full model), flops_parts, kv_bytes; tokens_layer_mean, visual tokens averaged over
        the decoder's layers; tokens_left, visual tokens after the last stage; selection_counted: whether the FLOPs of
        selection are among them.
        """
        if point.picture_kept is not None and self.downsampled is not None:
            entering = self.downsampled(point.picture_kept).figures(point.in_model)
            return entering | {"flops_ratio": entering["flops"] / self.full.total}
        stages = point.stages(self.num_layers)
        measured = Counter(tuple(record["kept"].items()) for record in records if record.get("kept"))
        costs = [
            (self.cost(stages, {int(layer): left for layer, left in kept}), number) for kept, number in measured.items()
        ] or [(self.cost(stages), 1)]
        left = tokens_left(stages, self.visual_tokens, self.num_layers)
        if measured:
            left = round(sum(kept[-1][1] * number for kept, number in measured.items()) / measured.total())
        flops = _mean(costs, "total")
        return {
            "flops": round(flops),
            "flops_ratio": flops / self.full.total,
            "flops_parts": {part: round(_mean(costs, part)) for part in PARTS},
            "kv_bytes": round(_mean(costs, "kv_bytes")),
            "tokens_layer_mean": _mean(costs, "tokens_layer_mean"),
            "tokens_left": left,
            "selection_counted": costs[0][0].selection_counted,
        }


def _mean(costs: Sequence[tuple[Cost, int]], name: str) -> float:
    """The mean of one figure; each cost counts as often as it says."""
    if len(costs) == 1:
        return getattr(costs[0][0], name)
    return sum(getattr(cost, name) * number for cost, number in costs) / sum(number for _, number in costs)


def tokens_left(stages: Sequence[Stage], visual_tokens: int, num_layers: int) -> int:
    """How many of a prompt's visual tokens remain after a method's last stage, before those that a cut-off removes.

    Where the method lets the picture decide, what it was asked for.
    """
    left = visual_tokens
    for stage in stages:
        method = stage.method
        if method is not stages[0].method or method.passes_through or stage.layer >= num_layers:
            break
        kept = stage.kept_of(visual_tokens)
        if kept < left:
            remaining = stage.remaining(kept, left)
            left = kept if remaining is None else remaining
    return left


def costed_prompt(loaded: LoadedModel, question: Question | None, device: str | None = None) -> CostedPrompt:
    """The lengths of a question's prompt; of an empty one for None.

    loaded: with or without weights. device: where the model will run, cpu or cuda; None: where it is.
    """
    model = loaded.model
    bytes_per_value = torch.finfo(model.dtype).bits // 8
    prompt = CostedPrompt(model.config, 0, 0, {}, device or loaded.device.type, bytes_per_value)
    if question is None:
        return prompt
    encoded = loaded.encode([question])
    if encoded.video:
        (grid,) = loaded.family.video_grids(model.config, encoded.pictures)
        visual = int(loaded.family.video_tokens(model.config, encoded.input_ids).sum())
        prompt = replace(prompt, video_grid=grid)
    else:
        visual = int((encoded.input_ids == loaded.image_token_id).sum())
        prompt = replace(prompt, downsampled=partial(_downsampled_prompt, loaded, question, prompt.device))
    text = encoded.input_ids.shape[1] - visual
    return replace(prompt, text_tokens=text, visual_tokens=visual, pictures=encoded.pictures)


def _downsampled_prompt(loaded: LoadedModel, question: Question, device: str, kept: Kept) -> CostedPrompt:
    return costed_prompt(loaded, with_downsampled(loaded, question, kept), device)


def middle_question(loaded: LoadedModel, questions: Sequence[Question]) -> Question | None:
    """The question of middling length, or the next one that the model can be asked, with a picture or video if there is
    any.

    None if no question with either can be asked, unless the question of middling length has none.
    """
    ordered = order_questions(questions)
    half = len(ordered) // 2
    from_middle = ordered[half:] + ordered[:half]
    candidates = [question for question in from_middle if question.is_visual]
    if not ordered[half].is_visual:
        candidates += [question for question in from_middle if not question.is_visual]
    return next((question for question in candidates if _can_be_asked(loaded, question)), None)


def _can_be_asked(loaded: LoadedModel, question: Question) -> bool:
    try:
        loaded.shape_of(question, loaded.load_images(question))
    except BadSampleError:
        return False
    return True
