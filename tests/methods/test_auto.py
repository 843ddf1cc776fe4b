"""kept=auto of every method that has an order of choice, against coverage computed in the obvious way."""

from dataclasses import replace

import pytest
import torch

from tokensel import METHODS, Auto, Method, OrderingMethod, ScoringMethod, TokenselError, make_method
from tokensel.auto import read_auto
from tokensel.functional import (
    affinity_coverage,
    covering_counts,
    farthest_coverage,
    keep_best,
    keep_best_each,
    mass_coverage,
    mean_coverage,
    score_masses,
)
from tokensel.methods.base import attempts
from tokensel.methods.sizes import Sizes
from tokensel.testing import make_context

BATCH, COUNT, WIDTH = 2, 15, 6
ADAPTING = sorted(name for name, kind in METHODS.items() if kind.adapts())
# Each with the least and the most to keep.
COVERAGES = ((0.0, 1, COUNT), (0.3, 1, COUNT), (0.55, 3, 8), (0.8, 1, 13), (0.95, 2, COUNT), (1.0, 1, COUNT))


def tokens_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(BATCH, 1, WIDTH, generator=generator)
    return torch.randn(BATCH, COUNT, WIDTH, generator=generator) + shared * torch.tensor([0.5, 4.0])[:, None, None]


def context_of(kept, auto=None, row=None, layer=2):
    """The same context for all methods; row: that row alone."""
    generator = torch.Generator().manual_seed(1)
    given = {
        "tokens": tokens_of(),
        "text": torch.randn(BATCH, 4, WIDTH, generator=generator),
        "words": torch.randn(BATCH, 3, WIDTH, generator=generator),
        "attention": torch.rand(BATCH, 2, COUNT, generator=generator) ** 4,
        "cls_attention": torch.rand(BATCH, 2, COUNT, generator=generator) ** 4,
        "vision_features": tokens_of(2),
        "row_keys": torch.tensor([5, 6]),
    }
    if row is not None:
        given = {name: value[row : row + 1] for name, value in given.items()}
    questions = ["is it red"] * len(given["tokens"])
    return make_context(kept, layer=layer, questions=questions, grid=(3, 5), auto=auto, **given)


def cosines(tokens):
    unit = tokens.double() / tokens.double().norm(dim=-1, keepdim=True)
    return unit @ unit.T


def farthest(tokens, chosen, weights=1):
    """1 - the largest distance of any token to its nearest chosen one, each times its weight."""
    return max(0, float((1 - weights * (1 - cosines(tokens)[:, list(chosen)].amax(1))).min()))


def explained(kernel, chosen):
    """1 - the trace of what the chosen do not explain of a kernel, over its trace."""
    known = kernel[:, chosen] @ torch.linalg.pinv(kernel[chosen][:, chosen], rtol=1e-10) @ kernel[chosen]
    return 1 - float((kernel - known).trace() / kernel.trace())


def obvious(method, row, order):
    """A method's coverage by the first k of its order, for one row: k -> coverage."""
    context = context_of(COUNT, row=row, layer=method.default_layers[0])
    tokens = context.tokens[0]
    if method.name == "random":
        return lambda k: k / COUNT
    if isinstance(method, ScoringMethod):
        score = method.score(context)[0].double()
        return lambda k: float(score[order[:k]].sum() / score.sum())
    if method.name == "scope":
        table = cosines(context.vision.features[0])
        return lambda k: float(table[:, order[:k]].amax(1).clamp_min(0).mean())
    if method.name == "mmtok":
        affinity = method.affinity(context)[0].double()
        return lambda k: float(affinity[order[:k]].amax(0).sum() / affinity.amax(0).sum())
    if method.name == "cdpruner":
        quality = method.relevance(context)[0].double()
        kernel = cosines(tokens) * quality * quality[:, None]
        return lambda k: explained(kernel, order[:k])
    weights = method.weights(context)[0].double() if method.name == "semantic" else 1
    return lambda k: farthest(tokens, order[:k], weights)


def order_of(method, row):
    """All tokens in the order of choice, found one by one: the tokens that one more kept adds."""
    layer, found = method.default_layers[0], []
    for kept in range(1, COUNT):
        chosen = method.select(context_of(kept, row=row, layer=layer)).indices[0].tolist()
        found += [token for token in chosen if token not in found]
    return found + [token for token in range(COUNT) if token not in found]


@pytest.mark.parametrize("name", ADAPTING)
def test_the_smallest_count_that_covers_the_picture_is_kept(name):
    method = make_method(name, clip=None) if name == "cdpruner" else make_method(name)
    layer, seen = method.default_layers[0], set()
    orders = [order_of(method, row) for row in range(BATCH)]
    measures = [list(map(obvious(method, row, order), range(1, COUNT))) for row, order in enumerate(orders)]
    for coverage, least, most in COVERAGES:
        context = context_of(most, Auto(coverage, least), layer=layer)
        found = method.adapt(context)
        assert found.indices.dtype == torch.long
        for row, count in enumerate(found.counts.tolist()):
            enough = [k for k in range(least, most) if measures[row][k - 1] >= coverage - 1e-5]
            assert count == min(enough, default=most)
            seen.add(count)
            kept = found.indices[row, :count].tolist()
            if count < COUNT:  # the row as it is for this count alone
                assert kept == method.select(context_of(count, row=row, layer=layer)).indices[0].tolist()
            else:
                assert sorted(kept) == list(range(COUNT))
    assert len(seen) > 3


@pytest.mark.parametrize("name", ["fps", "cdpruner", "fastv"])
def test_more_choices_are_made_only_where_the_first_ones_do_not_cover(name, monkeypatch):
    monkeypatch.setattr("tokensel.methods.base.FIRST_CHOICES", 2)
    method = make_method(name, clip=None) if name == "cdpruner" else make_method(name)
    asked = []
    if name == "fps":
        monkeypatch.setattr(type(method), "order", _noting(asked, type(method).order))
    few = method.adapt(context_of(12, Auto(0.6)))
    monkeypatch.setattr("tokensel.methods.base.FIRST_CHOICES", 100)
    whole = method.adapt(context_of(12, Auto(0.6)))
    assert few.counts.tolist() == whole.counts.tolist()
    for row, count in enumerate(few.counts.tolist()):
        assert few.indices[row, :count].tolist() == whole.indices[row, :count].tolist()
    if name == "fps":
        most = max(few.counts.tolist())
        assert most > 2
        assert asked == [2, 8, *([12] if most > 8 else []), 12]
    assert list(attempts(1, 30)) == [30]


def _noting(asked, order):
    def noted(self, context):
        asked.append(context.kept)
        return order(self, context)

    return noted


def test_masses_of_scores_are_shares_whatever_their_sign():
    scores = torch.tensor([[1.0, 3.0, 0.0], [-1.0, 3.0, 0.0], [-5.0, -5.0, -5.0], [-torch.inf, 2.0, 2.0]])
    assert score_masses(scores).tolist()[:3] == [[1, 3, 0], [0, 4, 1], [0, 0, 0]]
    shares = mass_coverage(score_masses(scores), scores)
    torch.testing.assert_close(shares, torch.tensor([[0.75, 1, 1], [0.8, 1, 1], [1 / 3, 2 / 3, 1], [1 / 3, 2 / 3, 1]]))


def test_ties_at_the_threshold_do_not_hang_on_the_last_bits():
    covered = torch.tensor([[0.4, 0.6, 0.8], [0.4, 0.6 - 2e-6, 0.8], [0.4, 0.6 - 3e-5, 0.8], [0.1, 0.2, 0.3]])
    assert covering_counts(covered, 0.6, 1, 4).tolist() == [2, 2, 3, 4]
    assert covering_counts(covered, 0.6, 3, 3).tolist() == [3, 3, 3, 3]


def test_unequal_counts_of_scores_are_each_rows_best():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(40, 12, generator=generator)
    scores[:20] = (scores[:20] * 3).round() * (1 + 4e-6 * torch.randn(20, 12, generator=generator))  # ties
    counts = torch.randint(1, 13, (40,), generator=generator)
    for kind in (scores, (scores * 4).long()):
        found = keep_best_each(kind, counts, 12)
        for row, count in enumerate(counts.tolist()):
            assert found[row, :count].tolist() == keep_best(kind[row : row + 1], count)[0].tolist()


def test_coverage_of_duplicates_and_zero_vectors():
    tokens = torch.zeros(1, 5, 3)
    tokens[0, :4, 0] = 1
    order = torch.tensor([[0, 1, 4]])
    assert farthest_coverage(tokens, order).tolist() == [[0, 0, 0]]  # nothing is near a zero vector
    assert farthest_coverage(tokens[:, :4], order[:, :2]).tolist() == [[1, 1]]
    assert mean_coverage(tokens, order).tolist() == [[1, 1, 1]]
    assert affinity_coverage(torch.zeros(1, 4, 2), order[:, :2]).tolist() == [[1, 1]]


def test_weights_of_distances_are_relative():
    tokens, order = tokens_of(), torch.arange(COUNT - 1).expand(BATCH, -1)
    weights = torch.rand(BATCH, COUNT, generator=torch.Generator().manual_seed(3)) + 0.1
    found = farthest_coverage(tokens, order, 20 * weights)
    for row, k in ((0, 2), (1, 9)):
        own = weights[row].double() / weights[row].max()
        assert float(found[row, k - 1]) == pytest.approx(farthest(tokens[row], range(k), own), abs=1e-5)


def test_blocks_of_choices_are_the_whole():
    tokens, order = torch.randn(2, 150, 4), torch.stack([torch.randperm(150), torch.randperm(150)])
    found = farthest_coverage(tokens, order)
    for row, k in ((0, 1), (0, 64), (1, 65), (1, 149)):
        assert float(found[row, k - 1]) == pytest.approx(
            max(0, farthest(tokens[row], order[row, :k].tolist())), abs=1e-5
        )


@pytest.mark.parametrize(
    ("text", "auto"),
    [
        ("auto", Auto()),
        ("auto:0.9", Auto(0.9)),
        ("auto:4-64", Auto(None, 4, 64)),
        ("auto:0.9:4-64", Auto(0.9, 4, 64)),
        ("auto:4-", Auto(None, 4)),
        ("auto:1-64", Auto(max=64)),
        ("auto:1", Auto(1.0)),
        ("auto:1e-05", Auto(1e-5)),
    ],
)
def test_text_and_settings_say_the_same(text, auto):
    assert read_auto(text) == auto
    assert str(auto) == text
    assert read_auto("auto:-64") == Auto(max=64)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("auto:1.5", "coverage=1.5 must be from 0 to 1"),
        ("auto:0-4", "min=0 must be an integer from 1"),
        ("auto:9-4", "min=9 must not be above max=4"),
        ("auto:", "must be auto, auto:COVERAGE"),
        ("automatic", "must be auto, auto:COVERAGE"),
        ("auto:0.5:7", "must be auto, auto:COVERAGE"),
    ],
)
def test_a_wrong_auto_is_refused(text, told):
    with pytest.raises(TokenselError, match=told):
        read_auto(text)


class Brightest(ScoringMethod):
    def score(self, context):
        return context.tokens.norm(dim=-1) - 3


class InOrder(OrderingMethod):
    def order(self, context):
        return torch.arange(context.kept).expand(len(context.row_keys), -1)


class OwnSelect(Brightest):
    def select(self, context):
        return super().select(context)


def test_a_users_method_adapts_with_no_extra_line():
    assert [kind.adapts() for kind in (Brightest, InOrder, OwnSelect, Method)] == [True, True, False, False]
    counts = Brightest().adapt(context_of(COUNT, Auto(0.6))).counts
    assert int(counts.min()) > 1
    tokens = tokens_of()
    for row, count in enumerate(InOrder().adapt(context_of(COUNT, Auto(0.6))).counts.tolist()):
        assert farthest(tokens[row], range(count)) >= 0.6 - 1e-5 > farthest(tokens[row], range(max(1, count - 1)))


def test_flops_count_every_attempt():
    sizes = Sizes(100, 576, 2, 0, 40, 576, 40, 64, 64, 64, 16)
    fps = make_method("fps")
    assert fps.adapt_flops(sizes, 1, 10) == fps.flops(replace(sizes, kept=32)) + sizes.cosines(32)
    both = sum(fps.flops(replace(sizes, kept=kept)) + sizes.cosines(kept) for kept in (32, 100))
    assert fps.adapt_flops(sizes, 1, 33) == both
    fastv = make_method("fastv")
    assert fastv.adapt_flops(sizes, 1, 33) == fastv.flops(sizes)
