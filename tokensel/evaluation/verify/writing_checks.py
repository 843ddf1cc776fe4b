"""Checks of what is written behind a reduced prompt: over a cache, without one, and by hand."""

from typing import Any

import torch
from torch import Tensor

from tokensel.engine.reduce import reduce_tokens
from tokensel.evaluation.verify.outcome import BATCHED, Outcome
from tokensel.evaluation.verify.subject import Spaced, Subject
from tokensel.methods import Method


@torch.no_grad()
def write(subject: Subject, method: Method | str, use_cache: bool = True, **settings: Any) -> tuple[Tensor, Tensor]:
    """Greedily written tokens LongTensor[n], and the logits [n, V] behind which each was written."""
    with reduce_tokens(subject.model, method, kept=subject.kept, **settings):
        output = subject.model.generate(**subject.inputs, use_cache=use_cache, **subject.greedy)
    logits = torch.cat(output.logits)
    return output.sequences[0, -len(logits) :], logits


def check_cache(subject: Subject) -> Outcome:
    """Greedy tokens written over the cache are those written without one."""
    outcome = Outcome(f"{subject.new_tokens} tokens over the cache = without", tolerance=BATCHED[subject.dtype])
    for name, method, settings in (
        ("fps", "fps", {"agg_layer": subject.middle}),
        ("spaced", Spaced(), {"agg_layer": subject.middle, "position": "renumber"}),
        ("spaced", Spaced(), {"agg_layer": 0}),
    ):
        what = " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
        cached, logits = write(subject, method, **settings)
        plain, expected = write(subject, method, use_cache=False, **settings)
        compare_written(outcome, what, (cached, logits), (plain, expected))
    return outcome


def compare_written(outcome: Outcome, what: str, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Notes by how much the logits differ as long as the tokens are the same. Other tokens are a problem unless the
    first that differs hangs on a tie within the tolerance."""
    assert outcome.tolerance is not None
    differs = (found[0] != expected[0]).nonzero()
    same = int(differs[0]) if len(differs) else len(found[0])
    steps = min(same + 1, len(found[0]))
    outcome.compare(what, found[1][:steps], expected[1][:steps])
    if same < len(found[0]):
        row = expected[1][same].float()
        margin = float((row[expected[0][same]] - row[found[0][same]]).abs() / row.abs().amax())
        tied = margin <= outcome.tolerance and outcome.tolerance > 1e-3  # float32 breaks no tie by itself
        outcome.expect(tied, f"{what}: token {same + 1} is another one")


def check_written(subject: Subject) -> Outcome:
    """The logits behind each token written over the cache are those by hand, of the prompt with what was written."""
    outcome = Outcome("logits by hand behind each written token", tolerance=BATCHED[subject.dtype])
    settings = [(layer, "source") for layer in subject.layers]
    settings += [(subject.middle, "front"), (subject.middle, "renumber")]
    for layer, position in settings:
        written, logits = write(subject, Spaced(), agg_layer=layer, position=position)
        trace = subject.longer_trace(written[:-1].unsqueeze(0))
        expected = trace.reduced(layer, subject.chosen, position, last=len(written))
        outcome.compare(f"agg_layer={layer} position={position}", logits, expected)
    return outcome
