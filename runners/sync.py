"""Pushes a finished sweep's results to W&B later, from its folders alone; nothing is computed again.

    python -m runners.sync outputs/sweep
    python -m runners.sync outputs/sweep project=tokensel entity=my-team
    WANDB_MODE=offline python -m runners.sync outputs/sweep

A run's id is made of its point's key and the project: pushed again, it is replaced, never doubled. project: by default
the one the sweep was logged to, or else that of conf/logger/wandb.yaml. A folder of several sweeps is pushed whole.
The last line of standard output is one JSON object with the runs' ids.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from runners.wandb_logging.logger import log_sweep, logged_in, project_of
from tokensel.data import LETTERS, Question, draw_order, load_questions
from tokensel.errors import TokenselError
from tokensel.evaluation.keys import questions_digest
from tokensel.evaluation.store import PointStore

_LOGGER = Path(__file__).resolve().parent.parent / "conf" / "logger" / "wandb.yaml"
NOT_LOGGED_IN = "not logged in to W&B: run `wandb login` or set WANDB_API_KEY"


@dataclass
class StoredPoint:
    """A finished grid point as its folder has it. asked: the questions it answered; those of a data set that is gone
    have only their answers' letters."""

    key: str
    store: PointStore
    settings: dict[str, Any]
    asked: list[Question]
    metrics: dict[str, Any] | None
    error: str = field(default="", init=False)

    def rows(self, questions: list[Question]) -> list[dict[str, Any]]:
        """The stored predictions of these questions."""
        ids = {question.id for question in questions}
        return [row for row in self.store.predictions() if row["id"] in ids]


def main(argv: Sequence[str] | None = None) -> int:
    """Pushes with these arguments (default: the command line's). Returns the exit status.

    0: all is there. 1: W&B failed, what is missing was said. 2: a mistake in the arguments or the folder.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        return _sync(arguments)
    except TokenselError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def key_values(arguments: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE arguments as a dictionary. Raises TokenselError for a key that is not allowed, and for an empty or
    impossible project or entity."""
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in allowed:
            raise TokenselError(f"{argument}: unknown; allowed are {', '.join(f'{name}=...' for name in allowed)}")
        if key in ("project", "entity") and (not value or set(value) & set("/\\#?%:")):
            raise TokenselError(f"{key}={value}: must be a name, without any of / \\ # ? % :")
        values[key] = value
    return values


def stored_points(folder: Path) -> list[StoredPoint]:
    """The finished grid points at any depth below a folder. Raises TokenselError if there is none, or for a damaged
    file."""
    points = [_stored(path.parent) for path in sorted(folder.rglob("metrics.json"))]
    if not points:
        raise TokenselError(f"{folder}: no finished grid point there; give a sweep's folder, such as outputs/sweep")
    return points


def _sync(arguments: list[str]) -> int:
    folders = [argument for argument in arguments if "=" not in argument]
    values = key_values([argument for argument in arguments if "=" in argument], ("project", "entity"))
    if len(folders) != 1:
        raise TokenselError(f"{' '.join(folders) or 'no folder'}: give one sweep's folder, such as outputs/sweep")
    folder = Path(folders[0])
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode == "disabled":
        raise TokenselError("WANDB_MODE=disabled: nothing can be pushed; unset it, or choose online or offline")
    if mode == "online" and not logged_in():
        raise TokenselError(f"{NOT_LOGGED_IN}; or WANDB_MODE=offline writes files that `wandb sync` pushes later")
    points = stored_points(folder)
    options: Any = OmegaConf.to_container(OmegaConf.load(_LOGGER))
    options |= {"project": project_of(points) or options["project"], "mode": mode} | values
    pushed = log_sweep(points, folder, options, folder.resolve().name, again=True)
    begun = sorted(path.parent for path in folder.rglob("predictions.jsonl"))
    unfinished = [point.name for point in begun if not (point / "metrics.json").exists()]
    if unfinished:
        print(f"note: {len(unfinished)} points without figures were left out; start the sweep again", file=sys.stderr)
    if mode == "offline":
        print(f"note: offline; `wandb sync {folder / 'wandb'}/offline-run-*` pushes them", file=sys.stderr)
    line = {name: options[name] for name in ("project", "entity", "mode")}
    line = {"sweep": folder.resolve().name, **line, "runs": pushed, "unfinished": unfinished}
    print(json.dumps(line), flush=True)
    return 0 if len(pushed) >= len(points) else 1


def _stored(folder: Path) -> StoredPoint:
    store = PointStore(folder)
    metrics = store.metrics()
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        data = settings["data"]
        asked = _questions(data["name"], json.dumps(data["options"], sort_keys=True), data["digest"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise TokenselError(f"{folder / 'config.yaml'}: is not a grid point's settings; delete that folder") from error
    rows = {row["id"]: row for row in store.predictions()}
    known = [question for question in asked if question.id in rows]
    return StoredPoint(folder.name, store, settings, known or [_unknown(row) for row in rows.values()], metrics)


@lru_cache(maxsize=4)
def _questions(name: str, options: str, digest: str) -> tuple[Question, ...]:
    """The data set's questions in `draw_order`; none, with a note, if they are gone or were changed since."""
    try:
        questions = load_questions(name, **json.loads(options))
        reason = "" if questions_digest(questions) == digest else "its questions have changed since"
    except (TokenselError, OSError, ImportError) as error:
        reason = str(error)
    if reason:
        print(f"note: data={name}: {reason}; predictions are pushed without words and pictures", file=sys.stderr)
        return ()
    return tuple(sorted(questions, key=draw_order))


def _unknown(row: dict[str, Any]) -> Question:
    """A question of which only the stored answer is known."""
    count = 1 + max(row["answer"], row["prediction"] or 0)
    return Question(row["id"], "", tuple(LETTERS[:count]), row["answer"], image=None)


if __name__ == "__main__":
    sys.exit(main())
