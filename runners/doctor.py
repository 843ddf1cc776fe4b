"""Checks in a minute whether this machine can run sweeps: versions, devices, kernels, disk, and a small evaluation.

    python -m runners.doctor
    python -m runners.doctor output_dir=/data/outputs network=false

    output_dir   where sweeps will write; default: outputs
    network      false: do not try to reach the model hub and W&B

One line for each check: ok, note (nothing breaks) or BAD (with what to do). The exit status is 1 if anything is bad.
The evaluation asks the embedded model ten questions whose answers are known, with and without reduction; on a GPU also
by compiled graphs. Where standard output is no terminal, or with json=true, its last line is one JSON object: bad,
notes, findings.
"""

import importlib
import os
import platform
import shutil
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from runners.terminal.arguments import read_arguments, read_flag
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.program import start
from tokensel.errors import TokenselError

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("torch", "transformers", "hydra-core", "datasets", "pandas", "wandb")
LEAST_FREE = 2 << 30
TIMEOUT = 3
# The embedded model's answers to the first ten diagrams, by method, with margins far above any rounding.
ANSWERS = {"full": "AAABCCBBAB", "fps": "ABBBCBBBAB"}
KEPT = {"full": None, "fps": 16}
QUESTIONS = 10


class Finding(NamedTuple):
    """level: "ok", "note" or "BAD". text: what was found, and what to do about it."""

    level: str
    text: str


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the findings. Returns 0, 1 if anything is bad, or 2 for a mistake in the arguments."""
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    plain, given = read_arguments(arguments, ("output_dir", "network"))
    if plain:
        raise TokenselError(f"{plain[0]}: unknown; give KEY=VALUE")
    network = read_flag(given, "network", default=True)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", check_versions),
        ("disk", lambda: check_disk(Path(given.get("output_dir", "outputs")))),
    ]
    if network:
        checks.append(("network", check_network))
    checks += [("device", check_device), ("kernels", check_kernels), ("evaluation", check_evaluation)]
    findings = []
    for name, check in checks:
        for finding in _guarded(check):
            findings.append({"check": name, **finding._asdict()})
            print(f"{finding.level:<5}{name:<11}{finding.text}", flush=True)
    bad, notes = (sum(each["level"] == level for each in findings) for level in ("BAD", "note"))
    print("Nothing is bad: sweeps can run." if not bad else f"{bad} bad: see above.", flush=True)
    print_record({"bad": bad, "notes": notes, "findings": findings}, wanted)
    return 1 if bad else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # whatever is broken here, the other checks go on
        yield Finding("BAD", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def check_versions() -> Iterator[Finding]:
    """Each requirement of the package against what is installed, and the main ones against what was tested."""
    yield Finding("ok", f"Python {platform.python_version()}, tokensel {version('tokensel')}")
    tested = _pinned(ROOT / "constraints.txt")
    for text in requires("tokensel") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding("BAD", f"{requirement.name}: not installed; pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield Finding(
                "BAD", f"{requirement.name} {found}: needs {requirement.specifier}; pip install '{requirement}'"
            )
        elif requirement.name in SHOWN:
            pinned = tested.get(requirement.name)
            same = pinned is None or Version(found).public == Version(pinned).public
            yield Finding(
                "ok" if same else "note", f"{requirement.name} {found}" + ("" if same else f" (tested: {pinned})")
            )


def _pinned(constraints: Path) -> dict[str, str]:
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def check_disk(folder: Path) -> Iterator[Finding]:
    """Whether the folder, or the nearest one above it that exists, can be written, and how much space is free."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield Finding("BAD", f"output_dir={folder}: {place} cannot be written; choose another output_dir")
    elif free < LEAST_FREE:
        yield Finding("BAD", f"output_dir={folder}: {free / 2**30:.1f} GiB free; make room or choose another")
    else:
        yield Finding("ok", f"{free / 2**30:.0f} GiB free for {folder}")


def check_network() -> Iterator[Finding]:
    """Whether the model hub and W&B answer. Neither is needed for the embedded model and local folders."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Finding("note", "model hub: offline by HF_HUB_OFFLINE")
    else:
        yield _reached("model hub", constants.ENDPOINT, "load checkpoints from folders")
    import wandb

    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled"):
        yield Finding("note", f"W&B: WANDB_MODE={mode}")
    else:
        yield _reached("W&B", wandb.Settings().base_url, "use logger=none, or WANDB_MODE=offline")


def _reached(name: str, address: str, otherwise: str) -> Finding:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT):
            return Finding("ok", f"{name}: reachable")
    except OSError as error:
        if getattr(error, "code", None):  # it answered, if only with a refusal
            return Finding("ok", f"{name}: reachable")
        return Finding("note", f"{name}: not reachable; {otherwise}")


def check_device() -> Iterator[Finding]:
    """GPUs with their memory, or the CPU's threads; and the attention implementations."""
    import torch

    if not torch.cuda.is_available():
        built = f", though this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield Finding("note", f"no GPU{built}: CPU with {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding("ok", f"cuda:{index} {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    from transformers.utils import is_flash_attn_2_available

    flash = "and flash_attention_2" if is_flash_attn_2_available() else "(flash_attention_2 is not installed)"
    yield Finding("ok", f"attention: sdpa, eager {flash}")


def check_kernels() -> Iterator[Finding]:
    """On a GPU: farthest point sampling by its Triton kernel against the plain implementation, with the speed-up."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("note", "no GPU: the Triton kernel and CUDA graphs are not used")
        return
    from tokensel.functional import kernels
    from tokensel.functional.sampling import farthest_points

    device = torch.device("cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = kernels.usable(device, farthest_points)
    if not usable:
        why = str(caught[-1].message) if caught else "Triton is not installed"
        yield Finding("note", f"farthest point sampling runs without its kernel: {why}")
        return
    tokens = torch.randn(1, 576, 4096, device=device, dtype=torch.float16)
    inverse = torch.linalg.vector_norm(tokens.float(), dim=-1).reciprocal()
    start = torch.zeros(1, 1, dtype=torch.long, device=device)
    values = tokens.float()
    fast = _milliseconds(lambda: kernels.farthest_points(tokens, inverse, start, 64))
    plain = _milliseconds(lambda: farthest_points(values, inverse, start, 64))
    yield Finding("ok", f"farthest point sampling, 64 of 576: kernel {fast:.2f} ms, plain {plain:.2f} ms")


def _milliseconds(work: Callable[[], Any], repeats: int = 10) -> float:
    """The median time of a call on the GPU."""
    import torch

    times = []
    for _ in range(repeats + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return sorted(times[2:])[repeats // 2]


def check_evaluation() -> Iterator[Finding]:
    """Ten questions for the embedded model: the known answers, and on a GPU the same by compiled graphs."""
    import torch

    from tokensel.data import load_questions
    from tokensel.models import load_model

    with _quiet():
        loaded = load_model("tiny", device="auto")
        questions = load_questions("diagrams", limit=QUESTIONS)
        began = time.perf_counter()
        plain = _answers(loaded, questions, compiled=False)
        seconds = time.perf_counter() - began
    for method, letters in plain.items():
        if letters == ANSWERS[method]:
            yield Finding("ok", f"{method}: the expected answers to {QUESTIONS} questions")
        else:
            yield Finding("BAD", f"{method}: {letters} instead of {ANSWERS[method]}; report this with the lines above")
    yield Finding("ok", f"{QUESTIONS * len(plain) / seconds:.1f} questions a second on {loaded.device}")
    if torch.cuda.is_available():
        with _quiet():
            compiled = _answers(loaded, questions, compiled=True)
        level, text = ("ok", "the same answers") if compiled == plain else ("BAD", "other answers; use compile=false")
        yield Finding(level, f"compiled graphs: {text}")


def _answers(loaded: Any, questions: Sequence[Any], compiled: bool) -> dict[str, str]:
    """The letters that the model answers, by method."""
    import tempfile

    from tokensel.data import LETTERS
    from tokensel.evaluation.accuracy import evaluate
    from tokensel.evaluation.grid_point import GridPoint
    from tokensel.evaluation.store import PointStore

    points = [GridPoint(method, kept=kept) for method, kept in KEPT.items()]
    with tempfile.TemporaryDirectory() as folder:
        stores = [PointStore(Path(folder) / str(index)) for index in range(len(points))]
        failures = evaluate(loaded, questions, points, stores, batch_size=5, compiled=compiled)
        if failures:
            raise next(iter(failures.values()))
        found = [{each["id"]: each["prediction"] for each in store.predictions()} for store in stores]
    letters = ["".join(LETTERS[each[question.id]] for question in questions) for each in found]
    return dict(zip(KEPT, letters, strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and warnings of other libraries."""
    logging = importlib.import_module("transformers.utils.logging")
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    start(main)
