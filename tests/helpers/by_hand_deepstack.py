"""An oracle for models with deepstack features: the reduced model written out in plain steps over the stock layers.

It shares nothing with tokensel's engine but the choice itself, which it is given. Deepstack features stand along the
sequence as hidden states do, and are zero where nothing is added.
"""

import copy
from dataclasses import dataclass

import torch
from transformers.modeling_outputs import CausalLMOutput

from tokensel.engine.stages import Stage


@dataclass
class Choice:
    """What one stage chose in one row. chosen: visual tokens in the order in which they stand, -1 = none of them.
    places: whose place each takes. values: [M, D] that a method computed, or None. merges: these are weighted sums of
    the tokens. sizes: [M] that it gave, or None."""

    stage: Stage
    chosen: torch.Tensor
    places: torch.Tensor
    values: torch.Tensor | None
    merges: bool
    sizes: torch.Tensor | None


class Row:
    """One prompt without padding, and what was written behind it, on their way through the layers."""

    def __init__(self, model, ids, length, pictures):
        llava, decoder = model.model, model.model.language_model
        prompt = ids[:length]
        self.decoder, self.visual = decoder, (prompt == model.config.image_token_id).nonzero()[:, 0]
        self.hidden = decoder.embed_tokens(ids)
        seen = llava.get_image_features(**pictures, return_dict=True)
        self.hidden[self.visual] = torch.cat(list(seen.pooler_output))
        features = [each if torch.is_tensor(each) else torch.cat(each) for each in seen.deepstack_features]
        self.added = torch.zeros(len(features), *self.hidden.shape)
        self.added[:, self.visual] = torch.stack(features)
        kinds = (prompt == model.config.image_token_id).int()[None]
        grids = pictures["image_grid_thw"]
        positions = llava.get_rope_index(prompt[None], mm_token_type_ids=kinds, image_grid_thw=grids)[0][:, 0]
        later = positions.max() + 1 + torch.arange(len(ids) - length)
        self.positions = torch.cat([positions, later.expand(3, -1)], 1)
        self.seen, self.bias = torch.ones(len(ids), dtype=torch.bool), torch.zeros(len(ids))

    def layer(self, index):
        count = len(self.hidden)
        allowed = torch.ones(count, count, dtype=torch.bool).tril() & self.seen
        allowed |= torch.eye(count, dtype=torch.bool)  # a hidden token sees itself, or its row would be empty
        mask = self.bias.expand(count, count).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]
        rotary = self.decoder.rotary_emb(self.hidden[None], self.positions[:, None])
        hidden = self.decoder.layers[index](self.hidden[None], attention_mask=mask, position_embeddings=rotary)
        self.hidden = hidden[0]
        if index < len(self.added):
            self.hidden = self.hidden + self.added[index]

    def reduce(self, choice):
        stage = choice.stage
        tokens, features = self.hidden[self.visual], self.added[:, self.visual]
        weights = self.weights(choice, tokens)
        values = weights @ tokens if choice.values is None else choice.values
        slots = self.visual[choice.places]
        self.hidden, self.added = self.hidden.clone(), self.added.clone()
        gone = torch.ones(len(self.hidden), dtype=torch.bool)
        gone[self.visual] = False
        gone[slots] = True
        if stage.layout == "mask":
            self.seen = self.seen & gone
        if stage.layout == "zero_fill":
            self.hidden[self.visual], self.added[:, self.visual] = 0, 0
        self.hidden[slots], self.added[:, slots] = values, weights @ features
        if choice.sizes is not None:
            self.bias[slots] += choice.sizes.log()
        self.visual = slots
        if stage.layout == "compact":
            self.hidden, self.added, self.seen = self.hidden[gone], self.added[:, gone], self.seen[gone]
            self.positions, self.bias = self.positions[:, gone], self.bias[gone]
            self.visual = gone.cumsum(0)[slots] - 1

    @staticmethod
    def weights(choice, tokens):
        """How much of each of the picture's tokens [N, D] each survivor carries: [M, N]."""
        stage, chosen = choice.stage, choice.chosen
        own = torch.nn.functional.one_hot(chosen.clamp_min(0), len(tokens)).float() * (chosen >= 0)[:, None]
        if choice.merges:  # fewer tokens than dimensions, so there is one solution
            return (choice.values.double() @ torch.linalg.pinv(tokens.double())).float()
        if stage.aggregation == "none":
            return own
        unit = tokens / tokens.norm(dim=1, keepdim=True)
        cosine = unit[chosen] @ unit.T
        if stage.aggregation == "cross_attention":
            return (cosine / stage.temperature).softmax(1)
        nearest = torch.nn.functional.one_hot(cosine.argmax(0), len(chosen)).T.float()
        return nearest / nearest.sum(1, keepdim=True)


class ByHand:
    """Mixed into the model's class: a `forward` that reduces by hand, with which transformers' `generate` decodes.

    rows: (ids without padding's length, pictures, choices by layer) of each prompt.
    """

    @torch.no_grad()
    def forward(self, input_ids=None, attention_mask=None, **given):
        logits = []
        for index, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            length, pictures, choices = self.rows[index * len(self.rows) // len(input_ids)]
            row = Row(self, ids[mask.bool()], length, pictures)
            for layer in range(len(row.decoder.layers)):
                if layer in choices:
                    row.reduce(choices[layer])
                row.layer(layer)
            logits.append(self.lm_head(row.decoder.norm(row.hidden[-1])))
        return CausalLMOutput(logits=torch.stack(logits)[:, None])


def by_hand(model, inputs, pictures, block):
    """The oracle for what a block of `reduce_tokens` chooses of these inputs; the model is run in it once.

    pictures: those of each row.
    """
    rows = [(int(mask.sum()), each, {}) for mask, each in zip(inputs["attention_mask"], pictures, strict=True)]
    for stage in block.stages:
        watch(stage, rows)
    with torch.no_grad(), block:
        model(**inputs)
    oracle = copy.copy(model)
    oracle.__class__ = type("ByHand" + type(model).__name__, (ByHand, type(model)), {})
    oracle.rows = rows
    return oracle


def watch(stage, rows):
    """Keeps what the stage's method chooses."""
    select = stage.method.select

    def watched(context):
        selection = select(context)
        for index, (_, _, choices) in enumerate(rows):
            chosen = selection.indices[index]
            if selection.counts is not None:
                chosen = chosen[: selection.counts[index]]
            values, sizes = (
                None if each is None else each[index, : len(chosen)] for each in (selection.values, selection.sizes)
            )
            places = torch.arange(len(chosen))
            if stage.position != "front":  # a token that is none of the picture's takes the first free place
                free = next(place for place in range(context.count) if place not in chosen.tolist())
                places, order = chosen.where(chosen >= 0, free).sort()
                chosen = chosen[order]
                values, sizes = (None if each is None else each[order] for each in (values, sizes))
            choices[context.layer] = Choice(stage, chosen, places, values, selection.merge is not None, sizes)
        return selection

    stage.method.select = watched
