"""What W&B receives of a sweep, logged at once or pushed later, read back from its offline files; and that a failure of
W&B stops no sweep."""

import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import wandb
import yaml
from helpers.checkpoints import make_questions
from helpers.wandb_offline import log_out, offline_runs, save_world, start_sweep
from PIL import Image

import tokensel
from runners import sync
from runners.terminal.notes import notes
from runners.wandb_logging import live as wandb_live
from runners.wandb_logging import starting as wandb_starting
from runners.wandb_logging.content import draw_kept
from runners.wandb_logging.destination import logged_in
from runners.wandb_logging.logger import log_sweep
from runners.wandb_logging.runs import run_id
from runners.wandb_logging.stored import stored_points
from tokensel.data import Question, Video
from tokensel.evaluation.stored import read_points

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return save_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    log_out(monkeypatch, tmp_path)


@pytest.fixture
def fresh():
    """Makes W&B read the environment again, before and after the test."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def sweep(world, tmp_path):
    return partial(start_sweep, world, tmp_path / "out")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder of a finished sweep of fps and no_image that was not logged."""
    folder = tmp_path_factory.mktemp("finished")
    assert start_sweep(world, folder, "logger=none", "controls=[no_image]") == 0
    return folder / "sweep"


@pytest.fixture
def folder(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "pushed" / "sweep"))


def log(folder, **options):
    defaults = {"project": "tokensel", "entity": None, "mode": "offline", "pictures": 4}
    return log_sweep(stored_points(folder), folder, defaults | options, folder.name)


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def kinds(runs):
    """The runs of points by their key, and the runs of figures."""
    points = {run.start.run_id.rpartition("-")[0]: run for run in runs if run.start.job_type == "point"}
    return points, [run for run in runs if run.start.job_type == "sweep"]


@pytest.mark.slow
def test_an_offline_sweep_has_one_run_per_point_and_one_of_its_own(sweep, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(wandb_live, "LOG_SECONDS", 0.05)
    arguments = ["controls=[random]", "control_seeds=2", "logger.mode=offline"]
    assert sweep(*arguments) == 0
    _, err = capsys.readouterr()
    stored = {
        path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out/sweep").glob("*/metrics.json")
    }
    assert "wandb" not in err.lower()
    found = offline_runs(tmp_path / "out")
    points, (own,) = kinds(found)
    assert points.keys() == stored.keys()
    assert len(found) == len(points) + 1 == 4
    for key, run in points.items():
        point = stored[key]
        assert (run.start.run_id, run.start.run_group) == (run_id(key, "tokensel"), "sweep")
        assert run.start.project == "tokensel"
        assert {point["method"], "question_file", "letter", "model"} <= set(run.start.tags)
        assert (run.config["method"], run.config["kept"]) == (point["method"], point["kept"])
        provenance = point["provenance"]
        for name in ("device", "versions", "commit", "command", "threads"):
            assert run.config[name] == provenance[name], name
        assert (run.config["limit"], run.config["batch_size"]) == (6, 8)
        assert run.config["protocol"]["visual_tokens"] == 36
        last = run.history[-1]
        for figures_of in (run.summary, last):
            assert figures_of["accuracy"] == point["accuracy"]
            assert figures_of["flops_ratio"] == pytest.approx(point["flops_ratio"])
            assert figures_of["kept"] == point["kept"]
        assert run.summary["progress/questions"] == 6
        assert run.summary["progress/accuracy"] == pytest.approx(point["accuracy"])
        assert run.summary["progress/questions_per_second"] > 0
        table = json.loads((run.path.parent / "files" / run.summary["predictions.path"]).read_text())
        assert len(table["data"]) == 6
        pictures = [row[table["columns"].index("picture")] for row in table["data"]]
        assert sum(picture is not None for picture in pictures) == 4
        drawn = [file for name, file in run.files.items() if name.endswith(".png")]
        assert 1 <= len(drawn) <= 4, "equal pictures are kept once"
        for file in drawn:
            assert Image.open(file).size == (336, 336)
            assert file.is_relative_to(tmp_path / "out")
        assert run.media["kept_tokens"] == "images/separated"
        assert run.summary["kept_tokens.count"] == 4

    shown = own.path.parent / "files" / own.summary["figures/accuracy.path"]
    assert shown.read_bytes() == (tmp_path / "out/sweep/accuracy.png").read_bytes()
    assert {"results.parquet", "summary.json", "accuracy.png", "report.html"} <= own.files.keys()
    table = json.loads((own.path.parent / "files" / own.summary["table.path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {row["method"]: row.get("seeds") for row in rows} == {"fps": None, "random": "0, 1"}
    assert (own.start.display_name, own.config["device"], "method" in own.config) == (
        "sweep",
        next(iter(stored.values()))["provenance"]["device"],
        False,
    )

    assert sweep(*arguments) == 0
    assert [run.path for run in offline_runs(tmp_path / "out")] == [run.path for run in found], (
        "there is nothing new to log"
    )


@pytest.mark.slow
def test_a_continued_sweep_writes_to_its_earlier_runs(sweep, tmp_path):
    assert sweep("limit=4", "controls=[]") == 0
    (before,), _ = [list(kind) for kind in kinds(offline_runs(tmp_path / "out"))]
    (tmp_path / "out/sweep/wandb").rename(tmp_path / "out/before")  # W&B names the files of one run by the second
    assert sweep("limit=6", "controls=[]") == 0
    points = [run for run in offline_runs(tmp_path / "out") if run.start.job_type == "point"]
    assert [run.summary["n"] for run in points] == [4, 6]
    assert {run.start.run_id for run in points} == {run_id(before, "tokensel")}


@pytest.mark.slow
def test_a_point_logged_offline_is_logged_once_more_online(folder, monkeypatch):
    modes = []

    class Stub:
        def log(self, values): ...
        def finish(self): ...
        def log_artifact(self, artifact): ...
        def add_data(self, *cells): ...

    def init(mode, **_):
        modes.append(mode)
        return Stub()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "Table", lambda **_: Stub())
    for mode in ("offline", "offline", "online", "online", "offline", "disabled"):
        log(folder, mode=mode, pictures=0)
    assert modes == ["offline"] * 3 + ["online"] * 3, "two points and the figures, each once"


def test_a_run_id_depends_on_key_and_project_alone():
    assert run_id("318c4cd50fbc", "tokensel") == "318c4cd50fbc-110a36"
    assert len({run_id(key, project) for key in ("a", "b") for project in ("x", "y")}) == 4


def test_a_failure_of_wandb_is_reported_once_and_stops_nothing(sweep, tmp_path, monkeypatch, capsys):
    def fail(**_):
        raise wandb.errors.CommError(f"server https://user:{KEY}@host on fire\nand more")

    monkeypatch.setattr(wandb, "init", fail)
    assert sweep() == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["failed"] == []
    assert [line for line in err.splitlines() if "W&B" in line] == [
        "note: W&B could not log (server https://***@host on fire); the files are complete, "
        f"python -m runners.sync {tmp_path / 'out/sweep'} pushes them later"
    ]


def test_an_unreachable_server_is_given_up_within_seconds(folder, fresh, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_starting, "RUN_SECONDS", 2.0)
    began = time.monotonic()
    assert log(folder, mode=None) == []
    assert time.monotonic() - began < 60
    assert capsys.readouterr().err.count("note: W&B could not log") == 1


def test_logger_none_writes_nothing_of_wandb(finished):
    assert not list(finished.rglob("wandb*"))


def test_a_login_is_found_in_the_environment_or_the_netrc(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not logged_in()
    host = wandb.Settings().base_url.removeprefix("https://")
    (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert logged_in()


def test_dropped_tokens_are_darkened_and_kept_ones_are_not():
    question = make_questions(1)[0]
    whole, drawn = draw_kept(question, None, 36), draw_kept(question, [0, 35], 36)
    for x, y, kept in [(5, 5, True), (330, 330, True), (100, 100, False), (5, 330, False)]:
        same = whole.getpixel((x, y)) == drawn.getpixel((x, y))
        assert same == kept
    assert draw_kept(question, [], 35) is None, "35 tokens form no square grid"


def test_kept_tokens_of_a_video_are_drawn_on_its_frames():
    video = Video([Image.new("RGB", (56, 56), (10 * number, 200, 100)) for number in range(1, 9)])
    question = Question("v", "?", ("a", "b"), 0, None, video=video)
    whole, drawn = draw_kept(question, None, 32, [8, 2, 2]), draw_kept(question, [0, 27], 32, [8, 2, 2])
    assert whole.size == (8 * 28, 4 * 28)  # two lines of four frames
    for x, y, kept in [(14, 14, True), (42, 14, False), (154, 98, True), (154, 70, False), (98, 98, False)]:
        assert (whole.getpixel((x, y)) == drawn.getpixel((x, y))) == kept
    assert draw_kept(replace(question, video=Video("/nowhere")), [], 32, [8, 2, 2]) is None
    assert draw_kept(question, [], 36) is None, "a video needs its grid"


def test_the_library_does_not_import_wandb_hydra_or_pandas():
    package = Path(tokensel.__file__).parent
    forbidden = ("import wandb", "import hydra", "from hydra", "import omegaconf", "from omegaconf", "import pandas")
    files = list(package.rglob("*.py"))
    assert len(files) > 50
    for file in files:
        assert not any(words in file.read_text() for words in forbidden), file


def test_no_key_reaches_a_file(folder, fresh, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"https://user:{KEY}@wandb.example")
    assert log(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_no_secret_of_a_points_settings_reaches_a_run(folder, capsys):
    path = next(folder.glob("*/config.yaml"))
    settings = yaml.safe_load(path.read_text())
    settings["model"] |= {"path": f"https://me:{KEY}@hub.example/llava", "hub_token": KEY}
    settings["method_options"] = {"start": "medoid", "api_key": KEY, "token": 3, "note": f"password={KEY}"}
    path.write_text(yaml.safe_dump(settings))
    assert push(folder) == 0
    (run,) = [run for run in offline_runs(folder) if run.start.run_id == run_id(path.parent.name, "tokensel")]
    assert run.config["method_options"] == {"start": "medoid", "api_key": "***", "token": 3, "note": "password=***"}
    assert run.config["model"]["path"] == "https://***@hub.example/llava"
    assert KEY.encode() not in run.path.read_bytes()


def push(folder, *arguments, mode="offline"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", mode)
        return sync.main([str(folder), *arguments])


@pytest.mark.slow
def test_a_repeated_push_has_the_same_ids_and_figures_as_the_sweep(folder, capsys):
    assert len(log(folder)) == 3
    logged, _ = kinds(offline_runs(folder))
    shutil.rmtree(folder / "wandb")
    for path in (folder / "results.parquet", folder / "wandb.json", *folder.glob("*/wandb.json")):
        path.unlink()
    lines = []
    for name in ("first", "second"):
        assert push(folder) == 0
        lines.append(last_line(capsys))
        (folder / "wandb").rename(folder.parent / name)
    first, second = lines
    assert first["runs"] == second["runs"]
    assert len(set(first["runs"])) == 3
    assert (first["sweep"], first["project"], first["mode"]) == ("sweep", "tokensel", "offline")
    pushed = offline_runs(folder.parent)
    assert len(pushed) == 6
    assert {run.start.run_id for run in pushed} == set(first["runs"])
    assert {run.start.run_id for run in logged.values()} < set(first["runs"])
    for run in pushed:
        if run.start.job_type == "point":
            same = logged[run.start.run_id.rpartition("-")[0]]
            assert run.config == same.config
            assert run.summary["accuracy"] == same.summary["accuracy"]
            assert run.summary["predictions.sha256"] == same.summary["predictions.sha256"]
            assert run.summary["kept_tokens.filenames"] == same.summary["kept_tokens.filenames"]


@pytest.mark.slow
def test_a_push_goes_to_the_sweeps_project_unless_another_is_given(folder, capsys):
    log(folder, project="mine")
    assert push(folder) == 0
    mine = last_line(capsys)
    assert push(folder, "project=theirs", "entity=team") == 0
    theirs = last_line(capsys)
    assert (mine["project"], theirs["project"], theirs["entity"]) == ("mine", "theirs", "team")
    assert not set(mine["runs"]) & set(theirs["runs"])


@pytest.mark.parametrize(("known", "instead"), [("questions.json", "gone.json"), ("digest: ", "digest: other")])
def test_without_the_same_data_set_a_push_has_the_answers_letters(known, instead, folder, capsys):
    for path in folder.glob("*/config.yaml"):
        assert known in path.read_text()
        path.write_text(path.read_text().replace(known, instead))
    assert push(folder) == 0
    assert capsys.readouterr().err.count("predictions are pushed without words and pictures") == 1
    points, _ = kinds(offline_runs(folder))
    run = points[next(folder.glob("*/metrics.json")).parent.name]
    table = json.loads((run.path.parent / "files" / run.summary["predictions.path"]).read_text())
    answers = {row[table["columns"].index("answer")] for row in table["data"]}
    assert answers == {"A", "B"}
    assert "kept_tokens" not in run.media


def test_an_unfinished_point_is_left_out_with_a_note(folder, capsys):
    missing = next(folder.glob("*/metrics.json"))
    missing.unlink()
    assert push(folder) == 0
    out, err = capsys.readouterr()
    line = json.loads(out.splitlines()[-1])
    assert line["unfinished"] == [missing.parent.name]
    assert len(line["runs"]) == 2, "the other point and the figures"
    assert "1 point without figures left out" in err


def test_a_damaged_point_is_left_out_with_one_note(folder, capsys):
    damaged = next(folder.glob("*/metrics.json"))
    damaged.write_text("{")
    with notes():
        assert len(stored_points(folder)) == len(read_points(folder)) == 1  # as a push reads them, and its report
    assert capsys.readouterr().err == (
        f"note: {damaged}: is not JSON; delete it, and it is computed again (this point is left out)\n"
    )


def test_a_push_that_wandb_refuses_ends_in_one_line_and_status_1(folder, monkeypatch, capsys):
    def fail(**_):
        raise wandb.errors.CommError("no such entity")

    monkeypatch.setattr(wandb, "init", fail)
    assert push(folder) == 1
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["runs"] == []
    assert err.count("no such entity") == 1


@pytest.mark.parametrize(
    ("arguments", "mode", "message"),
    [
        ([], "offline", "no folder: give one sweep's folder"),
        (["a", "b"], "offline", "a b: give one sweep's folder"),
        (["EMPTY"], "offline", "no finished grid point there"),
        (["FOLDER", "project="], "offline", "project=: must be a name"),
        (["FOLDER", "project=me/mine"], "offline", "project=me/mine: must be a name"),
        (["FOLDER", "projekt=x"], "offline", "projekt: unknown key; keys are project, entity"),
        (["FOLDER"], "disabled", "WANDB_MODE=disabled: nothing can be pushed"),
        (["FOLDER"], "online", "not logged in to W&B: run `wandb login`"),
    ],
)
def test_a_mistake_is_one_line(arguments, mode, message, finished, tmp_path, capsys):
    places = {"FOLDER": finished, "EMPTY": tmp_path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", mode)
        assert sync.main([str(places.get(argument, argument)) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
