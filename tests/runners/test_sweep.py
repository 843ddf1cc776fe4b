"""The sweep from its command line to its table and files: once, again, interrupted, and given nonsense."""

import contextlib
import errno
import hashlib
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.checkpoints import save_checkpoint, save_question_file
from helpers.forks import start_fork
from PIL import Image

from analysis import cache, load_results
from runners.sweep import main
from tokensel import METHODS, Method, register_method
from tokensel.evaluation import store
from tokensel.evaluation.store import PointStore, replace_file
from tokensel.evaluation.sweep import here

COUNT = 8
GRID = ("kept=4,8", "method=fps,tome", "--multirun")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save_checkpoint(folder / "model")
    save_question_file(folder, COUNT)
    return folder


def arguments_of(world, output):
    return [
        "model=local",
        f"model.path={world / 'model'}",
        "model.device=cpu",
        "data=question_file",
        f"path={world / 'questions.json'}",
        f"image_folder={world / 'images'}",
        f"output_dir={output}",
        "logger=none",
        "latency.repeats=1",
        "latency.warmup=0",
        "latency.decode_tokens=1",
    ]


@pytest.fixture
def arguments(world, tmp_path):
    return arguments_of(world, tmp_path / "out")


@dataclass
class Swept:
    """A sweep of GRID: its folder and arguments, what it returned and printed, and how many models it loaded."""

    folder: Path
    arguments: list[str]
    status: int
    out: str
    loads: int

    @property
    def line(self):
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture(scope="module")
def swept(world, tmp_path_factory):
    folder, loads, out = tmp_path_factory.mktemp("out"), [], io.StringIO()
    arguments, load = [*arguments_of(world, folder), *GRID], here.load_model
    here._model.cache_clear()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(here, "load_model", lambda **settings: loads.append(1) or load(**settings))
        status = main(arguments)
    return Swept(folder / "sweep", arguments, status, out.getvalue(), len(loads))


@pytest.fixture
def sweep(arguments, capsys, undrawn):
    """Runs the sweep in this process: exit status, the JSON of its last line, standard output, standard error."""

    def start(*overrides):
        status = main([*arguments, *overrides])
        out, err = capsys.readouterr()
        line = json.loads(out.splitlines()[-1]) if status < 2 else None
        return status, line, out, err

    return start


def accuracies(line):
    return {
        (p["method"], p["kept"], p["agg_layer"], p["temperature"], p["seed"], p["seeds"]): (p["n"], p["accuracy"])
        for p in line["points"]
    }


def table(out):
    """The printed table without the wall-clock columns."""
    return [line for line in out.splitlines() if line.startswith(("kept", "Chance"))]


def files(folder):
    """When each file of a point was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/*.json*")}


def test_a_grid_ends_in_a_table_with_its_controls(swept):
    line, out = swept.line, swept.out
    assert swept.status == 0
    assert {(p["method"], p["kept"]) for p in line["points"]} == {
        ("full", None),
        ("no_image", 0),
        *((method, kept) for method in ("fps", "tome", "fastv", "random") for kept in (4, 8)),
    }
    assert all(p["n"] == COUNT and 0 < p["flops_ratio"] <= 1 and p["prefill_ms_p50"] > 0 for p in line["points"])
    assert [best["kept"] for best in line["best"]] == [4, 8]
    assert all(0 <= best["p_corrected"] <= 1 for best in line["best"])
    compared = [p for p in line["points"] if p["vs_fastv_p"] is not None]
    assert {p["method"] for p in compared} == {"fps", "tome", "random"}
    assert "Chance: question_file" in out
    assert "McNemar p" in out
    frame = load_results(swept.folder)
    assert list(frame["key"]) == [p["key"] for p in line["points"]]
    assert frame["accuracy"].between(0, 1).all()
    with Image.open(swept.folder / "accuracy.png") as figure:
        assert figure.width > 400


def test_each_point_has_its_three_files_and_says_where_they_come_from(swept, world):
    weights = hashlib.sha256((world / "model" / "model.safetensors").read_bytes()).hexdigest()
    for point in swept.line["points"]:
        folder = swept.folder / point["key"]
        assert len((folder / "predictions.jsonl").read_text().splitlines()) == COUNT
        assert (folder / "config.yaml").read_text()
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["accuracy"] == point["accuracy"]
        assert metrics["prefill_ms"].keys() == {"p25", "p50", "p75"}
        origin = metrics["provenance"]
        assert all(origin["versions"][name] for name in ("python", "torch", "transformers", "datasets", "hydra-core"))
        assert origin["protocol"]["latency"]["repeats"] == 1
        asked = {"scoring": "letter", "prompt": "llava", "conv": "model", "image_aspect": "pad", "reading": None}
        assert asked.items() <= origin["protocol"].items()
        assert origin["model"]["files"]["model.safetensors"] == weights


def test_a_second_start_computes_nothing_and_prints_the_same(swept, undrawn, monkeypatch, capsys):
    before = files(swept.folder.parent)
    here._model.cache_clear()
    monkeypatch.setattr(here, "load_model", lambda **_: pytest.fail("loaded a model"))
    assert main(swept.arguments) == 0
    assert capsys.readouterr().out == swept.out
    assert files(swept.folder.parent) == before


def test_one_model_serves_the_whole_grid(swept):
    assert swept.loads == 1


def test_every_start_has_its_log_with_the_traceback_of_a_failure(sweep, tmp_path):
    @dataclass
    class Failing(Method):
        name: ClassVar[str] = "failing"

        def select(self, context):
            raise RuntimeError("no idea")

    register_method(Failing)
    try:
        sweep("method=failing", "kept=4", "controls=[]", "latency.repeats=0", "limit=2")
    finally:
        del METHODS["failing"]
    sweep("method=fps", "kept=700", "controls=[]", "latency.repeats=0", "limit=2")
    first, second = (path.read_text() for path in sorted((tmp_path / "out/sweep/logs").iterdir()))
    for log in (first, second):
        assert log.count(" INFO runners.sweeping.run: started: ") == log.count(": ended with status") == 1
    assert "RuntimeError: no idea" in first
    assert "in select" in first
    assert "a picture has 36 visual tokens" in second


def test_the_summary_is_a_file_and_the_last_line_where_no_terminal_reads_it(sweep, arguments, tmp_path, capsys):
    _, line, out, _ = sweep("method=fps", "kept=4", "latency.repeats=0")
    assert json.loads((tmp_path / "out/sweep/summary.json").read_text()) == line
    assert main([*arguments, "method=fps", "kept=4", "latency.repeats=0", "json=false"]) == 0
    assert capsys.readouterr().out.splitlines() == out.splitlines()[:-1]


def test_a_mistake_leaves_no_folder(sweep, tmp_path):
    assert sweep("kept=4", "agg_layer=9")[0] == 2
    assert not (tmp_path / "out").exists()


def test_limit_takes_a_part_and_raising_it_adds_to_the_same_points(sweep, tmp_path):
    _, small, _, _ = sweep("method=fps", "kept=4", "limit=3")
    _, large, _, _ = sweep("method=fps", "kept=4", "limit=7")
    assert [p["key"] for p in small["points"]] == [p["key"] for p in large["points"]]
    assert {p["n"] for p in large["points"]} == {7}
    _, both, _, _ = sweep("method=fps", "kept=4", "limit=3,7", "--multirun")
    assert accuracies(both) == accuracies(large)
    predictions = (tmp_path / "out/sweep" / small["points"][0]["key"] / "predictions.jsonl").read_text()
    assert len(predictions.splitlines()) == 7


def test_a_smaller_run_of_another_grid_adds_and_shrinks_nothing_in_either_order(sweep, tmp_path):
    large = ("method=fps", "kept=4", "limit=6", "latency.repeats=0")
    small = ("method=tome", "kept=4,8", "limit=3", "latency.repeats=0", "--multirun")
    tables, frames = [], []
    for name, order in (("one", (large, small)), ("other", (small, large))):
        for asked in order:
            _, line, out, _ = sweep(*asked, f"name={name}")
        tables.append(accuracies(line))
        frames.append(load_results(tmp_path / "out" / name)[["key", "n", "accuracy", "ci_low", "pool"]])
        assert out.count("fewer questions: tome (3)") == 1
    assert tables[0] == tables[1]
    pd.testing.assert_frame_equal(*frames)
    counts = {(p["method"], p["kept"]): p["n"] for p in line["points"]}
    assert counts == {
        ("full", None): 6, ("fastv", 4): 6, ("fps", 4): 6, ("random", 4): 6, ("tome", 4): 3,
        ("fastv", 8): 3, ("random", 8): 3, ("tome", 8): 3, ("no_image", 0): 6,
    }  # fmt: skip
    assert len(pd.read_parquet(tmp_path / "out" / "one" / "results.parquet")) == len(counts)


@pytest.mark.parametrize("full", [("metrics.json",), ("metrics.json", "results.parquet")])
def test_a_disk_that_is_full_when_figures_are_written_costs_nothing_that_was_computed(
    sweep, tmp_path, monkeypatch, full
):
    def replace(path, data):
        if path.name in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(path, data)

    asked = ("method=fps", "kept=4", "limit=2", "latency.repeats=0", "controls=[]")
    with monkeypatch.context() as patch:
        for module in (store, cache):
            patch.setattr(module, "replace_file", replace)
        status, _, _, errors = sweep(*asked)
    lines = [line for line in errors.splitlines() if line.startswith(("error", "failed", "Traceback ("))]
    assert (status, len(lines)) == (1 if len(full) == 1 else 2, 1)
    assert f"{full[-1]}: cannot be written (No space left on device); what is stored" in lines[0]
    predictions = next((tmp_path / "out").glob("sweep/*/predictions.jsonl"))
    before = predictions.read_bytes()
    assert before.count(b"\n") == 2
    status, line, _, _ = sweep(*asked)
    assert (status, line["points"][0]["n"], predictions.read_bytes()) == (0, 2, before)


def test_fresh_computes_this_commands_points_anew_and_leaves_the_others(sweep, tmp_path):
    asked = ("kept=4", "limit=3", "latency.repeats=0", "controls=[full]")
    sweep("method=fps", *asked)
    sweep("method=tome", *asked, "limit=3")
    before = files(tmp_path / "out")
    assert sweep("method=tome", "kept=4", "limit=3", "agg_layer=9", "fresh=true")[0] == 2
    assert files(tmp_path / "out") == before, "a mistake deletes nothing"
    _, line, _, _ = sweep("method=tome", *asked, "fresh=true")
    assert {p["method"]: p["n"] for p in line["points"]} == {"full": 3, "fps": 3, "tome": 3}
    after = files(tmp_path / "out")
    fps = next(p["key"] for p in line["points"] if p["method"] == "fps")
    assert {path for path in before if before[path] == after[path]} == {path for path in before if fps in path.parts}


def test_every_swept_key_makes_points_and_controls_are_not_repeated(sweep):
    _, line, _, _ = sweep(
        "method=fps,random",
        "kept=4",
        "agg_layer=1,2",
        "temperature=0.1,0.3",
        "seed=0,1",
        "latency.repeats=0",
        "--multirun",
    )
    count = {}
    for point in line["points"]:
        count[point["method"]] = count.get(point["method"], 0) + len(point["keys"].split())
    assert count == {"full": 1, "no_image": 1, "fps": 4, "random": 4, "fastv": 2}


def test_random_is_a_control_of_several_seeds_timed_once_where_that_costs_little(sweep, tmp_path):
    _, line, out, _ = sweep("method=fps", "kept=4", "limit=4", "control_seeds=3")
    random = next(p for p in line["points"] if p["method"] == "random")
    assert random["seeds"] == "0, 1, 2"
    folders = [tmp_path / "out" / "sweep" / key for key in random["keys"].split()]
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert [each["prefill_ms"] is not None for each in figures] == [True, False, False]
    assert random["accuracy_sd"] == pytest.approx(np.std([each["accuracy"] for each in figures], ddof=1))
    assert random["prefill_ms_p50"] == figures[0]["prefill_ms"]["p50"]
    assert "standard deviation over seeds (random 0, 1, 2)" in " ".join(out.split())
    # A seed that is asked for is timed.
    sweep("method=random", "seed=1", "kept=4", "limit=4", "controls=[]")
    assert json.loads((folders[1] / "metrics.json").read_text())["prefill_ms"] is not None


def test_points_of_different_protocols_are_apart_and_never_compared(sweep):
    asked = ("method=fps", "kept=4", "scoring=generate", "controls=[]", "latency.repeats=0", "limit=2")
    _, line, out, _ = sweep(*asked, "reading=llava,exact", "conv=model,vicuna_v1", "--multirun")
    points = {(p["conv"], p["reading"], p["method"]) for p in line["points"]}
    assert len({p["key"] for p in line["points"]}) == len(points) == len(line["points"]) == 4
    assert all(f" {name} " in out.splitlines()[1] for name in ("conv", "reading"))  # the second line of the header
    assert len(line["best"]) == 4
    assert all({"conv", "reading"} <= best["where"].keys() for best in line["best"])


@pytest.mark.slow
def test_compiled_times_are_other_times_and_answers_the_same(sweep, tmp_path, monkeypatch):
    """torch.compile itself is left out."""
    asked = ("method=fps", "kept=4", "controls=[full]", "scoring=generate", "limit=4")
    _, plain, _, _ = sweep(*asked)
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function) or function)
    before = files(tmp_path / "out")
    status, line, _, _ = sweep(*asked, "compile=true")
    assert status == 0
    assert compiled
    after = files(tmp_path / "out")
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"metrics.json"}, "answers stand, times are taken anew"
    for point in line["points"]:
        metrics = json.loads((tmp_path / "out" / "sweep" / point["key"] / "metrics.json").read_text())
        protocol = metrics["provenance"]["protocol"]
        assert (protocol["latency"]["compiled"], protocol["compile"], protocol["not_compiled"]) == (True, True, {})
    assert accuracies(line) == accuracies(plain)


def test_without_controls_only_the_asked_points_run(sweep):
    _, line, _, _ = sweep("method=fps", "kept=4", "controls=[]", "latency.repeats=0")
    assert [p["method"] for p in line["points"]] == ["fps"]
    assert line["points"][0]["vs_fastv_p"] is None


def test_kept_above_the_visual_tokens_passes_through_and_is_said_once(sweep):
    status, line, _, err = sweep("method=fps", "kept=700", "latency.repeats=0")
    figures = {p["method"]: (p["correct"], p["flops_ratio"]) for p in line["points"]}
    assert status == 0
    assert figures["fps"] == figures["full"]
    assert err.count("36 visual tokens") == 1


def test_a_method_in_one_file_needs_no_yaml(sweep):
    @dataclass
    class Corner(METHODS["random"]):
        name: ClassVar[str] = "corner"
        size: int = 3

    register_method(Corner)
    try:
        _, line, _, _ = sweep("method=corner", "method.size=2", "kept=4", "latency.repeats=0")
    finally:
        del METHODS["corner"]
    assert next(p for p in line["points"] if p["method"] == "corner")["method.size"] == 2


def test_a_failing_point_is_listed_and_noted_until_it_completes(sweep, monkeypatch, tmp_path):
    @dataclass
    class Broken(Method):
        name: ClassVar[str] = "broken"

        def select(self, context):
            raise RuntimeError("no idea")

    register_method(Broken)
    try:
        status, line, out, err = sweep("method=broken,fps", "kept=4", "latency.repeats=0", "--multirun")
    finally:
        del METHODS["broken"]
    assert status == 1
    assert len(line["failed"]) == 1
    assert "RuntimeError: no idea" in line["failed"][0]
    assert line["failed"][0] in err
    log = Path(err.partition("Tracebacks are in ")[2].splitlines()[0]).read_text()
    assert "Traceback (most recent call last)" in log
    assert "RuntimeError: no idea" in log
    assert "failed" in out
    assert all(p["n"] == COUNT for p in line["points"] if p["method"] != "broken")
    failed = next(p["key"] for p in line["points"] if p["method"] == "broken")
    (note,) = (tmp_path / "out" / "sweep").glob("*/error.json")
    assert note.parent.name == failed
    assert json.loads(note.read_text())["error"].startswith("RuntimeError: no idea (test_sweep.py, line ")
    assert not (note.parent / "metrics.json").exists()

    monkeypatch.setattr(Broken, "select", METHODS["grid"].select)
    register_method(Broken)
    try:
        status, _, _, _ = sweep("method=broken,fps", "kept=4", "latency.repeats=0", "--multirun")
    finally:
        del METHODS["broken"]
    assert status == 0
    assert (note.parent / "metrics.json").exists()
    assert not note.exists()


def test_a_lost_picture_is_an_error_or_is_skipped_and_counted(sweep, world, tmp_path):
    entries = json.loads((world / "questions.json").read_text())
    entries[3]["image"] = "lost.png"
    path = tmp_path / "lost.json"
    path.write_text(json.dumps(entries))
    asked = ("method=fps", "kept=4", "latency.repeats=0", f"path={path}")
    status, _, _, err = sweep(*asked)
    assert status == 2
    assert entries[3]["id"] in err
    status, line, out, _ = sweep(*asked, "on_bad_sample=skip")
    assert status == 0
    assert {(p["n"], p["skipped"]) for p in line["points"]} == {(COUNT - 1, 1)}
    assert "Skipped: 1" in out
    status, _, _, err = sweep(*asked)
    assert status == 2
    assert entries[3]["id"] in err


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["method=fsp"], ["method=fsp", "fps", "tome"]),
        (["kept=8,16"], ["kept=8,16", "--multirun"]),
        (["method=fps,fsp", "--multirun"], ["method=fsp", "fps", "tome"]),
        (["data=nothing"], ["data=nothing", "diagrams"]),
        (["model=nothing"], ["model=nothing", "tiny"]),
        (["kept=0"], ["kept=0", "from 1"]),
        (["kept=4,-1", "--multirun"], ["kept=-1", "from 0"]),
        (["kept=abc"], ["kept=abc", "integer"]),
        (["agg_layer=9"], ["agg_layer=9", "0 to 4"]),
        (["agg_layer=-1"], ["agg_layer=-1"]),
        (["temperature=0"], ["temperature=0", "above 0"]),
        (["temperature=nan"], ["temperature=nan", "above 0"]),
        (["layout=loose"], ["layout=loose", "compact"]),
        (["method.start=corner"], ["method.start=corner", "medoid"]),
        (["method.begin=1"], ["method.begin", "start"]),
        (["keep=4"], ["keep", "kept"]),
        (["kept"], ["kept"]),
        (["kept=[4"], ["kept=[4"]),
        (["limit=0"], ["limit=0", "from 1"]),
        (["batch_size=0"], ["batch_size=0", "from 1"]),
        (["batch_size=1,2", "--multirun"], ["batch_size=1,2", "one value"]),
        (["scoring=guess"], ["scoring=guess", "letter"]),
        (["prompt=qwen"], ["prompt=qwen", "lmms"]),
        (["conv=vicuna_v0"], ["conv=vicuna_v0", "model, vicuna_v1"]),
        (["image_aspect=pad,fill", "--multirun"], ["image_aspect=fill", "pad, crop"]),
        (["reading=loose"], ["reading=loose", "llava, lmms, exact"]),
        (["model.conv=x"], ["conv=x", "vicuna_v1"]),
        (["on_bad_sample=weep"], ["on_bad_sample=weep", "skip"]),
        (["controls=[ful]"], ["controls=[ful]", "full"]),
        (["name=a/b"], ["name=a/b"]),
        (["path=nowhere.json"], ["nowhere.json"]),
        (["model.path=nowhere"], ["model.path=nowhere", "tiny"]),
        (["method=fastv", "method.alpha=x"], ["method.alpha=x", "a number"]),
        (["method.seed=1"], ["method.seed", "start"]),
        (["seed=99999999999999999999999"], ["seed=99999999999999999999999", "2147483647"]),
        (["limit=true"], ["limit=true", "integer from 1"]),
        (["latency.repeats=two"], ["latency.repeats=two", "integer from 0"]),
        (["latency=5"], ["latency", "repeats, warmup, decode_tokens"]),
        (["latency.foo=1"], ["latency.foo", "repeats, warmup, decode_tokens"]),
        (["latency.repeats=0,1", "--multirun"], ["latency.repeats=0,1", "one value"]),
        (["model.foo=1"], ["model.foo", "path, dtype"]),
        (["+foo=1"], ["+foo=1", "KEY=VALUE"]),
        (["~kept"], ["~kept", "KEY=VALUE"]),
        (["experiment=7"], ["experiment=7"]),
        (["logger=wandb", "logger.mode=sometimes"], ["logger.mode=sometimes", "online, offline"]),
        (["--config-dir", "nowhere"], ["--config-dir nowhere", "no such folder"]),
        (["output_dir=/proc/self/status/x"], ["output_dir=/proc/self/status/x", "Not a directory"]),
        (["model.quantization=3bit"], ["model.quantization=3bit", "8bit, 4bit"]),
        (["model.dtype=float8"], ["dtype=float8", "float16"]),
    ],
)
def test_a_mistake_ends_in_one_line_before_any_model_is_loaded(sweep, monkeypatch, tmp_path, overrides, named):
    here._model.cache_clear()
    monkeypatch.setattr(here, "load_model", lambda **_: pytest.fail("loaded a model"))
    status, _, out, err = sweep("kept=4", *overrides)
    assert status == 2
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    for part in named:
        assert part in err


def test_a_folder_without_weights_and_a_malformed_question_file_are_named(sweep, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "broken.json").write_text('[{"id": "7"}]')
    for override, named in [
        (f"model.path={tmp_path / 'empty'}", "weights"),
        (f"path={tmp_path / 'broken.json'}", "7"),
    ]:
        status, _, _, err = sweep("kept=4", override)
        assert status == 2
        assert named in err
        assert len(err.splitlines()) == 1


def test_the_whole_traceback_is_there_for_who_asks(sweep, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(Exception, match="kept=0"):
        sweep("kept=0")


def test_an_interrupt_ends_in_one_line(arguments, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tokensel.evaluation.sweep.here.evaluate", interrupt)
    status = main([*arguments, "kept=4"])
    assert status == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_killed_and_started_again_nothing_is_lost_or_doubled(sweep, arguments, tmp_path):
    _, undisturbed, out, _ = sweep(*GRID, "name=undisturbed", "batch_size=2", "latency.repeats=0")

    def slow_sweep():
        append = PointStore.append
        # Slowed down, so that the kill surely falls in the middle.
        PointStore.append = lambda self, rows: (append(self, rows), time.sleep(0.05))
        main([*arguments, *GRID, "batch_size=2", "latency.repeats=0"])

    process = start_fork(slow_sweep)

    def lines():
        try:
            return sum(len(p.read_text().splitlines()) for p in (tmp_path / "out/sweep").glob("*/predictions.jsonl"))
        except FileNotFoundError:  # whether the folder can be made is tried out first
            return 0

    while lines() < 25 and process.is_alive():
        time.sleep(0.02)
    process.kill()
    process.join()
    total = COUNT * len(undisturbed["points"])
    assert 25 <= lines() < total
    # The worst a kill can leave: half a line.
    torn = next((tmp_path / "out/sweep").glob("*/predictions.jsonl"))
    with torn.open("a") as file:
        file.write('{"id": "q')
    status, resumed, again, _ = sweep(*GRID, "batch_size=2", "latency.repeats=0")
    assert status == 0
    assert accuracies(resumed) == accuracies(undisturbed)
    assert table(again) == table(out)
    for path in (tmp_path / "out/sweep").glob("*/predictions.jsonl"):
        ids = [json.loads(line)["id"] for line in path.read_text().splitlines()]
        assert len(ids) == len(set(ids)) == COUNT


def test_the_table_shows_a_column_only_for_what_varies(sweep):
    _, _, out, _ = sweep("method=fps", "kept=4", "latency.repeats=0")
    header = out.splitlines()[1]
    assert "temperature" not in header
    _, _, out, _ = sweep("method=fps", "kept=4", "temperature=0.1,0.2", "latency.repeats=0", "--multirun")
    header = out.splitlines()[1]
    assert "temperature" in header
    assert "agg_layer" not in header


def test_parquet_reads_back_with_mixed_options(sweep, tmp_path):
    sweep("method=fps", "kept=4", "method.start=medoid,0", "latency.repeats=0", "--multirun")
    frame = pd.read_parquet(tmp_path / "out/sweep/results.parquet")
    assert set(frame["method.start"].dropna()) == {"medoid", "0"}


def test_a_budget_is_solved_for_every_method_and_shares_the_points_of_its_kept(sweep, tmp_path):
    status, line, out, _ = sweep("method=fps,divprune", "budget=average_tokens:24", "latency.repeats=0", "--multirun")
    assert status == 0
    reduced = [p for p in line["points"] if p["method"] not in ("full", "no_image")]
    assert {p["method"] for p in reduced} == {"fps", "divprune", "fastv", "random"}
    assert all(p["budget"] == "average_tokens:24" and abs(p["tokens_layer_mean"] - 24) <= 1 for p in reduced)
    assert [best["budget"] for best in line["best"]] == ["average_tokens:24"]
    assert all(p["vs_fastv_p"] is not None for p in reduced if p["method"] != "fastv")
    assert "kept is solved for the budget average_tokens:24" in out
    (fps,) = (p for p in reduced if p["method"] == "fps")
    before = files(tmp_path / "out")
    _, again, _, _ = sweep("method=fps", f"kept={fps['kept']}", "controls=[]", "latency.repeats=0")
    assert {p["key"] for p in again["points"]} == {p["key"] for p in line["points"]}
    assert files(tmp_path / "out") == before
    frame = load_results(tmp_path / "out" / "sweep").set_index("key")
    assert frame.loc[fps["key"], "budget"] == "average_tokens:24"


def test_a_share_is_shown_as_a_share_and_sorted_by_its_count(sweep, tmp_path):
    status, line, out, _ = sweep("method=fps", "kept=4,25%,30", "controls=[]", "latency.repeats=0", "--multirun")
    assert status == 0
    visual = 36
    assert [(p["kept"], p["kept_share"], p["tokens_left"]) for p in line["points"]] == [
        (4, None, 4),
        (visual // 4, "25%", visual // 4),
        (30, None, 30),
    ]
    assert " 25% " in out
    frame = load_results(tmp_path / "out" / "sweep")
    assert frame["kept"].tolist() == [4, visual // 4, 30]
    assert frame["kept_share"].fillna("").tolist() == ["", "25%", ""]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["kept=150%"], "kept=150%: must be an integer from 0, a share above 0%"),
        (["kept=1.5"], "kept=1.5: must be an integer from 0, a share above 0%"),
        (["kept=[50%,0%]"], "kept=[50%,0%]: must be an integer from 0, a share above 0%"),
        (["budget=tokens:64"], "budget=tokens:64: must be average_tokens:NUMBER above 0, or flops:SHARE"),
        (["kept=8", "budget=flops:0.4"], "kept=8: leave it out; budget=flops:0.4 decides it"),
        (["controls=[]", "budget=average_tokens:1"], "budget=average_tokens:1: method 'fps' cannot reach it"),
    ],
)
def test_a_nonsensical_kept_or_budget_ends_in_one_line(sweep, given, told):
    status, _, _, err = sweep(*given)
    assert status == 2
    assert err.startswith(f"error: {told}")
    assert len(err.splitlines()) == 1
