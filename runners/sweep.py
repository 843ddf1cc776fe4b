"""The sweep: what visual-token reduction costs in accuracy and saves in time, over a grid of settings.

    python -m runners.sweep kept=8,16,32,64 method=fps,tome --multirun
    python -m runners.sweep method=fps kept=16 method.start=peripheral agg_layer=4
    python -m runners.sweep data=easy_vqa method=tome kept=8,64 limit=null logger=none --multirun
    python -m runners.sweep method=my_method.py:MyMethod,fps kept=8,16 --multirun
    python -m runners.sweep experiment=quick

Ends with a table: each point's accuracy with its interval, against fastv and random at the same kept, the
full model and no image at all, beside measured speed-up, FLOPs and KV-cache bytes. The last line of standard
output is one JSON object with the same figures. Started again, it computes only what is missing. Settings:
conf/sweep.yaml.
"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra

from runners.configuration import launcher
from runners.configuration.errors import USER_ERRORS, one_line

CONF = Path(__file__).resolve().parent.parent / "conf"
FULL_ERROR = "HYDRA_FULL_ERROR"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep with these arguments (default: the command line's). Returns the exit status.

    0: all points are there. 1: some failed. 2: a mistake in the settings or the data. 130: interrupted.
    """
    if "runners.sweeping.run" not in sys.modules:
        _import_quickly()
    from runners.configuration.methods import offer_methods
    from runners.sweeping.run import run_sweep

    launcher.register()
    before = os.environ.get(FULL_ERROR)
    trace = before == "1"
    statuses: list[int] = []
    raised: list[BaseException] = []

    def task(config: Any) -> None:
        try:
            statuses.append(run_sweep(config if isinstance(config, list) else [config]))
        except USER_ERRORS as error:
            # Hydra would report an error that leaves the task, in lines of its own.
            if trace:
                raise
            raised.append(error)

    arguments, os.environ[FULL_ERROR] = sys.argv, "1"
    try:
        sys.argv = [arguments[0], *_flags_last(offer_methods(arguments[1:] if argv is None else argv, CONF))]
        hydra.main(config_path=str(CONF), config_name="sweep", version_base="1.3")(task)()
    except USER_ERRORS as error:
        if trace:
            raise
        raised.append(error)
    except KeyboardInterrupt:
        print("interrupted: what was computed is stored; the same command goes on from there", file=sys.stderr)
        return 130
    finally:
        sys.argv = arguments
        del os.environ[FULL_ERROR]
        if before is not None:
            os.environ[FULL_ERROR] = before
    for mistake in raised:
        print(f"error: {one_line(mistake, CONF)}", file=sys.stderr)
    return 2 if raised else max(statuses, default=0)


def _import_quickly() -> None:
    """Imports the rest without garbage collection: nothing of that is garbage, and looking for it takes a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        import runners.sweeping.run  # noqa: F401

        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def _flags_last(arguments: Sequence[str]) -> list[str]:
    """--multirun at the end: amid the settings, Hydra's parser takes those after it for mistakes."""
    flags = ("--multirun", "-m")
    return sorted(arguments, key=lambda argument: argument in flags)


if __name__ == "__main__":
    sys.exit(main())
