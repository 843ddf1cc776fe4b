"""Question files: every entry of the reference file is restored word for word, and mistakes are named."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokensel.data import LETTERS, load_questions
from tokensel.data.prompts import INSTRUCTION, YES_NO_INSTRUCTION, build_prompt
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


def test_scienceqas_words_are_the_same_in_plain_fields(reference, load):
    _, questions = reference
    lines = [
        {"id": q.id, "image": q.image_id, "question": q.text, "hint": q.hint, "choices": q.choices}
        # One question's choices are B, C, D, A: neither letter nor text alone says which is right.
        | {"answer": f"{LETTERS[q.answer]}. {q.choices[q.answer]}" if "A" in q.choices else LETTERS[q.answer]}
        for q in questions
    ]
    plain = load(text="\n".join(map(json.dumps, lines)), name="questions.jsonl")
    assert [replace(q, image=None) for q in plain] == [replace(q, image=None) for q in questions]
    assert list(map(build_prompt, plain)) == list(map(build_prompt, questions))


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


def plain(**fields) -> dict:
    return {"id": "7", "question": "Which is red?", "choices": ["left", "right"], "answer": "B"} | fields


def test_plain_fields_say_the_same_as_a_conversation(load):
    (told,) = load(entry("<image>\nContext: Look.\nWhich is red?\nA. left\nB. right", id="7"))
    for answer in ("B", "right"):
        assert load(plain(image="5/image.png", hint="Look.", answer=answer)) == [told]


def test_a_csv_file_says_the_same_as_json(load):
    rows = [plain(image="5/image.png", question='Which is "red",\nleft?'), plain(id="8", hint="Look."),
            plain(id="9", choices=[], answer="no")]  # fmt: skip
    text = (
        "\ufeffid,image,question,hint,A,B,C,answer\r\n"
        '7,5/image.png,"Which is ""red"",\nleft?",,left,right,,B\r\n'
        "8,,Which is red?,Look.,left,right,,right\r\n"
        "9,,Which is red?,,,,,no\r\n"
    )
    assert load(text=text, name="questions.csv") == load(*rows)


@pytest.mark.parametrize("answer", ["yes", "Yes", "No."])
def test_without_choices_the_answer_is_yes_or_no(load, answer):
    for written in (plain(choices=[], answer=answer), entry(f"<image>\nWhich is red?\n{YES_NO_INSTRUCTION}", answer)):
        (question,) = load(written)
        assert (question.form, question.choices[question.answer]) == ("yes_no", answer.strip(".").capitalize())
        assert build_prompt(question) == f"Which is red?\n{YES_NO_INSTRUCTION}"


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (plain(picture="a.png"), "field 'picture' is unknown; fields are id, image, images, video, question"),
        (plain(answers=["B"]), "has both answer and answers; give one of them"),
        (entry("<image>\n<image>\nWhich is red?\nA. left\nB. right"), "has <image> inside its words"),
        (plain(choices=[], answer="B."), r"has 0 choices and the answer 'B\.'; give from 2 to 26 choices, or for"),
        (plain(choices="left"), "choices must be a list of texts"),
        (plain(choices=["left", ""]), "choices must be a list of texts"),
        (plain(choices=["B", "A"]), "answer 'B' may be more than one choice"),
        (plain(choices=["x", "x"], answer="x"), "answer 'x' may be more than one choice"),
        (plain(answer=1), "answer must be text, not int"),
        ({"id": "7", "question": "?"}, "has no answer; give the letter or text of a choice; without"),
        ({"id": "7", "text": "?"}, "has no question; an entry has question and answer, or conversations"),
    ],
)
def test_what_is_not_supported_is_refused_and_not_ignored(load, written, problem):
    with pytest.raises(TokenselError, match=rf"questions\.json: entry 0 \(id [57]\): .*{problem}") as caught:
        load(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id;question;answer\n", "line 1: has no column id; columns are id, image"),
        ("id,question,answer,Hint\n", "line 1: column 'Hint' is unknown"),
        ("id,question,answer,answer\n", "line 1: column answer occurs twice"),
        ('id,question,answer\n1,"two\nlines",yes\n2,What?\n', "line 4: must have 3 cells"),
        ("id,question,answer\n1,Yes, or no?,yes\n", "line 2: must have 3 cells"),
        ("id,question,A,B,C,answer\n1,What?,x,,z,A\n", "line 2: has choices A, C; they must be A, B"),
        ('id,question,answer\n1,What?,yes\n2,"What?,yes\n', "line 3: not valid CSV"),
        ("id,question,answer\n1,,yes\n", r"line 2 \(id 1\): has an empty question"),
        ("", "line 1: has no column id"),
    ],
)
def test_a_mistake_in_a_csv_file_names_its_line(load, text, problem):
    with pytest.raises(TokenselError, match=rf"questions\.csv: {problem}") as caught:
        load(text=text, name="questions.csv")
    assert "\n" not in str(caught.value)


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
        (entry(id="x", conversations=[{"from": "human", "value": "?"}]), r"\(id x\): needs turns from .* has human$"),
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
    with pytest.raises(TokenselError, match=r"q\.json: entry 1: id 5 occurs more than once, first in entry 0$"):
        load_questions("question_file", path=tmp_path / "q.json", image_folder=tmp_path)
