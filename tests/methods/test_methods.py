"""What each method promises, and the messages for wrong settings, raised before any forward."""

import ast
import inspect
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.models import llava_inputs, tiny_llava

from tokensel import (
    METHODS,
    Context,
    Method,
    OrderingMethod,
    ScoringMethod,
    Selection,
    Stage,
    TokenselError,
    make_method,
    make_stages,
    methods,
    register_method,
)
from tokensel.engine.split import SplitModel
from tokensel.functional import farthest_point_sampling, random_subset, take, tome_centers
from tokensel.methods import FarthestPoint, FastV, fps
from tokensel.testing import make_context

# Modules of tokensel.methods that hold no method.
INFRASTRUCTURE = {"__init__", "base", "context", "lookup", "registry", "sizes", "user"}
TOKENS = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
ATTENTION = torch.rand(3, 4, 40, generator=torch.Generator().manual_seed(1))


def context(kept=6, layer=2, row_keys=(0, 0, 0)):
    count = len(row_keys)
    return make_context(
        kept, tokens=TOKENS[:count], layer=layer, row_keys=torch.tensor(row_keys), attention={"last": ATTENTION[:count]}
    )


class NoSource:
    """A ContextSource that computes nothing: any use is an AttributeError."""


def test_every_method_is_named_in_the_docs_and_has_a_file_of_its_own():
    docs = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    folder = Path(methods.__file__).parent
    ours = {name: method for name, method in METHODS.items() if method.__module__.startswith("tokensel.")}
    assert set(ours) == {file.stem for file in folder.glob("*.py")} - INFRASTRUCTURE
    for name, method in ours.items():
        assert f"`{name}`" in docs
        assert method.__doc__ is not None


def test_every_docstring_gives_the_idea_the_source_and_every_parameter():
    for name, method in METHODS.items():
        if not method.__module__.startswith("tokensel."):
            continue
        idea, _, rest = inspect.getdoc(method).partition("\nSource: ")
        source, _, parameters = rest.partition("\nParameters:")
        assert len(idea.splitlines()[0]) <= 120, name
        assert "http" in source or source.startswith("none, a control."), name
        for option in fields(method):
            assert f"\n    {option.name}: " in parameters, (name, option.name)
        assert fields(method) or parameters.startswith(" none."), name


def test_a_methods_file_holds_at_most_40_lines_of_code():
    for file in sorted(Path(methods.__file__).parent.glob("*.py")):
        if file.stem in INFRASTRUCTURE:
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


def test_a_method_that_uses_no_hidden_states_computes_none():
    for name in ("random", "fastv", "no_image"):
        row_keys = torch.zeros(3, dtype=torch.long)
        make_method(name).select(Context(kept=6, count=40, layer=0, row_keys=row_keys, source=NoSource()))


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


@pytest.mark.parametrize("name", ["random", "fastv", "himap"])
def test_without_a_previous_layer_rankings_keep_the_seeded_random_subset(name):
    keys = (7, 2**40, 0)
    for seed in (1, 2):
        chosen = make_method(name, seed=seed).select(context(layer=0, row_keys=keys)).indices
        assert torch.equal(chosen, random_subset(seed, torch.tensor(keys), 40, 6))


class LargestNorm(ScoringMethod):
    """Keep the visual tokens with the largest norm."""

    name = "largest_norm"

    def score(self, context):
        return context.tokens.norm(dim=-1)


def test_a_ranking_method_is_ten_lines():
    assert len(inspect.getsource(LargestNorm).splitlines()) < 10
    expected = TOKENS.norm(dim=-1).topk(6).indices.sort().values
    assert torch.equal(LargestNorm().select(context()).indices, expected)


@dataclass
class Given(ScoringMethod):
    """Ranks by given scores."""

    name: ClassVar[str] = "given"
    scores: torch.Tensor

    def score(self, context):
        return self.scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.long])
def test_equal_scores_go_to_the_lowest_index(dtype):
    scores = torch.tensor([[0, 2, 1, 2, 1, 1, 0, 1], [3, 3, 3, 3, 3, 3, 3, 3]], dtype=dtype)
    chosen = Given(scores).select(make_context(4, tokens=torch.zeros(2, 8, 4))).indices
    assert chosen.tolist() == [[1, 2, 3, 4], [0, 1, 2, 3]]
    many = torch.arange(600).remainder(2).repeat(2, 1).to(dtype)
    chosen = Given(many).select(make_context(301, tokens=torch.zeros(2, 600, 4))).indices
    assert chosen.tolist() == [[0, *range(1, 600, 2)]] * 2


@pytest.mark.parametrize("shape", [(3, 4, 40), (3, 39), (1, 40)])
def test_scores_of_another_shape_are_refused(shape):
    message = rf"^method 'given': score must return \[3, 40\], not {re.escape(str(list(shape)))}$"
    with pytest.raises(TokenselError, match=message):
        Given(torch.zeros(shape)).select(context())


ORDERING = sorted(name for name, method in METHODS.items() if issubclass(method, OrderingMethod))


@pytest.mark.parametrize("name", ORDERING)
def test_a_shorter_order_of_choice_begins_a_longer_one(name):
    method = make_method(name)
    random = torch.Generator().manual_seed(3)
    patches = torch.randn(3, 5, 12, generator=random)
    near = patches.repeat(1, 8, 1) + 1e-6 * torch.randn(3, 40, 12, generator=random)
    for tokens in (TOKENS, near, patches.repeat(1, 8, 1)):

        def choose(kept, tokens=tokens):
            given = {"cls_attention": ATTENTION.softmax(-1), "vision_features": tokens} if method.uses_vision else {}
            text = torch.randn(3, 4, tokens.shape[2], generator=torch.Generator().manual_seed(4))
            given |= {"attention": ATTENTION.softmax(-1)}
            return method.order(make_context(kept, tokens=tokens, text=text, layer=0, **given))

        longest = choose(39)
        for kept in (1, 2, 7, 20, 38):
            assert torch.equal(choose(kept), longest[:, :kept]), kept


def test_points_that_differ_in_kept_alone_share_one_order(monkeypatch):
    asked = []
    monkeypatch.setattr(
        fps,
        "farthest_point_sampling",
        lambda *given, **named: asked.append(given[1]) or farthest_point_sampling(*given, **named),
    )
    model = tiny_llava()
    split = SplitModel(model)
    state = split.run(split.embed(**llava_inputs(model)), 2)
    for kept in (9, 4, 9, 1):
        stage = Stage(make_method("fps"), kept)
        alone = split.reduce(state.followed_by(), stage)
        assert torch.equal(split.reduce(state, stage).hidden, alone.hidden)
    assert asked == [9, 9, 4, 9, 1]  # the first one for the shared state; all others alone
    for other in (Stage(make_method("fps", start=3), 4), Stage(make_method("fps"), 4, precision="model")):
        split.reduce(state, other)
    assert asked[5:] == [4, 4]


@dataclass
class Backwards(FarthestPoint):
    """Its own choice, although its base has an order."""

    name: ClassVar[str] = "backwards"

    def select(self, context):
        return Selection(context.tokens.sum(-1).argsort(1)[:, : context.kept])


def test_a_subclass_with_a_select_of_its_own_shares_nothing():
    model = tiny_llava()
    split = SplitModel(model)
    state = split.run(split.embed(**llava_inputs(model)), 2)
    split.reduce(state, Stage(make_method("fps"), 9))
    chosen = split.reduce(state, Stage(Backwards(), 4)).positions
    assert torch.equal(chosen, take(state.hidden, state.visual_index).sum(-1).argsort(1)[:, :4])


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("class Mine(ScoringMethod):\n    pass\n", "Mine", r"has no score\(self, context\)$"),
        ("class Mine(OrderingMethod):\n    pass\n", "Mine", r"has no order\(self, context\)$"),
        ("", "ScoringMethod", "must be a subclass of tokensel.Method$"),
        ("", "OrderingMethod", "must be a subclass of tokensel.Method$"),
    ],
)
def test_a_users_ranking_or_ordering_method_needs_its_part(tmp_path, content, kind, message):
    file = tmp_path / "mine.py"
    file.write_text(f"from tokensel import OrderingMethod, ScoringMethod\n\n{content}")
    with pytest.raises(TokenselError, match=message):
        make_method(f"{file}:{kind}")
    assert "name" not in vars(ScoringMethod)
    assert "name" not in vars(OrderingMethod)


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
    ("arguments", "expected"),
    [
        ({"method": "pfs", "kept": 8}, "apet, cdpruner, dart, density, divprune"),
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
        ({"method": "fps", "kept": 8, "aggregation": "max"}, "cross_attention, learned, mean, none"),
        ({"method": "fps", "kept": 8, "start": "middle"}, "start='middle'"),
        ({"method": "fastv", "kept": 8, "heads": "some"}, "mean, max_head, weighted"),
        ({"method": "fastv", "kept": 8, "alpha": 2}, "alpha=2"),
        ({"method": "tome", "kept": 8, "iterations": -1}, "iterations=-1"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(arguments, expected):
    with pytest.raises(TokenselError) as caught:
        make_stages(**arguments)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_instance_takes_no_options_beside_it():
    with pytest.raises(TokenselError, match="heads"):
        make_method(FastV(), heads="mean")
    assert Stage(FastV(), 4).layer == 2


@pytest.mark.parametrize("thing", [3, None, ["fps"], lambda context: None])
def test_what_can_be_no_method_is_refused_in_one_line(thing):
    with pytest.raises(TokenselError, match=r"^method=.*: must be a name, FILE.py:CLASS, or a tokensel.Method"):
        make_method(thing)
