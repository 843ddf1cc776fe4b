"""Whether a method's selection is one: checked before anything is computed from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.methods import Context, Method, Selection

_timing: ContextVar[bool] = ContextVar("timing", default=False)


@contextmanager
def while_timing() -> Iterator[None]:
    """Inside the block no values are looked at, for which a GPU would have to be waited for."""
    token = _timing.set(True)
    try:
        yield
    finally:
        _timing.reset(token)


def is_ours(method: Method) -> bool:
    """Whether the method is one of tokensel's own."""
    return type(method).__module__.startswith("tokensel.")


def check_selection(selection: Any, context: Context, method: Method) -> None:
    """Raises TokenselError unless the selection has as many tokens as its method says, and, of a user's method, names
    tokens that exist, each once, with values and sizes that fit."""
    if not isinstance(selection, Selection):
        raise _error(method, f"select must return a tokensel.Selection, not {_described(selection)}")
    _check_form(selection, context, method)
    if not is_ours(method) and not _timing.get():
        _check_entries(selection, context, method)


def check_repeated(first: Selection, second: Any, method: Method) -> None:
    """Raises TokenselError unless a method that was asked twice chose the same tokens.

    For a method that counts its calls or draws from a global generator, results would depend on what ran before.
    """
    names = ("indices", "values", "sizes", "counts")
    if not isinstance(second, Selection) or not all(_same(getattr(first, n), getattr(second, n)) for n in names):
        raise _error(method, "chose other tokens when asked again; draw anything random from context.row_keys")


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3)


def _check_form(selection: Selection, context: Context, method: Method) -> None:
    indices, counts, batch = selection.indices, selection.counts, len(context.row_keys)
    if not isinstance(indices, Tensor) or indices.dtype != torch.long:
        raise _error(method, f"indices must be a LongTensor [B, kept], not {_described(indices)}")
    shape, wanted = list(indices.shape), None
    if context.auto is None:
        wanted = method.remaining(context.kept, context.count, context.layer, context.stage)
    if counts is not None and wanted is not None:
        raise _error(method, "counts: give them where remaining() returns None, which says that rows may differ")
    if wanted is not None and shape != [batch, wanted]:
        raise _error(method, f"must choose [{batch}, {wanted}] tokens, chose {shape}")
    if len(shape) != 2 or shape[0] != batch or shape[1] > context.count:
        raise _error(method, f"must choose at most [{batch}, {context.count}] tokens, chose {shape}")
    if counts is not None and not (isinstance(counts, Tensor) and counts.dtype == torch.long and len(counts) == batch):
        raise _error(method, f"counts must be a LongTensor [{batch}], not {_described(counts)}")
    for name, value in (("values", selection.values), ("sizes", selection.sizes)):
        if value is None:
            continue
        form = [*shape, context.tokens.shape[-1]] if name == "values" else shape
        if not isinstance(value, Tensor) or list(value.shape) != form:
            raise _error(method, f"{name} must be a tensor {form}, not {_described(value)}")


def _check_entries(selection: Selection, context: Context, method: Method) -> None:
    indices, counts = selection.indices, selection.counts
    if indices.device != context.row_keys.device:
        raise _error(method, f"indices are on {indices.device}, the tokens on {context.row_keys.device}")
    if counts is not None and bool(((counts < 0) | (counts > indices.shape[1])).any()):
        raise _error(method, f"counts must be from 0 to {indices.shape[1]}, not {counts.tolist()}")
    places = torch.arange(indices.shape[1], device=indices.device)
    real = torch.ones_like(indices, dtype=torch.bool) if counts is None else places < counts.unsqueeze(1)
    least = 0 if selection.values is None else -1
    wrong = real & ((indices < least) | (indices >= context.count))
    if bool(wrong.any()):
        token = int(indices[wrong][0])
        rest = "; -1 stands for none of them, and needs values" if token == -1 else ""
        raise _error(method, f"chose token {token}; there are {context.count}, numbered from 0{rest}")
    chosen = indices.masked_fill(~real, -1).sort(dim=1).values
    twice = (chosen[:, 1:] == chosen[:, :-1]) & (chosen[:, 1:] >= 0)
    if bool(twice.any()):
        row = int(twice.any(1).nonzero()[0])
        token = int(chosen[row, 1:][twice[row]][0])
        times = int((chosen[row] == token).sum())
        raise _error(method, f"chose token {token} {times} times in row {row}; choose each at most once")
    for name, value in (("values", selection.values), ("sizes", selection.sizes)):
        if value is None:
            continue
        fits = value.isfinite() if name == "values" else value.isfinite() & (value > 0)
        if not bool(fits[real].all()):
            raise _error(method, f"{name} must be {'finite' if name == 'values' else 'finite and above 0'}")


def _described(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _error(method: Method, message: str) -> TokenselError:
    return TokenselError(f"method {method.name!r}: {message}")


def check_one_of(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises TokenselError, which lists the choices, unless `value` is one of them."""
    if value not in choices:
        raise TokenselError(f"{key}={value!r}: choose from {', '.join(choices)}")


def check_integer(key: str, value: object, least: int, context: str = "") -> None:
    """Raises TokenselError unless `value` is an integer of at least `least`. context: words for the message."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TokenselError(f"{key}={value!r}: must be an integer from {least}{context}")
