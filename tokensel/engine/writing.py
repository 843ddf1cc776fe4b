"""Answers in words: greedy decoding of one prompt under many grid points, which share all that they have in common."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from tokensel.engine.caches import Plan, new_cache, remember
from tokensel.engine.forward import resume
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, slides

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


class SharedWriter:
    """Writes answers over KV caches that grow. The layers below a point's first stage run once for all points.

    writer = SharedWriter(split)
    state = writer.begin(split.embed(**inputs))
    for stages in points_by_rising_layer:
        state = split.run(state, stages[0].layer)
        written, reduced = writer.greedy(state, stages, 16, stop, pad)
    """

    def __init__(self, split: SplitModel) -> None:
        self.split, self.parts = split, split.parts

    def begin(self, state: State) -> State:
        """The prompt with an empty cache, which layers fill as they run."""
        return state.followed_by(cache=new_cache(self.parts))

    @torch.no_grad()
    def greedy(
        self, state: State, stages: Sequence[Stage], most: int, stop: Collection[int], pad: int
    ) -> tuple[Tensor, State]:
        """At most `most` tokens of each prompt's answer, LongTensor[B, n]; and the prompt as it was reduced.

        state: about to enter any layer up to the first stage's; it stays as it is. An answer ends with a token of
        `stop`; what would follow is pad.
        """
        prompt = state.prompt or state
        state = self.split.finish(self.split.reduce_all(state, stages))
        cache, plan = state.cache, Plan(prompt.hidden.shape[1], state.reductions)
        assert cache is not None
        if plan.reductions:
            remember(cache, plan)
        position, mask = prompt.following(), prompt.attention_mask

        def step(token: Tensor, index: int) -> Tensor:
            nonlocal mask
            mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            embeds = self.parts.decoder.get_input_embeddings()(token)
            hidden = resume(self.parts, plan, embeds, mask, position + index, cache)
            return self.split.head(hidden)[:, -1]

        return write_greedily(self.split.read(state), step, most, stop, pad), state


def write_greedily(
    logits: Tensor, step: Callable[[Tensor, int], Tensor], most: int, stop: Collection[int], pad: int
) -> Tensor:
    """Greedy answers, LongTensor[B, n] with n <= most. logits: [B, V] after the prompts. step: logits after one more
    token [B, 1], the answer's index-th. An answer ends with a token of `stop`; what would follow is pad."""
    token = logits.argmax(-1, keepdim=True)
    ends = torch.tensor(sorted(stop), device=token.device, dtype=token.dtype)
    done = torch.zeros_like(token, dtype=torch.bool)
    written: list[Tensor] = []
    while True:
        token = token.masked_fill(done, pad)
        written.append(token)
        done = done | torch.isin(token, ends)
        if len(written) == most or bool(done.all()):
            return torch.cat(written, 1)
        token = step(token, len(written) - 1).argmax(-1, keepdim=True)


def changes_answers(config: Any) -> str | None:
    """The setting of a generation_config, as NAME=VALUE, under which greedy decoding is not the largest logit at every
    step; None: there is none."""
    for name, neutral in CHANGES_ANSWERS.items():
        value = getattr(config, name, None)
        if value and value != neutral:
            return f"{name}={value}"
    return None


def cannot_share(split: SplitModel, config: Any) -> str | None:
    """Why `SharedWriter` does not write what the model's own generate() does; None: it does."""
    if slides(split.parts):
        return "sliding_window: counts the padding between a prompt and its answer"
    return changes_answers(config)


def stop_tokens(config: Any) -> tuple[list[int], int]:
    """The ids that end an answer, and what follows them, as generate() reads a generation_config."""
    stop = config.eos_token_id
    stop = [] if stop is None else list(stop) if isinstance(stop, list | tuple) else [stop]
    return stop, config.pad_token_id if config.pad_token_id is not None else (stop or [0])[0]
