"""Trains the embedded tiny LLaVA from scratch, and measures whether it sees.

The model is worth shipping only if it answers far better with the picture than without, and without it only at chance.
`--evaluate` prints both accuracies, for the embedded model or for any other folder.

    python -m runners.train_tiny --out /tmp/tiny            # hours on two cores, minutes on a GPU; continues if stopped
    python -m runners.train_tiny --evaluate                 # the embedded model, on 1200 questions of each data set
    python -m runners.train_tiny --evaluate --limit 0       # on all questions: half an hour on two cores

The figures are written beside the weights as figures.json, and printed as one line of JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from runners.terminal.arguments import read_integer, write_whole
from runners.terminal.interrupt import INTERRUPTED
from runners.terminal.notes import notes
from runners.terminal.places import check_folder, check_results
from runners.terminal.program import importing, start
from tokensel.errors import TokenselError, printable

FIGURES = "figures.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Trains or measures as these arguments say (default: the command line's). Returns 0, 2 for a mistake, or 130."""
    try:
        with notes():
            return _run(_parser().parse_args(argv))
    except TokenselError as error:
        message = str(error).replace("model.device", "--device").replace("model.path", "--path")
        print(f"error: {printable(message)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: a training continues from its last checkpoint", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        raise TokenselError(text.replace(": ", "=", 1) if ": must be" in text else text)


def _integer(least: int) -> Callable[[str], int]:
    """A type for the parser: an integer from `least`."""

    def read(text: str) -> int:
        try:
            return read_integer({"": text}, "", least, least)
        except TokenselError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("=")) from error

    return read


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure a model instead of training one")
    parser.add_argument("--path", default="tiny", help="the model to evaluate: tiny (embedded), or a folder")
    parser.add_argument(
        "--limit", type=_integer(0), default=1200, help="questions of each data set to evaluate; 0: all (default: 1200)"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/tiny"), help="folder for the trained checkpoint")
    parser.add_argument("--work", type=Path, help="folder for the state of a stopped training (default: OUT-work)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--seed", type=_integer(0), default=0)
    parser.add_argument("--vision-steps", type=_integer(0), help="steps of the vision stage")
    parser.add_argument("--steps", type=_integer(0), help="steps of the language stage")
    parser.add_argument("--batch", type=_integer(1), help="pictures per language step")
    parser.add_argument("--compile", action="store_true", help="compile the decoder: a third faster per step")
    return parser


def _run(options: argparse.Namespace) -> int:
    work = options.work or Path(f"{options.out.absolute()}-work")
    if not options.evaluate:
        check_results(options.out, (FIGURES,), "--out")
        check_folder(work, *(("--out", options.out) if options.work is None else ("--work", work)))
    with importing():
        import platform

        import torch
        import transformers

        from runners.training.run import measure, train
        from tokensel.models.loading import find_device
        from tokensel.training.schedule import TrainingSchedule

    device = str(find_device(options.device))
    path = options.path
    if not options.evaluate:
        sizes = {name: getattr(options, name) for name in ("vision_steps", "steps", "batch")}
        given = {name: value for name, value in sizes.items() if value is not None}
        schedule = TrainingSchedule(seed=options.seed, compiled=options.compile, **given)
        train(schedule, options.out, work, device)
        path = str(options.out)
    figures = measure(path, device, options.limit or None)
    if not options.evaluate:
        made = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": device,
            "plan": vars(schedule),
        }
        data = json.dumps(figures | {"made_with": made}, indent=1) + "\n"
        write_whole(options.out / FIGURES, data.encode(), "--out")
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    start(main)
