"""The bundled videos through a sweep, its report and `runners.show`, on a tiny model that takes videos."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.checkpoints import save_checkpoint
from helpers.families import save_family
from PIL import Image

from analysis import load_predictions, load_results, questions_of
from analysis.frames import Sheet
from analysis.survivors import Tracer
from runners.report import main as report
from runners.show import main as show
from runners.sweep import main as sweep
from tokensel.data import Question, Video, load_questions
from tokensel.engine.reduce import reduce_tokens
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import load_model

FRAMES, SIDE = 4, 2  # a frame of the tiny OneVision has 2 x 2 visual tokens
COUNT = FRAMES * SIDE * SIDE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_family("llava_onevision", tmp_path_factory.mktemp("onevision"))


@pytest.fixture(scope="module")
def arguments(checkpoint):
    shared = ["data=moving_shapes", f"data.frames={FRAMES}", "model=local", f"model.path={checkpoint}", "limit=10"]
    return [*shared, "logger=none", "latency.repeats=0", "kept=3", "method=fps", "control_seeds=1"]


@pytest.fixture(scope="module")
def swept(arguments, tmp_path_factory):
    output = tmp_path_factory.mktemp("swept")
    assert sweep([*arguments, f"output_dir={output}"]) == 0
    return output / "sweep"


def stored(folder: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/metrics.json")]
    return {metrics["method"]: metrics for metrics in found}


@pytest.mark.slow
def test_every_point_answers_the_same_videos(swept):
    points = stored(swept)
    assert set(points) == {"full", "fps", "fastv", "random", "no_image"}
    for metrics in points.values():
        assert (metrics["n"], metrics["skipped"]) == (10, 0)
        assert metrics["data"]["options"]["frames"] == FRAMES
        protocol = metrics["provenance"]["protocol"]
        assert (protocol["visual_tokens"], protocol["video_grid"]) == (COUNT, [FRAMES, SIDE, SIDE])
    assert points["no_image"]["tokens_layer_mean"] == 0
    assert points["fps"]["tokens_left"] == 3
    # Every frame goes through the tower whatever is kept.
    assert {metrics["flops_parts"]["vision"] for metrics in points.values()} == {
        points["full"]["flops_parts"]["vision"]
    }


@pytest.mark.slow
def test_answers_are_those_of_single_runs(swept, checkpoint):
    """The full model's and no_image's answers equal plain forwards; kept positions equal a reduction by itself."""
    loaded = load_model(checkpoint)
    results = load_results(swept)
    predictions = load_predictions(swept)
    for question in questions_of(results)[:200]:
        mine = predictions[predictions["id"] == question.id]
        if mine.empty:
            continue
        letters = loaded.answer_ids(question)
        logits = loaded.model(**loaded.prepare([question])).logits[0, -1, letters]
        full = mine[mine["key"].isin(results.loc[results["method"] == "full", "key"])]
        assert full["prediction"].tolist() == [int(logits.argmax())]
        fps = mine[mine["key"].isin(results.loc[results["method"] == "fps", "key"])].iloc[0]
        if isinstance(fps["positions"], list):
            survivors = Tracer(loaded, question).survivors(GridPoint("fps", 3, 2))
            assert sorted(survivors.tokens) == sorted(fps["positions"])


@pytest.mark.slow
def test_the_report_shows_frames_with_the_kept_tokens(swept, capsys):
    assert report([str(swept)]) == 0
    page = (swept / "report.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    (pool,), (questions,) = data["pools"], data["sets"]
    sheet = Sheet(FRAMES, SIDE, SIDE)
    assert pool["grid"] == list(sheet.grid)
    assert len(pool["gallery"]) == 8
    assert questions["videos"] == list(range(10))
    assert set(questions["pictures"]) | set(questions["thumbnails"]) == {str(number) for number in range(10)}
    (fps,) = [row for row in pool["rows"] if row["method"] == "fps"]
    kept = {record["id"]: record.get("positions") for record in lines(swept / fps["key"])}
    for number, places in fps["positions"].items():
        assert places == sheet.places(kept[questions["id"][int(number)]])


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_show_draws_the_frames(checkpoint, tmp_path, capsys):
    (folder := tmp_path / "walk").mkdir()
    for number, frame in enumerate(load_questions("moving_shapes", families=["direction"])[0].load_frames()):
        frame.save(folder / f"{number}.png")
    asked = [f"video={folder}", f"frames={FRAMES}", "question=Which way?", "choices=left,right", f"model={checkpoint}"]
    for output in ("a.png", "a.html"):
        assert show([*asked, "method=fps", "kept=3", f"output={tmp_path / output}", "json=true"]) == 0
        line = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (line["visual_tokens"], line["image"]) == (COUNT, str(folder))
        (answer,) = line["answers"]
        assert answer["positions"] == kept_by_itself(checkpoint, folder)
    assert Image.open(tmp_path / "a.png").width > 1000
    assert "the frames" in (tmp_path / "a.html").read_text()


def kept_by_itself(checkpoint: Path, folder: Path) -> list[int]:
    """What a plain forward keeps, as the model counts a video's tokens: frame by frame."""
    loaded = load_model(checkpoint)
    asked = Question("question", "Which way?", ("left", "right"), 0, None, video=Video(folder), frames=FRAMES)
    with reduce_tokens(loaded.model, "fps", kept=3, row_keys=row_keys([asked])) as record:
        loaded.model(**loaded.prepare([asked]))
    return record.positions[0].tolist()


@pytest.mark.slow
def test_survivors_and_what_they_gather_are_drawn_on_their_frames(checkpoint):
    tracer = Tracer(load_model(checkpoint), load_questions("moving_shapes", limit=1, frames=FRAMES)[0])
    picture = tracer.picture()
    assert picture.shape[1] == FRAMES * picture.shape[0]
    assert np.ptp(picture) > 100
    survivors = tracer.survivors(GridPoint("fps", 5, 2, temperature=0.01))
    # A token is most similar to itself, so its largest weight is drawn where it is drawn.
    assert survivors.weights.argmax(1).tolist() == list(survivors.positions)
    assert survivors.positions == tuple(Sheet(FRAMES, SIDE, SIDE).places(survivors.tokens)) != survivors.tokens


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=downsample"], "method=downsample: it reduces pictures, and questions show videos; try data.frames"),
        (["data.frames=0"], "data.frames=0: must be at least 1"),
    ],
)
def test_what_videos_cannot_have_is_one_line_before_any_model_is_loaded(
    arguments, tmp_path, capsys, monkeypatch, overrides, told
):
    monkeypatch.setattr("tokensel.models.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    assert sweep([*arguments, *overrides, f"output_dir={tmp_path}"]) == 2
    assert told in capsys.readouterr().err


def test_a_model_without_videos_is_refused_by_name(arguments, tmp_path, capsys):
    model = save_checkpoint(tmp_path / "llava")
    assert sweep([*arguments, f"model.path={model}", f"output_dir={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert "data=moving_shapes shows videos, which model_type=llava does not take; choose a model of " in told
    assert "llava_onevision" in told


@pytest.mark.slow
def test_a_control_that_reduces_pictures_is_left_out_of_videos(arguments, tmp_path, capsys):
    controls = ["controls=[full,downsample]", "limit=2", f"output_dir={tmp_path}"]
    assert sweep([*arguments, *controls]) == 0
    assert "controls: without downsample (it reduces pictures, and questions show videos" in capsys.readouterr().err
    assert set(stored(tmp_path / "sweep")) == {"full", "fps"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["video=nowhere", "question=?"], "video=nowhere: no such file or folder"),
        (["video=.", "image=a.png", "question=?"], "image, video: give one of them"),
        (["image=a.png", "frames=3", "question=?"], "frames=3: needs video="),
        (["video=.", "frames=0", "question=?"], "frames=0: must be at least 1"),
        (["video={folder}", "question=?"], "video={folder}: cannot be read as a video"),
    ],
)
def test_a_mistake_in_show_is_one_line(tmp_path, capsys, given, told):
    assert show([each.format(folder=tmp_path) for each in given]) == 2
    assert told.format(folder=tmp_path) in capsys.readouterr().err
