"""What a method is: a dataclass that looks at a Context and answers with a Selection."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.models.vision import VisionStates


@dataclass(frozen=True)
class Selection:
    """A method's answer.

    indices: LongTensor[B, M] into the visual tokens. values: [B, M, D] what the survivors carry; None = their own
    hidden states, or what the stage's aggregation makes of them. sizes: [B, M] how many tokens each stands for, where
    later layers shall give it that weight (log(size) is added to its attention logits); None = 1.
    """

    indices: Tensor
    values: Tensor | None = None
    sizes: Tensor | None = None


class Look(Protocol):
    """Where a Context gets what it was not given: the prompt, the decoder and the vision tower behind it."""

    def tokens(self) -> Tensor: ...
    def text(self) -> tuple[Tensor, Tensor]: ...
    def inputs(self) -> tuple[Tensor, Tensor]: ...
    def keys(self) -> Tensor: ...
    def vision(self) -> VisionStates: ...
    def grid(self) -> tuple[int, int]: ...
    def attention(self, queries: str, weights: Tensor | None, layer: str) -> Tensor: ...


class Context:
    """What a method may look at. Everything costly is computed on first use, so nobody pays for what they don't use.

    kept: how many to keep, 1 <= kept < N or 0. count: N, visual tokens now. layer: the decoder layer the tokens are
    about to enter. stage, stages: which of how many reductions this is, from 0. row_keys: LongTensor[B], the key of
    each row's question; seed anything random with it.
    """

    def __init__(
        self, *, kept: int, count: int, layer: int, row_keys: Tensor, look: Look, stage: int = 0, stages: int = 1
    ) -> None:
        self.kept, self.count, self.layer, self.row_keys = kept, count, layer, row_keys
        self.stage, self.stages, self._look = stage, stages, look

    @cached_property
    def tokens(self) -> Tensor:
        """The visual tokens' hidden states on entering this layer: [B, N, D]."""
        return self._look.tokens()

    @property
    def text(self) -> Tensor:
        """The other tokens' hidden states, [B, S, D]; text_mask says which of them are the instruction."""
        return self._text[0]

    @property
    def text_mask(self) -> Tensor:
        """BoolTensor[B, S]: the real tokens after the picture."""
        return self._text[1]

    @cached_property
    def _text(self) -> tuple[Tensor, Tensor]:
        return self._look.text()

    @cached_property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """Visual tokens [B, N0, D], before any reduction, and the other tokens [B, S, D] as they entered the first
        layer."""
        return self._look.inputs()

    @cached_property
    def keys(self) -> Tensor:
        """The visual tokens' keys in the layer they are about to enter, before rotary embedding: [B, N, heads, d]."""
        return self._look.keys()

    @cached_property
    def vision(self) -> VisionStates:
        """The vision tower's features, [CLS] attention and keys. For methods with uses_vision only.

        Raises TokenselError where no tower ran: plain decoders, prompts given as embeddings.
        """
        return self._look.vision()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the picture's visual tokens, which stand in reading order.

        Raises TokenselError where they don't form a square: after another reduction, say.
        """
        return self._look.grid()

    def attention(self, queries: str = "last", weights: Tensor | None = None, layer: str = "previous") -> Tensor | None:
        """Attention probabilities that some tokens give to each visual token, summed over them: [B, heads, N].

        queries: "last" (the prompt's last token), "text" (the instruction: everything after the picture) or "image"
        (the visual tokens). weights: [B, S] or [B, N] what each of them counts, None = 1. layer: "previous", for
        methods with uses_attention, None at layer 0, which has no layer before it; or "next", the layer that the
        tokens are about to enter, on their present states. Each softmax runs over the whole prompt.
        """
        if layer == "previous" and self.layer == 0:
            return None
        return self._look.attention(queries, weights, layer)

    @cached_property
    def last_query_attention(self) -> Tensor | None:
        """`attention()`: what the last token gives to each visual token in the previous layer, [B, heads, N]."""
        return self.attention()


@dataclass(frozen=True)
class Sizes:
    """The numbers behind a Context, for one prompt: what a method's cost is made of.

    kept, count, layer, stage: as there. text: tokens that are not visual; image_count, text_count: both kinds as they
    entered the first layer. hidden: D. query_width, key_width: of a decoder layer's queries and keys, all heads
    together; head_width: of one head. vision_width, vision_head_width: likewise of the vision tower; vision_tokens: its
    sequence, [CLS] included. projector: floating-point operations of projecting one token. device: where it runs, "cpu"
    or "cuda".

    Its methods count matrix products only, two operations per multiply-add.
    """

    kept: int
    count: int
    layer: int
    stage: int
    text: int
    image_count: int
    text_count: int
    hidden: int
    query_width: int
    key_width: int
    head_width: int
    vision_width: int = 0
    vision_head_width: int = 0
    vision_tokens: int = 0
    projector: int = 0
    device: str = "cpu"

    def cosines(self, rows: int) -> int:
        """So many tokens with every visual token; also weighted sums of the visual tokens, so many."""
        return 2 * rows * self.count * self.hidden

    def keys(self) -> int:
        """`Context.keys`."""
        return 2 * self.count * self.hidden * self.key_width

    def attention(self, queries: str = "last", layer: str = "previous") -> int:
        """`Context.attention`: the keys of the whole prompt anew, and a query and its row for each that looks."""
        if layer == "previous" and self.layer == 0:
            return 0
        rows = {"last": 1, "text": self.text, "image": self.count}[queries]
        length = self.text + self.count
        return 2 * length * self.hidden * self.key_width + 2 * rows * self.query_width * (self.hidden + length)

    def density_peaks(self, points: int, centers: int) -> int:
        """Density peaks among so many tokens: all distances twice, then those to the centres."""
        return 2 * points * (2 * points + centers) * self.hidden if 0 < centers < points else 0

    def clustering(self, points: int, centers: int) -> int:
        """Density peaks, and the mean of each cluster."""
        return self.density_peaks(points, centers) + 2 * points * centers * self.hidden

    def vision_keys(self) -> int:
        """`VisionStates.keys`."""
        return 2 * self.vision_tokens * self.vision_width**2

    def cls_attention(self) -> int:
        """`VisionStates.cls_attention`: all keys, one query, one row."""
        return self.vision_keys() + 2 * self.vision_width * (self.vision_width + self.vision_tokens)


@dataclass
class Method:
    """Base of all methods: subclass as a dataclass whose fields are the hyper-parameters, and write `select`.

    Class variables say what the method needs and where it belongs; the defaults suit one that looks at hidden states.
    """

    name: ClassVar[str]
    default_aggregation: ClassVar[str] = "none"
    default_position: ClassVar[str] = "source"
    # Where the method acts unless told, in a decoder of 32 layers or more; several: as many stages.
    default_layers: ClassVar[tuple[int, ...]] = (2,)
    # The only layer where it makes sense; None: any.
    only_layer: ClassVar[int | None] = None
    min_kept: ClassVar[int] = 0
    # What `kept` must be when the method leaves no choice; passes_through: never reduces anything.
    fixed_kept: ClassVar[int | None] = None
    passes_through: ClassVar[bool] = False
    # returns_values: survivors carry what `select` gives them, so nothing else may aggregate or mask.
    returns_values: ClassVar[bool] = False
    uses_attention: ClassVar[bool] = False
    uses_vision: ClassVar[bool] = False

    def select(self, context: Context) -> Selection:
        """Choose context.kept of the visual tokens. Called with kept < N only."""
        raise NotImplementedError

    def flops(self, sizes: Sizes) -> int:
        """Floating-point operations of `select`, matrix products only. A method without its own counts as free, and
        the cost says so."""
        return 0

    def schedule(self, kept: int, count: int, stages: int) -> tuple[int, ...]:
        """How many of `count` visual tokens remain after each of several stages, when only the last is given."""
        return (kept,) * stages

    def cut_off(self) -> int | None:
        """A decoder layer before which all visual tokens that are left leave; None: none."""
        return None

    def draws(self, layer: int) -> bool:
        """Whether the choice at this layer depends on the method's seed."""
        return hasattr(self, "seed")


def geometric(kept: int, count: int, stages: int) -> tuple[int, ...]:
    """A schedule that falls from count to kept by equal factors, never growing."""
    ratio = (kept / count) ** (1 / stages)
    return (*(round(count * ratio ** (stage + 1)) for stage in range(stages - 1)), kept)


METHODS: dict[str, type[Method]] = {}


MethodClass = TypeVar("MethodClass", bound=type[Method])


def register_method(method: MethodClass) -> MethodClass:
    """Class decorator: makes the method known under its `name`."""
    METHODS[method.name] = method
    return method


def make_method(method: str | Method, **options: Any) -> Method:
    """A Method from its registered name and its fields; an instance is returned as it is.

    Raises TokenselError for an unknown name (lists the methods) or an unknown option (lists the fields).
    """
    if isinstance(method, Method):
        if options:
            raise TokenselError(
                f"options {sorted(options)} cannot be given beside a {type(method).__name__} instance: set its fields"
            )
        return method
    kind = find_method(method)
    known = [field.name for field in fields(kind)]
    for option, value in options.items():
        if option not in known:
            raise TokenselError(
                f"{option}={value!r}: method {method!r} has no such option; it has {', '.join(known) or 'none'}"
            )
    return kind(**options)


def find_method(name: str) -> type[Method]:
    """The method of this name: registered, from the user's file ("FILE.py:CLASS"), or from an installed package.

    Raises TokenselError for an unknown one (lists the methods), or for a file that cannot be used.
    """
    from tokensel.methods.user import find_method as find_users_method

    kind = METHODS.get(name) or find_users_method(name)
    if kind is None:
        raise TokenselError(f"method={name!r} is unknown; choose from {', '.join(sorted(METHODS))}")
    return kind
