"""What each method promises, and what a user is told about a wrong setting before any forward."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from tokensel import (
    METHODS,
    Context,
    Method,
    Selection,
    Stage,
    TokenselError,
    make_method,
    make_stages,
    methods,
    register_method,
)
from tokensel.functional import farthest_point_sampling, random_subset, tome_centers
from tokensel.methods import FastV

TOKENS = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
ATTENTION = torch.rand(3, 4, 40, generator=torch.Generator().manual_seed(1))


class Prompt:
    """What a Context looks at, in place of a model. Anything not given here is an AttributeError."""

    def __init__(self, rows):
        self.rows = rows

    def tokens(self):
        return TOKENS[: self.rows]

    def attention(self, queries, weights, layer):
        assert (queries, weights, layer) == ("last", None, "previous")
        return ATTENTION[: self.rows]


def context(kept=6, layer=2, row_keys=(0, 0, 0), source=None):
    return Context(
        kept=kept, count=40, layer=layer, row_keys=torch.tensor(row_keys), source=source or Prompt(len(row_keys))
    )


def test_every_method_is_named_in_the_docs_and_has_a_file_of_its_own():
    docs = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    folder = Path(methods.__file__).parent
    ours = {name: method for name, method in METHODS.items() if method.__module__.startswith("tokensel.")}
    assert set(ours) == {file.stem for file in folder.glob("*.py")} - {
        "__init__",
        "base",
        "context",
        "lookup",
        "registry",
        "sizes",
        "user",
    }
    for name, method in ours.items():
        assert f"`{name}`" in docs
        assert method.__doc__ is not None


def test_a_methods_file_holds_at_most_40_lines_of_code():
    for file in sorted(Path(methods.__file__).parent.glob("*.py")):
        if file.stem in ("__init__", "base", "context", "lookup", "registry", "sizes", "user"):
            continue
        tree = ast.parse(file.read_text())
        (kind,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        assert len(ast.unparse(kind).splitlines()) <= 40, file.name


@pytest.mark.parametrize("name", ["fps", "tome", "fastv", "random"])
def test_every_method_chooses_as_many_as_asked_without_repeats(name):
    indices = make_method(name).select(context()).indices
    assert indices.shape == (3, 6)
    assert all(len(set(row)) == 6 for row in indices.tolist())


def test_clustering_methods_call_the_functional_core():
    assert torch.equal(make_method("fps").select(context()).indices, farthest_point_sampling(TOKENS, 6, "medoid"))
    assert torch.equal(make_method("fps", start=3).select(context()).indices, farthest_point_sampling(TOKENS, 6, 3))
    assert torch.equal(make_method("tome").select(context()).indices, tome_centers(TOKENS, 6))


def test_a_method_that_looks_at_no_hidden_states_pays_for_none():
    for name in ("random", "fastv", "no_image"):
        make_method(name).select(context(layer=0, source=object()))


def test_random_depends_on_seed_key_and_count_only():
    alone = make_method("random").select(context(row_keys=(7,))).indices
    batch = make_method("random").select(context(row_keys=(1, 7, 2))).indices
    assert torch.equal(alone[0], batch[1])
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(make_method("random", seed=1).select(context(row_keys=(7,))).indices, alone)


def test_random_subsets_are_uniform_over_keys():
    keys = torch.arange(4000) * 2**33 + 17
    counts = torch.bincount(random_subset(0, keys, 20, 5).flatten(), minlength=20)
    expected = 4000 * 5 / 20
    assert (counts - expected).abs().max() < 5 * expected**0.5
    pairs = random_subset(0, keys, 20, 2)
    assert len(torch.unique(pairs, dim=0)) == 190


def test_a_random_start_of_fps_belongs_to_the_question():
    alone = make_method("fps", start=None).select(context(row_keys=(0,))).indices
    beside = make_method("fps", start=None).select(context(row_keys=(0, 5, 6))).indices
    assert torch.equal(alone[0], beside[0])
    assert not torch.equal(make_method("fps", start=None, seed=3).select(context(row_keys=(0,))).indices, alone)


def test_fastv_ranks_by_the_head_strategy_and_keeps_the_order():
    for heads, alpha in (("mean", 0.7), ("max_head", 0.7), ("weighted", 0.4)):
        chosen = FastV(heads=heads, alpha=alpha).select(context()).indices
        for row, attention in zip(chosen.tolist(), ATTENTION, strict=True):
            leader = int(attention.sum(1).argmax())
            others = torch.stack([head for i, head in enumerate(attention) if i != leader]).mean(0)
            score = {
                "mean": attention.mean(0),
                "max_head": attention[leader],
                "weighted": alpha * attention[leader] + (1 - alpha) * others,
            }[heads]
            assert row == sorted(score.topk(6).indices.tolist())


@pytest.mark.parametrize("heads", ["max_head", "weighted"])
def test_fastv_takes_the_lowest_of_heads_that_tie_but_for_rounding(heads):
    """Two heads give all their attention to the picture; which of the sums is larger is the processor's rounding."""
    attention = torch.rand(1, 4, 40, generator=torch.Generator().manual_seed(3)).softmax(-1)
    attention[:, 0] *= 0.5
    scores = []
    for below, above in ((1, 2), (2, 1)):
        rounded = attention.clone()
        rounded[:, below] *= 1 - 2e-7
        rounded[:, above] *= 1 + 2e-7
        assert rounded.sum(2)[0].argmax() == above
        scores.append(FastV(heads=heads).over_heads(rounded))
    torch.testing.assert_close(*scores, atol=1e-6, rtol=0)
    alone = attention[:, 1] if heads == "max_head" else 0.7 * attention[:, 1] + 0.1 * attention[:, [0, 2, 3]].sum(1)
    torch.testing.assert_close(scores[0], alone, atol=1e-6, rtol=0)


def test_fastv_without_a_layer_before_keeps_a_seeded_random_subset():
    first = FastV(seed=1).select(context(layer=0)).indices
    assert torch.equal(first, FastV(seed=1).select(context(layer=0)).indices)
    assert not torch.equal(first, FastV(seed=2).select(context(layer=0)).indices)


def test_a_new_method_is_one_dataclass():
    try:

        @register_method
        @dataclass
        class EveryOther(Method):
            """Keeps tokens at regular steps."""

            name: ClassVar[str] = "every_other"
            step: int = 2

            def select(self, context: Context) -> Selection:
                index = torch.arange(context.kept) * self.step % context.count
                return Selection(index.expand(len(context.row_keys), -1))

        stage = make_stages("every_other", kept=3, step=5)[0]
        assert stage.method.select(context(kept=3)).indices.tolist() == [[0, 5, 10]] * 3
        assert (stage.aggregation, stage.position) == ("none", "source")
    finally:
        METHODS.pop("every_other", None)


def test_defaults_follow_the_method():
    fps, fastv = make_stages("fps", kept=8)[0], make_stages("fastv", kept=8)[0]
    assert (fps.aggregation, fps.position, fps.layout, fps.layer) == (
        "cross_attention",
        "front",
        "compact",
        2,
    )
    assert (fastv.aggregation, fastv.position) == ("none", "source")
    assert make_stages("no_image")[0].kept == 0
    assert [stage.layer for stage in make_stages("fps", kept=[9, 4], agg_layer=[1, 3])] == [1, 3]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"method": "pfs", "kept": 8}, "cdpruner, dart, density, divprune, fastv"),
        ({"method": "fps", "kept": 8, "begin": 3}, "start, seed"),
        ({"method": "fps", "kept": 0}, "kept=0: must be an integer from 1"),
        ({"method": "tome", "kept": -4}, "kept=-4"),
        ({"method": "random", "kept": -1}, "kept=-1: must be an integer from 0"),
        ({"method": "fps"}, "kept=None"),
        ({"method": "fps", "kept": 8.0}, "kept=8.0"),
        ({"method": "fps", "kept": True}, "kept=True"),
        ({"method": "no_image", "kept": 4}, "kept=4"),
        ({"method": "fps", "kept": 8, "agg_layer": 9, "num_layers": 8}, "from 0 to 8"),
        ({"method": "fps", "kept": 8, "agg_layer": -1}, "agg_layer=-1"),
        ({"method": "fps", "kept": [8, 4], "agg_layer": [3, 3]}, "must rise"),
        ({"method": "fps", "kept": [8, 4], "agg_layer": 2}, "as many kept as layers"),
        ({"method": "fps", "kept": [4, 8], "agg_layer": [1, 2]}, "must not grow from stage to stage"),
        ({"method": "himap", "kept": [8, 4], "agg_layer": [4, 2]}, "must rise"),
        ({"method": "himap", "kept": [8, 4], "agg_layer": [1, 2], "cut_off_layer": 2}, "must lie above"),
        ({"method": "fps", "kept": 8, "layout": "mask"}, "or aggregation=none"),
        ({"method": "pool", "kept": 8, "layout": "mask"}, "use compact or zero_fill"),
        ({"method": "pool", "kept": 8, "aggregation": "mean"}, "aggregates by itself"),
        ({"method": "visionzip", "kept": 8, "agg_layer": 2}, "works at 0 only"),
        ({"method": "divprune", "kept": 8, "layout": "zero_fill", "position": "renumber"}, "needs layout='compact'"),
        ({"method": "fps", "kept": 8, "temperature": 0}, "temperature=0"),
        ({"method": "fps", "kept": 8, "temperature": float("nan")}, "temperature=nan"),
        ({"method": "fps", "kept": 8, "temperature": "hot"}, "temperature=hot"),
        ({"method": "fps", "kept": 8, "layout": "short"}, "compact, zero_fill, mask"),
        ({"method": "fps", "kept": 8, "position": "back"}, "source, front"),
        ({"method": "fps", "kept": 8, "aggregation": "max"}, "cross_attention, mean, none"),
        ({"method": "fps", "kept": 8, "start": "middle"}, "start='middle'"),
        ({"method": "fastv", "kept": 8, "heads": "some"}, "mean, max_head, weighted"),
        ({"method": "fastv", "kept": 8, "alpha": 2}, "alpha=2"),
        ({"method": "tome", "kept": 8, "iterations": -1}, "iterations=-1"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(arguments, told):
    with pytest.raises(TokenselError) as caught:
        make_stages(**arguments)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_instance_takes_no_options_beside_it():
    with pytest.raises(TokenselError, match="heads"):
        make_method(FastV(), heads="mean")
    assert Stage(FastV(), 4).layer == 2
