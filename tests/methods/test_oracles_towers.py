"""Methods that look at the vision tower against slow and simple oracles: one picture, plain loops, float64."""

import pytest
import torch
from helpers.official.vision_tower import HEADS, chosen, select

from tokensel import make_method
from tokensel.functional import dpp_greedy, kept_outliers, outliers_at_stride
from tokensel.testing import make_context

SIZES = [(16, 5), (36, 20), (64, 63), (64, 1)]


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_of(seed, count):
    return (2 * random(seed, 4, count + 1)).softmax(1)[:, 1:]


def units(tokens):
    return torch.nn.functional.normalize(tokens.double(), dim=-1)


def falling(scores):
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))


class Tower(dict):
    """What `vision_tower` makes a tower from."""

    def __init__(self, seed, count, spread=1.0):
        tokens = random(seed, 1, 64) + spread * random(seed + 1, 1 + count, 64)
        weights = {f"{part}_weight": random(i, 64, 64) / 8 for i, part in enumerate("qk")}
        super().__init__(weights | {"q_bias": random(8, 64), "k_bias": random(9, 64)})
        self |= {"entering": tokens, "hidden": tokens}
        for part in "qk":
            self[part] = tokens.double() @ self[f"{part}_weight"].double().T + self[f"{part}_bias"].double()

    def shared(self, name):
        return self[name]

    def attention(self, heads):
        """[CLS]'s attention to the patches, [heads, N], and the keys, [N, heads, d]."""
        query, keys = self["q"][0].view(heads, -1), self["k"].view(len(self["k"]), heads, -1)
        scores = (query * keys).sum(-1).T * query.shape[1] ** -0.5
        return scores.softmax(1)[:, 1:], keys[1:]


def vispruner(features, attention, kept, ratio):
    unit, ranked, important = units(features), falling(attention.mean(0)), int(kept * ratio)
    best, rest = ranked[:important], ranked[important:]
    while len(rest) > kept - important:
        even, odd = rest[::2], rest[1::2]
        leaving = min(8, len(rest) - (kept - important), len(even))
        order = falling((unit[even] @ unit[odd].T).amax(1))
        rest = [even[i] for i in order[leaving:]] + odd
    return sorted(best + rest)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("count", "kept"), SIZES)
def test_vispruner(count, kept, ratio):
    features, attention = random(count, count, 64), attention_of(kept, count)
    context = make_context(kept, tokens=features[None], layer=0, cls_attention=attention[None])
    ours = make_method("vispruner", important_ratio=ratio).select(context).indices[0].tolist()
    assert ours == vispruner(features, attention, kept, ratio)


def scope(features, attention, kept, alpha, combined):
    cosine, saliency = units(features) @ units(features).T, attention.double().sum(0) ** alpha
    cover, order = torch.zeros(len(features)).double(), []
    for _ in range(kept):
        gain = (cosine - cover[:, None]).clamp_min(0).sum(0)
        score = gain * saliency if combined == "multi" else gain + saliency
        score[order] = -torch.inf
        order.append(int(score.argmax()))
        cover = torch.maximum(cover, cosine[:, order[-1]])
    return order


@pytest.mark.parametrize(("alpha", "combined"), [(1.0, "multi"), (0.5, "multi"), (2.0, "add")])
@pytest.mark.parametrize(("count", "kept"), SIZES)
def test_scope(count, kept, alpha, combined):
    features, attention = random(count, count, 64), attention_of(kept, count)
    context = make_context(kept, tokens=features[None], layer=0, cls_attention=attention[None])
    ours = make_method("scope", alpha=alpha, combined=combined).order(context)[0].tolist()
    assert ours == scope(features, attention, kept, alpha, combined)


def visionzip(tower, patches, contextual):
    attention, keys = tower.attention(HEADS)
    count, unit, hidden = len(keys), units(keys.mean(1)), tower["hidden"][1:]
    dominant = sorted(falling(attention.sum(0))[:patches])
    rest = [i for i in range(count) if i not in dominant]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    members = {target: [] for target in targets}
    for i in set(rest) - set(targets):
        members[targets[int((unit[targets] @ unit[i]).argmax())]].append(i)
    means = [hidden[i] + (hidden[near].mean(0) if near else 0) for i, near in members.items()]
    return [-1, *dominant, *targets], torch.stack([tower["hidden"][0], *hidden[dominant], *means])


@pytest.mark.parametrize(("count", "patches", "contextual"), [(16, 3, 2), (36, 1, 1), (64, 20, 10), (36, 25, 10)])
def test_visionzip(count, patches, contextual):
    tower, total = Tower(count, count), 1 + patches + contextual
    indices, values = chosen(select(tower, "visionzip", total, contextual=contextual / total))
    expected, rows = visionzip(tower, patches, contextual)
    assert indices.tolist() == expected
    torch.testing.assert_close(values, rows, atol=1e-4, rtol=1e-4)


def prumerge(tower, order, neighbours=32):
    """The values of the tokens in this order, and the sum of the others."""
    attention, keys = tower.attention(1)
    weights, unit, tokens = attention[0], units(keys[:, 0]), tower["hidden"][1:].double()
    others = [i for i in range(len(unit)) if i not in order][len(order) - len(set(order)) :]
    rows = []
    for place, i in enumerate(order):
        rest = order[:place] + order[place + 1 :] + others
        near = [rest[j] for j in falling(unit[rest] @ unit[i])[:neighbours]]
        rows.append(tokens[i] + (weights[near, None] * tokens[near]).sum(0))
    return torch.stack([*rows, (weights[others, None] * tokens[others]).sum(0)]).float()


@pytest.mark.parametrize("spread", [1.0, 0.03])  # 0.03: a plain background, whose tokens are all alike
@pytest.mark.parametrize(("count", "kept"), [(16, 5), (64, 20), (100, 1)])
def test_prumerge(count, kept, spread):
    tower = Tower(count, count, spread)
    indices, values = chosen(select(tower, "prumerge", kept))
    order = falling(tower.attention(1)[0][0])[:kept]
    assert indices.tolist() == [*order, -1]
    torch.testing.assert_close(values, prumerge(tower, order), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("count", "ratio"), [(49, 0.1), (64, 0.2), (100, 0.07), (64, 1 / 3), (64, 0.5)])
def test_prumerge_plus_with_a_ratio(count, ratio):
    tower, step = Tower(count, count), int(1 / ratio)
    settings = {"as_released": True, "ratio": ratio}
    indices, values = chosen(select(tower, "prumerge_plus", count - 1, **settings))
    order = falling(tower.attention(1)[0][0])[: int(count * ratio)] + list(range(step // 2, count - 1, step))
    assert indices.tolist() == [*order, -1]
    assert make_method("prumerge_plus", **settings).remaining(count - 1, count) == len(order) + 1
    torch.testing.assert_close(values, prumerge(tower, order), atol=1e-4, rtol=1e-4)


def test_the_stride_is_that_of_the_outliers_found_although_one_less_is_kept():
    scores = torch.linspace(1, 2, 49).unsqueeze(0)
    assert kept_outliers(torch.tensor([2]), 49).tolist() == [1]  # 49 * (2 / 49) is just below 2
    indices, counts = outliers_at_stride(scores, 48, 3, torch.tensor([2]))
    assert indices[0, : counts[0]].tolist() == [48, 0, 8, 16, 24, 32, 40]


def test_cls_attention_in_half_precision_does_not_overflow():
    tower = Tower(0, 16)
    tower |= {name: (20 * tower[name]).half() for name in ("entering", "hidden")}
    tower |= {name: (20 * tower[name]).half() for name in ("q_weight", "q_bias", "k_weight", "k_bias")}
    _, values = chosen(select(tower, "prumerge", 3))
    assert values.isfinite().all()


@pytest.mark.parametrize("seed", range(4))
def test_among_near_duplicates_cdpruner_s_choices_are_those_of_exact_arithmetic(seed):
    tokens = (random(seed, 20, 64)[torch.arange(64) % 20] + 0.003 * random(seed + 9, 64, 64)).unsqueeze(0)
    quality = random(seed, 1, 64).sigmoid()
    rows, order = quality[0, :, None].double() * units(tokens[0]), []
    for _ in range(40):
        basis = torch.linalg.qr(rows[order].T).Q
        left = (rows - rows @ basis @ basis.T).square().sum(1)
        left[order] = -1
        order.append(int(left.argmax()))
    assert dpp_greedy(tokens, quality, 40)[0].tolist() == order
