"""MME and POPE: all forms give the same questions, and the figures agree with slow counts and manual results."""

import io
import json
import random
from collections import defaultdict

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tokensel.data import YES_NO, Question, load_questions
from tokensel.data.mme import load_mme
from tokensel.data.pope import load_pope
from tokensel.data.prompts import build_prompt
from tokensel.data.yes_no import COGNITION, MME_TASKS, PERCEPTION, POPE_CATEGORIES, read_label, yes_no_figures
from tokensel.errors import BadSampleError, TokenselError

SINGLE_WORD = "\nAnswer the question using a single word or phrase."
MME_FEATURES = Features(
    {name: Value("string") for name in ("question_id", "question", "answer", "category")} | {"image": datasets.Image()}
)
POPE_FEATURES = Features(MME_FEATURES | {"id": Value("string"), "image_source": Value("string")})


def png(color: str) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


# By (sub-task, picture, colour), the lines of its text file: in the one layout of folders and in the other.
MME = {
    ("count", "a.png", "red"): "Are there two dogs? Please answer yes or no.\tYes\n"
    "Is there one dog?  Please answer yes or no.\tNo\n",
    ("artwork", "10.png", "blue"): "Is it a painting? Please answer yes or no. \tYes\n"
    "Is it glassware?Please answer yes or no.\tNo\n\n",
    ("artwork", "11.png", "blue"): 'Is "Please answer" on it? Please answer yes or no.\tno\n'
    "Élève? please answer Yes or No\tyes",
    ("code_reasoning", "a.png", "green"): "Is it 1? Please answer yes or no.\tYes\nIs it 2?\tNo\n",
}
MME_TEXTS = ["Are there two dogs?", "Is there one dog?", "Is it a painting?", "Is it glassware?"]
MME_TEXTS += ['Is "Please answer" on it?', "Élève?", "Is it 1?", "Is it 2?"]


@pytest.fixture(scope="module")
def mme(tmp_path_factory):
    """The hub's examples, saved; and the original folder."""
    saved, original = tmp_path_factory.mktemp("mme"), tmp_path_factory.mktemp("MME_Benchmark")
    entries = []
    for (task, picture, color), lines in MME.items():
        for line in lines.strip().split("\n"):
            question, answer = line.split("\t")
            row = {"question_id": f"{task}/{picture}", "category": task, "question": question, "answer": answer}
            entries.append(row | {"image": png(color)})
        texts, pictures = original / task, original / task
        if task == "artwork":
            texts, pictures = original / task / "questions_answers_YN", original / task / "images"
        for folder in (texts, pictures):
            folder.mkdir(parents=True, exist_ok=True)
        (pictures / picture).write_bytes(png(color)["bytes"])
        (texts / picture.replace("png", "txt")).write_text(lines, encoding="utf-8")
        (texts / "._1.txt").write_text("not a question")
    (original / "eval_tool").mkdir()
    Dataset.from_list(entries, features=MME_FEATURES).save_to_disk(str(saved))
    return saved, original


def content(question: Question) -> tuple:
    names = ("id", "text", "choices", "answer", "image_id", "category", "form", "split")
    return (*(getattr(question, name) for name in names), np.asarray(question.load_image()).tolist())


def test_mme_gives_the_same_questions_from_the_hub_and_its_folder(mme):
    rows, folder = (load_questions("mme", path=str(path)) for path in mme)
    order = [question.id for question in rows]
    assert sorted(map(content, rows)) == sorted(map(content, folder))
    assert order == [f"{task}/{picture}#{n}" for task, picture, *_ in MME for n in (1, 2)]
    assert [question.text for question in rows] == MME_TEXTS
    assert [question.answer for question in rows] == [0, 1, 0, 1, 1, 0, 0, 1]
    assert {question.category for question in rows} == {"count", "artwork", "code_reasoning"}
    assert all(question.form == "yes_no" and question.choices == YES_NO for question in rows)
    # Two pictures of the same bytes are two pictures to MME: it scores the questions of each as a pair.
    assert len({question.image_id for question in rows}) == 4


def test_the_prompt_asks_for_a_single_word_and_only_once(mme):
    for path in mme:
        for question in load_mme(str(path)):
            prompt = build_prompt(question)
            assert prompt == question.text + SINGLE_WORD
            assert "please answer yes or no" not in prompt.lower()


def test_a_limit_keeps_mmes_pairs_together(mme):
    whole = load_questions("mme", path=str(mme[0]))
    for limit in range(1, len(whole) + 1):
        some = load_questions("mme", path=str(mme[0]), limit=limit)
        counts = defaultdict(int)
        for question in some:
            counts[question.image_id] += 1
        assert len(some) == limit
        assert list(counts.values()).count(1) == limit % 2


def test_a_missing_picture_of_mme_is_a_bad_sample(mme, tmp_path):
    folder = tmp_path / "count"
    folder.mkdir()
    (folder / "a.txt").write_text("Is it?\tYes\nIs it not?\tNo\n")
    first, second = load_mme(str(tmp_path))
    for question in (first, second):
        with pytest.raises(BadSampleError, match=r"question count/a\.jpg#[12]: .*a\.jpg does not exist"):
            question.load_image()
    entries = datasets.load_from_disk(str(mme[0])).cast_column("image", datasets.Image(decode=False)).to_list()[:2]
    entries[0]["image"] = None
    Dataset.from_list(entries, features=MME_FEATURES).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(BadSampleError, match=r"question count/a\.png#1: picture in memory cannot be read"):
        load_mme(str(tmp_path / "saved"))[0].load_image()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("Is it?\tYes\n", r"questions about picture count/a\.jpg: 1; must be 2"),
        ("Is it?\tYes\n" * 3, r"questions about picture count/a\.jpg: 3; must be 2"),
        ("Is it?\tYes\n\nIs it not? No\n", r"a\.txt: line 3: has no tab"),
        ("Is it?\tYes\nIs it not?\tmaybe\n", r"a\.txt: line 2: answer 'maybe' is neither yes nor no"),
        ("Is it?\tYes\nPlease answer yes or no.\tNo\n", r"a\.txt: line 2: has no question"),
    ],
)
def test_mistakes_in_mmes_files_are_named(tmp_path, lines, problem):
    (tmp_path / "count").mkdir()
    (tmp_path / "count" / "a.txt").write_text(lines)
    with pytest.raises(TokenselError, match=problem):
        load_mme(str(tmp_path))


def test_mistakes_in_mmes_options_and_examples_are_named(mme, tmp_path):
    with pytest.raises(TokenselError, match=r"^data\.split=val: unknown; choose one of test$"):
        load_mme(str(mme[1]), split="val")
    with pytest.raises(TokenselError, match=r"the original with a folder per sub-task is needed$"):
        load_mme(str(tmp_path))
    entries = datasets.load_from_disk(str(mme[0])).cast_column("image", datasets.Image(decode=False)).to_list()
    entries[1]["category"] = "colour"
    Dataset.from_list(entries, features=MME_FEATURES).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(TokenselError, match="example 1: category colour is none of existence, count"):
        load_mme(str(tmp_path / "saved"))
    (tmp_path / "count").mkdir()
    (tmp_path / "count" / "a.txt").write_bytes(b"\xff\tYes\n")
    with pytest.raises(TokenselError, match=r"a\.txt: cannot be read"):
        load_mme(str(tmp_path))


# POPE: by category, (number, picture, colour, question, label)
POPE = {
    "random": [
        (1, "COCO_val2014_01", "red", "Is there a dog in the image?", "yes"),
        (2, "COCO_val2014_01", "red", "Is there a cat in the image?", "no"),
    ],
    "popular": [(1, "COCO_val2014_01", "red", "Is there a dog in the image?", "yes")],
    "adversarial": [(1, "COCO_val2014_02", "blue", "Is there a 🐦 in the image? ", "no")],
}


def pope_rows(*categories: str, **changed: str | None) -> Dataset:
    entries = [
        {"id": str(place), "question_id": str(number), "question": text, "answer": label}
        | {"image_source": picture, "image": png(color), "category": category}
        | changed
        for category in categories
        for place, (number, picture, color, text, label) in enumerate(POPE[category])
    ]
    return Dataset.from_list(entries, features=POPE_FEATURES)


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    """The hub's examples, saved with the splits of both configurations; the original folder; its pictures."""
    saved, original, pictures = (tmp_path_factory.mktemp(name) for name in ("saved", "coco", "val2014"))
    splits = {"test": pope_rows(*POPE)} | {category: pope_rows(category) for category in POPE}
    DatasetDict(splits).save_to_disk(str(saved))
    for category, answered in POPE.items():
        with (original / f"coco_pope_{category}.json").open("w", encoding="utf-8") as file:
            for number, picture, color, text, label in answered:
                entry = {"question_id": number, "image": f"{picture}.jpg", "text": text, "label": label}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                (pictures / f"{picture}.jpg").write_bytes(png(color)["bytes"])
    return saved, original, pictures


@pytest.mark.parametrize("split", ["test", *POPE])
def test_pope_gives_the_same_questions_from_the_hub_and_its_files(pope, split):
    saved, original, pictures = pope
    rows = load_questions("pope", path=str(saved), split=split)
    files = load_questions("pope", path=str(original), image_folder=str(pictures), split=split)
    assert list(map(content, rows)) == list(map(content, files))
    wanted = POPE if split == "test" else {split: POPE[split]}
    assert [(q.category, q.text, q.answer) for q in rows] == [
        (category, text.strip(), YES_NO.index(label.capitalize()))
        for category, answered in wanted.items()
        for *_, text, label in answered
    ]
    assert all(build_prompt(question) == question.text + SINGLE_WORD for question in rows)
    if split != "test":
        file = original / f"coco_pope_{split}.json"
        alone = load_pope(str(file), image_folder=str(pictures), split=split)
        assert list(map(content, alone)) == list(map(content, rows))


def test_pope_shares_pictures_by_name_or_by_content(pope, tmp_path):
    saved, *_ = pope
    named = load_pope(str(saved))
    assert [q.image_id for q in named] == ["COCO_val2014_01"] * 3 + ["COCO_val2014_02"]
    pope_rows(*POPE).remove_columns("image_source").save_to_disk(str(tmp_path / "nameless"))
    first, second, third, other = (q.image_id for q in load_pope(str(tmp_path / "nameless")))
    assert first == second == third != other
    pope_rows(*POPE, image_source=None).save_to_disk(str(tmp_path / "null"))
    assert len({q.image_id for q in load_pope(str(tmp_path / "null"))}) == 4


def test_mistakes_in_popes_options_and_files_are_named(pope, tmp_path):
    saved, original, pictures = pope
    with pytest.raises(TokenselError, match=r"^data\.image_folder: the original files need it"):
        load_pope(str(original))
    with pytest.raises(TokenselError, match=r"^data\.image_folder=nowhere: no such folder"):
        load_pope(str(original), image_folder="nowhere")
    with pytest.raises(TokenselError, match=r"^data\.split=val: unknown; choose one of test, random, popular, adv"):
        load_pope(str(original), image_folder=str(pictures), split="val")
    with pytest.raises(TokenselError, match=r"^data\.split=val: .* has test, random, popular, adversarial$"):
        load_pope(str(saved), split="val")
    for line, problem in (
        ("{", "line 1: not valid JSON"),
        ('{"question_id": 1, "image": "a.jpg"}', "line 1: has no label, text"),
        ("[]", "line 1: has no image, label"),
        ('{"question_id": 1, "image": "../a.jpg", "text": "?", "label": "yes"}', "is not a plain file name"),
        ('{"question_id": 1, "image": "a.jpg", "text": "?", "label": "yep"}', "answer 'yep' is neither yes nor no"),
        ('{"question_id": 1, "image": "a.jpg", "text": " ", "label": "yes"}', "has no question"),
    ):
        (tmp_path / "coco_pope_random.json").write_text(line)
        with pytest.raises(TokenselError, match=problem) as caught:
            load_pope(str(tmp_path), image_folder=str(pictures))
        assert "coco_pope_random.json" in str(caught.value)
    (tmp_path / "gqa_pope_random.jsonl").write_text("")
    with pytest.raises(TokenselError, match=r"has coco_pope_random\.json, gqa_pope_random\.jsonl; name one file"):
        load_pope(str(tmp_path), image_folder=str(pictures))


def test_a_missing_picture_of_pope_is_a_bad_sample(pope, tmp_path):
    (question, *_) = load_pope(str(pope[1]), image_folder=str(tmp_path))
    with pytest.raises(BadSampleError, match=r"question random-1: .*COCO_val2014_01\.jpg does not exist"):
        question.load_image()


def test_labels_are_read_in_any_spelling():
    assert [read_label(label, "row 1") for label in ("Yes", "yes", " YES. ", "No", "no", "no.\n")] == [0, 0, 0, 1, 1, 1]
    for label in ("", None, "y", "yes no"):
        with pytest.raises(TokenselError, match=r"^row 1: answer"):
            read_label(label, "row 1")


# Figures


def question(id: str, answer: int, category: str, picture: str = "") -> Question:
    return Question(id, "?", YES_NO, answer, None, image_id=picture, form="yes_no", category=category)


def row(id: str, prediction: int | None, skipped: bool = False) -> dict:
    return {"id": id, "prediction": prediction, "correct": False, "skipped": skipped}


def slow_pope(answered: list[tuple[int, int | None]]) -> dict:
    """POPE's figures of (label, prediction) pairs, each counted separately. 0 is yes."""
    n = true_yes = false_yes = missed = right = said_yes = unreadable = 0
    for label, prediction in answered:
        n += 1
        right += 1 if prediction is not None and prediction == label else 0
        unreadable += 1 if prediction is None else 0
        if prediction == 0:
            said_yes += 1
            if label == 0:
                true_yes += 1
            else:
                false_yes += 1
        elif label == 0:
            missed += 1
    if n == 0:
        shares = dict.fromkeys(("accuracy", "precision", "recall", "f1", "yes_ratio"))
    else:
        precision = true_yes / (true_yes + false_yes) if true_yes + false_yes else 0
        recall = true_yes / (true_yes + missed) if true_yes + missed else 0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
        shares = {"accuracy": right / n, "precision": precision, "recall": recall, "f1": f1, "yes_ratio": said_yes / n}
    return {"n": n, "unreadable": unreadable} | shares


predictions = st.sampled_from([0, 1, None, "skipped"])


@given(st.lists(st.tuples(st.sampled_from(["random", "popular", "own"]), st.integers(0, 1), predictions), max_size=25))
def test_pope_agrees_with_a_slow_count(drawn):
    questions = [question(str(n), label, category) for n, (category, label, _) in enumerate(drawn)]
    rows = [row(str(n), None if p == "skipped" else p, p == "skipped") for n, (*_, p) in enumerate(drawn)]
    random.Random(0).shuffle(rows)
    figures = yes_no_figures([*rows, row("of another question", 0)], questions)
    if not drawn:
        assert figures == {}
        return
    kept = [(category, label, p) for category, label, p in drawn if p != "skipped"]
    categories = figures.pop("categories")
    assert figures == pytest.approx(slow_pope([(label, p) for _, label, p in kept]))
    assert set(categories) == {category for category, *_ in kept}
    for name, part in categories.items():
        assert part == pytest.approx(slow_pope([(label, p) for category, label, p in kept if category == name]))


def test_pope_agrees_with_manual_results():
    # 4 yes, 4 no. Answered: yes to 3 of the yes and 1 of the no, no to 2 of the no; one of each is unreadable.
    labels, answers = [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, None, 0, 1, 1, None]
    questions = [question(str(n), label, "random" if n % 2 else "popular") for n, label in enumerate(labels)]
    figures = yes_no_figures([row(str(n), answer) for n, answer in enumerate(answers)], questions)
    assert list(figures["categories"]) == ["random", "popular"]
    assert figures["categories"]["random"] == {
        "n": 4,
        "unreadable": 2,
        "accuracy": 2 / 4,
        "precision": 1.0,
        "recall": 1 / 2,
        "f1": pytest.approx(2 / 3),
        "yes_ratio": 1 / 4,
    }
    del figures["categories"]
    shares = {"accuracy": 5 / 8, "precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "yes_ratio": 4 / 8}
    assert figures == pytest.approx({"n": 8, "unreadable": 2} | shares)


def slow_mme(pairs: list[tuple[str, list]]) -> dict:
    """As lmms-eval does, picture by picture: (sub-task, [whether each of its two questions is right])."""
    scores = {}
    for task in {task for task, _ in pairs}:
        total, pictures = 0.0, 0
        for name, right in pairs:
            if name == task:
                pictures += 1
                total += 100 * sum(right) / 2 + (100 if sum(right) == 2 else 0)
        scores[task] = total / pictures
    return scores


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_mme_agrees_with_a_slow_count(seed, pictures):
    rng = random.Random(seed)
    questions, rows, pairs = [], [], []
    for task in MME_TASKS:
        for number in range(pictures):
            right = []
            for which in (0, 1):
                id, prediction = f"{task}/{number}#{which}", rng.choice([0, 1, None])
                questions.append(question(id, which, task, f"{task}/{number}"))
                rows.append(row(id, prediction))
                right.append(prediction == which)
            pairs.append((task, right))
    rng.shuffle(rows)
    figures, scores = yes_no_figures(rows, questions), slow_mme(pairs)
    assert {task: part["score"] for task, part in figures["categories"].items()} == pytest.approx(scores)
    assert figures["perception"] == pytest.approx(sum(scores[task] for task in PERCEPTION))
    assert figures["cognition"] == pytest.approx(sum(scores[task] for task in COGNITION))
    assert figures["n"] == len(rows)
    assert figures["unreadable"] == sum(row["prediction"] is None for row in rows)


def test_mme_agrees_with_manual_results():
    # count: pictures a (both right), b (one right, one unreadable), c (one question skipped, the other right).
    answered = [("a", 0, 0), ("a", 1, 1), ("b", 0, 0), ("b", 1, None), ("c", 0, 0), ("c", 1, "skipped")]
    questions = [question(str(n), label, "count", picture) for n, (picture, label, _) in enumerate(answered)]
    rows = [row(str(n), None if p == "skipped" else p, p == "skipped") for n, (*_, p) in enumerate(answered)]
    figures = yes_no_figures(rows, questions)
    count = {"n": 5, "unreadable": 1, "accuracy": 4 / 5, "pictures": 2, "accuracy_plus": 1 / 2, "score": 130.0}
    assert figures["categories"]["count"] == pytest.approx(count)
    assert (figures["perception"], figures["cognition"]) == (None, None)


def test_all_right_scores_2000_and_800_and_all_unreadable_scores_0():
    questions = [question(f"{t}{n}", n, t, t) for t in MME_TASKS for n in (0, 1)]
    right = yes_no_figures([row(q.id, q.answer) for q in questions], questions)
    assert (right["perception"], right["cognition"]) == pytest.approx((2000, 800))
    assert tuple(right["categories"]) == MME_TASKS
    none = yes_no_figures([row(q.id, None) for q in questions], questions)
    assert (none["perception"], none["cognition"], none["unreadable"]) == (0, 0, 28)
    halves = yes_no_figures([row(q.id, 0) for q in questions], questions)
    assert (halves["perception"], halves["cognition"]) == pytest.approx((500, 200))


def test_a_sub_task_without_complete_pairs_has_no_score():
    questions = [question("1", 0, "OCR", "a")]
    (part,) = yes_no_figures([row("1", 0)], questions)["categories"].values()
    assert (part["accuracy"], part["pictures"], part["accuracy_plus"], part["score"]) == (1.0, 0, None, None)
    assert yes_no_figures([row("1", 0, skipped=True)], questions)["categories"] == {}


def test_questions_of_other_forms_have_no_figures():
    lettered = Question("1", "?", ("a", "b"), 0, None)
    assert yes_no_figures([row("1", 0)], [lettered]) == {}
    assert yes_no_figures([], []) == {}
    assert set(POPE_CATEGORIES) == set(POPE)


def test_a_changed_copy_of_the_hubs_data_set_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: data/test-*\n---\n"
    (tmp_path / "README.md").write_text(card)
    for count in (1, 3):
        rows = [
            {"id": str(k), "question_id": str(k), "question": "Is it?", "answer": "yes", "category": "random"}
            | {"image": png("red"), "image_source": "a"}
            for k in range(count)
        ]
        Dataset.from_list(rows, features=POPE_FEATURES).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
        assert len(load_pope(str(tmp_path))) == count
