"""Small sweeps for tests of W&B without a server, and what its offline files hold, as a server would have it."""

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from helpers.checkpoints import save_checkpoint, save_question_file
from runners.sweep import main

_BLOCK = 32768
_VARIABLES = ("API_KEY", "MODE", "BASE_URL", "PROJECT", "ENTITY", "RUN_ID", "SWEEP_ID", "SWEEP_PARAM_PATH", "DIR")


def save_world(folder: Path) -> Path:
    """A checkpoint and questions for `start_sweep`."""
    save_checkpoint(folder / "model")
    save_question_file(folder, 6)
    return folder


def start_sweep(world: Path, output_dir: Path, *overrides: str) -> int:
    """Runs the sweep of fps at 4 kept tokens, untimed, unless told otherwise."""
    model = ["model=local", f"model.path={world / 'model'}", "model.device=cpu"]
    data = ["data=question_file", f"path={world / 'questions.json'}", f"image_folder={world / 'images'}"]
    return main([*model, *data, f"output_dir={output_dir}", "method=fps", "kept=4", "latency.repeats=0", *overrides])


def log_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nobody is logged in to W&B, and the environment tells it nothing."""
    for name in _VARIABLES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(folder / "no-netrc"))


@dataclass
class OfflineRun:
    """start: the run's own record; history: its rows; files: of its tables, by their path in them."""

    path: Path
    start: Any = None
    finished: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def media(self) -> dict[str, str]:
        """The kind of each history key that is no number: table-file, images/separated, image-file."""
        types = ((key, value) for row in self.history for key, value in row.items() if key.endswith("._type"))
        return {key.removesuffix("._type"): value for key, value in types}


def offline_runs(folder: Path, patience: float = 20.0) -> list[OfflineRun]:
    """All runs below a folder, oldest first. W&B may still be writing them: waits for that, in seconds."""
    until = time.monotonic() + patience
    while True:
        paths = sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
        runs = [read_run(path) for path in paths]
        if all(run.finished for run in runs) or time.monotonic() > until:
            return runs
        time.sleep(0.1)


def read_run(path: Path) -> OfflineRun:
    run = OfflineRun(path)
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.start = record.run
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "exit":
            run.finished = run.start is not None
        elif kind == "config":
            run.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "summary":
            for item in record.summary.update:
                run.summary[_name(item)] = json.loads(item.value_json)
        elif kind == "history":
            run.history.append({_name(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "artifact":
            run.files |= {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
    return run


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _records(path: Path) -> Any:
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes, in blocks of 32 KiB."""
    data = path.read_bytes()
    place, whole = 7, b""
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            break
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""
