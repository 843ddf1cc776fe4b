"""The proof on a checkpoint: it passes on every family, and its checks find an engine that is broken on purpose."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.families import FAMILIES, QUESTIONS, load_family

from tokensel.engine import block, forward, reduce, selection, split, state
from tokensel.engine.layouts import Reduction
from tokensel.engine.reduce import make_stages
from tokensel.engine.stages import Stage
from tokensel.engine.state import State, find_visual
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.verify import CHECKS, verify
from tokensel.evaluation.verify.by_hand import reduced_mask
from tokensel.evaluation.verify.outcome import Outcome
from tokensel.evaluation.verify.run import private

NEW = 2


def checked(family, *checks):
    """The checks of a family by name."""
    report = verify(load_family(family), checks=checks, questions=QUESTIONS, new_tokens=NEW, answered=0)
    return {record["name"]: record for record in report["checks"]}


@pytest.mark.sampled
@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompts_checks_pass_on_every_family(family):
    found = checked(family, "no-op", "pruned", "kept")
    assert [record["problems"] for record in found.values()] == [[], [], []]
    assert len(found["pruned"]["details"]) == 4  # layers 0, 1, 2 and the last


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_all_checks_pass_on_every_family(family):
    report = verify(load_family(family), questions=QUESTIONS, new_tokens=NEW)
    assert {record["name"]: record["problems"] for record in report["checks"]} == {name: [] for name in CHECKS}
    assert report["passed"]
    assert [each["id"] for each in report["answers"]] == ["a", "b", "c"]


def test_a_report_can_be_written_as_json_and_says_what_ran():
    told = []
    report = verify(
        load_family("llava"),
        2,
        checks=("no-op", "kept"),
        questions=QUESTIONS,
        answered=2,
        progress=lambda what, share: told.append((what, share)),
    )
    assert told == [("no-op", 0), ("kept", 0.25), ("answer 1", 0.5), ("answer 2", 0.75)]
    loaded = json.loads(json.dumps(report, allow_nan=False))
    assert [check["name"] for check in loaded["checks"]] == ["no-op", "kept"]
    assert loaded["passed"]
    assert loaded["model"]["model_type"] == "llava"
    assert loaded["prompt"]["kept"] == 2
    assert loaded["prompt"]["visual_tokens"] == 16
    assert loaded["versions"]["torch"] == torch.__version__
    assert [each["id"] for each in loaded["answers"]] == ["a", "b"]
    assert loaded["same_answers"] == sum(each["full"] == each["reduced"] for each in loaded["answers"])


# Ways to break the engine. Each takes monkeypatch.


def hide_the_first_token(patch):
    plain = State.mask

    def mask(self, parts):
        found = plain(self, parts)
        if self.indices is None:
            return found
        hidden = torch.ones(self.hidden.shape[:2], dtype=torch.bool)
        hidden[:, 1] = False
        return hidden

    patch.setattr(State, "mask", mask)


def close_positions_up(patch):
    plain = Reduction.position_ids

    def position_ids(self, ids, later=False):
        found = plain(self, ids, later)
        return found if later else torch.arange(found.shape[-1]).expand_as(found)

    patch.setattr(Reduction, "position_ids", position_ids)


def misplace_what_is_written(patch):
    plain = Reduction.position_ids
    patch.setattr(Reduction, "position_ids", lambda self, ids, later=False: plain(self, ids, later) + later)


def keep_one_more(patch):
    plain = Stage.kept_of
    patch.setattr(Stage, "kept_of", lambda self, count: plain(self, count) + 1)


def cache_what_was_removed(patch):
    plain = block.remember

    def remember(cache, plan):
        (first, reduction), *_ = plan.reductions.items()
        for layer in cache.layers[first:]:
            layer.keys, layer.values = (
                torch.cat([each[:, :, :1].expand(-1, -1, reduction.removed, -1), each], 2)
                for each in (layer.keys, layer.values)
            )
        plain(cache, plan)

    patch.setattr(block, "remember", remember)


def sort_the_survivors(patch):
    plain = selection.Selection
    patch.setattr(Stage, "choose", lambda self, context: plain(self.method.select(context).indices.sort(1).values))


def mix_rows(patch):
    plain = Stage.choose

    def choose(self, context):
        found = plain(self, context)
        return replace(found, indices=found.indices.roll(1, 0))

    patch.setattr(Stage, "choose", choose)


def begin_the_picture_one_later(patch):
    for module in (block, split):
        patch.setattr(module, "find_visual", lambda mask: find_visual(mask) + 1)


def reduce_a_layer_later(patch):
    def later(*args, **kwargs):
        return [replace(stage, layer=stage.layer + 1) for stage in make_stages(*args, **kwargs)]

    patch.setattr(reduce, "make_stages", later)


def drop_a_text_token(patch):
    plain = selection._lay_out

    def lay_out(*args):
        reduction = plain(*args)
        return replace(reduction, keep=reduction.keep[:, 1:])

    patch.setattr(selection, "_lay_out", lay_out)


def ignore_the_temperature(patch):
    plain = selection.cross_attention
    patch.setattr(selection, "cross_attention", lambda own, tokens, _, *more: plain(own, tokens, 0.1, *more))


def ignore_the_temperature_in_one_pass(patch):
    plain = GridPoint.reduction
    patch.setattr(GridPoint, "reduction", lambda self: plain(self) | {"temperature": 0.1})


def reduce_where_nothing_is_removed(patch):
    patch.setattr(selection, "_stays", lambda stage, kept, count, original: kept > count)


def forget_values_without_a_cache(patch):
    plain = Reduction.hidden

    def hidden(self, states):
        longer = states.shape[1] > self.length
        return plain(replace(self, values=None) if longer else self, states)

    patch.setattr(Reduction, "hidden", hidden)


def write_at_the_first_position(patch):
    plain = forward.run_span

    def run_span(parts, first, last, hidden, **given):
        if hidden.shape[1] == 1:
            given["position_ids"] = given["position_ids"] * 0
        return plain(parts, first, last, hidden, **given)

    patch.setattr(forward, "run_span", run_span)


def take_the_next_rows_logits(patch):
    plain = split.SplitModel.logits
    patch.setattr(split.SplitModel, "logits", lambda self, state: plain(self, state).roll(1, 0))


def add_features_unreduced(patch):
    plain = selection.features_at
    patch.setattr(selection, "features_at", lambda features, indices: plain(features, indices * 0))


def add_the_next_layers_features(patch):
    plain = state.deepstack_arguments
    patch.setattr(state, "deepstack_arguments", lambda f, index, layer, n: plain(f, index, layer + 1, n))


BREAKS = [
    (hide_the_first_token, "pruned"),
    (close_positions_up, "pruned"),
    (misplace_what_is_written, "written"),
    (keep_one_more, "kept"),
    (cache_what_was_removed, "kept"),
    (sort_the_survivors, "order"),
    (mix_rows, "batch"),
    (begin_the_picture_one_later, "kept"),
    (reduce_a_layer_later, "pruned"),
    (drop_a_text_token, "kept"),
    (ignore_the_temperature, "gathered"),
    (ignore_the_temperature_in_one_pass, "one pass"),
    (reduce_where_nothing_is_removed, "no-op"),
    (forget_values_without_a_cache, "cache"),
    (write_at_the_first_position, "written"),
    (take_the_next_rows_logits, "one pass"),
]


@pytest.mark.parametrize("broken", [add_features_unreduced, add_the_next_layers_features])
def test_features_that_are_not_reduced_with_their_tokens_are_found(broken, monkeypatch):
    broken(monkeypatch)
    found = checked("qwen3_vl", "pruned")["pruned"]
    assert found["problems"]
    assert found["text"] != "could not run", found["problems"]


def test_a_picture_whose_remaining_tokens_see_earlier_ones_only_is_found(monkeypatch):
    family = type(load_family("gemma3").family)
    plain = family.masks

    def causal(self, config, hidden, mask, positions, types, *more):
        return plain(self, config, hidden, mask, positions, types * 0, *more)

    monkeypatch.setattr(family, "masks", causal)
    found = checked("gemma3", "pruned")["pruned"]
    assert found["problems"]
    assert found["text"] != "could not run", found["problems"]


@pytest.mark.sampled
@pytest.mark.parametrize(("broken", "check"), BREAKS, ids=[broken.__name__ for broken, _ in BREAKS])
def test_a_broken_engine_is_found(broken, check, monkeypatch):
    broken(monkeypatch)
    found = checked("llava", check)[check]
    assert not found["passed"]
    assert found["problems"]
    assert found["text"] != "could not run", found["problems"]


def test_a_model_that_is_left_changed_is_found(monkeypatch):
    weight = load_family("llava").model.get_output_embeddings().weight
    before, plain = weight.clone(), block.Block.__exit__

    def leave(self, *error):
        weight.mul_(1 + 1e-6)
        plain(self, *error)

    monkeypatch.setattr(block.Block, "__exit__", leave)
    try:
        assert checked("llava", "no-op", "unchanged")["unchanged"]["problems"][0].startswith("after: differs by ")
    finally:
        weight.copy_(before)


def test_a_check_that_raises_has_failed_and_the_others_go_on(monkeypatch):
    def fail(subject):
        raise RuntimeError(f"no kernel\nfor {subject}")

    monkeypatch.setitem(CHECKS, "no-op", fail)
    report = verify(load_family("llava"), checks=("no-op", "unchanged"), questions=QUESTIONS, answered=0)
    assert [record["problems"] for record in report["checks"]] == [["RuntimeError: no kernel"], []]
    assert not report["passed"]


@pytest.mark.parametrize("kept", [0, 16, 99])
def test_a_kept_that_the_picture_does_not_have_is_refused(kept):
    with pytest.raises(TokenselError, match=rf"^kept={kept}: must be from 1 to 15; the picture has 16 tokens$"):
        verify(load_family("llava"), kept, questions=QUESTIONS)


def test_numbers_that_are_not_finite_and_other_shapes_are_problems():
    outcome = Outcome("logits", tolerance=1.0)
    outcome.compare("a", torch.tensor([1.0, float("nan")]), torch.ones(2))
    outcome.compare("b", torch.ones(2), torch.ones(3))
    outcome.compare("c", torch.ones(2), torch.full((2,), 4.0))
    assert outcome.problems == ["a: a number is not finite", "b: has shape [2], not [3]"]
    assert outcome.figure == 0.75


def test_a_mask_by_hand_keeps_its_window_and_what_a_picture_sees_of_itself():
    seen = torch.ones(6, 6, dtype=torch.bool).tril().triu(-2)  # a window of three
    seen[1, 3] = True  # a token of the picture sees a later one
    found = reduced_mask(seen[None, None], [0, 1, 3, 4, 5])
    expected = torch.ones(5, 5, dtype=torch.bool).tril().triu(-2)
    expected[1, 2] = True
    assert torch.equal(found[0, 0], expected)
    added = torch.zeros(6, 6).masked_fill(~seen, torch.finfo(torch.float32).min)
    assert torch.equal(reduced_mask(added[None, None], [0, 1, 3, 4, 5])[0, 0] == 0, expected)
    assert reduced_mask(None, [0]) is None


def test_a_report_holds_no_folder_of_the_user():
    home = str(Path.home())
    assert private(f"cannot read {home}/models/mine/config.json", f"{home}/models/mine") == (
        "cannot read mine/config.json"
    )
    assert private(f"{home}/elsewhere", "llava-hf/llava-1.5-7b-hf") == "~/elsewhere"
