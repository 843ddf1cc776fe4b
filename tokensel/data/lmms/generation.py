"""How a task of lmms-eval wants its answers written: the one reading of its `generation_kwargs`."""

from collections.abc import Mapping
from typing import Any

from tokensel.errors import TokenselError, as_typed

#: Of a written answer, where the task names no limit. The value that lmms-eval's own models for LLaVA use.
DEFAULT_NEW_TOKENS = 1024
# Settings that change which text greedy decoding writes, with the values that leave it as it is.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_new_tokens": (0,),
}


def writing_rule(generation_kwargs: Mapping[str, Any] | None) -> tuple[int, tuple[str, ...]]:
    """The largest number of tokens of an answer, and the texts that end it.

    generation_kwargs: of the task, or of a request that lmms-eval built from it. `temperature` above 0 means sampling
    unless do_sample is false, as for lmms-eval's own models; settings that are null count as absent.

    Raises TokenselError, which begins with the key, for a setting under which greedy decoding would write another
    text: sampling, several beams, penalties; and for values of another type.
    """
    given = {key: value for key, value in (generation_kwargs or {}).items() if value is not None}
    if given.get("do_sample", True) and _number("temperature", given.get("temperature", 0)) > 0:
        stated = " ".join(f"{key}={as_typed(given[key])}" for key in ("do_sample", "temperature") if key in given)
        raise TokenselError(f"generation_kwargs: {stated} asks for sampled answers; only greedy decoding is supported")
    for key, values in _WITHOUT_EFFECT.items():
        if _number(key, given.get(key, values[0])) not in values:
            allowed = as_typed(values[0])
            raise TokenselError(
                f"generation_kwargs: {key}={as_typed(given[key])} is not supported; only {allowed} is, greedy decoding"
            )
    return _limit(given.get("max_new_tokens", DEFAULT_NEW_TOKENS)), _endings(given.get("until", ()))


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TokenselError(f"generation_kwargs: {key}={as_typed(value)}: must be a number") from error


def _limit(value: Any) -> int:
    number = _number("max_new_tokens", value)
    if not number.is_integer() or number < 1:
        raise TokenselError(f"generation_kwargs: max_new_tokens={as_typed(value)}: must be a whole number, at least 1")
    return int(number)


def _endings(value: Any) -> tuple[str, ...]:
    endings = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [None]
    if not all(isinstance(ending, str) for ending in endings):
        raise TokenselError(f"generation_kwargs: until={as_typed(value)}: must be a text or a list of texts")
    return tuple(ending for ending in endings if ending)
