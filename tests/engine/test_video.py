"""Videos: the choice over all frames and per frame, against a run written out by hand; under generate; in a batch."""

from dataclasses import dataclass

import pytest
import torch
from helpers.families import load_family
from helpers.videos import VIDEO_FAMILIES, VIDEO_QUESTIONS, Loudest, entering, one, visual_places

from tokensel import ScoringMethod, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.engine.stages import make_stages

KEPT = 7  # not divisible by the number of frames
SCOPES = ("video", "frame")


def new(loaded):
    config = loaded.model.config
    tokens = {"suppress_tokens": [config.image_token_id, config.video_token_id]}
    return {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None} | tokens


def choose_by_hand(hidden, frames, scope):
    """The places that remain: the loudest of all frames, or an equal share of each frame's."""
    groups = frames if scope == "frame" else [[place for frame in frames for place in frame]]
    chosen, norms = [], [float(state.norm()) for state in hidden]
    for index, group in enumerate(groups):
        share = KEPT // len(groups) + (1 if index < KEPT % len(groups) else 0)
        left = list(group)
        for _ in range(share):
            best = left[0]
            for place in left:
                if norms[place] > norms[best]:
                    best = place
            left.remove(best)
            chosen.append(best)
    return sorted(chosen)


def run_by_hand(model, entered, frames, scope, agg_layer):
    """The decoder layer by layer, cut before agg_layer: the logits behind the prompt, and the places that remain."""
    (hidden, positions, added), decoder, chosen = entered, model.model.language_model, None
    for index, layer in enumerate(decoder.layers):
        if index == agg_layer:
            chosen = choose_by_hand(hidden, frames, scope)
            visual = {place for frame in frames for place in frame}
            keep = [place for place in range(len(hidden)) if place not in visual or place in chosen]
            hidden, positions, added = hidden[keep], positions[..., keep], [each[keep] for each in added]
        length = len(hidden)
        mask = torch.full((length, length), torch.finfo(hidden.dtype).min).triu(1)[None, None]
        where = positions[:, None] if positions.ndim == 2 else positions[None]
        rotary = decoder.rotary_emb(hidden[None], position_ids=where)
        hidden = layer(hidden[None], attention_mask=mask, position_ids=where, position_embeddings=rotary)
        hidden = (hidden[0] if isinstance(hidden, tuple) else hidden)[0]
        if index < len(added):
            hidden = hidden + added[index]
    return model.lm_head(decoder.norm(hidden))[-1], chosen


@torch.no_grad()
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_the_choice_over_all_frames_and_per_frame_equals_a_run_by_hand(family):
    loaded = load_family(family)
    model, inputs = loaded.model, one(loaded, 1)
    entered = entering(model, inputs)
    frames = visual_places(family, loaded, inputs)
    flat = [place for frame in frames for place in frame]
    found = {}
    for scope in SCOPES:
        for layer in (0, 2, 3):
            with reduce_tokens(model, Loudest(), kept=KEPT, agg_layer=layer, scope=scope) as record:
                logits = model(**inputs).logits[0, -1]
            expected, chosen = run_by_hand(model, entered, frames, scope, layer)
            assert record.indices[0].tolist() == chosen
            assert [flat[each] for each in record.positions[0].tolist()] == chosen
            assert record.unreduced is None
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
            found[scope, layer] = chosen
    assert any(found["video", layer] != found["frame", layer] for layer in (0, 2, 3))


@torch.no_grad()
def test_at_the_first_layer_the_stock_decoder_agrees_when_it_is_given_the_cut_sequence():
    loaded = load_family("qwen2_5_vl")
    model, inputs = loaded.model, one(loaded, 0)
    hidden, positions, _ = entering(model, inputs)
    frames = visual_places("qwen2_5_vl", loaded, inputs)
    assert len(set(positions[0, frames[0] + frames[1]].tolist())) == 2  # frames differ along time
    chosen = choose_by_hand(hidden, frames, "frame")
    visual = {place for frame in frames for place in frame}
    keep = [place for place in range(len(hidden)) if place not in visual or place in chosen]
    output = model.model.language_model(
        inputs_embeds=hidden[None, keep], position_ids=positions[:, None, keep], attention_mask=torch.ones(1, len(keep))
    )
    with reduce_tokens(model, Loudest(), kept=KEPT, agg_layer=0, scope="frame"):
        logits = model(**inputs).logits[0, -1]
    torch.testing.assert_close(logits, model.lm_head(output[0])[0, -1], atol=1e-4, rtol=1e-4)


# Gathers by attention, ranks by attention, looks at the tower, merges, has stages, merges over time, and both.
METHODS = ("fps", "fastv", "fastervlm", "tome_merge", "pyramiddrop", "temporal_merge", "fastvid")
# Every method with every family, in either scope in turn; each family with one method by default.
CASES = [
    pytest.param(family, method, SCOPES[(row + column) % 2], marks=() if row == column else pytest.mark.slow)
    for row, family in enumerate(VIDEO_FAMILIES)
    for column, method in enumerate(METHODS)
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "method", "scope"), CASES)
def test_a_video_decodes_with_a_cache_as_without_batched_as_alone_and_in_pieces(family, method, scope):
    loaded = load_family(family)
    model, inputs = loaded.model, loaded.prepare(VIDEO_QUESTIONS)
    settings = {"kept": KEPT, "scope": scope}
    with reduce_tokens(model, method, **settings) as record:
        together, chosen = model(**inputs).logits[:, -1], record.positions
        cached = model.generate(**inputs, **new(loaded))
        assert torch.equal(cached, model.generate(**inputs, **new(loaded), use_cache=False))
    assert not torch.allclose(together, model(**inputs).logits[:, -1])
    split = SplitModel(model)
    stages = make_stages(method, num_layers=split.num_layers, **settings)
    state = split.reduce_all(split.embed(**inputs, uses_vision=True), stages)
    torch.testing.assert_close(split.logits(state), together, atol=1e-4, rtol=1e-4)
    assert torch.equal(state.positions, chosen)
    with reduce_tokens(model, method, **settings) as record:
        alone = one(loaded, 2)
        torch.testing.assert_close(model(**alone).logits[0, -1], together[2], atol=1e-4, rtol=1e-4)
        assert record.positions[0].tolist() == chosen[2].tolist()
        assert torch.equal(model.generate(**alone, **new(loaded))[0, -3:], cached[-1, -3:])


@torch.no_grad()
@pytest.mark.sampled
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_nothing_changes_bit_for_bit_where_no_token_of_a_video_is_removed(family):
    loaded = load_family(family)
    model, inputs = loaded.model, loaded.prepare(VIDEO_QUESTIONS)
    plain, count = model(**inputs).logits, sum(map(len, visual_places(family, loaded, one(loaded, 0))))
    for settings in ({"kept": count, "agg_layer": 0, "scope": "frame"}, {"kept": 4, "agg_layer": 4}):
        with reduce_tokens(model, "fps", **settings) as record:
            assert torch.equal(model(**inputs).logits, plain)
            assert record.positions is None
    with reduce_tokens(model, "no_image") as record:
        assert record.positions is None or record.positions.shape[1] == 0
        assert not torch.equal(model(**inputs).logits[:, -1], plain[:, -1])
        removed = model(**loaded.prepare(VIDEO_QUESTIONS)).logits.shape[1]
    assert removed == plain.shape[1] - count


@dataclass
class LoudestAtFirst(ScoringMethod):
    """The tokens whose embeddings, before the first layer, have the largest norm."""

    def score(self, context):
        return context.inputs[0].norm(dim=2)


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
def test_a_frame_is_shown_its_own_embeddings_behind_the_first_layer(scope):
    loaded = load_family("llava_next_video")
    model, inputs = loaded.model, one(loaded, 1)
    hidden, *_ = entering(model, inputs)
    expected = choose_by_hand(hidden, visual_places("llava_next_video", loaded, inputs), scope)
    with reduce_tokens(model, LoudestAtFirst(), kept=KEPT, agg_layer=2, scope=scope) as record:
        model(**inputs)
    assert record.indices[0].tolist() == expected


@torch.no_grad()
def test_a_random_choice_differs_from_frame_to_frame():
    loaded = load_family("video_llava")
    with reduce_tokens(loaded.model, "random", kept=16, agg_layer=1, scope="frame") as record:
        loaded.model(**one(loaded, 1))
    places = (record.positions[0].view(4, 4) - 17 * torch.arange(4)[:, None]).tolist()
    assert all(0 <= place < 17 for frame in places for place in frame)
    assert len({tuple(frame) for frame in places}) == 4
