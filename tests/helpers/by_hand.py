"""An oracle for generation: the reduced model written out in plain steps, without a cache, one row at a time.

It shares nothing with tokensel's engine but the choice itself, which it is given.
"""

import copy

import torch
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from helpers.models import IMAGE_TOKEN
from tokensel.functional import cross_attention


class ByHand(LlavaForConditionalGeneration):
    """A LLaVA whose `forward` reduces its prompts by hand, so that transformers' own `generate` decodes with it.

    stages: [(layer, chosen, values)], chosen: LongTensor[rows, M] of the visual tokens that remain, ascending unless
    position is not "source"; values: what they carry, None = their own, or with `aggregated` what cross-attention gives
    them. lengths: of the prompts without padding. pixel_values: the prompts' pictures.
    """

    def prepare(self, pixel_values, lengths, stages, aggregated, position):
        self.pictures = self.get_image_features(pixel_values, return_dict=True).pooler_output
        self.lengths, self.stages, self.aggregated, self.position = lengths, stages, aggregated, position
        return self

    @torch.no_grad()
    def forward(self, input_ids=None, attention_mask=None, **given):
        rows = len(input_ids)
        logits = []
        for row in range(rows):
            source = row * len(self.lengths) // rows  # beams of one prompt stand together
            real = torch.ones_like(input_ids[row]) if attention_mask is None else attention_mask[row]
            logits.append(self.row(input_ids[row][real.bool()], source))
        return LlavaCausalLMOutputWithPast(logits=torch.stack(logits)[:, None])

    def row(self, ids, source):
        decoder = self.model.language_model
        prompt = ids[: self.lengths[source]]
        visual = (prompt == IMAGE_TOKEN).nonzero()[:, 0]
        hidden = decoder.embed_tokens(ids)[None]
        if len(visual):
            hidden[0, visual] = self.pictures[source]
        positions = torch.arange(len(ids))[None]
        stages = {layer: more for layer, *more in self.stages} if len(visual) else {}
        for index, layer in enumerate(decoder.layers):
            if index in stages:
                chosen, values = (None if each is None else each[source] for each in stages[index])
                hidden, positions, visual = self.reduce(hidden, positions, visual, chosen, values)
            length = hidden.shape[1]
            mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
            rotary = decoder.rotary_emb(hidden, position_ids=positions)
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        return self.lm_head(decoder.norm(hidden))[0, -1]

    def reduce(self, hidden, positions, visual, chosen, values):
        tokens = hidden[:, visual]
        slots = visual[chosen] if self.position == "source" else visual[: len(chosen)]
        if values is None:
            values = cross_attention(tokens[:, chosen], tokens, 0.1) if self.aggregated else tokens[:, chosen]
        hidden = hidden.clone()
        hidden[:, slots] = values
        keep = torch.ones(hidden.shape[1], dtype=torch.bool)
        keep[visual] = False
        keep[slots] = True
        positions = torch.arange(int(keep.sum()))[None] if self.position == "renumber" else positions[:, keep]
        return hidden[:, keep], positions, torch.searchsorted(keep.nonzero()[:, 0], slots)


def by_hand(model, inputs, method, reducing):
    """The oracle for a method on these inputs. reducing: a block of the same method, to see what it chooses stage by
    stage; the model is run in it once."""
    stages, select = [], method.select

    def watch(context):
        selection = select(context)
        chosen, values = selection.indices, selection.values
        if method.default_position == "source":
            order = chosen.argsort(1)
            chosen = chosen.gather(1, order)
            values = None if values is None else values.gather(1, order[..., None].expand_as(values))
        stages.append((context.layer, chosen, values))
        return selection

    method.select = watch
    with torch.no_grad(), reducing:
        model(**inputs)
    del method.select
    oracle = copy.copy(model)  # with the same layers
    oracle.__class__ = ByHand
    lengths = inputs["attention_mask"].sum(1).tolist()
    aggregated = method.default_aggregation == "cross_attention"
    return oracle.prepare(inputs["pixel_values"], lengths, stages, aggregated, method.default_position)
