"""An aggregator's file: it comes back as it was, and what is no aggregator is refused in one line."""

import json

import pytest
import torch
from helpers.aggregators import make_aggregator as helpers_make
from safetensors.torch import save, save_file

from tokensel.choices import LARGEST_TEMPERATURE
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.functional import cross_attention
from tokensel.training.aggregator import LearnedAggregator, aggregator_bytes, load_aggregator


def make_aggregator(**options):
    return helpers_make(12, **{"heads": 3} | options)


def test_as_made_it_is_cross_attention():
    tokens = torch.randn(2, 9, 12)
    made = LearnedAggregator(12, rank=2, heads=3, temperature=0.2)
    torch.testing.assert_close(
        made(tokens[:, :4], tokens), cross_attention(tokens[:, :4], tokens, 0.2), atol=1e-6, rtol=0
    )


def test_a_file_comes_back_as_it_was(tmp_path):
    made = make_aggregator(made={"command": "x"})
    file = tmp_path / "a.safetensors"
    file.write_bytes(aggregator_bytes(made))
    assert file.read_bytes() == aggregator_bytes(made)
    with torch.inference_mode():  # as in the middle of an evaluation
        found = load_aggregator(str(file))
    assert found.made == {"command": "x"}
    tokens = torch.randn(1, 5, 12)
    assert torch.equal(found(tokens, tokens), made(tokens, tokens))
    assert not any(value.is_inference() or value.requires_grad for value in found.parameters())
    assert load_aggregator(file) is found
    file.write_bytes(aggregator_bytes(make_aggregator(seed=1)))
    assert not torch.equal(load_aggregator(file)(tokens, tokens), made(tokens, tokens))


def test_the_weights_of_all_heads_make_what_survivors_carry():
    made, tokens = make_aggregator(), torch.randn(2, 9, 12)
    with torch.no_grad():
        made.value_up.zero_()
    weights = made.weights(tokens[:, :4], tokens)
    sliced = [weights[:, h] @ tokens[..., 4 * h : 4 * h + 4] for h in range(3)]
    torch.testing.assert_close(made(tokens[:, :4], tokens), torch.cat(sliced, -1), atol=1e-6, rtol=1e-6)


def tensors_of(**changed):
    return dict(make_aggregator().state_dict()) | changed


SIZES = {"width": 12, "rank": 2, "heads": 3}


def file_of(tensors, sizes=SIZES, kind="tokensel.aggregator/1"):
    return save(tensors, {"aggregator": json.dumps(sizes | {"format": kind})})


def without(name):
    return {key: value for key, value in tensors_of().items() if key != name}


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"nonsense", "is no safetensors file, or damaged"),
        (file_of(tensors_of())[:-9], "is no safetensors file, or damaged"),
        (save(tensors_of()), "is no aggregator's file; runners.train_aggregator writes them"),
        (file_of(tensors_of(), kind="other"), "is no aggregator's file"),
        (file_of(tensors_of(), sizes={"width": 12, "rank": 2}), "its metadata lacks width, rank, heads"),
        (
            file_of(tensors_of(), sizes=SIZES | {"width": 10**9}),
            "its metadata states other sizes than its tensors have",
        ),
        (file_of(tensors_of(), sizes=SIZES | {"heads": 5}), "heads=5, rank=2: heads must divide"),
        (file_of(tensors_of(more=torch.zeros(2))), "more is unknown; its tensors must be query_down, query_up, "),
        (file_of(without("value_up")), "value_up is missing"),
        (file_of(tensors_of(), sizes=SIZES | {"rank": 1}), "query_down is torch.float32 [3, 12, 2], and must be"),
        (file_of(tensors_of(value_up=torch.zeros(2, 12).long())), "value_up is torch.int64"),
        (file_of(tensors_of(key_up=torch.full((3, 2, 12), torch.nan))), "key_up holds numbers that are not finite"),
        (file_of(tensors_of(log_temperature=torch.full((3,), -200.0))), "log_temperature is beyond what float32"),
    ],
)
def test_what_is_no_aggregator_is_refused_in_one_line(tmp_path, data, wrong):
    file = tmp_path / "a.safetensors"
    file.write_bytes(data)
    with pytest.raises(TokenselError) as raised:
        load_aggregator(str(file))
    assert wrong in str(raised.value)
    assert str(raised.value).startswith(("aggregator=", "heads="))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        (None, "needs FILE.safetensors, which runners.train_aggregator writes, or 'tiny' for the embedded model"),
        (torch.nn.Linear(2, 2), "aggregator=Linear: aggregation='learned' needs"),
        ("tinny", "aggregator=tinny: must be a file that ends in .safetensors, or tiny"),
        ("/none/a.safetensors", "aggregator=/none/a.safetensors: cannot be read (No such file or directory)"),
    ],
)
def test_what_names_no_aggregator_is_refused(source, wrong):
    with pytest.raises(TokenselError) as raised:
        load_aggregator(source)
    assert wrong in str(raised.value)


@pytest.mark.parametrize("sizes", [{"heads": 5}, {"rank": 0}, {"rank": 13}])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(TokenselError, match=r"heads must divide the model's hidden size 12"):
        LearnedAggregator(12, **{"rank": 2, "heads": 3} | sizes)


def test_a_points_key_depends_on_what_the_file_holds_and_not_on_where_it_is(tmp_path):
    def settings(name, aggregator):
        (tmp_path / name).write_bytes(aggregator_bytes(aggregator))
        return GridPoint("fps", 4, aggregation="learned", aggregator=str(tmp_path / name)).settings()

    one = settings("one.safetensors", make_aggregator())
    assert one == settings("two.safetensors", make_aggregator())
    other = settings("three.safetensors", make_aggregator(seed=1))
    assert {name for name in one if one[name] != other[name]} == {"aggregator"}
    assert one != settings("one.safetensors", make_aggregator(seed=1))  # the same place, and another content
    assert one["temperature"] is None
    assert "aggregator" not in GridPoint("fps", 4).settings()


def test_a_checkpoint_of_a_model_is_no_aggregator(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TokenselError, match="is no aggregator's file"):
        load_aggregator(tmp_path / "model.safetensors")


def test_the_largest_temperature_is_allowed(tmp_path):
    high = torch.full((3,), LARGEST_TEMPERATURE).log() - 0.01
    (tmp_path / "a.safetensors").write_bytes(file_of(tensors_of(log_temperature=high)))
    tokens = torch.randn(1, 5, 12)
    assert load_aggregator(tmp_path / "a.safetensors")(tokens, tokens).isfinite().all()
