"""ScienceQA: hub, saved folder and original folder give the same questions, and every mistake ends in one line."""

import io
import json
import socket
import sys
import time
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets.exceptions import DatasetNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokensel.data import Question, draw_order, load_questions, stable_hash
from tokensel.data.prompts import build_prompt
from tokensel.data.scienceqa import load_scienceqa
from tokensel.errors import BadSampleError, TokenselError

TEXTS = ("question", "hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
FEATURES = Features(
    {"image": datasets.Image(), "choices": List(Value("string")), "answer": Value("int8")}
    | {name: Value("string") for name in TEXTS}
)


def encoded(color: str, mode: str = "RGB", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 7), color).convert(mode).save(file, kind)
    return file.getvalue()


def problem(picture: bytes | None, split: str = "test", **fields) -> dict:
    """A problem as in problems.json, and its picture."""
    content = {name: f"some {name}" for name in TEXTS} | {"hint": "", "choices": ["left", "right"], "answer": 1}
    return content | {"split": split, "image": None if picture is None else "image.png", "picture": picture} | fields


RED = encoded("red")
# By pid; pids rise otherwise than rows do.
PROBLEMS = {
    "7": problem(RED, question="Which is red?", hint="Look at the picture. "),
    "3": problem(None, question="Which has no picture?", hint="", answer=0),
    "12": problem(RED, question="Which is red again?"),
    "5": problem(encoded("blue", "RGBA"), choices=["a", "b", "c", "d", "e"], answer=4, grade="grade5"),
    "40": problem(encoded("green", "P"), question="Où est l'élève? 哪个?", choices=["½ °C", "−3"], hint="  \n"),
    "41": problem(encoded("gray", "L"), hint="A long passage.\n" * 3000, topic="figurative-language"),
    "50": problem(encoded("white"), split="val", question="Which is white?"),
    "60": problem(encoded("black"), split="train"),
}
SPLITS = {
    "train": ["60"],
    "val": ["50"],
    "trainval": ["60", "50"],
    "test": ["7", "3", "12", "5", "40", "41"],
    "minival": ["50"],
    "minitest": ["7", "3"],
}


def rows(split: str, **columns: list) -> Dataset:
    """The hub's examples of a split: the problems' fields and picture, without pid and split."""
    entries = []
    for number, pid in enumerate(SPLITS[split]):
        content = {name: PROBLEMS[pid][name] for name in (*TEXTS, "choices", "answer")}
        picture = PROBLEMS[pid]["picture"]
        content["image"] = None if picture is None else {"bytes": picture, "path": None}
        entries.append(content | {name: values[number] for name, values in columns.items()})
    extra = {name: Value("string" if isinstance(values[0], str) else "int64") for name, values in columns.items()}
    return Dataset.from_list(entries, features=Features(FEATURES | extra))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    content = {pid: {k: v for k, v in one.items() if k != "picture"} for pid, one in PROBLEMS.items()}
    (folder / "problems.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "pid_splits.json").write_text(json.dumps(SPLITS))
    for pid, one in PROBLEMS.items():
        if one["picture"] is not None:
            file = folder / "images" / one["split"] / pid / "image.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(one["picture"])
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folders of one split alone, and of all splits with pids."""
    folder = tmp_path_factory.mktemp("saved")
    rows("test").save_to_disk(str(folder / "rows"))
    splits = {"test": rows("test", pid=SPLITS["test"]), "validation": rows("val", pid=SPLITS["val"])}
    DatasetDict(splits).save_to_disk(str(folder / "splits"))
    return folder


@pytest.fixture
def hub(monkeypatch):
    """Makes the hub answer with examples, or raise; records its requests."""
    asked = []

    def answer(with_what):
        def load_dataset(path, name=None, **options):
            print("Downloading data")  # as a data set's own code may
            asked.append((path, name, options))
            if isinstance(with_what, BaseException):
                raise with_what
            return with_what

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **options: None)
    return answer


def content(question: Question) -> tuple:
    pixels = () if question.image is None else (np.asarray(question.load_image()).tolist(),)
    names = ("text", "choices", "answer", "hint", "subject", "topic", "grade", "split", "image_id", "form")
    return (*(getattr(question, name) for name in names if question.image or name != "image_id"), *pixels)


def expected(pid: str, split: str) -> tuple:
    """The content of a question, built from the problem alone."""
    one = PROBLEMS[pid]
    picture = () if one["picture"] is None else (np.asarray(Image.open(io.BytesIO(one["picture"])).convert("RGB")),)
    hint = one["hint"] if one["hint"].strip() else ""
    words = (one["question"], tuple(one["choices"]), one["answer"], hint, one["subject"], one["topic"], one["grade"])
    return (*words, split, *(array.tolist() for array in picture))


def without_image_id(question: Question) -> tuple:
    found = content(question)
    return found[:8] + found[10:] if question.image else found[:8]


@pytest.mark.parametrize("images_only", [True, False])
def test_all_forms_give_the_same_questions(original, saved, hub, images_only):
    hub(rows("test"))
    forms = {
        "hub": load_scienceqa(images_only=images_only),
        "saved": load_scienceqa(str(saved / "rows"), images_only=images_only),
        "with pids": load_scienceqa(str(saved / "splits"), images_only=images_only),
        "original": load_scienceqa(str(original), images_only=images_only),
    }
    pids = [pid for pid in SPLITS["test"] if PROBLEMS[pid]["picture"] is not None or not images_only]
    for name, questions in forms.items():
        assert [without_image_id(question) for question in questions] == [expected(p, "test") for p in pids], name
        assert list(map(content, questions)) == list(map(content, forms["original"])), name
    numbers = [str(SPLITS["test"].index(pid)) for pid in pids]
    assert [question.id for question in forms["hub"]] == [question.id for question in forms["saved"]] == numbers
    assert [question.id for question in forms["with pids"]] == [question.id for question in forms["original"]] == pids


def test_only_equal_pictures_share_an_image_id(original, saved):
    for path in (original, saved / "rows"):
        questions = load_scienceqa(str(path), images_only=False)
        first, none, again, *others = (question.image_id for question in questions)
        assert first == again
        assert len({first, none, *others}) == 5


@settings(max_examples=10)
@given(st.lists(st.sampled_from(["red", "blue", "green", None]), min_size=1, max_size=6))
def test_image_ids_are_equal_if_and_only_if_pictures_are(tmp_path_factory, colors):
    folder = tmp_path_factory.mktemp("colors")
    entries = [{k: v for k, v in PROBLEMS["7"].items() if k in FEATURES} | {"image": None} for _ in colors]
    for entry, color in zip(entries, colors, strict=True):
        entry["image"] = color and {"bytes": encoded(color, kind="BMP"), "path": None}
    Dataset.from_list(entries, features=FEATURES).save_to_disk(str(folder))
    ids = [question.image_id for question in load_scienceqa(str(folder), images_only=False)]
    for one, first in zip(ids, colors, strict=True):
        for other, second in zip(ids, colors, strict=True):
            assert (one == other) == ((first == second and first is not None) or one is other)


def test_options_are_passed_on_to_the_hub(hub, capsys):
    asked = hub(rows("test"))
    load_questions("scienceqa")
    load_questions("scienceqa", path="lmms-lab/ScienceQA", config="ScienceQA-IMG", split="validation", revision="v1")
    assert asked == [
        ("derek-thomas/ScienceQA", None, {"split": "test", "revision": None}),
        ("lmms-lab/ScienceQA", "ScienceQA-IMG", {"split": "validation", "revision": "v1"}),
    ]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Downloading" in printed.err


def test_pictures_are_decoded_only_when_loaded(hub, monkeypatch):
    hub(rows("test"))
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(1) or real(*args, **options))
    questions = load_scienceqa()
    assert not opened
    questions[0].load_image()
    assert len(opened) == 1


@pytest.mark.parametrize("column", ["id", "pid"])
def test_a_column_of_ids_names_the_questions(hub, column):
    hub(rows("minitest", **{column: [700, 300]}))
    assert [question.id for question in load_scienceqa(images_only=False)] == ["700", "300"]


def test_splits_may_have_either_name(original, saved):
    for path, split in ((original, "val"), (original, "validation"), (saved / "splits", "validation")):
        (question,) = load_scienceqa(str(path), split=split)
        assert (question.id, question.text, question.split) == ("50", "Which is white?", "validation")
    assert [q.id for q in load_scienceqa(str(original), split="minitest", images_only=False)] == ["7", "3"]


def test_a_copy_of_the_repository_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    clone, card = tmp_path / "clone", ["---", "configs:"]
    for config, split in (("ScienceQA-FULL", "test"), ("ScienceQA-IMG", "minitest")):
        (clone / config).mkdir(parents=True)
        rows(split).to_parquet(clone / config / "test-00000-of-00001.parquet")
        card += [f"- config_name: {config}", "  data_files:", "  - split: test", f"    path: {config}/test-*"]
    (clone / "README.md").write_text("\n".join([*card, "---", ""]))

    (question,) = load_scienceqa(str(clone), config="ScienceQA-IMG")
    assert without_image_id(question) == expected("7", "test")
    assert len(load_scienceqa(str(clone), config="ScienceQA-FULL")) == 5
    for options, wording in (
        ({}, r"data\.config=null: .* has ScienceQA-FULL, ScienceQA-IMG$"),
        ({"config": "IMG"}, r"data\.config=IMG: .* has ScienceQA-FULL, ScienceQA-IMG$"),
        ({"config": "ScienceQA-IMG", "split": "train"}, r"data\.split=train: .* has test$"),
    ):
        with pytest.raises(TokenselError, match=wording):
            load_scienceqa(str(clone), **options)


def test_a_missing_picture_is_a_bad_sample_found_when_loaded(original, tmp_path):
    lost = original / "images" / "test" / "5" / "image.png"
    lost.rename(tmp_path / "aside.png")
    try:
        by_id = {question.id: question for question in load_scienceqa(str(original))}
        with pytest.raises(BadSampleError, match=r"question 5: .*5/image\.png does not exist") as caught:
            by_id["5"].load_image()
        assert caught.value.question_id == "5"
        assert by_id["7"].load_image().size == (9, 7)
    finally:
        (tmp_path / "aside.png").rename(lost)


def test_a_missing_or_damaged_picture_of_an_example_is_a_bad_sample(hub, tmp_path):
    entries = rows("minitest").cast_column("image", datasets.Image(decode=False)).to_list()
    entries[0]["image"] = {"bytes": None, "path": str(tmp_path / "lost.png")}
    entries[1]["image"] = {"bytes": RED[:30], "path": None}
    hub(Dataset.from_list(entries, features=FEATURES))
    lost, damaged = load_scienceqa()
    with pytest.raises(BadSampleError, match=r"question 0: .*lost\.png does not exist"):
        lost.load_image()
    with pytest.raises(BadSampleError, match=r"question 1: picture in memory cannot be read"):
        damaged.load_image()


def test_examples_whose_pictures_were_saved_undecoded(hub):
    hub(rows("test").cast_column("image", datasets.Image(decode=False)))
    assert len(load_scienceqa()) == 5
    hub(Dataset.from_list(rows("test").cast_column("image", datasets.Image(decode=False)).to_list()[:1]))
    (question,) = load_scienceqa()
    assert question.load_image().getpixel((0, 0)) == (255, 0, 0)
    hub(Dataset.from_list([{"image": None, "question": "Why?", "choices": ["a", "b"], "answer": 0}]))
    (question,) = load_scienceqa(images_only=False)
    assert question.image is None


# Mistakes: each ends in one line.


def mistake(*args, **options) -> str:
    with pytest.raises(TokenselError) as caught:
        load_scienceqa(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def response(status: int) -> SimpleNamespace:
    return SimpleNamespace(status_code=status, headers={}, request=None)


ERRORS = huggingface_hub.errors
NO_NETWORK = ("hub cannot be reached", "HF_HUB_OFFLINE=1", "HF_HOME", "data.path=FOLDER", "save_to_disk")


@pytest.mark.parametrize(
    ("error", "wording"),
    [
        (DatasetNotFoundError("Dataset 'x/y' doesn't exist on the Hub or cannot be accessed."), ("no such data set",)),
        (DatasetNotFoundError("Dataset 'x/y' is a gated dataset on the Hub. You must be"), ("gated", "HF_TOKEN")),
        (ERRORS.GatedRepoError("403 Client Error.\n\nAccess", response=response(403)), ("gated", "HF_TOKEN")),
        (ERRORS.RepositoryNotFoundError("401\nRepository", response=response(401)), ("no such data set", "HF_TOKEN")),
        (ERRORS.RevisionNotFoundError("404\nRevision", response=response(404)), ("data.revision=v9: x/y has no",)),
        (DatasetNotFoundError("Revision 'v9' doesn't exist for dataset 'x/y'"), ("data.revision=v9: x/y has no",)),
        (ConnectionError("Couldn't reach 'x/y' on the Hub\n(Timeout)"), NO_NETWORK),
        (ERRORS.OfflineModeIsEnabled("Cannot reach it: offline mode is enabled."), NO_NETWORK),
        (FileNotFoundError("Couldn't find 'x/y' either: LocalEntryNotFoundError: An error"), NO_NETWORK),
        (TimeoutError("timed out"), NO_NETWORK),
        (ValueError("Unknown split \"dev\". Should be one of ['a', 'b']."), ("data.split=dev: x/y has a, b",)),
        (ValueError("BuilderConfig 'A' not found. Available: ['B', 'C']"), ("data.config=A: x/y has B, C",)),
        (OSError(28, "No space left on device"), ("cannot be loaded", "No space left")),
        (RuntimeError(""), ("cannot be loaded (RuntimeError",)),
    ],
)  # fmt: skip
def test_an_error_of_the_hub_becomes_one_line_that_says_what_to_set(hub, capsys, error, wording):
    hub(error)
    message = mistake("x/y", split="dev", config="A", revision="v9")
    for words in wording:
        assert words in message
    assert capsys.readouterr().out == ""


def test_an_unreachable_hub_is_not_retried(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        start = time.monotonic()
        message = mistake()
    assert time.monotonic() - start < 8
    for words in NO_NETWORK:
        assert words in message


def test_a_data_set_missing_from_the_cache_offline_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets, at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = mistake()
    assert message.startswith("data.path=derek-thomas/ScienceQA: HF_HUB_OFFLINE is set and the cache lacks")
    assert "HF_HOME" in message
    assert "data.path=FOLDER" in message


def test_mistakes_in_options_name_key_value_and_what_is_allowed(original, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert mistake(str(original), split="dev") == f"data.split=dev: {original} has {', '.join(SPLITS)}"
    path = saved / "splits"
    assert mistake(str(path), split="train") == f"data.split=train: {path} has test, validation"
    rows("test").save_to_disk(str(tmp_path / "train"))
    state = json.loads((tmp_path / "train" / "state.json").read_text()) | {"_split": "train"}
    (tmp_path / "train" / "state.json").write_text(json.dumps(state))
    assert mistake(str(tmp_path / "train")) == f"data.split=test: {tmp_path / 'train'} has train"
    assert "data.split=test[:5]" in mistake(str(path), split="test[:5]")
    assert mistake(str(original), images_only="yes") == "data.images_only=yes: must be true or false"
    for nowhere in ("./nowhere", str(tmp_path / "nowhere"), "a/b/c"):
        assert mistake(nowhere).startswith(f"data.path={nowhere}: no such folder; a folder that save_to_disk wrote")
    assert mistake(None).startswith("data.path=None: HF_HUB_OFFLINE is set")
    assert mistake(str(path), split=None) == f"data.split=None: {path} has test, validation"
    (tmp_path / "rows.json").write_text("[]")
    assert "is a file" in mistake(str(tmp_path / "rows.json"))
    (tmp_path / "empty").mkdir()
    assert "problems.json" in mistake(str(tmp_path / "empty"))
    (tmp_path / "empty" / "state.json").write_text("{")
    assert mistake(str(tmp_path / "empty")).startswith(f"data.path={tmp_path / 'empty'}: cannot be loaded")


@pytest.mark.parametrize(
    ("broken", "wording"),
    [
        ({"question": None}, "example 1: has no question"),
        ({"question": " "}, "example 1: has no question"),
        ({"choices": None}, "example 1: choices None must be a list of strings"),
        ({"choices": []}, r"example 1: choices \[\] must be a list of strings"),
        ({"answer": None}, "example 1: answer None is not an index of its 2 choices"),
        ({"answer": 2}, "example 1: answer 2 is not an index"),
        ({"answer": -1}, "example 1: answer -1 is not an index"),
    ],
)
def test_a_broken_example_is_named(hub, broken, wording):
    entries = rows("minitest").cast_column("image", datasets.Image(decode=False)).to_list()
    entries[1] |= broken
    hub(Dataset.from_list(entries, features=FEATURES))
    with pytest.raises(TokenselError, match=f"^data.path=derek-thomas/ScienceQA: {wording}"):
        load_scienceqa()


def test_examples_without_the_columns_are_refused(hub):
    hub(Dataset.from_dict({"text": ["a"], "image": ["b"]}))
    assert mistake("x/y").endswith("has no column question, choices, answer; its columns are text, image")
    hub(rows("test").remove_columns("image").add_column("image", list("abcdef")))
    assert "column image holds Value('string')" in mistake("x/y")


@pytest.mark.parametrize(
    ("file", "text", "wording"),
    [
        ("problems.json", "[]", "problems.json is a list; an object is needed"),
        ("problems.json", "{", "problems.json cannot be read"),
        ("pid_splits.json", None, "pid_splits.json cannot be read"),
        ("pid_splits.json", '{"test": ["99"]}', "problems.json: 99: pid_splits.json contains it"),
        ("pid_splits.json", '{"test": "7"}', "data.split=test"),
        ("problems.json", {"choices": "ab"}, "problems.json: 7: choices 'ab' must be a list of strings"),
        ("problems.json", {"answer": "1"}, "problems.json: 7: answer '1' is not an index of its 2 choices"),
        ("problems.json", {"image": "../../secret.png"}, "are not plain names"),
        ("problems.json", {"split": ".."}, "are not plain names"),
    ],
)
def test_a_broken_original_is_named(tmp_path, file, text, wording):
    first = {k: v for k, v in PROBLEMS["7"].items() if k != "picture"}
    (tmp_path / "problems.json").write_text(json.dumps({"7": first}))
    (tmp_path / "pid_splits.json").write_text('{"test": ["7"]}')
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text if isinstance(text, str) else json.dumps({"7": first | text}))
    assert wording in mistake(str(tmp_path))


def test_a_missing_datasets_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in mistake(str(tmp_path))


# Question itself


def test_prompts_of_scienceqa_contain_every_choice_and_the_hint(original):
    by_id = {question.id: question for question in load_scienceqa(str(original), images_only=False)}
    assert build_prompt(by_id["5"]).splitlines()[1:6] == ["A. a", "B. b", "C. c", "D. d", "E. e"]
    assert build_prompt(by_id["7"]).startswith("Context: Look at the picture. \nWhich is red?\nA. left\n")
    assert "Context" not in build_prompt(by_id["40"])


def test_a_question_has_one_of_two_forms():
    usual = Question("1", "Red?", ("Yes", "No"), 0, None)
    assert (usual.form, usual.category) == ("choices", "")
    assert Question("1", "Red?", ("Yes", "No"), 0, None, form="yes_no", category="color").category == "color"
    with pytest.raises(TokenselError, match="question 1: form=open is unknown; choose one of choices, yes_no"):
        Question("1", "Red?", ("Yes", "No"), 0, None, form="open")
    for choices in (("No", "Yes"), ("yes", "no"), ("Yes", "No", "Maybe")):
        with pytest.raises(TokenselError, match="question 1: the choices of a yes_no question must be Yes, No"):
            Question("1", "Red?", choices, 0, None, form="yes_no")


def test_a_limit_draws_lettered_questions_by_id_alone():
    questions = [Question(str(n), "Red?", ("a", "b"), 0, None, image_id="same") for n in range(30)]
    by_hash = sorted(questions, key=lambda question: stable_hash(question.id))
    assert sorted(questions, key=draw_order) == by_hash
