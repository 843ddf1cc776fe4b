"""Proves on a checkpoint that reduction is right on it, in a few minutes: for whoever has the weights.

    python -m runners.verify model=llava_7b
    python -m runners.verify model=/models/Qwen2.5-VL-7B-Instruct dtype=bfloat16 device=cuda
    python -m runners.verify model=smolvlm model.attn_implementation=eager kept=32 output_dir=outputs/smolvlm

    model        a file of conf/model, a folder, or a hub id; default: tiny. model.OPTION=VALUE sets its other options
    dtype        float32, float16, bfloat16, or auto: as it is stored. float32 is the sharpest: its tolerances are 1e-4
    device       auto, cpu, cuda or cuda:INDEX
    kept         visual tokens that remain; default: 64, or a quarter of a smaller picture's
    output_dir   where verify.json goes; default: outputs/verify

Checks, each on bundled questions about drawn pictures; a figure is a difference relative to the largest logit:

    no-op        where nothing is removed, logits are the stock model's bit for bit
    pruned       logits by hand: stock layers, one by one, given what remains; before the first layers and the last
    order        the same for survivors in the order of choice, and for positions that close up
    gathered     the same for cross-attention, at two temperatures
    kept         how many tokens remain, in each layer's cache too
    written      the logits of each token written over the cache, by hand
    cache        tokens written over the cache are those written without one
    batch        prompts in a padded batch give what each gives alone
    one pass     grid points that share a pass over the questions give what each gives alone
    unchanged    the model is as before

Ends with the first answers to ten questions beside the unreduced model's. The exit status is 1 if a check fails.
verify.json has all figures, with versions and device, and nothing of your folders: attach it to a report. It is also
the last line where standard output is no terminal, or with json=true.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from runners.configuration.models import read_model
from runners.terminal.arguments import read_arguments, read_integer, write_whole
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_results
from runners.terminal.program import importing, start
from tokensel.errors import TokenselError

FILE = "verify.json"
KEYS = ("model", "dtype", "device", "kept", "output_dir")


def main(argv: Sequence[str] | None = None) -> int:
    """Verifies the model that these arguments name (default: the command line's). Returns the exit status.

    0: all checks passed. 1: one failed. 2: a mistake in the arguments or the model.
    """
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    plain, given = read_arguments(arguments, KEYS, ("model.",))
    if plain:
        raise TokenselError(f"{plain[0]}: must be KEY=VALUE; keys are {', '.join(KEYS)}, model.OPTION")
    kept = read_integer(given, "kept", 1, 1) if "kept" in given else None
    folder = Path(os.path.expanduser(given.get("output_dir", "outputs/verify")))
    check_results(folder, (FILE,), "output_dir")
    with importing():  # slow, and not needed to report the mistakes above
        from runners.verification.output import print_report, verifying

    settings = read_model(given)
    report = verifying(settings, kept)
    write_whole(folder / FILE, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode(), "output_dir")
    print_report(report)
    print(f"Figures: {folder / FILE}")
    print_record(report, wanted)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    start(main)
