"""What a method is given (Context) and what it returns (Selection)."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from tokensel.auto import Auto
from tokensel.models.vision import VisionStates

PictureSizes = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class Selection:
    """The visual tokens that a method keeps.

    indices: LongTensor[B, M], indices of visual tokens. -1 = a token that is none of them, like the tower's [CLS]; it
        needs values. M may differ from context.kept where `Method.remaining` says so.
    values: [B, M, D], the hidden states of the survivors; None = their own, or what the stage's aggregation computes.
    sizes: [B, M], the number of tokens that each survivor stands for: later layers add log(size) to its attention
        logits; None = 1 each.
    counts: LongTensor[B], where rows keep unequal numbers: the first counts[b] entries of row b count, the others are
        ignored; None = all M.
    merge: what made `values` of the tokens where each value is a weighted sum of them, for whatever else lies along the
        tokens: [B, N, C] -> [B, M, C]. Deepstack features of Qwen3-VL are merged by it; None = a survivor keeps those
        of the token that it is.
    """

    indices: Tensor
    values: Tensor | None = None
    sizes: Tensor | None = None
    counts: Tensor | None = None
    merge: Callable[[Tensor], Tensor] | None = None


class ContextSource(Protocol):
    """Computes what a Context offers. The engine has one for models, `tokensel.testing` one for given tensors.

    Its methods return what the Context's attributes of the same names document.
    """

    def tokens(self) -> Tensor: ...
    def text(self) -> tuple[Tensor, Tensor]: ...
    def inputs(self) -> tuple[Tensor, Tensor]: ...
    def keys(self) -> Tensor: ...
    def project(self, part: str, tokens: str, layer: str, rotary: bool) -> Tensor: ...
    def rotary(self, tokens: str) -> tuple[Tensor, Tensor]: ...
    def final_norm(self, states: Tensor) -> Tensor: ...
    def before_picture(self) -> Tensor: ...
    def questions(self) -> tuple[str, ...] | None: ...
    def picture_sizes(self) -> PictureSizes | None: ...
    def embed_words(self, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]: ...
    def vision(self) -> VisionStates: ...
    def grid(self) -> tuple[int, ...]: ...
    def frames(self) -> int: ...
    def attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor: ...


class Context:
    """Everything a method may use. Costly parts are computed on first use, so a method pays only for what it uses.

    kept: M, the number of visual tokens to keep; 1 <= kept < N, or 0. With auto, the most to keep; 1 <= kept <= N.
    count: N, the number of visual tokens that enter this stage.
    layer: the decoder layer that the tokens are about to enter, 0-based.
    row_keys: LongTensor[B], the key of each row's question; seed every random choice with it.
    stage, stages: the index of this reduction, from 0, and the number of reductions.
    weights: [B, N] float32 from 0, how many of the picture's tokens each visual token stands for, where earlier stages
        aggregated: their sum is the number that there were. None at the first stage, and behind stages that did not.
        They are not the sizes by which attention is weighed (`Selection.sizes`).
    auto: how many to keep at least, and which coverage is enough; None = `kept` exactly.
    """

    def __init__(
        self,
        *,
        kept: int,
        count: int,
        layer: int,
        row_keys: Tensor,
        source: ContextSource,
        stage: int = 0,
        stages: int = 1,
        orders: dict[Any, Any] | None = None,
        weights: Tensor | None = None,
        auto: Auto | None = None,
    ) -> None:
        self.kept, self.count, self.layer, self.row_keys = kept, count, layer, row_keys
        self.stage, self.stages, self._source = stage, stages, source
        self.weights, self.auto = weights, auto
        self._orders = {} if orders is None else orders

    def through(self, view: Callable[[ContextSource], ContextSource], name: Any = None) -> "Context":
        """The same context, with all that it offers seen through a view of its source. name: contexts seen through
        views of one name share what they find; None = with none."""
        return Context(
            kept=self.kept,
            count=self.count,
            layer=self.layer,
            row_keys=self.row_keys,
            source=view(self._source),
            stage=self.stage,
            stages=self.stages,
            orders=None if name is None else self._orders.setdefault(name, {}),
            weights=self.weights,
            auto=self.auto,
        )

    def with_kept(self, kept: int) -> "Context":
        """The same context for another number of tokens; what was computed of it is shared."""
        same = copy(self)
        same.kept = kept
        return same

    def first_of(self, order: Callable[["Context"], Tensor], key: Any) -> Tensor:
        """The first `kept` tokens of a method's order of choice, LongTensor[B, kept]. One that was found for a larger
        kept, at another grid point over the same prompt with the same key, serves again."""
        known = self._orders.get(key)
        if known is None or known.shape[1] < self.kept:
            known = self._orders[key] = order(self)
        return known[:, : self.kept]

    @cached_property
    def tokens(self) -> Tensor:
        """The visual tokens' hidden states at the input of this layer: [B, N, D]."""
        return self._source.tokens()

    @property
    def text(self) -> Tensor:
        """The hidden states of all other tokens, padding included: [B, S, D]."""
        return self._text[0]

    @property
    def text_mask(self) -> Tensor:
        """Which tokens of `text` are the instruction: BoolTensor[B, S]. They follow the picture and are not padding."""
        return self._text[1]

    @property
    def before_picture(self) -> Tensor:
        """Which tokens of `text` stand before the picture's last token and are not padding: BoolTensor[B, S]."""
        return self._source.before_picture()

    @property
    def questions(self) -> tuple[str, ...] | None:
        """The bare question of each row, without options, hints and prompt; None where the caller gave none."""
        return self._source.questions()

    @property
    def picture_sizes(self) -> PictureSizes | None:
        """Width and height of each row's picture before it was padded to a square, None for one that was not padded;
        None where the caller gave none."""
        return self._source.picture_sizes()

    def embed_words(self, texts: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        """The decoder's input embeddings of each row's words: [B, S, D], and which of them are real: BoolTensor[B, S].

        The tokenizer gets the words as already split, and the BOS token is left out unless nothing else is there.
        Raises TokenselError where no tokenizer is known.
        """
        return self._source.embed_words(texts)

    @cached_property
    def _text(self) -> tuple[Tensor, Tensor]:
        return self._source.text()

    @cached_property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """`tokens` [B, N0, D] and `text` [B, S, D] as they entered the first layer, before any reduction."""
        return self._source.inputs()

    @cached_property
    def keys(self) -> Tensor:
        """The visual tokens' keys in the layer they are about to enter, before rotary embedding: [B, N, heads, d]."""
        return self._source.keys()

    def project(
        self, part: str, tokens: str = "visual", layer: str = "previous", rotary: bool = False
    ) -> Tensor | None:
        """Queries, keys or values that a decoder layer makes of some tokens: [B, n, heads, d].

        part: "query", "key" or "value", after the layer's norm; heads are key heads for the latter two.
        tokens: "visual" (n = N), "text" (n = S) or "last" (the prompt's last token, n = 1).
        layer: as in `attention`; None is returned for "previous" at layer 0.
        rotary: whether queries and keys are rotated to their positions.
        """
        if layer == "previous" and self.layer == 0:
            return None
        return self._source.project(part, tokens, layer, rotary)

    def rotary(self, tokens: str = "visual") -> tuple[Tensor, Tensor]:
        """The cos and sin that rotate the queries and keys of some tokens: 2 x [B, n, d]. tokens: as in `project`."""
        return self._source.rotary(tokens)

    def final_norm(self, states: Tensor) -> Tensor:
        """The decoder's final norm of hidden states [..., D]."""
        return self._source.final_norm(states)

    @cached_property
    def vision(self) -> VisionStates:
        """The vision tower's features, [CLS] attention and keys. Only for methods with uses_vision = True.

        Raises TokenselError if no vision tower ran: text-only decoders, prompts given as embeddings.
        """
        return self._source.vision()

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of the picture's visual tokens, which are in reading order; of a video's frames, rows and
        columns, frame after frame.

        Raises TokenselError if they do not fill a grid, for example after an earlier reduction; and for a video, unless
        the method says `sees_frames = True`. With scope="frame" every frame is a picture with rows and columns.
        """
        return self._source.grid()

    @property
    def frames(self) -> int:
        """How many frames the visual tokens are of, equally many each, frame after frame; 1 for a picture.

        Raises TokenselError for a video that an earlier reduction has changed.
        """
        return self._source.frames()

    def attention(self, queries: str = "last", weights: Tensor | None = None, layer: str = "previous") -> Tensor | None:
        """Attention probabilities from some queries to each visual token, summed over the queries: [B, heads, N].

        queries: "last" (the prompt's last token), "text" (the instruction) or "image" (the visual tokens).
        weights: a weight for each query in that sum, [B, S] for "text" or [B, N] for "image"; None = 1 each. Or one
            for each query and visual token, [B, S, N] or [B, N, N].
        layer: "previous", for methods with uses_attention = True; None is returned at layer 0, which has no previous
            layer. Or "next", the layer that the tokens are about to enter, computed on their current hidden states.

        Each softmax runs over the whole prompt.
        """
        if layer == "previous" and self.layer == 0:
            return None
        return self._source.attention(queries, weights, layer)

    @cached_property
    def last_query_attention(self) -> Tensor | None:
        """Attention from the last token to each visual token in the previous layer: [B, heads, N]; None at layer 0."""
        return self.attention()
