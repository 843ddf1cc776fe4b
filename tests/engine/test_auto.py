"""kept=auto in the engine: rows, pictures, frames and stages that keep as many tokens as cover them."""

from functools import cache

import pytest
import torch
from helpers.families import load_family
from helpers.graphs import CpuCapture, uncompiled_split
from helpers.models import IMAGE_TOKEN, llava_inputs, single_row, tiny_llava
from helpers.videos import make_video_question

from tokensel import Auto, Stage, TokenselError, make_method, make_stages, reduce_tokens
from tokensel.engine.selection import share
from tokensel.engine.split import SplitModel
from tokensel.engine.ties import TieWatch
from tokensel.functional import farthest_coverage, farthest_point_sampling
from tokensel.testing import make_context

VISUAL = 36
TEXTS = (5, 9, 2, 7)
NEW = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
# Coverages at which this random model's rows keep unequal numbers.
SPREAD = {"fps": 0.35, "density": 0.3, "fastv": 0.6, "divprune": 0.3, "cdpruner": 0.8, "scope": 0.7}


@cache
def model_of():
    return tiny_llava()


@cache
def inputs_of():
    return llava_inputs(model_of(), TEXTS)


def method_of(name):
    return make_method(name, clip=None) if name == "cdpruner" else make_method(name)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("fps", {"agg_layer": 2}),
        ("fps", {"agg_layer": 1, "position": "source", "layout": "zero_fill"}),
        ("fps", {"agg_layer": 2, "aggregation": "mean", "position": "renumber"}),
        ("fps", {"agg_layer": (1, 3)}),
        ("fastv", {"agg_layer": 2, "layout": "mask"}),
        ("fastv", {"agg_layer": (1, 3)}),
        ("density", {"agg_layer": 2}),
        ("divprune", {}),
        ("cdpruner", {}),
        ("scope", {}),
    ],
)
def test_each_row_is_as_it_is_alone_and_at_its_own_count(name, setting):
    model, inputs, method = model_of(), inputs_of(), method_of(name)
    auto = Auto(SPREAD[name], min=3, max=20)
    with reduce_tokens(model, method, kept=auto, **setting) as record:
        logits = model(**inputs).logits[:, -1]
        written = model.generate(**inputs, **NEW)
        counts = {layer: each.tolist() for layer, each in record.remaining.items()}
    assert all(3 <= count <= 20 for each in counts.values() for count in each)
    assert len({*zip(*counts.values(), strict=True)}) > 1
    layers = list(counts)
    for row in range(2):
        given = single_row(inputs, row)
        with reduce_tokens(model, method, kept=auto, **setting):
            torch.testing.assert_close(logits[row], model(**given).logits[0, -1], atol=1e-4, rtol=1e-4)
        own = tuple(counts[layer][row] for layer in layers)
        with reduce_tokens(model, method, **setting | {"kept": own, "agg_layer": layers}):
            torch.testing.assert_close(logits[row], model(**given).logits[0, -1], atol=1e-4, rtol=1e-4)
            assert torch.equal(written[row, -3:], model.generate(**given, **NEW)[0, -3:])


@torch.no_grad()
@pytest.mark.parametrize("name", ["fps", "fastv", "cdpruner"])
def test_equal_limits_are_the_fixed_count(name):
    model, inputs, method = model_of(), inputs_of(), method_of(name)
    found = []
    # At most 8, all of them needed, comes to the same by the other way.
    for kept in (8, Auto(min=8, max=8), "auto:0.9:8-8", Auto(1.0, max=8)):
        with reduce_tokens(model, method, kept=kept) as record:
            hidden = model(**inputs, output_hidden_states=True).hidden_states[-1]
        found.append((record.positions, record.counts, hidden))
    for positions, counts, hidden in found[1:]:
        assert torch.equal(positions, found[0][0])
        assert counts is None or counts.tolist() == [8] * len(TEXTS)
        assert torch.equal(hidden, found[0][2])
    assert make_stages(method, kept=Auto(0.3, 8, 8)) == make_stages(method, kept=8)


@torch.no_grad()
def test_the_whole_picture_remains_where_nothing_less_covers_it():
    model, inputs = model_of(), inputs_of()
    for name in ("fps", "fastv"):
        with reduce_tokens(model, name, kept=Auto(1.0), aggregation="none", position="source") as record:
            logits = model(**inputs).logits[:, -1]
        assert record.positions.tolist() == [list(range(VISUAL))] * len(TEXTS)
        torch.testing.assert_close(logits, model(**inputs).logits[:, -1], atol=1e-4, rtol=1e-4)
        with reduce_tokens(model, name, kept=Auto(0.1, min=VISUAL)) as record:
            assert torch.equal(model(**inputs).logits[:, -1], model(**inputs).logits[:, -1])
        assert record.positions is None


def two_pictures():
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(4, 97, (3, 9), generator=generator)
    picture = torch.full((3, VISUAL), IMAGE_TOKEN)
    ids = torch.cat([words[:, :2], picture, words[:, 2:4], picture, words[:, 4:]], 1)
    pixels = torch.randn(6, 3, 84, 84, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.no_grad()
@pytest.mark.parametrize("layout", ["compact", "zero_fill"])
def test_several_pictures_keep_a_count_each(layout):
    model, inputs = model_of(), two_pictures()
    setting = {"kept": Auto(0.7, min=4, max=40), "agg_layer": (1, 3), "layout": layout}
    with reduce_tokens(model, "fps", **setting) as record:
        logits = model(**inputs).logits[:, -1]
        assert len(set(record.counts.tolist())) > 1
    for row in range(2):
        given = {name: value[row : row + 1] for name, value in inputs.items()}
        given["pixel_values"] = inputs["pixel_values"][2 * row : 2 * row + 2]
        with reduce_tokens(model, "fps", **setting):
            torch.testing.assert_close(logits[row], model(**given).logits[0, -1], atol=1e-4, rtol=1e-4)
    # Each picture gets its share of the limits, and its own count between them.
    split = SplitModel(model)
    (stage,) = make_stages("fps", kept=Auto(0.35, min=4, max=30), agg_layer=1)
    counts = split.reduce(split.run(split.embed(**inputs), 1), stage).counts
    assert counts.shape == (3, 2)
    assert bool(((counts >= 2) & (counts <= 15)).all())
    (alone,) = make_stages("fps", kept=Auto(0.35, min=2, max=15), agg_layer=1)
    state = split.run(split.embed(**inputs), 1)
    visual = state.hidden.gather(1, state.visual_index.unsqueeze(2).expand(-1, -1, state.hidden.shape[2]))
    for picture, tokens in enumerate(visual.split(VISUAL, 1)):
        found = alone.method.adapt(make_context(15, tokens=tokens, auto=alone.auto))
        assert found.counts.tolist() == counts[:, picture].tolist()


@torch.no_grad()
def test_frames_keep_a_count_each():
    loaded = load_family("llava_onevision")
    encoded = loaded.encode([make_video_question("a", 4), make_video_question("b", 4)])
    split = SplitModel(loaded.model)
    given = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask, "pictures": encoded.pictures}
    state = split.run(split.embed(**given), 1)
    (stage,) = make_stages("fps", kept=Auto(0.9, min=4, max=12), agg_layer=1, scope="frame")
    reduced = split.reduce(state, stage)
    frames = len(reduced.pictures)
    assert frames == 4
    left = reduced.visual_index.shape[1] if reduced.counts is None else reduced.counts.sum(1).tolist()
    assert 4 <= (left if isinstance(left, int) else min(left)) <= 12
    whole = split.reduce(state, make_stages("fps", kept=12, agg_layer=1, scope="frame")[0])
    assert share(12, [picture.count for picture in state.by_frame().pictures]) == [p.count for p in whole.pictures]


@torch.no_grad()
def test_compiled_pieces_repeat_their_shapes():
    model, inputs = model_of(), inputs_of()
    stages = make_stages("fps", kept=Auto(0.35, 3, 20), agg_layer=2)
    split, graphs = SplitModel(model), uncompiled_split(model, CpuCapture())
    plain = split.reduce_all(split.embed(**inputs), stages)
    padded = graphs.reduce_all(graphs.embed(**inputs), stages)
    assert padded.visual_index.shape[1] == 32
    assert padded.counts.tolist() == plain.counts.tolist()
    torch.testing.assert_close(split.logits(plain), graphs.logits(padded), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_count_at_the_edge_is_a_tie():
    model, inputs = model_of(), inputs_of()
    split = SplitModel(model)
    state = split.run(split.embed(**inputs), 2)
    tokens = state.hidden.gather(1, state.visual_index.unsqueeze(2).expand(-1, -1, state.hidden.shape[2]))
    covered = farthest_coverage(tokens, farthest_point_sampling(tokens, 20, "medoid"))
    rising = int((covered[0].diff() > 1e-3).nonzero()[3, 0]) + 1
    found = []
    for edge in (covered[0, rising].item() + 1e-5, covered[0, rising].item() - 1e-4):
        watch = TieWatch()
        stage = Stage(make_method("fps"), Auto(edge), 2, watch=watch)
        split.reduce(state, stage)
        found.append(watch.of(state.row_keys)[0])
    assert found == [True, False]


@pytest.mark.parametrize("name", ["tome", "tome_merge", "visionzip", "prumerge", "pact", "grid", "downsample", "apet"])
def test_a_method_without_an_order_is_refused_in_one_line(name):
    told = f"kept=auto: method '{name}' has no order of choice; use one of cdpruner, density, divprune, .*fps"
    with pytest.raises(TokenselError, match=told) as error:
        make_stages(name, kept="auto")
    assert "\n" not in str(error.value)


def test_stages_all_adapt_or_none():
    stages = make_stages("himap", kept="auto:0.9")
    assert [stage.auto for stage in stages] == [Auto(0.9), Auto(0.9)]
    with pytest.raises(TokenselError, match=r"kept=\[auto, 8\]: either every stage has auto or none"):
        make_stages("fps", kept=["auto", 8], agg_layer=[1, 2])
    fps = make_method("fps")
    assert make_stages(fps, kept=Auto(fps.default_coverage)) == make_stages(fps, kept="auto")
    assert make_stages(fps, kept="auto")[0].auto == Auto(fps.default_coverage)
