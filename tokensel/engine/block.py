"""What a `with reduce_tokens(...)` block does to a model: while it runs, some of the model's methods are ours.

`generate` says how long the prompt is and which pictures it has; the forward that joins picture and text, where the
visual tokens are; the decoder's forward runs the reduced one. Each then calls the stock method.
"""

from collections.abc import Callable
from functools import partial, wraps
from types import MethodType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.utils import ModelOutput

from tokensel.engine import running
from tokensel.engine.caches import Plan, ReducedCache, remember
from tokensel.engine.calls import Call, key_mask
from tokensel.engine.forward import Outputs, advance, reduce_all, resume
from tokensel.engine.pictures import find_pictures, row_pictures, row_vision, say_video, visual_kinds
from tokensel.engine.running import Forward, Generation, Record
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, expand_each, expand_rows, find_visual
from tokensel.engine.stock import by_name, find_cache
from tokensel.errors import TokenselError
from tokensel.methods.context import PictureSizes
from tokensel.models.parts import ModelParts
from tokensel.models.tap import VisionTap

Arguments = dict[str, Any]
Stock = Callable[..., Any]

# Decoders under reduction, and the modules around them, with what reduces them.
_blocks: WeakKeyDictionary[nn.Module, "Block"] = WeakKeyDictionary()


class Block:
    """The context manager that `reduce_tokens` returns."""

    def __init__(
        self,
        model: nn.Module,
        parts: ModelParts,
        stages: list[Stage],
        image_mask: Tensor | None,
        row_keys: Tensor | None,
        questions: tuple[str, ...] | None = None,
        picture_sizes: PictureSizes | None = None,
    ) -> None:
        self.model: Any = model
        self.parts, self.image_mask, self.row_keys = parts, image_mask, row_keys
        self.questions, self.picture_sizes = questions, picture_sizes
        self.stages = [stage for stage in stages if stage.acts(parts.num_layers)]
        reads = any(stage.method.reads_tower(self.model.config) for stage in self.stages)
        self._tap = VisionTap(parts.llava, parts.family) if reads and parts.llava is not None else None
        self.record = Record()
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Record:
        decoder, llava = self.parts.decoder, self.parts.llava
        if decoder in _blocks:
            raise TokenselError("reduce_tokens: this model is already being reduced; leave that `with` block first")
        _blocks[decoder] = self
        if self.stages:
            if self._tap is not None:
                self._undo += [handle.remove for handle in self._tap.attach()]
            self._stand_in(decoder, "forward", Block._decode)
            if llava is not None:
                self._stand_in(llava, "forward", Block._join)
            if self.model is not decoder and self.model is not llava:
                self._stand_in(self.model, "forward", Block._with_labels)
            if hasattr(self.model, "generate"):
                self._stand_in(self.model, "generate", Block._generate)
        return self.record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
        _blocks.pop(self.parts.decoder, None)

    def _stand_in(self, module: nn.Module, name: str, ours: Callable[["Block", Stock, Arguments], Any]) -> None:
        """Until the block ends, `ours` is called for the module's method. A copy of the module made meanwhile runs the
        stock method: what stands in is bound to the module, and finds this block by it."""
        stock = getattr(type(module), name)
        # accelerate puts its own forward first, which calls this one.
        slot = "_old_forward" if name == "forward" and "_old_forward" in vars(module) else name

        @wraps(stock)
        def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            block = _blocks.get(self)
            if block is None:
                return stock(self, *args, **kwargs)
            return ours(block, partial(stock, self), by_name(stock, args, kwargs))

        before = vars(module).get(slot)
        vars(module)[slot] = MethodType(call, module)
        _blocks[module] = self

        def undo() -> None:
            vars(module).pop(slot)
            if before is not None:
                vars(module)[slot] = before
            _blocks.pop(module, None)

        self._undo.append(undo)

    def _generate(self, stock: Stock, given: Arguments) -> Any:
        """`generate`: what follows its prompt's length is no prompt, whether or not a cache says so."""
        configured = (given.get("generation_config"), self.model.generation_config)
        sizes = [given.get("prefill_chunk_size"), *(getattr(each, "prefill_chunk_size", None) for each in configured)]
        if chunk := next((size for size in sizes if size), None):
            raise TokenselError(f"prefill_chunk_size={chunk}: a prompt is reduced as a whole; leave it out")
        kinds = [
            given.get("cache_implementation"),
            *(getattr(each, "cache_implementation", None) for each in configured),
        ]
        if "static" in map(str, kinds) or getattr(find_cache(given), "is_compileable", False):
            given = given | {"disable_compile": True}  # on a GPU, static caches make generate compile the forward
        prompt = next(
            (given[name] for name in ("inputs_embeds", "inputs", "input_ids") if given.get(name) is not None), None
        )
        generation = Generation(self, None if prompt is None else prompt.shape[1], find_pictures(given, self.parts))
        token = running.generation.set(generation)
        try:
            return stock(**given)
        finally:
            running.generation.reset(token)

    def _with_labels(self, stock: Stock, given: Arguments) -> Any:
        """The outermost forward; a loss is that over the labels of what remains."""
        forward, labels = Forward(self), given.get("labels")
        token = running.forward.set(forward)
        try:
            if labels is None:
                return stock(**given)
            output = stock(**given | {"labels": None})
        finally:
            running.forward.reset(token)
        for reduction in {} if forward.plan is None else forward.plan.reductions.values():
            labels = reduction.labels(labels)
        vocabulary = self.model.config.get_text_config().vocab_size
        more = {name: given[name] for name in ("num_items_in_batch",) if name in given}
        loss = self.model.loss_function(logits=output[0], labels=labels, vocab_size=vocabulary, **more)
        if not isinstance(output, ModelOutput):
            return (loss, *output)
        return type(output)(**output | {"loss": loss})

    def _join(self, stock: Stock, given: Arguments) -> Any:
        """The forward that joins picture and text: the only place that sees the image tokens' ids."""
        forward, generation, input_ids = self._this_forward(), self._this_generation(), given.get("input_ids")
        forward.seen = find_pictures(given, self.parts)
        if generation is not None and not forward.seen.pixels:
            forward.seen = generation.seen
        if input_ids is not None:
            if generation is not None and generation.prolonged_by(input_ids, find_cache(given)):
                assert generation.embeds is not None
                given = self._prolonged(generation.embeds, given)
            elif _tokens_in(find_cache(given)) == 0:
                seen = find_pictures(given, self.parts)
                forward.kinds = visual_kinds(self.parts, input_ids, seen)
                forward.unreduced = say_video(self.parts, seen)
            elif (seen := find_pictures(given, self.parts)).given and visual_kinds(self.parts, input_ids, seen).any():
                raise TokenselError(
                    "past_key_values: holds text or another picture already; reduce_tokens needs every picture in the "
                    "first forward that fills the cache"
                )
        forward.joined = given
        token = running.forward.set(forward)
        try:
            return stock(**given)
        finally:
            running.forward.reset(token)

    def _this_generation(self) -> Generation | None:
        """The call of this model's `generate` that is running, if one is."""
        found = running.generation.get()
        return found if found is not None and found.block is self else None

    def _this_forward(self) -> Forward:
        """The call of this model's outermost forward that is running."""
        found = running.forward.get()
        return found if found is not None and found.block is self else Forward(self)

    def _prolonged(self, embeds: Tensor, given: Arguments) -> Arguments:
        """A sequence recomputed without a cache: the prompt's embeddings are known, pictures included, and what follows
        is text, even where it is the image token."""
        new = self.parts.decoder.get_input_embeddings()(given["input_ids"][:, embeds.shape[1] :])
        dropped = ("input_ids", "mm_encoder_outputs", "pixel_attention_mask")
        kept = {name: value for name, value in given.items() if name not in dropped and "pixel_values" not in name}
        return kept | {"inputs_embeds": torch.cat([embeds, new], 1)}

    def _decode(self, stock: Stock, given: Arguments) -> Any:
        """The decoder's forward."""
        embeds, cache = given.get("inputs_embeds"), find_cache(given)
        if embeds is None:
            if given.get("input_ids") is None:
                return stock(**given)  # the model's own error message follows
            embeds = self.parts.decoder.get_input_embeddings()(given["input_ids"])
        forward, generation = self._this_forward(), self._this_generation()
        seen = _tokens_in(cache)
        types = forward.joined.get("token_type_ids") if self.parts.family.both_ways else None
        total, mask = seen + embeds.shape[1], forward.attention_mask(given)
        call = Call(given, embeds, key_mask(mask, cache, total, self.parts, both_ways=types is not None))
        call.prepare_outputs(self.parts)
        if seen:
            if not isinstance(cache, ReducedCache):
                self._refuse_picture_behind(seen, embeds.shape[1])
                return stock(**given)
            outputs: Outputs = []
            hidden = self._resume(call, cache.plan, cache, outputs, seen)
            return call.output(hidden, outputs, cache)
        if generation is not None and generation.plan is not None and generation.prolonged_by(embeds, cache):
            outputs = []
            hidden = self._resume(call, generation.plan, None, outputs, 0, generation.prompt)
            return call.output(hidden, outputs, None)
        return self._prompt(stock, call, types, forward, generation)

    def _prompt(
        self, stock: Stock, call: Call, types: Tensor | None, forward: Forward, generation: Generation | None
    ) -> Any:
        """A new prompt, chosen from. Behind it there may be tokens that assisted decoding proposes."""
        self.record.note(None, forward.unreduced)
        batch, total = call.embeds.shape[:2]
        length = min(total, generation.length or total) if generation is not None else total
        kinds = forward.prompt_kinds(batch, length) if self.image_mask is None else None
        visual_index = find_visual(self._visual_mask(kinds, batch, length).to(call.embeds.device))
        if not visual_index.shape[1]:
            return stock(**call.given)
        cache = call.prepared_cache(self.parts)
        keys = torch.zeros(1, dtype=torch.long) if self.row_keys is None else self.row_keys
        vision = None if self._tap is None else row_vision(self._tap.take(forward.seen.arguments), forward.seen, batch)
        state = State(
            hidden=call.embeds[:, :length],
            attention_mask=None if call.mask is None else call.mask[:, :length].bool(),
            position_ids=call.position_ids(0)[..., :length],
            visual_index=visual_index,
            row_keys=expand_rows(keys, batch).to(call.embeds.device),
            pictures=row_pictures(self.parts, forward.seen, visual_index, kinds),
            vision=vision,
            questions=expand_each(self.questions, batch),
            picture_sizes=expand_each(self.picture_sizes, batch),
            deepstack=call.deepstack(visual_index),
            token_types=None if types is None else types[:, :length].to(call.embeds.device),
            cache=cache,
        )
        outputs: Outputs = []
        state = reduce_all(self.parts, state, self.stages, outputs, **call.options)
        state = advance(self.parts, state, self.parts.num_layers, outputs, normed=True, **call.options)
        plan = Plan(length, state.reductions)
        if plan.reductions:
            self.record.note(state, forward.unreduced)
            forward.plan = plan
            if cache is not None:
                remember(cache, plan)
            elif generation is not None:
                generation.plan, generation.embeds, generation.prompt = plan, call.embeds, state.prompt
        if total == length:
            return call.output(state.hidden, outputs, cache)
        if len(outputs) and (call.options.get("output_hidden_states") or call.options.get("output_attentions")):
            raise TokenselError("output_hidden_states, output_attentions: not in assisted decoding of a reduced prompt")
        later = self._resume(call.behind(length), plan, cache, outputs, length)
        return call.output(torch.cat([state.hidden, later], 1), outputs, cache)

    def _resume(
        self, call: Call, plan: Plan, cache: Cache | None, outputs: Outputs, seen: int, prompt: State | None = None
    ) -> Tensor:
        positions = call.position_ids(seen)
        return resume(self.parts, plan, call.embeds, call.mask, positions, cache, outputs, prompt, **call.options)

    def _visual_mask(self, kinds: Tensor | None, batch: int, length: int) -> Tensor:
        """Where the prompt's visual tokens are: BoolTensor[B, T]."""
        mask = None if kinds is None else kinds > 0
        if self.image_mask is not None:
            mask = expand_rows(self.image_mask, batch)
        if mask is None:
            raise TokenselError("image_mask: needed where the prompt's visual tokens cannot be seen in input_ids")
        if mask.shape != (batch, length):
            raise TokenselError(f"image_mask={list(mask.shape)}: must have the prompt's shape {[batch, length]}")
        return mask

    def _refuse_picture_behind(self, seen: int, length: int) -> None:
        """Raises TokenselError where image_mask has visual tokens behind what an unreduced cache holds."""
        mask = self.image_mask
        if mask is not None and mask.shape[1] == seen + length and bool(mask[:, seen:].any()):
            raise TokenselError(
                f"past_key_values: holds {seen} tokens before the picture; reduce_tokens needs every picture in the "
                "first forward that fills the cache"
            )


def _tokens_in(cache: Cache | None) -> int:
    return 0 if cache is None else int(cache.get_seq_length())
