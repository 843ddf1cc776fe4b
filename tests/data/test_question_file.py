"""Question files: every entry of the reference file is restored word for word, and mistakes are named."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokensel.data import LETTERS, Question, load_questions
from tokensel.data.prompts import INSTRUCTION, build_prompt
from tokensel.data.question_file import load_question_file
from tokensel.errors import BadSampleError, TokenselError

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "scienceqa" / "himap-inference-MCQ.json"


def entry(human: str = "<image>\nWhich is red?\nA. left\nB. right", answer: str = "B", **fields) -> dict:
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
    return {"id": "5", "image": "5/image.png", "conversations": turns} | fields


@pytest.fixture
def load(tmp_path):
    def load_entries(*entries, text: str | None = None, name: str = "questions.json", **options):
        path = tmp_path / name
        path.write_text(json.dumps(list(entries)) if text is None else text, encoding="utf-8")
        return load_question_file(path, **({"image_folder": tmp_path} | options))

    return load_entries


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    if not REFERENCE.is_file():
        pytest.skip(f"the ScienceQA question file is not at {REFERENCE}")
    entries = json.loads(REFERENCE.read_text())
    return entries, load_question_file(REFERENCE, image_folder=tmp_path_factory.mktemp("pictures"))


def test_all_scienceqa_entries_are_restored_word_for_word(reference):
    entries, questions = reference
    assert len(questions) == 2017
    for raw, question in zip(entries, questions, strict=True):
        human, answer = (turn["value"] for turn in raw["conversations"])
        assert build_prompt(question) == human.removeprefix("<image>\n") + "\n" + INSTRUCTION, raw["id"]
        assert (question.id, LETTERS[question.answer]) == (raw["id"], answer)
        assert str(question.image).endswith(raw["image"])


def test_scienceqa_splits_into_hint_question_and_choices(reference):
    _, questions = reference
    assert Counter(bool(question.hint) for question in questions) == {True: 1257, False: 760}
    assert Counter(len(question.choices) for question in questions) == {4: 770, 2: 677, 3: 532, 5: 38}
    by_id = {question.id: question for question in questions}
    sheep = by_id["42"]
    assert sheep.text.startswith("What is the expected ratio of offspring")
    assert sheep.hint.startswith("This passage describes")
    assert sheep.hint.endswith("between two sheep.")
    assert sheep.choices == ("0:4", "4:0", "2:2", "1:3", "3:1")
    two_lines = [question.text for question in questions if question.hint and "\n" in question.text]
    assert len(two_lines) > 50
    assert all("\n" in question.text for question in questions if "Complete the " in question.text)
    assert not any("Complete the " in question.hint for question in questions)


def test_without_context_all_words_are_the_question(load):
    (question,) = load(entry("<image>\nLook.\nWhich is red?\nA. left\nB. right"))
    assert (question.hint, question.text) == ("", "Look.\nWhich is red?")


def test_context_is_split_before_the_last_line_or_a_question_of_two(load):
    texts = [
        ("Context: One.\n\nTwo?\nTrue or false?", "One.\n", "Two?\nTrue or false?"),
        ("Context: One.\nTwo.\nWhich?", "One.\nTwo.", "Which?"),
        ("Context: One.\nComplete the sentence.\nIt is ().", "One.", "Complete the sentence.\nIt is ()."),
        ("Context: One?\nWhich?", "One?", "Which?"),
        ("Context: alone?", "", "Context: alone?"),
        ("Context: One?\n", "", "Context: One?\n"),
        ("Context: \nWhich?", "", "Context: \nWhich?"),
    ]
    for words, hint, text in texts:
        (question,) = load(entry(f"<image>\n{words}\nA. x\nB. y"))
        assert (question.hint, question.text) == (hint, text)


def test_only_the_last_lettered_lines_are_choices(load):
    (question,) = load(entry("Read.\nA. not a choice\nWhich?\nA. x\nand more\nB. A. y\nC. z", "C. z"))
    assert question.text == "Read.\nA. not a choice\nWhich?"
    assert question.choices == ("x\nand more", "A. y", "z")
    assert question.answer == 2


@given(
    words=st.lists(st.text("ab ?.:\n", max_size=9), min_size=1, max_size=4).map("\n".join).filter(str.strip),
    context=st.sampled_from(["", "Context: "]),
    choices=st.lists(st.text("ab .\n", max_size=6), min_size=2, max_size=5),
)
def test_any_words_are_restored(tmp_path_factory, words, context, choices):
    lettered = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps([entry(f"<image>\n{context}{words}\n{lettered}", "A", image=None)]))
    (question,) = load_question_file(path)
    assert build_prompt(question) == f"{context}{words}\n{lettered}\n{INSTRUCTION}"


def test_the_instruction_and_the_image_token_are_removed(load):
    bare = "Which is red?\nA. left\nB. right"
    asked = f"{bare}\n{INSTRUCTION}"
    for human in (bare, f"{bare}\n<image>", f"<image>\n{asked}", f"{asked}\n<image>"):
        (question,) = load(entry(human))
        assert build_prompt(question) == asked


def test_jsonl_and_entries_without_pictures(load):
    lines = [json.dumps(entry(id=1)), "", json.dumps({k: v for k, v in entry(id=2).items() if k != "image"})]
    first, second = load(text="\n".join(lines), name="questions.jsonl")
    assert (first.id, second.id, second.image) == ("1", "2", None)
    with pytest.raises(BadSampleError, match="question 2"):
        second.load_image()


def test_pictures_come_from_the_folder_and_may_be_links(load, tmp_path):
    Image.new("RGB", (9, 7), "red").save(tmp_path / "elsewhere.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (question,) = load(entry(image="x/../link.png"), image_folder=tmp_path / "pictures")
    assert question.load_image().size == (9, 7)
    (missing,) = load(entry(id="lost", image="none.png"))
    with pytest.raises(BadSampleError, match=r"question lost.*none\.png"):
        missing.load_image()


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b.png", ".."])
def test_a_picture_outside_the_folder_is_refused(load, path):
    with pytest.raises(TokenselError, match=r"entry 0 \(id 5\).*outside"):
        load(entry(image=path))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("no object", "entry 1: is a str"),
        ({k: v for k, v in entry().items() if k != "id"}, "entry 1: has no id"),
        (entry(id="x", conversations="none"), r"entry 1 \(id x\): has no list of conversations"),
        (entry(id="x", conversations=[{"from": "human", "value": "?"}]), r"\(id x\): needs a turn"),
        (entry(id="x", conversations=[{"from": "human"}, None, {"from": "gpt", "value": 3}]), "needs a turn"),
        (entry("<image>\nWhich?", id="x"), r"\(id x\): has 0 choices"),
        (entry("<image>\nWhich?\nA. x", "A", id="x"), r"\(id x\): has 1 choices"),
        (entry("<image>\nA. x\nB. y", id="x"), r"\(id x\): has no question"),
        (entry(answer="E", id="x"), r"\(id x\): answer 'E' is none of A, B"),
        (entry(id="x", image=7), r"\(id x\): image is not a path"),
    ],
)
def test_a_malformed_entry_is_named(load, broken, problem):
    with pytest.raises(TokenselError, match=problem) as caught:
        load(entry(), broken)
    assert "questions.json: entry 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_json_names_file_and_line(load):
    with pytest.raises(TokenselError, match=r"questions\.json: line 3: not valid JSON"):
        load(text='[\n{"id": "1"},\n{"id": }\n]')
    with pytest.raises(TokenselError, match=r"questions\.jsonl: line 2: not valid JSON"):
        load(text=json.dumps(entry()) + "\n{", name="questions.jsonl")
    with pytest.raises(TokenselError, match="is a dict"):
        load(text="{}")


def test_missing_files_and_options_are_named(load, tmp_path):
    with pytest.raises(TokenselError, match=r"data\.path"):
        load_questions("question_file")
    with pytest.raises(TokenselError, match=r"data\.path=.*nowhere\.json"):
        load_questions("question_file", path="nowhere.json")
    with pytest.raises(TokenselError, match=r"data\.image_folder=.*nowhere"):
        load(entry(), image_folder=tmp_path / "nowhere")
    with pytest.raises(TokenselError, match=r"data\.image_folder is needed"):
        load(entry(), image_folder=None)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TokenselError, match="not UTF-8"):
        load_question_file(tmp_path / "binary.json")


def test_two_questions_of_one_id_are_an_error(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps([entry(), entry()]))
    with pytest.raises(TokenselError, match="question id 5 occurs more than once"):
        load_questions("question_file", path=tmp_path / "q.json", image_folder=tmp_path)


GREYS = np.tile(np.arange(256, dtype=np.uint8), (4, 1))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16.png", GREYS.astype(np.uint16) * 257),
        ("16.tiff", GREYS.astype(np.uint16) * 257),
        ("float.tiff", GREYS.astype(np.float32) / 255),
        ("32.tiff", GREYS.astype(np.int32)),
    ],
)
def test_pictures_of_more_than_8_bits_keep_their_brightness(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    question = Question(id="1", text="?", choices=("a", "b"), answer=0, image=tmp_path / name)
    assert np.array_equal(np.asarray(question.load_image()), np.repeat(GREYS[..., None], 3, 2))


@pytest.mark.parametrize(
    ("values", "range_of"),
    [
        (GREYS.astype(np.int32) * 1000, "integers from 0 to 255000"),
        (GREYS.astype(np.float32), "floats from 0 to 255"),
        (-GREYS.astype(np.float32), "floats from -255 to -0"),
        (np.full((4, 4), np.nan, np.float32), "floats from nan to nan"),
    ],
)
def test_pixels_whose_white_is_unknown_are_refused(tmp_path, values, range_of):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    question = Question(id="1", text="?", choices=("a", "b"), answer=0, image=tmp_path / "a.tiff")
    with pytest.raises(BadSampleError, match=f"its pixels are {range_of}; convert it to 8 bits"):
        question.load_image()
