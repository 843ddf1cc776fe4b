"""Trains the aggregation of visual tokens for one model: cross-attention with small projections, all else frozen.

    python -m runners.train_aggregator method=fps kept=8,16 agg_layer=2 data=diagrams data.first=3000
    python -m runners.sweep method=fps kept=8,16 agg_layer=2 aggregation=cross_attention,learned \\
        aggregation.path=outputs/train_aggregator/aggregator.safetensors --multirun

The reduced model learns to give the full model's distribution of the next token where the answer begins. It starts as
plain cross-attention. A look at the validation questions every evaluate_every steps keeps the best parameters, and ends
the training after `patience` looks without better ones. Started again, it continues from its last look, and ends with
the same parameters as a training that was never stopped. Keys and their defaults:

    method=fps  kept=8,16  agg_layer=2  temperature=0.1  position=     what is trained, as in a sweep; each kept in turn
    model=tiny     a file of conf/model, a folder or a hub id; model.OPTION=VALUE sets its other options
    data=diagrams  train_split=train  validation_split=validation         data.OPTION=VALUE sets its other options.
                   Splits are null for data without any: then a tenth of the pictures is set aside for validation.
                   The test split is refused: it is for the figures
    limit=null  validation_limit=600        questions; null: all of the split
    steps=2000  batch_size=16  learning_rate=0.005  warmup=50  seed=0
    rank=8  heads=4             of the aggregator: of each projection, and slices of the hidden state
    target=vocabulary           or letters: the distribution over the letters of the answers alone
    hidden_weight=0  hidden_layer=          the text's hidden states about to enter that layer are matched too
    evaluate_every=100  patience=6
    output_dir=outputs/train_aggregator     aggregator.safetensors, checkpoint.safetensors, log.json, curve.png
    fresh=false                 true: begins anew, whatever output_dir holds
    logger=none                 or wandb: a run with the curves
    json=                       print the figures as a line of JSON; default: where standard output is no terminal
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_results
from runners.terminal.program import importing, start

if TYPE_CHECKING:
    from runners.training.request import Request

FILES = ("aggregator.safetensors", "checkpoint.safetensors", "log.json", "curve.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Trains with these arguments (default: the command line's). Returns 0, 2 for a mistake in them, or 130."""
    return run_command(__doc__, argv, _run, "interrupted: the same command continues from the last look")


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    from runners.training.request import read_request

    request = read_request(arguments)
    check_results(request.folder, FILES, "output_dir")
    with importing():  # slow, and not needed to report the mistakes above
        from runners.configuration.models import read_model
        from runners.training.session import print_summary, run_training

    record = run_training(request, read_model(request.given), partial(_tracking, request))
    print_summary(record)
    print_record(record, wanted)
    return 0


@contextmanager
def _tracking(request: "Request", made: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Logs to W&B under logger=wandb."""
    if request.logger == "none":
        yield lambda record: None
        return
    from runners.wandb_logging.curves import curves_of

    with curves_of(request.folder, made) as log:
        yield log


if __name__ == "__main__":
    start(main)
