"""What W&B gets, read back from its offline file; and a W&B that fails, which must hurt nothing."""

import json
import struct
import time
from pathlib import Path

import pytest
from PIL import Image
from sweep_helpers import make_questions, save_checkpoint, save_question_file
from wandb.proto import wandb_internal_pb2

from runners import wandb_logger
from runners.sweep import main
from runners.wandb_logger import draw_kept, logged_in

BLOCK = 32768


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save_checkpoint(folder / "model")
    save_question_file(folder, 6)
    return folder


@pytest.fixture
def sweep(world, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))

    def start(*overrides):
        return main(
            [
                "model=local",
                f"model.path={world / 'model'}",
                "model.device=cpu",
                "data=question_file",
                f"path={world / 'questions.json'}",
                f"image_folder={world / 'images'}",
                f"output_dir={tmp_path / 'out'}",
                "method=fps",
                "kept=4",
                "latency.repeats=0",
                *overrides,
            ]
        )

    return start


def records(path):
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes, in blocks of 32 KiB."""
    data = path.read_bytes()
    place, whole = 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
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


def read_run(path):
    """Of an offline run: its start record, config, summary, and the files of its table by their path in it."""
    start, config, summary, files = None, {}, {}, {}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            start = record.run
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "summary":
            for item in record.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "artifact":
            files |= {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
    return start, config, summary, files


def runs(tmp_path):
    return {path.stem.removeprefix("run-"): path for path in tmp_path.glob("out/sweep/wandb/offline-run-*/run-*.wandb")}


def test_an_offline_sweep_leaves_one_readable_run_per_point(sweep, tmp_path, capsys):
    assert sweep() == 0
    out, err = capsys.readouterr()
    points = {point["key"]: point for point in json.loads(out.splitlines()[-1])["points"]}
    assert "wandb" not in err
    found = runs(tmp_path)
    assert found.keys() == points.keys()
    for key, path in found.items():
        start, config, summary, files = read_run(path)
        point = points[key]
        assert (start.run_id, start.run_group, start.project) == (key, "sweep", "tokensel")
        assert (config["method"], config["kept"]) == (point["method"], point["kept"])
        assert summary["accuracy"] == point["accuracy"]
        assert summary["flops_ratio"] == pytest.approx(point["flops_ratio"])
        table = json.loads((path.parent / "files" / summary["predictions.path"]).read_text())
        assert len(table["data"]) == 6
        pictures = [row[table["columns"].index("picture")] for row in table["data"]]
        assert sum(picture is not None for picture in pictures) == 4
        drawn = [file for name, file in files.items() if name.endswith(".png")]
        assert 1 <= len(drawn) <= 4, "equal pictures are kept once"
        for file in drawn:
            assert Image.open(file).size == (336, 336)
            assert file.is_relative_to(tmp_path / "out")

    assert sweep() == 0
    assert runs(tmp_path) == found, "a second start has nothing to log"


def test_a_wandb_that_fails_is_said_once_and_hurts_nothing(sweep, tmp_path, monkeypatch, capsys):
    import wandb

    def fail(**_):
        raise wandb.errors.CommError("server on fire\nand more")

    monkeypatch.setattr(wandb, "init", fail)
    assert sweep() == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1])["failed"] == []
    assert [line for line in err.splitlines() if "W&B" in line] == [
        "note: W&B could not log (server on fire); the files are complete without it"
    ]


def test_an_unreachable_server_costs_seconds_not_the_sweep(sweep, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_logger, "RUN_SECONDS", 2.0)
    began = time.monotonic()
    assert sweep() == 0
    assert time.monotonic() - began < 60
    assert capsys.readouterr().err.count("note: W&B could not log") == 1


def test_logger_none_writes_nothing_of_wandb(sweep, tmp_path):
    assert sweep("logger=none") == 0
    assert not list(tmp_path.rglob("wandb*"))


def test_logged_in_is_known_from_the_key_or_the_netrc_alone(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert logged_in()


def test_drawn_tokens_keep_their_light_and_the_others_are_darkened():
    question = make_questions(1)[0]
    whole, drawn = draw_kept(question, None, 36), draw_kept(question, [0, 35], 36)
    for x, y, kept in [(5, 5, True), (330, 330, True), (100, 100, False), (5, 330, False)]:
        same = whole.getpixel((x, y)) == drawn.getpixel((x, y))
        assert same == kept
    assert draw_kept(question, [], 35) is None, "no square grid"


def test_the_library_does_not_import_wandb_hydra_or_pandas():
    package = Path(wandb_logger.__file__).parent.parent / "tokensel"
    forbidden = ("import wandb", "import hydra", "from hydra", "import omegaconf", "from omegaconf", "import pandas")
    for file in package.rglob("*.py"):
        assert not any(words in file.read_text() for words in forbidden), file
