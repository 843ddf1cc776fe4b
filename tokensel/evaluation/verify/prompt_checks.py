"""Checks of one prompt's forward under `reduce_tokens`: unchanged where nothing is removed, else as by hand."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from tokensel.engine.reduce import Record, reduce_tokens
from tokensel.engine.stock import find_cache
from tokensel.evaluation.verify.outcome import BY_HAND, Outcome
from tokensel.evaluation.verify.subject import Spaced, Subject
from tokensel.methods import Method

# Other than the default, which a path that ignores its setting would use.
TEMPERATURES = (0.5, 0.05)


@torch.no_grad()
def run_reduced(
    subject: Subject, method: Method | str, use_cache: bool = False, **settings: Any
) -> tuple[Tensor, Record, Any]:
    """The logits [1, T', V] of the prompt, what was chosen, and the output."""
    with reduce_tokens(subject.model, method, **settings) as record:
        output = subject.model(**subject.inputs, use_cache=use_cache)
    return output.logits, record, output


def check_no_op(subject: Subject) -> Outcome:
    """Where nothing is removed, the logits of all positions are those of the stock model bit for bit."""
    outcome = Outcome("stock logits bit for bit, nothing removed", 0.0, 0.0)
    many, depth = subject.count, subject.depth
    for kept, layer in ((many, 0), (many + 1, subject.middle), (subject.kept, depth)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits, record, _ = run_reduced(subject, "fps", kept=kept, agg_layer=layer)
        outcome.compare(f"kept={kept} agg_layer={layer}", logits, subject.plain)
        outcome.expect(record.positions is None, f"kept={kept} agg_layer={layer}: something was removed")
    return outcome


def check_pruned(subject: Subject) -> Outcome:
    """Survivors that keep their own states and positions: logits by hand, at the first layers and the last."""
    return _by_hand(subject, "logits by hand: survivors in place", [{"position": "source"}])


def check_order(subject: Subject) -> Outcome:
    """Survivors that stand in the order of choice at the picture's first places; then with positions closed up."""
    return _by_hand(
        subject, "logits by hand: order, positions close up", [{"position": "front"}, {"position": "renumber"}]
    )


def check_gathered(subject: Subject) -> Outcome:
    """Survivors that gather the others by cross-attention, at temperatures other than the default."""
    settings = [{"position": "front", "temperature": each} for each in TEMPERATURES]
    return _by_hand(subject, "logits by hand: cross-attention", settings)


def _by_hand(subject: Subject, text: str, settings: Sequence[dict[str, Any]]) -> Outcome:
    outcome = Outcome(text, tolerance=BY_HAND[subject.dtype])
    for layer in subject.layers:
        for each in settings:
            aggregation = "cross_attention" if "temperature" in each else "none"
            logits, _, _ = run_reduced(
                subject, Spaced(), kept=subject.kept, agg_layer=layer, aggregation=aggregation, **each
            )
            what = " ".join(f"{name}={value}" for name, value in {"agg_layer": layer, **each}.items())
            outcome.compare(what, logits[0, -1:], subject.trace.reduced(layer, subject.chosen, **each))
    return outcome


@torch.no_grad()
def check_kept(subject: Subject) -> Outcome:
    """How many tokens each layer's cache holds, that the survivors are the picture's, each once, and in which order."""
    outcome = Outcome(f"{subject.kept} of {subject.count} tokens remain, in caches too")
    images = subject.inputs["input_ids"] == subject.loaded.image_token_id
    for method, chosen in ((Spaced(), sorted(subject.chosen)), ("fps", None)):
        for layer in subject.layers:
            what = f"{method if isinstance(method, str) else method.name} agg_layer={layer}"
            settings = {"kept": subject.kept, "agg_layer": layer}
            logits, record, output = run_reduced(subject, method, use_cache=True, **settings)
            if record.positions is None or record.indices is None:
                outcome.expect(False, f"{what}: nothing was removed")
                continue
            positions, indices = record.positions[0].tolist(), record.indices[0].tolist()
            distinct = len(set(positions)) == len(positions) == subject.kept
            outcome.expect(distinct, f"{what}: {len(set(positions))} tokens remain, not {subject.kept}")
            outcome.expect(chosen in (None, positions), f"{what}: other tokens remain than were chosen")
            inside = all(0 <= each < subject.count for each in positions) and bool(images[0, indices].all())
            outcome.expect(inside, f"{what}: a survivor is no token of the picture")
            shorter = subject.length - subject.count + subject.kept
            outcome.expect(logits.shape[1] == shorter, f"{what}: {logits.shape[1]} tokens remain, not {shorter}")
            found = [_cached(each) for each in output_cache(output).layers]
            expected = [subject.length if index < layer else shorter for index in range(subject.depth)]
            outcome.expect(all(map(_fits, found, expected)), f"{what}: the cache holds {found} tokens, not {expected}")
    return outcome


def output_cache(output: Any) -> Cache:
    cache = find_cache(output)
    assert cache is not None
    return cache


def _cached(layer: Any) -> tuple[int, int]:
    """How many keys a cache's layer holds, and how many it has seen: more, where a window is all that it holds."""
    return layer.keys.shape[-2], int(layer.get_seq_length())


def _fits(found: tuple[int, int], expected: int) -> bool:
    held, seen = found
    return seen == expected and held <= seen


def check_unchanged(subject: Subject) -> Outcome:
    """After all of this the model is as it was: stock logits bit for bit."""
    outcome = Outcome("stock logits bit for bit, afterwards", 0.0, 0.0)
    outcome.compare("after", subject.logits(subject.inputs), subject.plain)
    return outcome
