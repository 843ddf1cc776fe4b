"""semantic: farthest point sampling over the hidden states, weighted by relevance to the instruction."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from tokensel.data.topics import topic_words
from tokensel.errors import TokenselError
from tokensel.functional import mean_cosine, scaled_scores
from tokensel.methods.context import Context
from tokensel.methods.fps import FarthestPoint
from tokensel.methods.registry import register_method
from tokensel.methods.sizes import Sizes

# Two embeddings are those of one token if their first so many entries have at least this cosine.
ENTRIES, SAME = 64, 0.999
# Of the largest. Far smaller ones would lower all products to the rounding of a chosen token's distance to itself.
LEAST_WEIGHT = 1e-4


@register_method
@dataclass
class Semantic(FarthestPoint):
    """Cover the picture, and most densely what the instruction is about: farthest point sampling weighted by relevance.

    Each choice is the token with the largest product of weight and distance (1 - cosine) to all earlier choices. Two
    things keep the whole picture covered: the distance, as a token like one that is already chosen has a product near
    0 however relevant it is, and floor, below which no relevance falls. Survivors gather the other tokens by
    cross-attention.

    A token's weight is (floor + (1 - floor) * score) ** power. Its score is how much the words attend to it, averaged
    over heads, or its mean cosine with them; scaled so that the picture's least score is 0 and its largest 1, or 1 for
    all tokens where they are equal. A later stage multiplies it by the number of tokens that the token stands for.

    Source: none of its own; farthest point sampling, Gonzalez 1985, Eldar et al. 1997,
        https://doi.org/10.1109/83.623193, with weights.
    Parameters:
        start: the first choice, as in fps. "medoid" = the token with the largest sum of its cosines with all tokens,
            each times that token's weight; "peripheral" = the token farthest from its nearest neighbour; an int = that
            token; None = random, from seed and the question's key.
        seed: used with start=None.
        power: the exponent of relevance; 0 = fps, computed by the same code.
        relevance: "attention" = of the words to the visual tokens in the previous layer, at agg_layer=0 in that layer;
            "embeddings" = cosines of the words' hidden states with those of the visual tokens at this layer.
        words: "instruction" = all that follows the picture; "topic" = of that, only what spells the words of the bare
            question that name something (`tokensel.data.topics`); all where the question is unknown or names nothing.
        floor: the relevance of the least relevant token, above 0 and at most 1; floor ** power must be at least 1e-4.
    """

    name: ClassVar[str] = "semantic"
    default_coverage: ClassVar[float | None] = 0.991
    uses_attention: ClassVar[bool] = True

    power: float = 2.0
    relevance: str = "attention"
    words: str = "instruction"
    floor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)
        vars(self).update(uses_attention=self.relevance == "attention" and self.power > 0)
        if self.power == 0:
            vars(self).update(default_coverage=FarthestPoint.default_coverage)

    def weights(self, context: Context) -> Tensor | None:
        stands_for = super().weights(context)
        if self.power == 0:
            return stands_for
        chosen = topic_tokens(context) if self.words == "topic" else None
        scores = _attended(context, chosen) if self.relevance == "attention" else _similar(context, chosen)
        relevance = (self.floor + (1 - self.floor) * scores) ** self.power
        return relevance if stands_for is None else relevance * stands_for

    def flops(self, sizes: Sizes) -> int:
        if self.power == 0:
            return super().flops(sizes)
        layer = "previous" if sizes.layer else "next"
        rating = sizes.attention("text", layer) if self.relevance == "attention" else sizes.cosines(1)
        return super().flops(sizes) + rating


def _check(method: Semantic) -> None:
    """Raises TokenselError for an option out of its range."""
    for option, allowed in (("relevance", ("attention", "embeddings")), ("words", ("instruction", "topic"))):
        if getattr(method, option) not in allowed:
            raise TokenselError(f"{option}={getattr(method, option)!r}: choose from {', '.join(allowed)}")
    if not 0 <= method.power < float("inf"):
        raise TokenselError(f"power={method.power!r}: must be a number from 0")
    if not 0 < method.floor <= 1:
        raise TokenselError(f"floor={method.floor!r}: must be above 0 and at most 1")
    least = method.floor**method.power
    if least < LEAST_WEIGHT:
        raise TokenselError(f"power={method.power!r}: floor ** power is {least:.1g}; must be at least {LEAST_WEIGHT}")


def _attended(context: Context, chosen: Tensor | None) -> Tensor:
    """The attention of the instruction's tokens to each visual token, from 0 to 1: [B, N].

    chosen: BoolTensor[B, S], which of them; None = all.
    """
    weights = None if chosen is None else chosen.float()
    attention = context.attention("text", weights, "previous" if context.layer else "next")
    assert attention is not None
    return scaled_scores(attention.mean(1))


def _similar(context: Context, chosen: Tensor | None) -> Tensor:
    """The mean cosine of each visual token with the instruction's tokens, from 0 to 1: [B, N]. chosen: as above."""
    real = context.text_mask if chosen is None else chosen
    return scaled_scores(1 + mean_cosine(context.tokens, context.text, real))


def topic_tokens(context: Context) -> Tensor:
    """Which tokens of the text are in the instruction and spell a topic word of the row's question: BoolTensor[B, S].

    All of the instruction in rows where none does.
    """
    words = [topic_words(question) for question in context.questions or ()]
    spelled = torch.zeros_like(context.text_mask)
    for place in range(max(map(len, words), default=0)):
        column = [row[place] if place < len(row) else "" for row in words]
        # Some tokenizers put a space before a word by themselves, others do not.
        for space in ("", " "):
            spelled = spelled | _spelled(context, [word and space + word for word in column])
    spelled = spelled & context.text_mask
    return torch.where(spelled.any(1, keepdim=True), spelled, context.text_mask)


def _spelled(context: Context, words: list[str]) -> Tensor:
    """Which tokens of the text are part of a row's word, all of whose tokens follow each other there: BoolTensor[B, S].

    A token is recognised by its embedding. words: one for each row; "" = none.
    """
    text = context.inputs[1][..., :ENTRIES]
    pieces, real = context.embed_words([[word] for word in words])
    pieces = pieces[..., :ENTRIES]
    width, length = real.shape[1], text.shape[1]
    real = real & torch.tensor([[word != ""] for word in words], device=real.device)
    begins = real[:, :1].expand(-1, length)
    for place in range(min(width, length)):
        same = cosine_similarity(text[:, place:], pieces[:, place, None], dim=-1) > SAME
        begins = begins & (pad(same, (0, place)) | ~real[:, place, None])
    spelled = torch.zeros_like(begins)
    for place in range(min(width, length)):
        spelled |= pad(begins[:, : length - place], (place, 0)) & real[:, place, None]
    return spelled
