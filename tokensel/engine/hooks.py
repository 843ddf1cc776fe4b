"""The hooks behind `reduce_tokens`: they follow a model from prompt to decoding, and leave no trace."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tokensel.engine.layouts import Reduction
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, reduce_state
from tokensel.errors import TokenselError
from tokensel.models.families import picture_arguments
from tokensel.models.parts import ModelParts
from tokensel.models.vision import VisionTap

_reducing: WeakSet[nn.Module] = WeakSet()

Arguments = dict[str, Any]
HookResult = tuple[tuple[Any, ...], Arguments] | None


@dataclass
class Record:
    """What the last prompt's reduction chose; None when nothing was removed.

    positions: LongTensor[B, M], the chosen visual tokens relative to the image, in the order in which they now stand
    (order of choice with position="front", ascending with "source"). indices: the same in the input sequence.
    """

    positions: Tensor | None = None
    indices: Tensor | None = None


@dataclass
class _Plan:
    """A prefilled prompt and what was done to it, to go on with when its decoding does."""

    embeds: Tensor
    input_ids: Tensor | None
    pictures: Arguments
    reductions: dict[int, Reduction] = field(default_factory=dict)
    total: int = 0  # tokens seen so far, in decoding without a cache


@dataclass
class _Pass:
    """One forward of the decoder. kind: "prompt" (choose), "again" (the whole sequence recomputed, one token longer),
    "decode" (only new tokens; the rest is in the cache)."""

    kind: str
    plan: _Plan
    queries: int
    keys: int
    state: State | None = None
    previous: Tensor | None = None
    replaced: Arguments = field(default_factory=dict)


class Reducing:
    """The context manager that `reduce_tokens` returns."""

    def __init__(
        self,
        parts: ModelParts,
        stages: list[Stage],
        image_mask: Tensor | None,
        row_keys: Tensor | None,
    ) -> None:
        self.parts, self.image_mask, self.row_keys = parts, image_mask, row_keys
        self.stages = {
            stage.layer: stage for stage in stages if stage.layer < parts.num_layers and not stage.method.passes_through
        }
        looks = any(stage.method.uses_vision for stage in self.stages.values())
        self._tap = VisionTap(parts.llava) if looks and parts.llava is not None else None
        self.record = Record()
        self._handles: list[RemovableHandle] = []
        self._clear()

    def _clear(self) -> None:
        self._plans: WeakKeyDictionary[Any, _Plan] = WeakKeyDictionary()
        self._last: _Plan | None = None
        self._pass: _Pass | None = None
        self._visual_mask: Tensor | None = None
        self._input_ids: Tensor | None = None
        self._pictures: Arguments = {}

    def __enter__(self) -> Record:
        decoder = self.parts.decoder
        if decoder in _reducing:
            raise TokenselError("reduce_tokens: this model is already being reduced; leave that `with` block first")
        _reducing.add(decoder)
        if self.stages:
            first = min(self.stages)
            before = [decoder.layers[first - 1]] if first else []
            if self.parts.llava is not None:
                self._hook(self.parts.llava, self._before_llava)
            if self._tap is not None:
                self._handles += self._tap.attach()
            self._hook(decoder, self._before_decoder)
            self._handles.append(decoder.register_forward_hook(self._after_decoder, always_call=True))
            for layer in [*before, *decoder.layers[first : self.parts.num_layers]]:
                self._hook(layer, self._before_layer)
        self._layer_index = {layer: index for index, layer in enumerate(decoder.layers)}
        return self.record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._clear()
        _reducing.discard(self.parts.decoder)

    def _hook(
        self,
        module: nn.Module,
        change: Callable[[nn.Module, Arguments], Arguments | None],
    ) -> None:
        """Registers a hook that sees all arguments by name, and may answer with a new set of them."""
        names = _parameter_names(getattr(module.forward, "__func__", module.forward))

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> HookResult:
            changed = change(module, dict(zip(names, args, strict=False)) | kwargs)
            return None if changed is None else ((), changed)

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))

    # The joining module of picture and text: the only place that sees the image tokens' ids.

    def _before_llava(self, module: nn.Module, given: Arguments) -> Arguments | None:
        input_ids = given.get("input_ids")
        self._visual_mask = self._input_ids = None
        self._pictures = {}
        if input_ids is None or _cached_tokens(given):
            return None
        pictures = picture_arguments(given) | {"mm_encoder_outputs": given.get("mm_encoder_outputs")}
        plan = self._last
        if plan is not None and _prolongs(plan, plan.input_ids, input_ids) and _same(plan.pictures, pictures):
            # The new tokens are text, even where one is the image token: merging pictures again would fail on it.
            new = self.parts.decoder.get_input_embeddings()(input_ids[:, plan.embeds.shape[1] :])
            merged = {"inputs_embeds": torch.cat([plan.embeds, new], 1)}
            dropped = ("input_ids", "pixel_values", "mm_encoder_outputs", "pixel_attention_mask")
            return {key: value for key, value in given.items() if key not in dropped} | merged
        self._visual_mask = input_ids == self.parts.image_token_id
        self._input_ids, self._pictures = input_ids, pictures
        return None

    # The decoder: a new prompt, or the next step of one?

    def _before_decoder(self, decoder: nn.Module, given: Arguments) -> Arguments | None:
        self._pass = None
        embeds, cache = given.get("inputs_embeds"), given.get("past_key_values")
        if embeds is None:
            if given.get("input_ids") is None:
                return None  # the model's own error message follows
            embeds = self.parts.decoder.get_input_embeddings()(given["input_ids"])
        mask = given.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise TokenselError("attention_mask: must be [B, T]; static caches and 4-D masks cannot be reduced")
        if getattr(cache, "is_compileable", False):
            raise TokenselError(f"past_key_values={type(cache).__name__}: static caches cannot be reduced")
        queries, seen = embeds.shape[1], _cached_tokens(given)
        if seen:
            plan = self._plans.get(cache)
            if plan is None:
                return None
            first = plan.reductions.get(0)
            keys = seen + queries + (first.removed if first else 0)
            self._pass = _Pass("decode", plan, queries, keys)
        elif self._last is not None and _prolongs(self._last, self._last.embeds, embeds):
            self._pass = _Pass("again", self._last, queries, queries)
            self._last.total = queries
        else:
            self._begin(embeds, given)
        return self._reduce_input(embeds, given)

    def _begin(self, embeds: Tensor, given: Arguments) -> None:
        """A new prompt."""
        self._last = None
        self.record.positions = self.record.indices = None
        batch, length = embeds.shape[:2]
        visual_mask = self.image_mask if self.image_mask is not None else self._visual_mask
        if visual_mask is None:
            raise TokenselError("image_mask: needed where the prompt's visual tokens cannot be seen in input_ids")
        visual_mask = _expand_rows(visual_mask, batch).to(embeds.device)
        if visual_mask.shape != (batch, length):
            raise TokenselError(f"image_mask={list(visual_mask.shape)}: must have the prompt's shape {[batch, length]}")
        keys = torch.zeros(1, dtype=torch.long) if self.row_keys is None else self.row_keys
        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(length, device=embeds.device).unsqueeze(0)
        mask = given.get("attention_mask")
        state = State(
            hidden=embeds,
            attention_mask=None if mask is None else mask.bool(),
            position_ids=positions.expand(*positions.shape[:-2], batch, -1),
            visual_mask=visual_mask,
            row_keys=_expand_rows(keys, batch).to(embeds.device),
            vision=None if self._tap is None else self._tap.take(),
            grid=self._grid(),
        )
        if state.visual_index.shape[1]:
            plan = _Plan(embeds, self._input_ids, self._pictures, total=length)
            self._pass = _Pass("prompt", plan, length, length, state)
            self._last = plan

    def _grid(self) -> tuple[int, int] | None:
        if self.parts.llava is None:
            return None
        return self.parts.family.grid(self.parts.llava.config, picture_arguments(self._pictures))

    def _reduce_input(self, embeds: Tensor, given: Arguments) -> Arguments | None:
        """A stage before the first layer: the decoder sees a shorter prompt, and works on it as it always does."""
        running = self._pass
        if running is None or 0 not in self.stages:
            return None
        if running.kind == "prompt":
            self._choose(running, 0)
        reduction = running.plan.reductions.get(0)
        if reduction is None:
            return None
        if reduction.bias is not None and self.parts.uses_flash:
            raise TokenselError("attn_implementation: methods that weigh tokens by size need sdpa or eager")
        whole = running.kind != "decode"
        queries = running.queries - (reduction.removed if whole else 0)
        mask = reduction.decoder_mask(given.get("attention_mask"), queries, running.keys)
        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(running.keys - running.queries, running.keys, device=embeds.device).unsqueeze(0)
        positions = reduction.position_ids(positions, later=not whole)
        if not whole:
            changed = {"attention_mask": mask, "position_ids": positions}
        else:
            if mask is None:  # with a gap in position_ids and no mask, transformers would see packed sequences
                mask = torch.ones(len(embeds), running.keys - reduction.removed, device=embeds.device).bool()
            changed = {
                "input_ids": None,
                "inputs_embeds": reduction.hidden(embeds),
                "attention_mask": mask,
                "position_ids": positions,
            }
        running.queries = queries
        running.keys -= reduction.removed
        return given | changed

    # The layers from the first stage on.

    def _before_layer(self, layer: nn.Module, given: Arguments) -> Arguments | None:
        running = self._pass
        if running is None:
            return None
        index = self._layer_index[layer]
        cache = given.get("past_key_values")
        if running.kind == "prompt" and cache is not None:
            self._plans[cache] = running.plan
        changed = given | running.replaced
        if index in self.stages and index > 0:
            if running.kind == "prompt":
                assert running.state is not None
                running.state = running.state.followed_by(
                    hidden=given["hidden_states"],
                    rotary=given["position_embeddings"] if not running.replaced else running.state.rotary,
                    previous=running.previous,
                    prompt=running.state.prompt or running.state,
                    layer=index,
                )
                self._choose(running, index)
            reduction = running.plan.reductions.get(index)
            if reduction is not None:
                changed = self._follow(running, reduction, changed)
        later = self.stages.get(index + 1)
        if running.kind == "prompt" and later is not None and later.method.uses_attention:
            running.previous = changed["hidden_states"]
        return changed if running.replaced else None

    def _follow(self, running: _Pass, reduction: Reduction, given: Arguments) -> Arguments:
        """The layer's arguments after the reduction, remembered for the layers after it."""
        whole = running.kind != "decode"
        hidden, device = given["hidden_states"], reduction.slots.device
        mask, positions = (_on(given.get(name), device) for name in ("attention_mask", "position_ids"))
        replaced: Arguments = {"attention_mask": reduction.attention_mask(mask, running.queries, running.keys, whole)}
        if positions is not None:
            replaced["position_ids"] = reduction.position_ids(positions, later=not whole)
        if whole:
            hidden = running.state.hidden if running.state is not None else reduction.hidden(hidden)
            running.queries -= reduction.removed
        if reduction.renumbers:
            replaced["position_embeddings"] = self.parts.rotary(hidden, replaced["position_ids"])
        elif whole:
            cos, sin = (_on(part, device) for part in given["position_embeddings"])
            replaced["position_embeddings"] = reduction.along(cos), reduction.along(sin)
        running.keys -= reduction.removed
        if whole and replaced["attention_mask"] is None and self.parts.uses_flash:
            replaced["attention_mask"] = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        running.replaced = replaced
        return given | replaced | {"hidden_states": hidden}

    def _choose(self, running: _Pass, index: int) -> None:
        assert running.state is not None
        running.state, reduction = reduce_state(running.state, self.stages[index], self.parts)
        if reduction is not None:
            running.plan.reductions[index] = reduction
            self.record.positions, self.record.indices = (
                running.state.positions,
                running.state.indices,
            )

    def _after_decoder(self, decoder: nn.Module, args: Any, output: Any) -> None:
        self._pass = None


@lru_cache(maxsize=64)  # layers of one class share it; finding it out takes longer than to run a small layer's norm
def _parameter_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a method's parameters, less self."""
    names = tuple(inspect.signature(forward).parameters)
    return names[1:] if names[:1] == ("self",) else names


def _cached_tokens(given: Arguments) -> int:
    cache = given.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def _prolongs(plan: _Plan, prompt: Tensor | None, given: Tensor) -> bool:
    """Whether `given` is the plan's prompt, decoded without a cache to one token more than last time."""
    if prompt is None or not plan.reductions or given.shape[:2] != (prompt.shape[0], plan.total + 1):
        return False
    return torch.equal(given[:, : prompt.shape[1]], prompt)


def _same(before: Arguments, now: Arguments) -> bool:
    def equal(old: Any, new: Any) -> bool:
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            return old is new or torch.equal(old, new)
        return old is new

    return before.keys() == now.keys() and all(equal(before[name], now[name]) for name in before)


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _expand_rows(values: Tensor, batch: int) -> Tensor:
    """Rows repeated as generate does for beams and several sequences: [b, ...] -> [batch, ...] where b divides it."""
    rows = len(values)
    return values.repeat_interleave(batch // rows, 0) if rows and batch % rows == 0 else values
