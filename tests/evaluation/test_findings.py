"""What docs/findings.md says, each on the embedded model."""

import pytest
import torch

from tokensel import make_stages, reduce_tokens
from tokensel.data import load_questions
from tokensel.engine.attention import attention_to_visual, last_real
from tokensel.engine.split import SplitModel
from tokensel.evaluation.answers import row_keys
from tokensel.functional import farthest_point_sampling, tome_centers
from tokensel.models import load_model


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny")


@pytest.fixture(scope="module")
def entering(loaded):
    """The hidden states that enter layer 2, of 8 questions one by one."""
    split = SplitModel(loaded.model)
    with torch.no_grad():
        return split, [split.run(split.embed(**loaded.prepare([q])), 2) for q in load_questions("diagrams", limit=8)]


@pytest.mark.slow
def test_the_rounds_of_the_medoid_rule_change_nothing(entering):
    for state in entering[1]:
        tokens = state.hidden[:, state.visual_index[0]]
        assert tome_centers(tokens, 32, iterations=0).tolist() == tome_centers(tokens, 32, iterations=3).tolist()


@torch.no_grad()
def test_zero_slots_take_attention_in_one_head_nearly_all_of_it(entering):
    split, states = entering
    shares, strongest = [], []
    for state in states:
        (stage,) = make_stages("fps", kept=8, agg_layer=2, layout="zero_fill")
        reduced = split.reduce(state, stage)
        row = attention_to_visual(
            split.parts.layers[2],
            reduced.hidden,
            split.parts.rotary(reduced.hidden, reduced.position_ids),
            None,
            state.visual_index,
            last_real(None, reduced.hidden),
        )[0]
        shares.append(row[:, 8:].sum() / row.sum())
        strongest.append((row[:, 8:].sum(1) / row.sum(1)).max())
    assert torch.stack(shares).mean() > 0.15
    assert torch.stack(strongest).mean() > 0.8


@torch.no_grad()
def test_a_start_drawn_anew_in_every_forward_chooses_other_tokens(entering, loaded):
    tokens = entering[1][0].hidden[:, entering[1][0].visual_index[0]]
    generator = torch.Generator().manual_seed(0)
    drawn = {tuple(sorted(farthest_point_sampling(tokens, 8, None, generator)[0].tolist())) for _ in range(4)}
    assert len(drawn) > 1
    question = load_questions("diagrams", limit=1)
    inputs, keys = loaded.prepare(question), row_keys(question, loaded.device)
    ours = []
    for _ in range(2):  # ours is drawn from the seed and the question
        with reduce_tokens(loaded.model, "fps", kept=8, start=None, row_keys=keys) as record:
            loaded.model(**inputs)
        ours.append(record.positions.tolist())
    assert ours[0] == ours[1]
