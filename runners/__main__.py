"""The command `tokensel`: `tokensel sweep ...` is `python -m runners.sweep ...`, and so on for every command."""

import importlib
import sys
from collections.abc import Sequence

from runners.terminal.program import importing, start

COMMANDS = {
    "sweep": "accuracy and latency over a grid of methods and settings",
    "search": "layers, counts and temperature at a given cost",
    "report": "a sweep's results as one HTML page",
    "table": "methods by benchmarks, as a paper prints them",
    "show": "which visual tokens each method keeps of a picture",
    "infer": "one method on a question file, as the original code",
    "bench": "speed and memory, compared with the full model",
    "prune": "remove points from a folder of results",
    "doctor": "whether this machine can run sweeps",
    "verify": "proof that reduction is right on a checkpoint of yours",
    "sync": "push a finished sweep's results to W&B",
    "dashboard": "save a W&B workspace for a project of sweeps",
    "train_aggregator": "train what survivors gather, for a model of yours",
    "train_tiny": "train the embedded tiny LLaVA from scratch",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named first, with the other arguments. Returns its exit status; 2 for an unknown command.

    argv: default: the command line's, as this process's program, which then exits.
    """
    if argv is None:
        start(lambda: main(sys.argv[1:]))
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        from tokensel.errors import meant

        known = f"choose from {', '.join(COMMANDS)}{meant(name, COMMANDS)}"
        print(f"error: {name}: unknown command; {known}", file=sys.stderr)
        return 2
    with importing():
        command = importlib.import_module(f"runners.{name}")
    return command.main(rest)


def _usage() -> str:
    lines = [f"    {name:<18}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(["Usage: tokensel COMMAND [arguments]", "       tokensel COMMAND --help", "", *lines])


if __name__ == "__main__":
    main()
