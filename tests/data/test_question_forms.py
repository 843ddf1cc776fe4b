"""Question files: every form of question reads as documented, and every mistake is one line with its place."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tokensel.data import NO_CHOICE, YES_NO, load_questions
from tokensel.data.prompts import INSTRUCTION, YES_NO_INSTRUCTION, build_prompt
from tokensel.data.protocol import Protocol
from tokensel.data.question_file import load_question_file
from tokensel.errors import TokenselError

TEN = ["blue"] * 6 + ["navy"] * 4
# One of each form, and the documentation's examples.
FORMS = [
    {"id": "choices", "image": "a.png", "question": "Which is red?", "choices": ["cup", "plate"], "answer": "A"},
    {"id": "by text", "question": "Which?", "choices": ["cup", "plate"], "answer": "plate", "hint": "Look."},
    {"id": "yes_no", "image": "a.png", "question": "Is there a cat?", "answer": "No."},
    {"id": "text", "image": "a.png", "question": "What color?", "answer": "dark red"},
    {"id": "accepted", "image": "a.png", "question": "How many?", "answers": ["2", "two"], "max_new_tokens": 4},
    {"id": "yes in text", "question": "Is it?", "answers": ["yes"], "instruction": "Answer in English."},
    {"id": "scored yes", "question": "Is it?", "answer": "yes", "scorer": "gqa", "instruction": ""},
    {"id": "people", "image": "a.png", "question": "What color?", "answers": TEN, "scorer": "vqa"},
    {"id": "number", "image": "a.png", "question": "How much?", "answer": "12.5", "scorer": "relaxed"},
    {"id": "pictures", "images": ["a.png", "b.png"], "question": "Which is brighter?", "answer": "the second"},
    {"id": "places", "images": ["a.png", "b.png"], "question": "Is <image> like <image>?", "answer": "yes"},
    {"id": "turns", "image": "a.png", "question": "Is it red?", "answer": "no",
     "turns": [{"question": "Which is it?", "choices": ["a cup", "a cat"], "answer": "B"},
               {"question": "What is on it?", "answers": ["Nothing", "none"], "scorer": "anls"}]},
]  # fmt: skip


@pytest.fixture
def load(tmp_path):
    def load_entries(*entries, name="questions.jsonl", text=None):
        lines = "\n".join(map(json.dumps, entries)) if text is None else text
        (tmp_path / name).write_text(lines, encoding="utf-8")
        return load_question_file(tmp_path / name, image_folder=tmp_path)

    return load_entries


def test_every_form_reads_as_documented(load, tmp_path):
    questions = {question.id: question for question in load(*FORMS)}
    forms = [(id, q.form, q.choices, q.answer, q.answers, q.scorer) for id, q in questions.items()]
    assert forms == [
        ("choices", "choices", ("cup", "plate"), 0, (), "exact"),
        ("by text", "choices", ("cup", "plate"), 1, (), "exact"),
        ("yes_no", "yes_no", YES_NO, 1, (), "exact"),
        ("text", "text", (), NO_CHOICE, ("dark red",), "exact"),
        ("accepted", "text", (), NO_CHOICE, ("2", "two"), "exact"),
        ("yes in text", "text", (), NO_CHOICE, ("yes",), "exact"),
        ("scored yes", "text", (), NO_CHOICE, ("yes",), "gqa"),
        ("people", "text", (), NO_CHOICE, tuple(TEN), "vqa"),
        ("number", "text", (), NO_CHOICE, ("12.5",), "relaxed"),
        ("pictures", "text", (), NO_CHOICE, ("the second",), "exact"),
        ("places", "yes_no", YES_NO, 0, (), "exact"),
        ("turns", "yes_no", YES_NO, 1, (), "exact"),
    ]
    assert build_prompt(questions["by text"]) == f"Context: Look.\nWhich?\nA. cup\nB. plate\n{INSTRUCTION}"
    assert build_prompt(questions["text"]) == f"What color?\n{YES_NO_INSTRUCTION}"
    assert build_prompt(questions["yes in text"]) == "Is it?\nAnswer in English."
    assert build_prompt(questions["scored yes"]) == "Is it?"
    assert [questions["accepted"].max_new_tokens, questions["text"].max_new_tokens] == [4, None]
    assert questions["choices"].pictures == (tmp_path / "a.png",)
    assert questions["pictures"].pictures == (tmp_path / "a.png", tmp_path / "b.png")
    which, what = questions["turns"].turns
    assert [(turn.id, turn.form, turn.answer, turn.pictures) for turn in (which, what)] == [
        ("turns#2", "choices", 1, ()),
        ("turns#3", "text", NO_CHOICE, ()),
    ]
    assert (what.answers, what.scorer) == (("Nothing", "none"), "anls")


def test_a_json_list_says_the_same_as_lines(load):
    assert load(text=json.dumps(FORMS), name="questions.json") == load(*FORMS)


def test_a_csv_file_has_all_forms_but_turns(load):
    text = (
        "id,image,images,question,hint,A,B,answer,answers,scorer,instruction,max_new_tokens\n"
        "choices,a.png,,Which is red?,,cup,plate,A,,,,\n"
        "by text,,,Which?,Look.,cup,plate,plate,,,,\n"
        "yes_no,a.png,,Is there a cat?,,,,No.,,,,\n"
        "text,a.png,,What color?,,,,dark red,,,,\n"
        "accepted,a.png,,How many?,,,,,2|two,,,4\n"
        "yes in text,,,Is it?,,,,,yes,,Answer in English.,\n"
        f"people,a.png,,What color?,,,,,{'|'.join(TEN)},vqa,,\n"
        "number,a.png,,How much?,,,,12.5,,relaxed,,\n"
        "pictures,,a.png|b.png,Which is brighter?,,,,the second,,,,\n"
        "places,,a.png|b.png,Is <image> like <image>?,,,,yes,,,,\n"
    )
    assert load(text=text, name="questions.csv") == load(
        *(entry for entry in FORMS if entry["id"] not in ("scored yes", "turns"))
    )
    (question,) = load(text="id,question,answers\n1,How many?,2|two\n", name="questions.csv")
    assert question.answers == ("2", "two")


def talk(*turns: str) -> list[dict]:
    speakers = ("human", "gpt") * len(turns)
    return [{"from": speaker, "value": value} for speaker, value in zip(speakers, turns, strict=False)]


def test_a_conversation_has_the_same_forms(load):
    asked = f"<image>\nIs it red?\n{YES_NO_INSTRUCTION}"
    which = f"Which is it?\nA. a cup\nB. a cat\n{INSTRUCTION}"
    said = load(
        {"id": "1", "image": "a.png", "conversations": talk(asked, "No", which, "B", "What is on it?", "Nothing")},
        {"id": "2", "image": ["a.png", "b.png"], "conversations": talk("<image>\n<image>\nWhich?", "the left one")},
        {"id": "3", "image": ["a.png", "b.png"], "conversations": talk("<image> or <image>?", "the left one")},
        {"id": "4", "images": ["a.png", "b.png"], "conversations": talk("Which?", "the left one")},
    )
    plain = load(
        {"id": "1", "image": "a.png", "question": "Is it red?", "answer": "no", "turns": [
            {"question": "Which is it?", "choices": ["a cup", "a cat"], "answer": "a cat"},
            {"question": "What is on it?", "answer": "Nothing"}]},
        {"id": "2", "images": ["a.png", "b.png"], "question": "Which?", "answer": "the left one"},
        {"id": "3", "images": ["a.png", "b.png"], "question": "<image> or <image>?", "answers": ["the left one"]},
        {"id": "4", "images": ["a.png", "b.png"], "question": "<image>\n<image>\nWhich?", "answer": "the left one"},
    )  # fmt: skip
    assert said == plain


def test_pictures_stand_before_the_words_or_at_their_places(load):
    before, at = (load(entry)[0] for entry in FORMS[9:11])
    processor = SimpleNamespace(image_token="<image>")
    protocol = Protocol(conv="vicuna_v1")
    assert f"USER: <image> <image>\nWhich is brighter?\n{YES_NO_INSTRUCTION} ASS" in protocol.conversation(
        before, processor
    )
    assert f"USER: Is <image> like <image>?\n{YES_NO_INSTRUCTION} ASS" in protocol.conversation(at, processor)


# A question with each mistake, and the line that tells it.
MISTAKES = [
    ("[]", "is a list; an object with id, question and answer is needed"),
    ({"question": "?", "answer": "yes"}, "has no id"),
    ({"id": True, "question": "?", "answer": "yes"}, "has no id"),
    ({"id": "q", "answer": "yes"}, "(id q): has no question; an entry has question and answer, or conversations"),
    ({"answer": "yes", "question": " "}, "has an empty question"),
    ({"question": 5, "answer": "yes"}, "question must be text, not int"),
    ({"hint": ["x"], "answer": "yes"}, "hint must be text, not list"),
    ({"instruction": 1, "answer": "yes"}, "instruction must be text, not int"),
    ({"colour": "red", "answer": "yes"}, "field 'colour' is unknown; fields are id, image, images, video, question,"),
    ({}, "has no answer; give the letter or text of a choice; without choices, yes or no, or accepted answers in"),
    ({"answer": 2}, "answer must be text, not int"),
    ({"answer": " "}, "answers must be a list of texts, none of them empty"),
    ({"answer": "C"}, "has 0 choices and the answer 'C'; give from 2 to 26 choices, or for free text answers=[\"C\"]"),
    ({"answer": "C", "answers": ["C"]}, "has both answer and answers; give one of them"),
    ({"answers": "two"}, "answers must be a list of texts, none of them empty"),
    ({"answers": []}, "answers is an empty list; give at least one accepted answer"),
    ({"answers": ["two", 2]}, "answers must be a list of texts, none of them empty"),
    ({"choices": "cup", "answer": "A"}, "choices must be a list of texts"),
    ({"choices": ["cup", ""], "answer": "A"}, "choices must be a list of texts, none of them empty"),
    ({"choices": ["cup"], "answer": "A"}, "has 1 choices; from 2 to 26 are needed"),
    ({"choices": ["x"] * 27, "answer": "A"}, "has 27 choices; from 2 to 26 are needed"),
    ({"choices": ["cup", "cat"], "answer": "C"}, "answer 'C' is none of A, B, nor a choice's text"),
    ({"choices": ["cup", "cup"], "answer": "cup"}, "answer 'cup' may be more than one choice"),
    ({"choices": ["cup", "cat"]}, "has no answer"),
    ({"choices": ["cup", "cat"], "answers": ["A"]}, "has choices and answers; answers is of free text"),
    ({"choices": ["cup", "cat"], "answer": "A", "scorer": "vqa"}, "has choices and scorer; scorer is of free text"),
    ({"answer": "2", "scorer": "bleu"}, "scorer 'bleu' is unknown; choose one of exact, gqa, vqa, textvqa, anls,"),
    ({"answer": "2", "scorer": ["vqa"]}, "scorer ['vqa'] is unknown"),
    ({"answers": ["2", "two", "2"], "scorer": "vqa"}, "here are 3, and at least 4 are needed"),
    ({"answer": "2", "max_new_tokens": 0}, "max_new_tokens 0 must be a whole number of at least 1"),
    ({"answer": "2", "max_new_tokens": True}, "max_new_tokens True must be a whole number of at least 1"),
    ({"answer": "2", "image": "a.png", "images": ["b.png"]}, "has both image and images; give one of them"),
    ({"answer": "2", "images": "a.png"}, "images is a str; a list of paths is needed"),
    ({"answer": "2", "images": ["a.png", None]}, "image is not a path"),
    ({"answer": "2", "images": ["a.png", "../b.png"]}, "picture ../b.png is outside "),
    ({"answer": "2", "image": "a.png", "question": "Is <image> red?"}, "has <image> inside its words; one picture"),
    ({"answer": "2", "question": "Is <image> red?"}, "has <image> inside its words"),
    ({"answer": "2", "images": ["a.png"] * 2, "question": "<image>?"}, "has 1 <image> in its words and 2 pictures"),
    ({"answer": "2", "images": ["a.png"] * 2, "hint": "<image> " * 3}, "has 3 <image> in its words and 2 pictures"),
    ({"answer": "no", "turns": {"question": "?"}}, "turns is a dict; a list of objects with question and answer"),
    ({"answer": "no", "turns": ["?"]}, "turn 2: is a str; an object with question and answer is needed"),
    ({"answer": "no", "turns": [{"answer": "x"}]}, "turn 2: question must be text, not missing"),
    ({"answer": "no", "turns": [{"question": "?", "answer": "x"}, {"question": "?"}]}, "turn 3: has no answer"),
    ({"answer": "no", "turns": [{"question": "?", "answer": "x", "image": "a.png"}]},
     "turn 2: field 'image' is unknown; fields of a later turn are question, hint, choices"),
    ({"answer": "no", "turns": [{"question": "<image>?", "answer": "x"}]}, "turn 2: has <image> inside its words"),
    ({"conversations": talk("?", "x", "?")}, 'needs turns from "human" and "gpt" in alternation, each with a value; '
     "has human, gpt, human"),
    ({"conversations": talk("?", "x", "", "y")}, "turn 2: has an empty question"),
    ({"conversations": talk("?", "x", "Which?", "B")}, "turn 2: has 0 choices and the answer 'B'"),
    ("{", "not valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "told"), MISTAKES)
def test_each_mistake_is_one_line_with_its_place(load, tmp_path, wrong, told):
    if isinstance(wrong, dict):
        free = "conversations" in wrong or wrong.get("id") is not None or "has no id" in told
        wrong = json.dumps(wrong if free and "conversations" not in wrong else {"id": "q", "question": "?"} | wrong)
    text = f"{json.dumps(FORMS[0])}\n\n{wrong}\n{json.dumps(FORMS[1])}\n"
    with pytest.raises(TokenselError) as caught:
        load(text=text)
    line = str(caught.value)
    assert "\n" not in line
    assert re.search(rf"{re.escape(str(tmp_path))}/questions\.jsonl: line 3(:| \(id q\):) ", line), line
    assert told in line


def test_a_file_with_several_mistakes_tells_the_first_and_where_the_others_are(load):
    wrong = {"id": "q", "question": "?"}
    with pytest.raises(
        TokenselError, match=r"line 2 \(id q\): has no answer; .*; and 2 more with mistakes: line 3, line 5$"
    ):
        load(FORMS[0], wrong, wrong | {"id": ""}, FORMS[1], wrong | {"answer": 5}, FORMS[2])
    with pytest.raises(
        TokenselError, match=r"and 7 more with mistakes: line 2, line 3, line 4, line 5, line 6, \.\.\.$"
    ):
        load(*[wrong] * 8)


def test_an_id_that_occurs_twice_is_told_with_both_places(load):
    with pytest.raises(
        TokenselError, match=r"questions\.jsonl: line 3: id text occurs more than once, first in line 1$"
    ):
        load(FORMS[3], FORMS[4], FORMS[3])
    with pytest.raises(TokenselError, match=r"questions\.csv: line 3: id 1 occurs more than once, first in line 2$"):
        load(text="id,question,answer\n1,What?,yes\n1,What?,no\n", name="questions.csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "id,question\n",
            "line 1: has no column answer; columns are id, image, images, video, question, hint, answer, answers",
        ),
        ("id,question,answer,turns\n", "line 1: column turns is unknown; several turns need a .json or .jsonl file"),
        ("id,question,answer,max_new_tokens\n1,What?,x,many\n", "line 2 (id 1): max_new_tokens 'many' must be a whole"),
        ("id,question,answers\n1,What?,x||y\n", "line 2 (id 1): answers must be a list of texts, none of them empty"),
        ("id,question,answer\n1,What?,\n", "line 2 (id 1): has no answer"),
    ],
)
def test_a_mistake_in_a_csv_file_is_one_line(load, text, told):
    with pytest.raises(TokenselError) as caught:
        load(text=text, name="questions.csv")
    assert f"questions.csv: {told}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_limit_of_a_file_with_all_forms_keeps_questions_whole(load, tmp_path):
    load(*FORMS)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    path = str(tmp_path / "questions.jsonl")
    some = load_questions("question_file", path=path, image_folder=str(tmp_path), limit=len(FORMS) - 1)
    assert len(some) == len(FORMS) - 1
    assert [len(question.load_images()) for question in some] == [len(question.pictures) for question in some]


def test_the_examples_of_the_documentation_read_as_it_says(load):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8").partition("## Your own questions")[2]
    lines = page.partition("```json\n")[2].partition("```")[0]
    forms = [
        (question.form, question.scorer, len(question.pictures), len(question.turns)) for question in load(text=lines)
    ]
    assert forms == [
        ("choices", "exact", 1, 0),
        ("yes_no", "exact", 1, 0),
        ("text", "exact", 1, 0),
        ("text", "relaxed", 1, 0),
        ("text", "exact", 2, 0),
        ("yes_no", "exact", 1, 1),
        ("yes_no", "exact", 0, 0),
    ]
    assert [question.video is not None for question in load(text=lines)] == [False] * 6 + [True]
    table = page.partition("    id,image")[2].partition("\n\n")[0].replace("\n    ", "\n")
    assert load(text=f"id,image{table}\n", name="questions.csv") == load(text=lines)[:3]
    told = page.partition("    error: ")[2].partition("\n")[0]
    first, second, third, *_ = lines.splitlines()
    wrong = third.replace("}", ', "answer": "3"}')
    with pytest.raises(TokenselError) as caught:
        load(text="\n".join([first, second, wrong, *["{}" if n in (5, 9) else "" for n in range(4, 10)]]))
    assert str(caught.value).endswith(told)
