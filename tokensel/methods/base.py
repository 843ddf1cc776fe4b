"""What a method is: a dataclass that looks at a Context and answers with a Selection."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from tokensel.errors import TokenselError


@dataclass(frozen=True)
class Selection:
    """A method's answer.

    indices: LongTensor[B, M] into the visual tokens. values: [B, M, D] what the survivors carry; None = their own
    hidden states, or what the stage's aggregation makes of them.
    """

    indices: Tensor
    values: Tensor | None = None


class Context:
    """What a method may look at. Everything costly is computed on first use, so nobody pays for what they don't use.

    kept: how many to keep, 1 <= kept < N or 0. count: N. layer: the decoder layer the tokens are about to enter.
    row_keys: LongTensor[B], the key of each row's question; seed anything random with it.
    """

    def __init__(
        self,
        *,
        kept: int,
        count: int,
        layer: int,
        row_keys: Tensor,
        tokens: Callable[[], Tensor],
        last_query_attention: Callable[[], Tensor] | None = None,
    ) -> None:
        self.kept, self.count, self.layer, self.row_keys = kept, count, layer, row_keys
        self._tokens, self._last_query_attention = tokens, last_query_attention

    @cached_property
    def tokens(self) -> Tensor:
        """The visual tokens' hidden states on entering this layer: [B, N, D]."""
        return self._tokens()

    @cached_property
    def last_query_attention(self) -> Tensor | None:
        """Attention of the previous layer: probabilities [B, heads, N] that the last real token gives to each visual
        token (softmax over the whole prompt). None at layer 0, which has no layer before it."""
        return None if self._last_query_attention is None else self._last_query_attention()


@dataclass
class Method:
    """Base of all methods: subclass as a dataclass whose fields are the hyper-parameters, and write `select`."""

    name: ClassVar[str]
    default_aggregation: ClassVar[str] = "none"
    default_position: ClassVar[str] = "source"
    min_kept: ClassVar[int] = 0
    # What `kept` must be when the method leaves no choice; passes_through: never reduces anything.
    fixed_kept: ClassVar[int | None] = None
    passes_through: ClassVar[bool] = False
    uses_attention: ClassVar[bool] = False

    def select(self, context: Context) -> Selection:
        """Choose context.kept of the visual tokens. Called with kept < N only."""
        raise NotImplementedError


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
    if method not in METHODS:
        raise TokenselError(f"method={method!r} is unknown; choose from {', '.join(sorted(METHODS))}")
    known = [field.name for field in fields(METHODS[method])]
    for option, value in options.items():
        if option not in known:
            raise TokenselError(
                f"{option}={value!r}: method {method!r} has no such option; it has {', '.join(known) or 'none'}"
            )
    return METHODS[method](**options)
