"""What is known of the calls that are running: set by the outer methods of a model, read by the decoder's forward.

Context variables keep threads apart.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import Cache

from tokensel.engine.caches import Plan
from tokensel.engine.pictures import Seen
from tokensel.engine.state import State, expand_rows


@dataclass
class Record:
    """What the last prompt's reduction chose; None when nothing was removed.

    positions: LongTensor[B, M], the chosen visual tokens relative to the image, in the order in which they now stand
    (order of choice with position="front", ascending with "source"); -1 = none of them, like the vision tower's [CLS].
    indices: the same in the input sequence.
    counts: LongTensor[B], where rows keep unequal numbers: the first counts[b] entries of row b remain, what follows is
    padding; None = all M remain.
    remaining: how many visual tokens each row was left with at each layer where some were removed: LongTensor[B] each.
    unreduced: why visual tokens of the last prompt stayed although a stage might have removed them, or None.
    """

    positions: Tensor | None = None
    indices: Tensor | None = None
    counts: Tensor | None = None
    unreduced: str | None = None
    remaining: dict[int, Tensor] = field(default_factory=dict)

    def note(self, state: State | None, unreduced: str | None) -> None:
        """Records what was chosen of a prompt; state: the reduced one, None = nothing was removed."""
        self.positions = self.indices = self.counts = None
        self.unreduced, self.remaining = unreduced, {}
        if state is not None:
            self.positions, self.indices = state.positions, state.indices
            self.counts = None if state.counts is None else state.counts.sum(1)
            self.remaining = state.remaining


@dataclass
class Generation:
    """One call of `generate` in a block. length: the prompt's. seen: its pictures. Without a cache, what its first
    forward did: plan, the prompt's embeddings, and the prompt as it entered the first layer."""

    block: object
    length: int | None
    seen: Seen
    plan: Plan | None = None
    embeds: Tensor | None = None
    prompt: State | None = None

    def prolonged_by(self, sequence: Tensor, cache: Cache | None) -> bool:
        """Whether a forward without a cache is given the prompt again, with what was written since: [B, T, ...]."""
        if self.embeds is None or cache is not None or len(sequence) != len(self.embeds):
            return False
        return sequence.shape[1] > self.embeds.shape[1]


@dataclass
class Forward:
    """One call of the outermost forward in a block. kinds: [B, T], where its prompt has visual tokens, see
    `visual_kinds`; joined: the arguments of the forward that joins picture and text; plan: what was then done to it;
    unreduced: see `Record`."""

    block: object
    kinds: Tensor | None = None
    seen: Seen = field(default_factory=Seen)
    joined: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    unreduced: str | None = None

    def attention_mask(self, given: Mapping[str, Any]) -> Any:
        """The mask of a decoder's arguments: where that is one for each type of layer, what they were made of."""
        mask = given.get("attention_mask")
        return self.joined.get("attention_mask", mask) if isinstance(mask, dict) else mask

    def prompt_kinds(self, batch: int, length: int) -> Tensor | None:
        """What the first `length` tokens of `batch` prompts are; None where input_ids did not say it."""
        return None if self.kinds is None else expand_rows(self.kinds[:, :length], batch)


generation: ContextVar[Generation | None] = ContextVar("generation", default=None)
forward: ContextVar[Forward | None] = ContextVar("forward", default=None)
