"""Applies a method to a stock transformers model: the context manager that users see."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tokensel.engine.block import Block
from tokensel.engine.kept import Kept
from tokensel.engine.running import Record
from tokensel.engine.stages import Stage, make_stages
from tokensel.errors import TokenselError
from tokensel.methods import Method
from tokensel.models.loading import EMBEDDED
from tokensel.models.parts import find_parts
from tokensel.training.aggregator import LearnedAggregator

__all__ = ["Record", "Stage", "make_stages", "reduce_tokens"]


def reduce_tokens(
    model: nn.Module,
    method: str | type[Method] | Method,
    *,
    kept: Kept | str | Sequence[Kept | str] | None = None,
    agg_layer: int | Sequence[int] | None = None,
    temperature: float = 0.1,
    aggregation: str | None = None,
    aggregator: LearnedAggregator | str | None = None,
    layout: str = "compact",
    position: str | None = None,
    precision: str = "float32",
    scope: str = "video",
    image_mask: Tensor | None = None,
    row_keys: Tensor | None = None,
    questions: Sequence[str] | None = None,
    picture_sizes: Sequence[tuple[int, int] | None] | None = None,
    tokenizer: Any | None = None,
    family: str | None = None,
    **method_options: Any,
) -> Block:
    """Reduces the visual tokens inside a model while the `with` block runs.

        with reduce_tokens(model, "fps", kept=8, agg_layer=2) as record:
            model.generate(**inputs)
        record.positions

    model: a LLaVA-like model, or any Llama-like decoder (LlamaModel, LlamaForCausalLM). method: a registered name,
    "FILE.py:CLASS", or a subclass of Method; method_options are its fields. Or a Method, whose fields are set.
    kept: how many visual tokens remain: a count; a share ("25%" or 0.25) of those that the pictures have; or as many as
    cover the picture ("auto", or `Auto`), in which rows may differ; kept >= N changes nothing, bit for bit, and method
    "full" needs none. agg_layer: the decoder layer before which it happens, 0
    (before the first) to the number of layers (never); None = the method's own, 2 for those that use hidden states.
    Sequences of both make several stages, one kept for several layers is what remains after the last.
    aggregation: what survivors carry: "cross_attention" (temperature is its softmax's), "mean" (of their nearest
    tokens), "none" (their own state), or "learned": what the trained `aggregator` makes of all tokens, a file of
    runners.train_aggregator or a LearnedAggregator; None = the embedded model's, for that model only.
    layout: "compact" (shorter sequence, saves time), "zero_fill" (length kept, zeros elsewhere) or "mask" (length kept,
    the others masked as keys). position: a survivor keeps its own position id
    ("source") or takes one of the first M image places ("front"), where everything after may close up ("renumber", as
    if the picture had been that small from the start). None takes the method's default.
    precision: "float32", or "model": choices are computed in the model's dtype, as official code does.
    scope: a video's frames are reduced together ("video"), or each by itself ("frame") to an equal share of `kept`, the
    remainder to the first frames.
    image_mask: BoolTensor[B, T], where the visual tokens are, for callers that pass inputs_embeds or a plain decoder.
    family: which tested family a model of another one is like, "llava" say.
    row_keys: LongTensor[B], one key per question for methods that draw at random; None = the same for all rows.
    questions, tokenizer: the bare question of each row and the model's tokenizer, for methods that read the question
    apart from the rest of the prompt; without them these take the whole instruction. picture_sizes: width and height of
    each row's picture before it was padded to a square, for methods that leave out what shows padding alone.

    The choice is made once, when a prompt is prefilled. The prompt's KV cache keeps it, also in copies and in later
    blocks; without a cache, one call of `generate` keeps it. Several pictures or videos are reduced each by itself. A
    video whose family is not tested with videos stays whole, with a warning and `record.unreduced`.

    Raises TokenselError at once for a bad setting, and on entry when this model is already being reduced.
    """
    unwrap: Any = getattr(model, "get_base_model", None)  # PEFT's wrapper, around layers that it changed in place
    model = model if unwrap is None else unwrap()
    parts = find_parts(model, family, tokenizer)
    if aggregation == "learned" and aggregator is None:
        aggregator = _own_aggregator(model)
    stages = make_stages(
        method,
        kept=kept,
        agg_layer=agg_layer,
        temperature=temperature,
        aggregation=aggregation,
        layout=layout,
        position=position,
        precision=precision,
        scope=scope,
        aggregator=aggregator,
        num_layers=parts.num_layers,
        width=parts.decoder.config.hidden_size,
        **method_options,
    )
    if stages[0].method.changes_picture:
        raise TokenselError(
            f"method={stages[0].method.name!r}: makes pictures smaller before the model sees them, which a reduction "
            "inside the model cannot; use it in a sweep"
        )
    if image_mask is not None and (image_mask.ndim != 2 or image_mask.dtype != torch.bool):
        raise TokenselError(f"image_mask={image_mask.dtype} {list(image_mask.shape)}: must be a BoolTensor [B, T]")
    reduces = any(stage.layer < parts.num_layers and not stage.method.passes_through for stage in stages)
    if reduces and image_mask is None and parts.llava is None:
        raise TokenselError(f"image_mask: {type(model).__name__} needs it, to know the visual tokens")
    if row_keys is not None and (row_keys.ndim != 1 or row_keys.dtype != torch.long):
        raise TokenselError(f"row_keys={row_keys.dtype} {list(row_keys.shape)}: must be a LongTensor [B]")
    if isinstance(questions, str):
        raise TokenselError(f"questions={questions!r}: must be a sequence with one text per row")
    texts = None if questions is None else tuple(questions)
    sizes = None if picture_sizes is None else tuple(picture_sizes)
    return Block(model, parts, stages, image_mask, row_keys, texts, sizes)


def _own_aggregator(model: nn.Module) -> str | None:
    """The name of the aggregator that comes with an embedded model; None for other models."""
    path = str(getattr(model, "name_or_path", ""))
    return next((name for name, folder in EMBEDDED.items() if path == str(folder)), None)
