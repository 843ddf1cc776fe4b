"""An oracle for Gemma 3: stock layers one by one, with masks, rotary and positions of our own, without a cache.

It shares nothing with tokensel's engine: `Given` tells the method what to choose.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tokensel import Method, Selection

NEW = 3
TOKENS = 16


@dataclass
class Given(Method):
    """Keeps the visual tokens that it is told to, at each layer."""

    kept_at: dict[int, list[int]] = field(default_factory=dict)
    merges: bool = False
    default_layers: ClassVar[tuple[int, ...]] = (1,)

    def select(self, context):
        indices = torch.tensor(self.kept_at[context.layer])[: context.kept].expand(len(context.tokens), -1)
        if not self.merges:
            return Selection(indices)
        return Selection(indices, values=merged(context.tokens, indices))


@dataclass
class Unequal(Given):
    """The first of them, a number of its own in each row."""

    counts: tuple[int, ...] = ()

    def select(self, context):
        return Selection(super().select(context).indices, counts=torch.tensor(self.counts))

    def remaining(self, kept, count, layer=0, stage=0):
        return None


def merged(tokens, indices):
    """Each chosen token, with the sum of all of them in small."""
    chosen = torch.gather(tokens, 1, indices[..., None].expand(-1, -1, tokens.shape[2]))
    return chosen + 0.1 * tokens.sum(1, keepdim=True)


class ByHand:
    """stages: {layer: for each picture, the places among what remains of it}."""

    def __init__(self, loaded, stages, layout="compact", position="source", merges=False):
        self.loaded, self.model = loaded, loaded.model
        self.stages, self.layout, self.position, self.merges = stages, layout, position, merges

    @torch.no_grad()
    def logits(self, ids, pixel_values, prompt):
        """The logits [T', V] of one row without padding. prompt: its length, behind which there is text."""
        decoder, config = self.model.model.language_model, self.model.config.text_config
        hidden = decoder.embed_tokens(ids)[None].clone()
        visual = (ids[:prompt] == self.model.config.image_token_id).nonzero()[:, 0]
        features = self.model.model.get_image_features(pixel_values, return_dict=True).pooler_output
        hidden[0, visual] = features.flatten(0, 1)
        self.pictures = [visual[first : first + TOKENS] for first in range(0, len(visual), TOKENS)]
        self.block = torch.full((len(ids),), -1)
        for number, places in enumerate(self.pictures):
            self.block[places] = number
        self.alive = torch.ones(len(ids), dtype=torch.bool)
        self.places = torch.arange(len(ids))
        for number, layer in enumerate(decoder.layers):
            if number in self.stages:
                hidden = self.reduce(hidden, self.stages[number])
            kind = config.layer_types[number]
            theta = {"full_attention": 1e6, "sliding_attention": 1e4}[kind]
            window = config.sliding_window if kind == "sliding_attention" else None
            hidden = layer(
                hidden,
                attention_mask=self.mask(window),
                position_ids=self.places[None],
                position_embeddings=rotary(self.places, theta, config.head_dim),
            )
        return self.model.lm_head(decoder.norm(hidden))[0]

    def mask(self, window):
        query, key = torch.arange(len(self.block))[:, None], torch.arange(len(self.block))[None]
        same = (self.block[:, None] == self.block[None]) & (self.block[None] >= 0)
        seen = ((key <= query) | same) & self.alive[None]
        if window is not None:
            seen = seen & (key > query - window)
        return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]

    def reduce(self, hidden, chosen):
        hidden, remains = hidden.clone(), torch.ones(hidden.shape[1], dtype=torch.bool)
        slots = []
        for places, few in zip(self.pictures, chosen, strict=True):
            few = torch.tensor(few)
            few = few.sort().values if self.position == "source" else few
            slot = places[few] if self.position == "source" else places[: len(few)]
            tokens = hidden[:, places]
            values = merged(tokens, few[None]) if self.merges else tokens[:, few]
            hidden[:, places] = 0 if self.layout == "zero_fill" else hidden[:, places]
            remains[places] = False
            remains[slot] = True
            hidden[:, slot] = values
            slots.append(slot)
        if self.layout != "compact":
            self.alive = self.alive & remains if self.layout == "mask" else self.alive
            self.pictures = slots
            return hidden
        new = remains.cumsum(0) - 1
        self.pictures = [new[slot] for slot in slots]
        self.block, self.alive, self.places = self.block[remains], self.alive[remains], self.places[remains]
        if self.position == "renumber":
            self.places = torch.arange(len(self.places))
        return hidden[:, remains]

    def greedy(self, ids, pixel_values):
        """NEW tokens, and the logits that each was the largest of."""
        prompt, found = len(ids), []
        for _ in range(NEW):
            logits = self.logits(ids, pixel_values, prompt)[-1].clone()
            logits[self.model.config.image_token_id] = -torch.inf
            found.append(logits)
            ids = torch.cat([ids, logits.argmax()[None]])
        return ids[-NEW:], torch.stack(found)


def rotary(places, theta, width):
    angles = places[:, None] * theta ** (-torch.arange(0, width, 2).float() / width)
    angles = torch.cat([angles, angles], -1)[None]
    return angles.cos(), angles.sin()
