"""Benchmarks by name: folders in the schema of their data sets give their questions, words and answers, and every
mistake ends in one line."""

import ast
import io
import os
import pickle
import random
import string

import datasets
import pytest
from datasets import Dataset, DatasetDict
from helpers.lmms_eval import definitions
from hypothesis import given
from hypothesis import strategies as st
from lmms_documents import mmmu as mmmu_rows
from lmms_folders import TASKS, typed, write_folder
from PIL import Image

from tokensel.data import LETTERS, NO_CHOICE, Question, load_questions
from tokensel.data.mmbench import CircularEvaluation, named_choice
from tokensel.data.prompts import INSTRUCTION, YES_NO_INSTRUCTION, build_prompt
from tokensel.data.scorers import SCORERS
from tokensel.errors import BadSampleError, TokenselError

# By our name: lmms-eval's task, and the column of the questions' ids; None: their number.
NAMED = {
    "ai2d": ("ai2d", None),
    "chartqa": ("chartqa", None),
    "gqa": ("gqa", "id"),
    "mmbench": ("mmbench_en_dev", "index"),
    "mmmu": ("mmmu_val", "id"),
    "seedbench": ("seedbench", "question_id"),
    "textvqa": ("textvqa_val", "question_id"),
    "vizwiz": ("vizwiz_vqa_val", "question_id"),
}
SPLITS = {name: TASKS[task][0].split for name, (task, _) in NAMED.items()}
COUNT = 8


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory):
    datasets.disable_progress_bars()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A copy of each data set as the hub has it, made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = write_folder(NAMED[name][0], tmp_path_factory.mktemp(name), COUNT)
        return str(made[name])

    return folder


def rows(name: str) -> list[dict]:
    return list(TASKS[NAMED[name][0]][0].rows(COUNT))


def table(name: str, content: list[dict] | None = None, drop=()) -> Dataset:
    """A data set's questions, changed or not; gqa's with their pictures, as `save_to_disk` may have them."""
    part, *others = TASKS[NAMED[name][0]]
    content = rows(name) if content is None else content
    if others:
        pictures = {row["id"]: row["image"] for row in others[0].rows(COUNT)}
        content = [row | {"image": pictures[row["imageId"]]} for row in content]
    return typed(content, {key: kind for key, kind in part.types.items() if key in content[0]}).remove_columns(drop)


@pytest.fixture
def hub(monkeypatch):
    """Makes the hub answer with examples."""

    def answer(name, content=None, drop=()):
        found = table(name, content, drop)
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: found)

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return answer


def content(question: Question) -> tuple:
    names = ("id", "text", "choices", "answer", "answers", "scorer", "form", "image_id", "category", "family", "split")
    pictures = [image.tobytes() for image in question.load_images()]
    return (*(getattr(question, name) for name in names), build_prompt(question), pictures)


@pytest.mark.parametrize("name", NAMED)
def test_a_copy_of_the_hubs_and_a_saved_folder_give_the_same_questions(name, folders, tmp_path):
    questions = load_questions(name, path=folders(name))
    DatasetDict({SPLITS[name]: table(name)}).save_to_disk(str(tmp_path))
    assert list(map(content, questions)) == list(map(content, load_questions(name, path=str(tmp_path))))
    assert content(pickle.loads(pickle.dumps(questions[0]))) == content(questions[0])  # as workers receive them
    expected = [row for row in rows(name) if name != "seedbench" or row["data_type"] == "image"]
    column = NAMED[name][1]
    ids = [str(number) if column is None else str(row[column]) for number, row in enumerate(expected)]
    assert [question.id for question in questions] == ids
    for question, row in zip(questions, expected, strict=True):
        answer = row.get("answers") or [row["answer"]]
        if question.form == "text":
            assert (list(question.answers), question.answer) == (answer, NO_CHOICE)
            assert SCORERS[question.scorer](answer[0], question.answers) >= 0.3
        else:
            index = answer[0] if name == "ai2d" else LETTERS.index(answer[0])
            assert question.answer == int(index)
        assert question.split == SPLITS[name]


# Words. lmms-eval writes TextVQA's and VizWiz's questions with a capital, which neither LLaVA nor the data set does.


def lmms_words(name: str, row: dict) -> str:
    """The prompt of lmms-eval's task, with the texts of its configuration."""
    known = {"config": {"metadata": {"interleaved_format": False}}, "ast": ast, "ExtendedRegexFilter": object}
    task = {"vizwiz": "vizwiz_vqa"}.get(name, name)
    words = next(
        value
        for key, value in definitions(f"tasks/{task}/utils.py", **known).items()
        if key in (f"{task}_doc_to_text", "seed_doc_to_text")
    )
    single = f"\n{YES_NO_INSTRUCTION}"
    insufficient = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    options = {"pre_prompt": "", "post_prompt": single, "prompt_format": "mcq", "prompt_type": "format"}
    options |= {"multiple_choice_prompt": INSTRUCTION, "open_ended_prompt": YES_NO_INSTRUCTION, "ocr": False}
    ending = {"chartqa": "\nAnswer the question with a single word.", "ai2d": f"\n{INSTRUCTION}"}
    options["post_prompt"] = ending.get(name, (insufficient if name == "vizwiz" else "") + single)
    return words(row) if name == "seedbench" else words(row, options)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "mmbench"])
def test_the_words_are_lmms_evals(name, hub):
    hub(name)
    by_id = {question.id: question for question in load_questions(name)}
    column = NAMED[name][1]
    asked = {str(number) if column is None else str(row[column]): row for number, row in enumerate(rows(name))}
    for id, question in by_id.items():
        ours, theirs = build_prompt(question), lmms_words(name, asked[id])
        if name in ("textvqa", "vizwiz"):
            assert ours.startswith(asked[id]["question"])
            theirs = theirs.replace(asked[id]["question"].capitalize(), asked[id]["question"])
        assert ours == theirs


def test_textvqa_states_ocr_as_llava_does(hub):
    first, *others = rows("textvqa")
    hub("textvqa", [first | {"ocr_tokens": ["EXIT", "24"]}, *others])
    question, other, *_ = load_questions("textvqa", ocr=True)
    assert "\nReference OCR token: \n" in build_prompt(other)
    words = f"{rows('textvqa')[0]['question']}\nReference OCR token: EXIT, 24\n{YES_NO_INSTRUCTION}"
    assert build_prompt(question) == words


def test_mmbenchs_words_are_llavas(hub):
    hub("mmbench", [row | {"hint": "It is late.", "question": "What now?"} for row in rows("mmbench")])
    for name, ending in (("mmbench", INSTRUCTION), ("mmbench_cn", "请直接回答选项字母。")):
        (question, *_) = load_questions(name)
        choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", question.choices, strict=False))
        assert build_prompt(question) == f"It is late.\nWhat now?\n{choices}\n{ending}"


# Mistakes

NEEDED = {
    "ai2d": "options",
    "chartqa": "type",
    "gqa": "imageId",
    "mmbench": "hint",
    "mmmu": "question_type",
    "seedbench": "choice_c",
    "textvqa": "answers",
    "vizwiz": "question_id",
}


@pytest.mark.parametrize("name", NAMED)
def test_a_missing_column_and_another_split_are_named(name, hub, folders):
    with pytest.raises(TokenselError, match=rf"^data\.split=other: .* has {SPLITS[name]}$"):
        load_questions(name, path=folders(name), split="other")
    hub(name, drop=[NEEDED[name]])
    with pytest.raises(TokenselError, match=rf"^data\.path=lmms-lab/.*: has no column {NEEDED[name]}; its columns are"):
        load_questions(name)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "gqa"])
def test_a_missing_picture_is_a_bad_sample_and_the_others_remain(name, hub):
    column = "image_1" if name == "mmmu" else "image"
    changed = rows(name)
    changed[1][column] = [] if isinstance(changed[1][column], list) else None
    hub(name, changed)
    first, second, *_ = load_questions(name)
    assert first.load_image().size == (336, 336)
    with pytest.raises(BadSampleError, match=rf"^question {second.id}: picture in memory cannot be read"):
        second.load_image()


ANSWERS = {"textvqa": [], "vizwiz": ["", ""], "mmbench": "nan", "mmmu": "?"}
WRONG = [
    (name, {"answers" if isinstance(value, list) else "answer": value}, "not public") for name, value in ANSWERS.items()
]
WRONG += [
    ("ai2d", {"answer": "9"}, "answer '9' is none of its"),
    ("ai2d", {"options": []}, r"options \[\] must be a list of texts"),
    ("chartqa", {"answer": ""}, "has no answer"),
    ("gqa", {"question": " "}, "has no question"),
    ("mmbench", {"answer": "E"}, "answer 'E' is none of its"),
    ("mmbench", {"B": "nan"}, "has no choices A, B, ... without a gap"),
    ("mmbench", {"index": "x"}, "index 'x' is not a number"),
    ("mmmu", {"options": "[1, 2]"}, r"options '\[1, 2\]' must be a list of texts"),
    ("mmmu", {"options": "[" * 9}, "must be a list of texts"),
    ("mmmu", {"question": "<image 7>?", "image_7": ...}, "names <image 7>, but there is no column image_7"),
    ("seedbench", {"answer": "E"}, "answer 'E' is none of its 4 choices"),
    ("vizwiz", {"question": None}, "has no question"),
]


@pytest.mark.parametrize(("name", "wrong", "problem"), WRONG)
def test_a_mistake_in_an_example_names_it(name, wrong, problem, hub):
    changed = rows(name)
    if isinstance(wrong.get("index"), str):
        changed = [row | {"index": str(row["index"])} for row in changed]
    changed[2] |= {column: value for column, value in wrong.items() if value is not ...}
    hub(name, changed, drop=[column for column, value in wrong.items() if value is ...])
    with pytest.raises(TokenselError, match=rf"^data\.path=lmms-lab/\S+: example 2: .*{problem}") as caught:
        load_questions(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_part_of_seedbench_is_named(folders):
    with pytest.raises(TokenselError, match=r"^data\.part=videos: unknown.*video"):
        load_questions("seedbench", path=folders("seedbench"), part="videos")


# What only some have


def test_seedbenchs_pictures_are_lists_or_refused(hub):
    hub("seedbench", [row | {"image": row["image"][0]} for row in rows("seedbench")])
    with pytest.raises(
        TokenselError, match=r"^data\.path=lmms-lab/SEED-Bench: column image must hold a list of pictures"
    ):
        load_questions("seedbench")
    hub("seedbench", drop=["data_id"])
    first, second, *_ = load_questions("seedbench")
    assert first.image_id != second.image_id  # digests of the pictures


def test_seedbenchs_videos_are_several_pictures(folders):
    (video,) = load_questions("seedbench", path=folders("seedbench"), part="video")
    assert (video.category, len(video.load_images()), len(set(video.picture_ids))) == ("video", 2, 2)
    assert len(load_questions("seedbench", path=folders("seedbench"), part="all")) == COUNT
    (other, *_) = load_questions("seedbench", path=folders("seedbench"))
    assert (other.category, other.family) == ("image", "Scene Understanding")


def test_gqas_pictures_are_found_by_name_in_another_folder(tmp_path, folders):
    questions, pictures = TASKS["gqa"]
    for part, count in ((questions, COUNT), (pictures, COUNT - 1)):
        table = typed(list(part.rows(count))[::-1], part.types)
        DatasetDict({"testdev": table}).save_to_disk(str(tmp_path / part.configuration))
    (lost, *others) = load_questions("gqa", path=str(tmp_path))
    assert list(map(content, others[::-1])) == list(map(content, load_questions("gqa", path=folders("gqa"))))[:-1]
    with pytest.raises(BadSampleError, match=r"question 200000007: .*the data set has no picture n7"):
        lost.load_image()
    with pytest.raises(TokenselError, match=r"^data\.path=.*: has no column image; save the pictures with the quest"):
        load_questions("gqa", path=str(tmp_path / questions.configuration))
    for config in ("test", "x" * 5000):
        with pytest.raises(TokenselError, match=rf"^data\.config={config}_instructions: .* has testdev_balanced_inst"):
            load_questions("gqa", path=folders("gqa"), config=config)


def png(color: str) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_mmmus_pictures_are_those_its_words_name_in_their_order(hub):
    (row,) = mmmu_rows(1)
    row |= {"question": "Which is like <image 3>?", "options": "['<image 2>', 'none', '<image 2> and <image 3>']"}
    row |= {"answer": "C", "image_1": png("red"), "image_2": png("lime"), "image_3": png("blue")}
    open_row = row | {"id": "validation_Art_Theory_2", "question": "<image 1> x?", "question_type": "open"}
    open_row |= {"options": "[]", "answer": "['24/7', '3.43']"}
    hub("mmmu", [row, open_row])
    asked, opened = load_questions("mmmu")
    assert [image.getpixel((0, 0)) for image in asked.load_images()] == [(0, 255, 0), (0, 0, 255)]
    assert (asked.answer, asked.choices[0], asked.category) == (2, "<image 2>", "Accounting")
    assert build_prompt(asked).startswith("Which is like <image 3>?\nA. <image 2>\nB. none\nC.")
    assert [image.getpixel((0, 0)) for image in opened.load_images()] == [(255, 0, 0)]
    assert (opened.answers, opened.scorer, opened.category) == (("24/7", "3.43"), "mmmu", "Art_Theory")


# MMBench's circular evaluation


def test_rotations_are_made_where_the_data_set_has_none(hub):
    hub("mmbench")
    own = load_questions("mmbench")
    groups = {question.group for question in own}
    hub("mmbench", [row for row in rows("mmbench") if row["index"] < 1_000_000])
    made = load_questions("mmbench")
    whole = [question for question in made if question.group in {"0", "1"}]
    assert list(map(content, whole)) == list(map(content, own))[: len(whole)]
    for question in made:
        assert len(question.choices) == sum(other.group == question.group for other in made)
        right = {other.choices[other.answer] for other in made if other.group == question.group}
        assert len(right) == 1
    plain = load_questions("mmbench", circular=False)
    assert [question.id for question in plain] == sorted(groups)
    assert all(question.benchmark is None for question in plain)


def test_a_limit_keeps_the_orders_of_a_question_together(hub):
    hub("mmbench")
    whole = load_questions("mmbench")
    for limit in range(1, COUNT + 1):
        some = load_questions("mmbench", limit=limit)
        partial = [
            g for g in {q.group for q in some} if sum(q.group == g for q in some) < sum(q.group == g for q in whole)
        ]
        assert (len(some), len(partial) <= 1) == (limit, True)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12), st.integers(1, 4))
def test_circular_accuracy_equals_a_slow_count(answers, orders):
    scored = []
    for group, right in answers:
        id = str(group + 1_000_000 * sum(other.group == str(group) for other, _ in scored))
        fields = {"group": str(group), "category": "xy"[group % 2], "benchmark": CircularEvaluation(orders)}
        scored.append((Question(id, "?", ("a", "b"), 0, None, **fields), right))
    figures = CircularEvaluation(orders).figures(scored)
    rights = {group: [right for g, right in answers if g == group] for group, _ in answers}
    whole = {group: all(each) for group, each in rights.items() if len(each) == orders}

    def share(of):
        return pytest.approx(sum(of) / len(of)) if of else None

    assert figures["circular"] == share(list(whole.values()))
    assert figures["vanilla"] == share([each[0] for each in rights.values()])
    assert figures["n_circular"] == len(whole)
    by_category = {name: share([r for g, r in whole.items() if "xy"[g % 2] == name]) for name in "xy"}
    assert figures["categories"] == {name: value for name, value in by_category.items() if value is not None}


def test_a_named_choice_is_the_one_that_mmbenchs_own_matching_finds():
    known = {"eval_logger": type("Log", (), {"info": staticmethod(lambda text: None)}), "os": os, "string": string}
    evaluator = definitions("tasks/mmbench/mmbench_evals.py", pd=None, **known)["MMBench_Evaluator"]()
    pieces = [
        "A",
        "B",
        "C",
        "D",
        "E",
        "A.",
        "(B)",
        "C)",
        "D).",
        ":A",
        "B:",
        "a",
        "cat",
        "Dog",
        "dog",
        "is",
        "red",
        "the answer",
    ]
    draw, found = random.Random(5), set()
    for _ in range(400):
        choices = tuple(draw.sample(["cat", "dog", "red cat", "Bird", "A dog"], draw.choice([2, 3, 4])))
        said = " ".join(draw.choice(pieces) for _ in range(draw.randrange(5)))
        theirs = evaluator.can_infer(said, dict(zip("ABCD", choices, strict=False)))
        ours = named_choice(said, choices)
        wrong = theirs is False or LETTERS.index(theirs) >= len(choices)
        assert ours == (None if wrong else LETTERS.index(theirs)), (said, choices)
        found.add(ours)
    assert found == {None, 0, 1, 2, 3}


def test_an_order_is_scored_by_the_letter_that_is_named():
    question = Question("1000003", "?", ("cat", "dog"), 1, None, group="3", benchmark=CircularEvaluation(2))
    said = {"B": 1.0, "B. dog": 1.0, "It is a dog": 1.0, "A": 0.0, "": 0.0, "cat or dog": 0.0}
    assert {each: question.benchmark.score(question, each)[0] for each in said} == said
