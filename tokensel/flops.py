"""What a prefill costs on paper: floating-point operations and KV-cache bytes, from the configuration alone.

Counted as torch.utils.flop_counter counts: matrix products and attention, two per multiply-add, attention
dense (a causal kernel may do half). Norms, softmaxes, rotary embeddings and sorting are left out: below 1%
together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokensel.errors import TokenselError
from tokensel.methods import FarthestPoint, MedoidToMe, Method


@dataclass(frozen=True)
class Cost:
    """One prefill of one prompt.

    vision, projector, decoder, head, selection   floating-point operations of each part; selection holds
                                                  aggregation
    kv_bytes             bytes in the KV cache after the prefill
    tokens_layer_mean    visual tokens in the sequence, averaged over the decoder's layers
    """

    vision: int
    projector: int
    decoder: int
    head: int
    selection: int
    kv_bytes: int
    tokens_layer_mean: float

    @property
    def total(self) -> int:
        """All floating-point operations of the prefill."""
        return self.vision + self.projector + self.decoder + self.head + self.selection


def prefill_cost(
    config: Any,
    *,
    text_tokens: int,
    visual_tokens: int,
    kept: int | Sequence[int] | None = None,
    agg_layer: int | Sequence[int] = 0,
    method: Method | None = None,
    aggregation: str = "none",
    layout: str = "compact",
    bytes_per_value: int = 4,
    images: int = 1,
) -> Cost:
    """The cost of one prefill, batch 1, logits at the last position only.

    config           a transformers configuration: LLaVA-like (text_config, vision_config) or a Llama-like
                     decoder's own
    text_tokens      tokens of the prompt that are no visual tokens
    kept             visual tokens from agg_layer on; None or >= visual_tokens: no reduction. Sequences of both: one
                     entry per stage
    method           whose selection is counted; None: none
    bytes_per_value  of the KV cache: 4 for float32, 2 for half precision

    Raises TokenselError for a decoder whose configuration lacks a size this needs.
    """
    text = getattr(config, "text_config", None) or config
    try:
        layers = text.num_hidden_layers
        counts = [visual_tokens] * layers  # visual tokens that choosing at each layer could keep
        choosing = 0
        for count, layer in _stages(kept, agg_layer):
            if layer >= layers or count >= counts[layer]:
                continue
            at_hand = counts[layer]
            choosing += _selection_flops(text, method, aggregation, layer, text_tokens + at_hand, at_hand, count)
            counts[layer:] = [count] * (layers - layer)
        lengths = counts if layout == "compact" else [visual_tokens] * layers
        kv_width = _kv_heads(text) * _head_dim(text)
        has_picture = hasattr(config, "vision_config") and visual_tokens > 0
        return Cost(
            vision=images * _vision_flops(config.vision_config) if has_picture else 0,
            projector=_projector_flops(config, visual_tokens) if has_picture else 0,
            decoder=sum(_layer_flops(text, text_tokens + count) for count in lengths),
            head=2 * text.hidden_size * text.vocab_size,
            selection=choosing,
            kv_bytes=2 * kv_width * bytes_per_value * sum(text_tokens + count for count in lengths),
            tokens_layer_mean=sum(lengths) / layers,
        )
    except AttributeError as error:
        raise TokenselError(
            f"model_type={getattr(config, 'model_type', None)}: its configuration lacks a size ({error})"
        ) from error


def _stages(kept: int | Sequence[int] | None, agg_layer: int | Sequence[int]) -> list[tuple[int, int]]:
    if kept is None:
        return []
    counts = [kept] if isinstance(kept, int) else kept
    layers = [agg_layer] if isinstance(agg_layer, int) else agg_layer
    return list(zip(counts, layers, strict=True))


def _head_dim(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _kv_heads(text: Any) -> int:
    return getattr(text, "num_key_value_heads", None) or text.num_attention_heads


def _layer_flops(text: Any, tokens: int) -> int:
    """One Llama-like layer over `tokens` positions: q, k, v, o, the attention's two products, the gated MLP's
    three."""
    hidden, head_dim = text.hidden_size, _head_dim(text)
    width = text.num_attention_heads * head_dim
    projections = 2 * hidden * (2 * width + 2 * _kv_heads(text) * head_dim)
    return tokens * (projections + 6 * hidden * text.intermediate_size) + 4 * width * tokens * tokens


def _vision_flops(vision: Any) -> int:
    """A CLIP-like tower on one picture: patches, then layers of four square projections and a plain MLP.

    All layers count: transformers computes the ones above the feature layer too.
    """
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens = patches + 1  # the [CLS] token
    hidden = vision.hidden_size
    embedding = 2 * vision.num_channels * vision.patch_size**2 * hidden * patches
    layer = tokens * (8 * hidden * hidden + 4 * hidden * vision.intermediate_size) + 4 * hidden * tokens * tokens
    return embedding + vision.num_hidden_layers * layer


def _projector_flops(config: Any, visual_tokens: int) -> int:
    """LLaVA-1.5's projector: two linear layers on each visual token."""
    feature_layers = getattr(config, "vision_feature_layer", -2)
    width_in = config.vision_config.hidden_size * (1 if isinstance(feature_layers, int) else len(feature_layers))
    hidden = config.text_config.hidden_size
    return 2 * visual_tokens * hidden * (width_in + hidden)


def _selection_flops(
    text: Any, method: Method | None, aggregation: str, layer: int, tokens: int, visual_tokens: int, kept: int
) -> int:
    """Choosing and aggregating. A method not named here counts as free: say so where its figures are
    shown."""
    hidden, width = text.hidden_size, text.num_attention_heads * _head_dim(text)
    one_row = 2 * visual_tokens * hidden  # cosines of one token with all visual tokens; also their sum
    choosing = 0
    if isinstance(method, FarthestPoint):
        start = {"medoid": 2 * one_row, "peripheral": visual_tokens * one_row}.get(str(method.start), 0)
        choosing = start + (kept - 1) * one_row
    elif isinstance(method, MedoidToMe):
        choosing = 2 * one_row + method.iterations * kept * one_row
    elif method is not None and method.uses_attention and layer > 0:
        # The previous layer's keys anew, for one query.
        choosing = 2 * hidden * (tokens * _kv_heads(text) * _head_dim(text) + width) + 2 * width * tokens
    return choosing + (2 * kept * one_row if aggregation != "none" else 0)
