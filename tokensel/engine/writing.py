"""Answers in words: greedy decoding of one prompt under many grid points, which share all that they have in common."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from transformers import Cache

from tokensel.engine.caches import FixedCache, Plan, fork, new_cache, remember
from tokensel.engine.forward import resume
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, fill_rows
from tokensel.errors import TokenselError
from tokensel.models.families import ALONG_PROMPT

# Settings of generation that change what greedy decoding writes, and the value at which they don't.
CHANGES_ANSWERS: dict[str, Any] = {
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "guidance_scale": 1,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "exponential_decay_length_penalty": None,
    "stop_strings": None,
}


@dataclass
class Decoding:
    """A prompt that was prefilled, with what was written since.

    logits: [B, V] after the prompt's last token. state: what remained of the prompt, behind the last layer. mask:
    BoolTensor[B, keys], the whole sequence's before any reduction, None = all real. position: LongTensor[B, 1] or
    [axes, B, 1], that of the first token behind the prompt. steps: how many tokens were added.
    """

    logits: Tensor
    state: State
    plan: Plan
    mask: Tensor | None
    position: Tensor
    steps: int = 0


class Writer:
    """Writes answers over KV caches. The layers below a point's first stage run once for all points.

        writer = Writer(split)
        state = writer.begin(split.embed(**inputs), room=16)
        for stages in points_by_rising_layer:
            state = split.run(state, stages[0].layer)
            decoding = writer.prefill(state, stages)
            writer.step(decoding, decoding.logits.argmax(-1, keepdim=True))  # logits after one more token

    If the model is compiled, prefill and steps run as graphs over buffers of a fixed size, which the next prefill
    writes to. Raises TokenselError for a model without a head.
    """

    def __init__(self, split: SplitModel) -> None:
        self.split, self.parts, self.head = split, split.parts, split.head

    def begin(self, state: State, room: int) -> State:
        """The prompt with an empty cache, which layers fill as they run. room: tokens that may follow."""
        cache: Cache | FixedCache = new_cache(self.parts)
        if self.split.graphs is not None:
            self.split.graphs.drop_buffers()
            cache = FixedCache(self.split.graphs, self.split.graph_rows(len(state.hidden)), room)
        return state.followed_by(cache=cache)

    @torch.no_grad()
    def features(self, pictures: Mapping[str, Any]) -> list[Tensor]:
        """`SplitModel.features`, by a graph where pictures are pixel_values alone."""
        given = {name: value for name, value in pictures.items() if name not in ALONG_PROMPT}
        if self.split.graphs is None or set(given) != {"pixel_values"}:
            return self.split.features(pictures)[0]

        def see(layers: object, pixel_values: Tensor) -> Tensor:
            return torch.stack(self.split.features({"pixel_values": pixel_values})[0])

        return list(self.split.graphs.call(("vision",), see, given["pixel_values"]))

    @torch.no_grad()
    def prefill(self, state: State, stages: Sequence[Stage]) -> Decoding:
        """Runs a prompt through what is left of the layers, reducing it on the way. state: about to enter any layer up
        to the first stage's; it stays as it is."""
        prompt = state.prompt or state
        state = self.split.finish(self.split.reduce_all(state, stages))
        batch, length = prompt.hidden.shape[:2]
        plan, mask, position = Plan(length, state.reductions), prompt.attention_mask, prompt.following()
        if isinstance(state.cache, FixedCache):
            mask = prompt.hidden.new_zeros(batch, length + (state.cache.room or 0), dtype=torch.bool)
            mask[:, :length] = True if prompt.attention_mask is None else prompt.attention_mask
            fill = partial(fill_rows, batch=batch, rows=state.cache.rows)
            plan, mask = tree_map_only(Tensor, fill, (plan.without_values(), mask))
            position = fill(position, dim=-2)
        elif state.cache is not None and plan.reductions:
            remember(state.cache, plan)
        return Decoding(self.split.read(state), state, plan, mask, position)

    @torch.no_grad()
    def step(self, decoding: Decoding, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token, LongTensor[B, 1].

        Raises TokenselError where a cache of a fixed size has no more room.
        """
        cache, mask, index = decoding.state.cache, decoding.mask, torch.full((1,), decoding.steps, device=token.device)
        given = index, decoding.position, decoding.plan
        decoding.steps += 1
        if isinstance(cache, FixedCache):
            if decoding.steps > (cache.room or 0):
                raise TokenselError(f"room={cache.room}: no room for another token")
            assert mask is not None
            mask[:, decoding.plan.length + decoding.steps - 1] = True
            batch = len(token)
            token = fill_rows(token, batch, cache.rows)
            return cache.graphs.call(("step", *cache.key), partial(self._next, cache), token, mask, *given)[:batch]
        if mask is not None:
            decoding.mask = mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return self._next(cache, None, token, mask, *given)

    @torch.no_grad()
    def follow(self, decoding: Decoding, tokens: Tensor) -> Tensor:
        """Logits [B, n, V] behind each of the next tokens, LongTensor[B, n]; not over a cache of a fixed size."""
        state, mask, count = decoding.state, decoding.mask, tokens.shape[1]
        index = torch.arange(decoding.steps, decoding.steps + count, device=tokens.device)
        decoding.steps += count
        if mask is not None:
            decoding.mask = mask = torch.cat([mask, mask.new_ones(len(mask), count)], 1)
        embeds = self.parts.decoder.get_input_embeddings()(tokens)
        return self.head(
            resume(self.parts, decoding.plan, embeds, mask, decoding.position + index, cast(Cache, state.cache))
        )

    def branch(self, decoding: Decoding) -> Decoding:
        """The same prompt and what was written so far, of which either may be continued while the other stays."""
        return replace(decoding, state=replace(decoding.state, cache=fork(decoding.state.cache)))

    def _next(
        self,
        cache: Cache | FixedCache | None,
        layers: Sequence[Any] | None,
        token: Tensor,
        mask: Tensor | None,
        index: Tensor,
        position: Tensor,
        plan: Plan,
    ) -> Tensor:
        """The logits after a token [B, 1], the answer's index-th. May be done twice over buffers."""
        cache = cache.at(index) if isinstance(cache, FixedCache) else cache
        embeds = self.parts.decoder.get_input_embeddings()(token)
        return self.head(resume(self.parts, plan, embeds, mask, position + index, cache, layers=layers))[:, -1]

    def greedy(
        self, state: State, stages: Sequence[Stage], most: int, stop: Collection[int], pad: int
    ) -> tuple[Tensor, State]:
        """At most `most` tokens of each prompt's answer, LongTensor[B, n]; and the prompt as it was reduced.

        state: as for `prefill`. The rest as for `write`.
        """
        decoding = self.prefill(state, stages)
        return self.write(decoding, decoding.logits, most, stop, pad), decoding.state

    def write(
        self,
        decoding: Decoding,
        logits: Tensor,
        most: int,
        stop: Collection[int],
        pad: int,
        ends_text: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """At most `most` tokens of each row's answer, LongTensor[B, n]; the last one has not run yet.

        logits: [B, V] behind what has run. An answer ends with a token of `stop`; what would follow is pad. ends_text:
        whether answers [B, k] hold a text that ends them, BoolTensor[B]. Raises FloatingPointError if the largest logit
        of an answer is not finite: nothing could be chosen.
        """
        written = list[Tensor]()
        ends = torch.tensor(sorted(stop), device=logits.device, dtype=torch.long)
        done = torch.zeros_like(logits[:, :1], dtype=torch.bool)
        broken = done
        while True:
            broken = broken | (~done & ~logits.amax(-1, keepdim=True).isfinite())
            token = logits.argmax(-1, keepdim=True).masked_fill(done, pad)
            written.append(token)
            done = done | torch.isin(token, ends)
            if ends_text is not None:
                done = done | ends_text(torch.cat(written, 1)).view(-1, 1)
            if len(written) == most or bool(done.all()):
                if bool(broken.any()):
                    raise FloatingPointError("logits of a written answer are not finite")
                return torch.cat(written, 1)
            logits = self.step(decoding, token)


def changes_answers(config: Any) -> str | None:
    """The setting of a generation_config, as NAME=VALUE, under which greedy decoding is not the largest logit at every
    step; None: there is none."""
    for name, neutral in CHANGES_ANSWERS.items():
        value = getattr(config, name, None)
        if value and value != neutral:
            return f"{name}={value}"
    return None


def stop_tokens(config: Any) -> tuple[list[int], int]:
    """The ids that end an answer, and what follows them, as generate() reads a generation_config."""
    stop = config.eos_token_id
    stop = [] if stop is None else list(stop) if isinstance(stop, list | tuple) else [stop]
    return stop, config.pad_token_id if config.pad_token_id is not None else (stop or [0])[0]
