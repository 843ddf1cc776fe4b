"""The command `tokensel`: `tokensel sweep ...` is `python -m runners.sweep ...`, and so on for every command."""

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "sweep": "accuracy and latency over a grid of methods and settings",
    "report": "a sweep's results as one HTML page",
    "table": "methods by benchmarks, as a paper prints them",
    "show": "which visual tokens each method keeps of a picture",
    "infer": "one method on a question file, as the original research code",
    "bench": "speed and memory, compared with the full model",
    "doctor": "whether this machine can run sweeps",
    "sync": "push a finished sweep's results to W&B",
    "dashboard": "save a W&B workspace for a project of sweeps",
    "train_tiny": "train the embedded tiny LLaVA from scratch",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named first, with the other arguments. Returns its exit status; 2 for an unknown command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: {name}: unknown command; choose from {', '.join(COMMANDS)}{hint}", file=sys.stderr)
        return 2
    return importlib.import_module(f"runners.{name}").main(rest)


def _usage() -> str:
    lines = [f"    {name:<12}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(["Usage: tokensel COMMAND [arguments]", "       tokensel COMMAND --help", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
