"""The FLOPs of one prefill: vision tower, projector, each decoder layer, output head, and selection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokensel.engine.stages import Stage
from tokensel.errors import TokenselError
from tokensel.evaluation.flops.vision import picture_flops, tower_sizes, video_frames
from tokensel.methods import Method, Sizes
from tokensel.models.families import FAMILIES, family_name
from tokensel.training.aggregator import LearnedAggregator


@dataclass(frozen=True)
class Cost:
    """The cost of one prefill of one prompt.

    vision, projector, head   FLOPs of each
    selection            FLOPs of selection and aggregation
    layers               FLOPs of each decoder layer; `decoder` is their sum
    kv_bytes             size of the KV cache after the prefill
    tokens_layer_mean    visual tokens in the sequence, averaged over the decoder layers
    selection_counted    False if a method does not report the FLOPs of its selection, which then count as 0
    causal_savings       FLOPs a causal kernel avoids, included in `layers`; 0 with an explicit mask
    """

    vision: int
    projector: int
    layers: tuple[int, ...]
    head: int
    selection: int
    kv_bytes: int
    tokens_layer_mean: float
    selection_counted: bool
    causal_savings: int = 0

    @property
    def decoder(self) -> int:
        """FLOPs of all decoder layers."""
        return sum(self.layers)

    @property
    def total(self) -> int:
        """FLOPs of the whole prefill."""
        return self.vision + self.projector + self.decoder + self.head + self.selection


@dataclass(frozen=True)
class _Step:
    """One stage, reduced to what its cost depends on."""

    layer: int
    kept: int
    method: Method | None
    aggregation: str | None
    compact: bool
    index: int
    masks: bool
    by_frame: bool = False
    aggregator: LearnedAggregator | None = None
    least: int | None = None  # where the picture decides, from this number to kept

    def stays(self, count: int) -> bool:
        """Whether `count` visual tokens stay as they are."""
        return count <= (self.kept if self.least is None else self.least)

    def left(self, count: int, measured: Mapping[int, int]) -> int:
        """How many of `count` visual tokens remain; where that depends on the picture, the measured number or kept."""
        asked = min(self.kept, count)
        if self.least is not None or self.method is None:
            return measured.get(self.layer, asked)
        remaining = self.method.remaining(self.kept, count, self.layer, self.index)
        return measured.get(self.layer, asked) if remaining is None else remaining

    def selection(self, sizes: Sizes, left: int) -> int:
        """FLOPs of the choice of `left` tokens."""
        if self.method is None:
            return 0
        return self.method.flops(sizes) if self.least is None else self.method.adapt_flops(sizes, self.least, left)


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
    remaining: Mapping[int, int] | None = None,
) -> Cost:
    """The cost of one prefill at batch size 1, with logits at the last position only.

    config           a transformers configuration: of any family, or of a Llama-like decoder alone
    text_tokens      number of prompt tokens that are not visual tokens
    visual_tokens    number of visual tokens before any reduction
    stages           the reduction, from `make_stages` or `GridPoint.stages`. Without it, these describe the reduction:
        kept         visual tokens from agg_layer on; None or >= visual_tokens: no reduction
        agg_layer    the layer before which it happens; sequences of kept and agg_layer have one entry per stage
        method       the method whose selection is counted; None counts no selection
        aggregation, layout   as for `reduce_tokens`
    bytes_per_value  of the KV cache: 4 for float32, 2 for half precision
    images           number of pictures in the prompt; used only without `pictures`
    pictures         the processor's output for the prompt's pictures, needed by families whose pictures vary in size;
                     None estimates it from visual_tokens and images, which is exact for LLaVA-1.5
    device           cpu or cuda; tome computes less on a CPU
    remaining        visual tokens that were left at each layer, for methods that let the picture decide; None: as many
                     as these were asked for

    Raises TokenselError if the configuration lacks a size that this needs.
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
        selection, counted = 0, True
        family = FAMILIES.get(family_name(config))
        causal_layers = 0 if visual_tokens and family is not None and family.both_ways else len(lengths)
        for step in steps:
            if step.layer >= len(lengths) or step.stays(count):
                continue
            sizes = _sizes(config, step, count, length, visual_tokens, text_tokens, device, pictures, images)
            times = 1
            if step.by_frame and sizes.frames > 1:
                times, sizes = sizes.frames, sizes.one_frame()
            left = step.left(count, remaining or {})
            selection += times * step.selection(sizes, left // times)
            counted = counted and (step.method is None or _reports_flops(step.method))
            if step.aggregator is not None:
                features = _features(config, step.layer)
                selection += times * step.aggregator.flops(left // times, sizes.count, features)
            elif step.aggregation not in (None, "none"):
                selection += times * (2 + _features(config, step.layer)) * sizes.cosines(left // times)
            if step.compact:
                length -= count - left
            count = left
            lengths[step.layer :] = [length] * (len(lengths) - step.layer)
            if step.masks:
                causal_layers = min(causal_layers, step.layer)
        return Cost(
            vision=vision,
            projector=projector,
            layers=tuple(_layer_flops(text, tokens, layer) for layer, tokens in enumerate(lengths)),
            head=2 * text.hidden_size * text.vocab_size,
            selection=selection,
            kv_bytes=2 * _kv_heads(text) * _head_dim(text) * bytes_per_value * sum(_cached(text, lengths)),
            tokens_layer_mean=sum(lengths) / len(lengths) - text_tokens,
            selection_counted=counted,
            causal_savings=sum(_causal_savings(text, tokens) for tokens in lengths[:causal_layers]),
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
            stage.scope == "frame",
            stage.learned,
            None if stage.auto is None else stage.auto.min,
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
    config: Any,
    step: _Step,
    count: int,
    length: int,
    visual_tokens: int,
    text_tokens: int,
    device: str,
    pictures: Mapping[str, Any] | None,
    images: int,
) -> Sizes:
    text = getattr(config, "text_config", None) or config
    tower: dict[str, Any] = {}
    if step.method is not None and step.method.reads_tower(config):
        tower = tower_sizes(config, visual_tokens, pictures, images)
    return Sizes(
        kept=min(step.kept, count),
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
        frames=video_frames(pictures or {}),
        **tower,
    )


def _features(config: Any, layer: int) -> int:
    """How many deepstack features a visual token about to enter a layer has beside it."""
    layers = len(getattr(getattr(config, "vision_config", None), "deepstack_visual_indexes", None) or ())
    return layers if layer < layers else 0


def _reports_flops(method: Method) -> bool:
    """Whether `flops` describes this method: not if a subclass overrides `select` or `score` without `flops`."""
    return next(
        "flops" in vars(kind) for kind in type(method).__mro__ if vars(kind).keys() & {"flops", "select", "score"}
    )


def _head_dim(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _kv_heads(text: Any) -> int:
    return getattr(text, "num_key_value_heads", None) or text.num_attention_heads


def _cached(text: Any, lengths: Sequence[int]) -> list[int]:
    """How many tokens each layer's cache holds: with a sliding window, what the next token sees of them."""
    kinds = getattr(text, "layer_types", None) or [""] * len(lengths)
    window = getattr(text, "sliding_window", None)
    return [
        min(tokens, window - 1) if window and kind == "sliding_attention" else tokens
        for tokens, kind in zip(lengths, kinds, strict=True)
    ]


def _layer_flops(text: Any, tokens: int, layer: int) -> int:
    """FLOPs of a Llama-like layer over `tokens` positions: q, k, v, o, two attention products, and a gated MLP."""
    hidden, head_dim = text.hidden_size, _head_dim(text)
    width = text.num_attention_heads * head_dim
    projections = 2 * hidden * (2 * width + 2 * _kv_heads(text) * head_dim)
    return tokens * (projections + _mlp_flops(text, layer)) + 4 * width * tokens * tokens


def _mlp_flops(text: Any, layer: int) -> int:
    """FLOPs of a layer's gated MLP per token; with experts, of the router and of those that a token uses."""
    experts = getattr(text, "num_experts", None)
    every, without = getattr(text, "decoder_sparse_step", 1), getattr(text, "mlp_only_layers", None) or ()
    if not experts or layer in without or (layer + 1) % every:
        return 6 * text.hidden_size * text.intermediate_size
    return 2 * text.hidden_size * (experts + 3 * text.num_experts_per_tok * text.moe_intermediate_size)


def _causal_savings(text: Any, tokens: int) -> int:
    """A layer's attention FLOPs for pairs of a query and a later key."""
    return 2 * text.num_attention_heads * _head_dim(text) * tokens * (tokens - 1)
