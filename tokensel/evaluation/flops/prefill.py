"""One prefill: its vision part, its decoder layer by layer, its head, and what choosing the survivors takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokensel.engine.stages import Stage
from tokensel.errors import TokenselError
from tokensel.evaluation.flops.vision import picture_flops, projector_flops
from tokensel.methods import Method, Sizes


@dataclass(frozen=True)
class Cost:
    """One prefill of one prompt.

    vision, projector, head, selection   floating-point operations of each part; selection holds aggregation
    layers               those of each decoder layer; `decoder` is their sum
    kv_bytes             bytes in the KV cache after the prefill
    tokens_layer_mean    visual tokens in the sequence, averaged over the decoder's layers
    selection_counted    False where a method does not tell what its choice costs: then that counts as free
    skipped              of the decoder's operations, those that attention need not do as no token sees a later one, and
                         does not where its kernel is told "causal" and not by a mask: half of its products
    """

    vision: int
    projector: int
    layers: tuple[int, ...]
    head: int
    selection: int
    kv_bytes: int
    tokens_layer_mean: float
    selection_counted: bool
    skipped: int = 0

    @property
    def decoder(self) -> int:
        """Floating-point operations of all decoder layers."""
        return sum(self.layers)

    @property
    def total(self) -> int:
        """All floating-point operations of the prefill."""
        return self.vision + self.projector + self.decoder + self.head + self.selection


@dataclass(frozen=True)
class _Step:
    """What of a stage makes its cost."""

    layer: int
    kept: int
    method: Method | None
    aggregation: str | None
    compact: bool
    index: int
    masks: bool


def prefill_cost(
    config: Any,
    *,
    text_tokens: int,
    visual_tokens: int,
    stages: Sequence[Stage] | None = None,
    kept: int | Sequence[int] | None = None,
    agg_layer: int | Sequence[int] = 0,
    method: Method | None = None,
    aggregation: str = "none",
    layout: str = "compact",
    bytes_per_value: int = 4,
    images: int = 1,
    pictures: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Cost:
    """The cost of one prefill, batch 1, logits at the last position only.

    config           a transformers configuration: of any family, or a Llama-like decoder's own
    text_tokens      tokens of the prompt that are no visual tokens
    stages           the reduction, as `make_stages` or `GridPoint.stages` gives it; instead of it the five that follow
    kept             visual tokens from agg_layer on; None or >= visual_tokens: no reduction. Sequences of both: one
                     entry per stage
    method           whose selection is counted; None: none
    bytes_per_value  of the KV cache: 4 for float32, 2 for half precision
    pictures         what the processor makes of the prompt's pictures, for families without one fixed size; None: a
                     guess from visual_tokens and the number of images, exact for LLaVA-1.5
    device           where it runs, cpu or cuda: one method does less on a CPU

    Raises TokenselError for a decoder whose configuration lacks a size this needs.
    """
    text = getattr(config, "text_config", None) or config
    steps = _steps_of(stages, visual_tokens) if stages is not None else None
    if steps is None:
        steps = _steps(kept, agg_layer, method, aggregation, layout)
    try:
        vision, projector = 0, 0
        if visual_tokens and hasattr(config, "vision_config"):
            vision, projector = picture_flops(config, visual_tokens, pictures, images)
        count, length = visual_tokens, text_tokens + visual_tokens
        lengths = [length] * text.num_hidden_layers
        selection, counted, causal = 0, True, len(lengths)
        for step in steps:
            if step.layer >= len(lengths) or step.kept >= count:
                continue
            sizes = _sizes(config, step, count, length, visual_tokens, text_tokens, device)
            if step.method is not None:
                selection += step.method.flops(sizes)
                counted = counted and _tells(step.method)
            if step.aggregation not in (None, "none"):
                selection += 2 * sizes.cosines(step.kept)
            if step.compact:
                length -= count - step.kept
            count = step.kept
            lengths[step.layer :] = [length] * (len(lengths) - step.layer)
            if step.masks:
                causal = min(causal, step.layer)
        return Cost(
            vision=vision,
            projector=projector,
            layers=tuple(_layer_flops(text, tokens) for tokens in lengths),
            head=2 * text.hidden_size * text.vocab_size,
            selection=selection,
            kv_bytes=2 * _kv_heads(text) * _head_dim(text) * bytes_per_value * sum(lengths),
            tokens_layer_mean=sum(lengths) / len(lengths) - text_tokens,
            selection_counted=counted,
            skipped=sum(_hidden_from_all(text, tokens) for tokens in lengths[:causal]),
        )
    except AttributeError as error:
        raise TokenselError(
            f"model_type={getattr(config, 'model_type', None)}: its configuration lacks a size ({error})"
        ) from error


def _steps_of(stages: Sequence[Stage], visual_tokens: int) -> list[_Step]:
    return [
        _Step(
            stage.layer,
            stage.kept_of(visual_tokens),
            stage.method,
            stage.aggregation,
            stage.layout == "compact",
            stage.index,
            stage.layout == "mask",
        )
        for stage in stages
        if not stage.method.passes_through
    ]


def _steps(
    kept: int | Sequence[int] | None,
    agg_layer: int | Sequence[int],
    method: Method | None,
    aggregation: str,
    layout: str,
) -> list[_Step]:
    if kept is None:
        return []
    counts = [kept] if isinstance(kept, int) else kept
    layers = [agg_layer] if isinstance(agg_layer, int) else agg_layer
    return [
        _Step(layer, count, method, aggregation, layout == "compact", index, layout == "mask")
        for index, (count, layer) in enumerate(zip(counts, layers, strict=True))
    ]


def _sizes(
    config: Any, step: _Step, count: int, length: int, visual_tokens: int, text_tokens: int, device: str
) -> Sizes:
    text = getattr(config, "text_config", None) or config
    tower: dict[str, int] = {}
    if step.method is not None and step.method.uses_vision:
        vision = config.vision_config
        tower = {
            "vision_width": vision.hidden_size,
            "vision_head_width": vision.hidden_size // vision.num_attention_heads,
            "vision_tokens": visual_tokens + 1,
            "projector": projector_flops(config),
        }
    return Sizes(
        kept=step.kept,
        count=count,
        layer=step.layer,
        stage=step.index,
        text=length - count,
        image_count=visual_tokens,
        text_count=text_tokens,
        hidden=text.hidden_size,
        query_width=text.num_attention_heads * _head_dim(text),
        key_width=_kv_heads(text) * _head_dim(text),
        head_width=_head_dim(text),
        device=device,
        **tower,
    )


def _tells(method: Method) -> bool:
    """Whether the class that chooses tells what that costs: one that changes `select` alone does not."""
    return next("flops" in vars(kind) for kind in type(method).__mro__ if vars(kind).keys() & {"flops", "select"})


def _head_dim(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _kv_heads(text: Any) -> int:
    return getattr(text, "num_key_value_heads", None) or text.num_attention_heads


def _layer_flops(text: Any, tokens: int) -> int:
    """One Llama-like layer over `tokens` positions: q, k, v, o, the attention's two products, the gated MLP's three."""
    hidden, head_dim = text.hidden_size, _head_dim(text)
    width = text.num_attention_heads * head_dim
    projections = 2 * hidden * (2 * width + 2 * _kv_heads(text) * head_dim)
    return tokens * (projections + 6 * hidden * text.intermediate_size) + 4 * width * tokens * tokens


def _hidden_from_all(text: Any, tokens: int) -> int:
    """Of a layer's operations, those for pairs of a token and a later one."""
    return 2 * text.num_attention_heads * _head_dim(text) * tokens * (tokens - 1)
