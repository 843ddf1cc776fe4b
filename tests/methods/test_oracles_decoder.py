"""Methods inside the decoder and ApET against slow loops written from the words of their releases, on small inputs; and
several pictures that share few kept tokens."""

import math

import pytest
import torch
from helpers.models import IMAGE_TOKEN, tiny_llama, tiny_llava

from tokensel import make_method, reduce_tokens
from tokensel.functional import dpc_knn, take
from tokensel.testing import make_context

BEFORE, VISUAL, AFTER = 4, 25, 3
KINDS = ("random", "near_duplicates", "smooth")


def points(kind, count=VISUAL, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "smooth":
        place = torch.arange(count)[:, None] / 5
        return torch.sin(place * torch.randn(width, generator=generator)) * 2
    tokens = torch.randn(count, width, generator=generator)
    if kind == "near_duplicates":
        tokens[1::2] = tokens[:-1:2] + 1e-3 * torch.randn(count // 2, width, generator=generator)
    return tokens


def top(scores, kept):
    return scores.sort(descending=True, stable=True).indices[:kept].tolist()


def cosines(tokens, others):
    return torch.cosine_similarity(tokens[:, None], others[None], dim=-1)


def reduced(method, hidden, kept, layers, **options):
    """The decoder, and which visual tokens remain of the sequence `hidden`."""
    model = tiny_llama(num_hidden_layers=4).model
    mask = torch.zeros(1, len(hidden), dtype=torch.bool)
    mask[:, BEFORE : BEFORE + VISUAL] = True
    reducing = {"kept": kept, "agg_layer": layers, "image_mask": mask, "position": "source"} | options
    with torch.no_grad(), reduce_tokens(model, method, **reducing) as record:
        model(inputs_embeds=hidden[None])
    return model, record.positions[0].tolist()


def sequence(kind):
    return torch.cat([points("random", BEFORE, seed=1), points(kind), points("random", AFTER, seed=2)])


def heads_of(model, layer, part, hidden, rotary=True):
    """[heads, T, d], the keys' heads repeated."""
    weights = model.layers[layer]
    states = getattr(weights.self_attn, f"{part}_proj")(weights.input_layernorm(hidden))
    heads = states.view(len(hidden), -1, 8).transpose(0, 1)
    if rotary:
        cos, sin = model.rotary_emb(hidden[None], torch.arange(len(hidden))[None])
        heads = heads * cos[0] + torch.cat([-heads[..., 4:], heads[..., :4]], -1) * sin[0]
    return heads.repeat_interleave(4 // len(heads), 0)


def apet(tokens, kept, basis_number, start, ridge, blend):
    nearest, basis, last = torch.full((len(tokens),), 1e10), [], start
    for _ in range(basis_number):
        basis.append(last)
        nearest = torch.minimum(nearest, (tokens - tokens[last]).square().sum(1))
        last = int(nearest.argmax())
    points = tokens[basis]
    weights = torch.linalg.solve(points @ points.T + ridge * torch.eye(basis_number), points @ tokens.T)
    order = top((tokens - weights.T @ points).norm(dim=1), kept)
    places, targets, result = order[kept - basis_number :], order[: kept - basis_number], tokens.clone()
    groups = {target: [target] for target in targets}
    for token in set(range(len(tokens))) - set(order):
        groups[targets[int(cosines(tokens[[token]], tokens[targets]).argmax())]].append(token)
    for target, group in groups.items():
        result[target] = tokens[group].mean(0)
    for place, point in zip(places, points, strict=True):
        result[place] = blend * point + (1 - blend) * tokens[place]
    return sorted(order), result[sorted(order)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("kept", "basis", "blend"), [(2, 1, 1.0), (12, 5, 0.5), (24, 10, 1.0)])
def test_apet(kind, kept, basis, blend):
    tokens = points(kind)
    context = make_context(kept, tokens=tokens[None], layer=16)
    selection = make_method("apet", basis=basis, start=3, blend=blend, ridge=0.1).select(context)
    positions, values = apet(tokens, kept, basis, 3, 0.1, blend)
    assert selection.indices[0].tolist() == positions
    torch.testing.assert_close(selection.values[0], values, atol=1e-4, rtol=1e-4)


def feather(model, hidden, ratio, stride):
    query = heads_of(model, 0, "q", hidden, rotary=False)[:, -1:]
    keys = heads_of(model, 0, "k", hidden, rotary=False)[:, BEFORE : BEFORE + VISUAL]
    score = (query @ keys.transpose(1, 2) / math.sqrt(8)).softmax(-1).mean(0)[0]
    side = math.isqrt(VISUAL)
    uniform = {row * side + col for row in range(0, side, stride) for col in range(0, side, stride)}
    return sorted(uniform | set(top(score, int(VISUAL * (1 - ratio)))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ratio", "stride"), [(0.7, 3), (0.9, 2), (0.3, 9)])
@torch.no_grad()
def test_feather(kind, ratio, stride):
    hidden = sequence(kind)
    model, positions = reduced("feather", hidden, 1, 1, ratio=ratio, stride=stride)
    assert positions == feather(model, hidden, ratio, stride)


def pact(model, hidden, cutoff, keep):
    end = BEFORE + VISUAL
    query, keys = (heads_of(model, 0, part, hidden[:end], rotary=False) for part in "qk")
    received = (query.mean(1, keepdim=True) @ keys.transpose(1, 2) / math.sqrt(8)).softmax(-1).mean(0)[0]
    left = sorted(top((received * hidden[:end].norm(dim=1))[BEFORE:], int(VISUAL * keep)))
    rotated = heads_of(model, 0, "k", hidden)[::2, BEFORE:end].transpose(0, 1).flatten(1)[left]
    distances = (1 - cosines(rotated, rotated)).clamp_min(0).fill_diagonal_(0)
    centres = []
    for index in top((-(distances / 2).square()).exp().sum(1), len(left)):
        if all(distances[index, centre] > cutoff for centre in centres):
            centres.append(index)
    return sorted(left[centre] for centre in centres)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cutoff", "keep"), [(0.21, 0.55), (0.6, 1.0), (2.0, 0.8)])
@torch.no_grad()
def test_pact(kind, cutoff, keep):
    hidden = sequence(kind)
    model, positions = reduced("pact", hidden, 1, 0, cutoff=cutoff, keep=keep)
    assert positions == pact(model, hidden, cutoff, keep)


def dart(keys, states, kept, pivots, text_pivots):
    norms, end = keys.transpose(0, 1).flatten(1).abs().sum(1), BEFORE + VISUAL
    chosen = [BEFORE + index for index in top(norms[BEFORE:end], pivots)]
    visited = set(chosen + [end + index for index in top(norms[end:], text_pivots)])
    for pivot in visited:
        free = [index for index in range(BEFORE, end) if index not in chosen]
        similar = cosines(states[[pivot]], states[free])[0]
        chosen += [free[index] for index in top(-similar, kept // (pivots + text_pivots))]
    return sorted(index - BEFORE for index in chosen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("kept", "pivots", "text_pivots"), [(9, 4, 3), (20, 1, 2), (5, 3, 0)])
@torch.no_grad()
def test_dart(kind, kept, pivots, text_pivots):
    hidden = sequence(kind)
    model, positions = reduced("dart", hidden, kept, 0, pivots=pivots, text_pivots=text_pivots)
    keys = heads_of(model, 0, "k", hidden)[::2]
    assert positions == dart(keys, model.norm(hidden), kept, pivots, text_pivots)


def sparsevlm(visual, text, attention, tokens, kept):
    share = (visual @ text.T).softmax(1).mean(0)
    order = top(attention.mean(0)[share > share.mean()].mean(0), len(tokens))
    pool = order[kept:][: int(0.3 * (len(tokens) - kept)) + 1]
    return sorted(order[:kept]), pool, int(len(pool) / 10) + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [1, 12, 48])
def test_sparsevlm(kind, kept):
    tokens, visual, text = points(kind, 49), points("random", 49, seed=3) / 3, points("random", 6, seed=4)
    attention = torch.randn(4, 6, 49, generator=torch.Generator().manual_seed(5)).softmax(-1)
    context = make_context(
        kept,
        tokens=tokens[None],
        text=text[None],
        inputs=(visual[None], text[None]),
        attention={"text": attention[None]},
    )
    selection = make_method("sparsevlm").select(context)
    best, pool, clusters = sparsevlm(visual, text, attention, tokens, kept)
    assert selection.indices[0, :kept].tolist() == best
    members = tokens[pool][None]
    centres, cluster = dpc_knn(members, clusters, neighbours=clusters, metric="euclidean", itself=True)
    assert selection.indices[0, kept:].tolist() == [pool[centre] for centre in centres[0].tolist()]
    means = torch.stack([members[0, cluster[0] == index].mean(0) for index in range(clusters)])
    torch.testing.assert_close(selection.values[0], torch.cat([tokens[best], means]))


def two_pictures():
    row = [5, *[IMAGE_TOKEN] * 36, 6, 7, *[IMAGE_TOKEN] * 36, 8, 9]
    pixels = torch.randn(4, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.tensor([row, row]), "pixel_values": pixels}


@pytest.mark.parametrize(("method", "options"), [("himap", {}), ("density", {}), ("tome_merge", {})])
@torch.no_grad()
def test_a_picture_that_keeps_nothing_leaves_the_other_its_token(method, options):
    model, inputs = tiny_llava(), two_pictures()
    with reduce_tokens(model, method, kept=1, agg_layer=2, **options) as record:
        assert model(**inputs).logits.isfinite().all()
    assert (record.positions < 36).tolist() == [[True], [True]]


@pytest.mark.parametrize(
    ("method", "options"), [("pact", {"cutoff": 0.3}), ("feather", {"ratio": 0.6, "stride": None})]
)
@torch.no_grad()
def test_options_that_decide_the_number_do_so_whatever_kept_is(method, options):
    model, inputs, seen = tiny_llava(), two_pictures(), []
    for kept in (1, 40, 71):
        with reduce_tokens(model, method, kept=kept, agg_layer=(1, 3), **options) as record:
            logits = model(**inputs).logits
        assert (record.positions >= 36).any(1).all()
        seen.append(logits[:, -1])
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_vectors_are_taken_from_rows_without_any():
    assert take(torch.ones(2, 0, 3), torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 3)
