"""cdpruner: diverse tokens that are relevant to the question."""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.functional import dpp_explained, dpp_greedy, dpp_rows, text_relevance
from tokensel.methods.base import OrderingMethod
from tokensel.methods.context import Context
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes
from tokensel.models.clip import DEFAULT, Clip, clip_config, clip_flops, clip_revision, load_clip


@register_method
@dataclass
class CDPruner(OrderingMethod):
    """Keep tokens that are diverse and relevant to the question, by a determinantal point process (DPP).

    The DPP's kernel is the cosine similarity of the visual tokens, multiplied on both sides by their relevance to the
    question; a greedy search for its most probable subset runs before the first layer. Relevance is minus the mean
    cosine of CLIP's embeddings of the patch and of the bare question, scaled to 0 .. 1 over the picture; the authors
    need the minus sign because patches of this CLIP are least similar to what they show. Survivors are in the order of
    the picture, and position ids are renumbered.

    Source: Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs,
        NeurIPS 2025, https://arxiv.org/abs/2506.10967.
    Parameters:
        clip: a folder or hub id of the CLIP checkpoint that the model's vision tower comes from; None = no CLIP.
    Our reading: the release scales relevance over the whole batch, so that a row depends on its neighbours. Where the
        default CLIP cannot be loaded, CLIP is not the model's tower, or no bare question is known, relevance is plus
        the mean cosine of the visual token with the decoder's embeddings of the question's words, or else with the
        instruction's hidden states. A sweep stores clip=None for such a point.
    """

    name: ClassVar[str] = "cdpruner"
    default_coverage: ClassVar[float | None] = 0.91
    coverage_is_free: ClassVar[bool] = True
    default_layers: ClassVar[tuple[int, ...]] = (0,)
    default_position: ClassVar[str] = "renumber"
    min_kept: ClassVar[int] = 1

    clip: str | None = DEFAULT

    def reads_tower(self, config: Any) -> bool:
        return self.clip is not None and _belongs_to(self.clip, config)

    def resolved_settings(self, config: Any | None = None) -> dict[str, Any]:
        if self.clip is None or clip_config(self.clip) is None or not (config is None or self.reads_tower(config)):
            return {"clip": None}
        known = {"clip": self.clip, "clip_revision": clip_revision(self.clip)}
        return {name: value for name, value in known.items() if value is not None}

    def order(self, context: Context) -> Tensor:
        return dpp_greedy(context.tokens, self.relevance(context), context.kept)

    def ordered(self, context: Context) -> tuple[Tensor, Tensor]:
        return dpp_explained(context.tokens, self.relevance(context), context.kept)

    def relevance(self, context: Context) -> Tensor:
        """The relevance of each visual token to the question, from about 0 to 1: [B, N]."""
        clip = None if self.clip is None else _clip_of(self.clip, context)
        if clip is not None:
            return text_relevance(clip.patches(context.vision.features), *clip.questions(context.questions or ()), -1)
        if context.questions is None:
            return text_relevance(context.tokens, context.text, context.text_mask)
        return text_relevance(context.tokens, *context.embed_words([text.split() for text in context.questions]))

    def flops(self, sizes: Sizes) -> int:
        steps = min(sizes.kept, sizes.hidden)
        serves = sizes.vision_width and self.clip is not None  # the tower is read only where CLIP serves
        relevance = clip_flops(str(self.clip), sizes.count) if serves else sizes.cosines(1)
        rows = dpp_rows(sizes.kept, sizes.count, sizes.hidden)
        return relevance + sizes.cosines(rows) + sizes.count * steps * (steps - 1)


def _belongs_to(path: str, config: Any) -> bool:
    """Whether this CLIP is one of which a model with this configuration may have its vision tower."""
    clip, tower = clip_config(path), getattr(config, "vision_config", None)
    if clip is None:
        return False
    same = (
        config.model_type == "llava"
        and config.vision_feature_select_strategy == "default"
        and tower is not None
        and tower.model_type == clip.vision_config.model_type
        and tower.hidden_size == clip.vision_config.hidden_size
    )
    if not same:
        warnings.warn(
            f"method.clip={path}: is not this model's vision tower; the decoder's embeddings serve", stacklevel=1
        )
    return same


def _clip_of(path: str, context: Context) -> Clip | None:
    """The CLIP, on the tokens' device; None where it does not serve."""
    if context.questions is None or clip_config(path) is None:
        return None
    try:
        features = context.vision.features
    except TokenselError:  # a prompt without pixel values, or another tower
        return None
    clip = load_clip(path)
    return None if clip is None or clip.width != features.shape[-1] else clip.to(features.device)
