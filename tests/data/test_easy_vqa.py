"""easy-VQA as multiple choice, and properties of every data set: fixed subsets, complete pictures."""

import builtins
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tokensel.data import DATASETS, Question, load_questions
from tokensel.data.easy_vqa import ANSWERS
from tokensel.errors import BadSampleError, TokenselError


@pytest.fixture(scope="module")
def test_split():
    return load_questions("easy_vqa")


def question(image, **fields) -> Question:
    fields = {"id": "q7", "text": "?", "choices": ("yes", "no"), "answer": 0} | fields
    return Question(image=image, **fields)


def test_choices_are_of_the_answers_own_kind(test_split):
    assert Counter(q.family for q in test_split) == {"yes_no": 7136, "color": 1280, "shape": 1257}
    for q in test_split:
        assert len(set(q.choices)) == len(q.choices) == min(4, len(ANSWERS[q.family]))
        assert set(q.choices) <= set(ANSWERS[q.family])


def test_answers_are_the_packages_own(test_split):
    import easy_vqa

    texts, answers, pictures = easy_vqa.get_test_questions()
    assert [q.text for q in test_split] == texts
    assert [q.choices[q.answer] for q in test_split] == answers
    assert [q.image_id for q in test_split] == [f"easy_vqa-test-{picture}" for picture in pictures]
    assert sorted(a for kind in ANSWERS.values() for a in kind) == sorted(easy_vqa.get_answers())


@pytest.mark.parametrize(("family", "letters"), [("color", 4), ("shape", 3), ("yes_no", 2)])
def test_letters_and_distractors_are_balanced(test_split, family, letters):
    of_family = [q for q in test_split if q.family == family]
    for letter in range(letters):
        share = sum(q.answer == letter for q in of_family) / len(of_family)
        assert share == pytest.approx(1 / letters, abs=0.03)
    wrong = Counter(choice for q in of_family for choice in q.choices if choice != q.choices[q.answer])
    assert max(wrong.values()) < 1.25 * min(wrong.values())


@pytest.mark.slow
def test_the_splits_share_no_picture(test_split):
    train = load_questions("easy_vqa", split="train")
    assert len(train) == 38575

    def pictures(questions):
        # All come from one encoder, so equal pictures are equal files; decoding 5000 would take seconds.
        return {Path(path).read_bytes() for path in {q.image for q in questions}}

    assert (len(pictures(test_split)), len(pictures(train))) == (1000, 4000)
    assert not pictures(test_split) & pictures(train)
    assert not {q.id for q in test_split} & {q.id for q in train}


def test_questions_do_not_change_between_processes_or_versions(test_split):
    # Results on disk are about these very questions.
    assert test_split[0].choices == ("rectangle", "circle", "triangle")
    assert test_split[1].choices == ("red", "green", "black", "gray")
    assert [q.id for q in load_questions("easy_vqa", limit=2)] == [
        "easy_vqa-test-392-3820",
        "easy_vqa-test-932-9035",
    ]


@pytest.mark.slow
def test_a_limit_takes_a_mixed_subset_of_a_larger_one(test_split):
    some, more = load_questions("easy_vqa", limit=50), load_questions("easy_vqa", limit=400)
    assert (len(some), len(more)) == (50, 400)
    assert {q.id for q in some} < {q.id for q in more}
    assert {q.family for q in some} == set(ANSWERS)
    order = {q.id: number for number, q in enumerate(test_split)}
    assert sorted(more, key=lambda q: order[q.id]) == more
    assert max(order[q.id] for q in some) > 7000
    assert min(order[q.id] for q in some) < 2500
    assert load_questions("easy_vqa", limit=10**6) == test_split


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "10"])
def test_a_limit_must_be_a_count(limit):
    with pytest.raises(TokenselError, match=f"limit={limit}"):
        load_questions("easy_vqa", limit=limit)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "easyvqa",
            {},
            f"data=easyvqa: unknown; choose one of {', '.join(DATASETS)}; did you mean easy_vqa?",
        ),
        ("easy_vqa", {"splits": "test"}, "data.splits: data=easy_vqa has no such option; its options are split"),
        ("easy_vqa", {"split": "val"}, "data.split=val: unknown; choose one of test, train"),
    ],
)
def test_mistakes_list_the_choices(name, options, expected):
    with pytest.raises(TokenselError) as caught:
        load_questions(name, **options)
    assert str(caught.value) == expected


def test_a_missing_package_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "easy_vqa":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TokenselError, match="pip install easy-vqa"):
        load_questions("easy_vqa")


def test_naming_a_data_set_imports_no_other():
    others = {target.split(":")[0] for name, target in DATASETS.items() if name != "easy_vqa"}
    code = (
        "import sys, types; package = types.ModuleType('tokensel'); package.__path__ = "
        f"{[str(Path(__file__).parents[2] / 'tokensel')]!r}; sys.modules['tokensel'] = package\n"
        "import tokensel.data; tokensel.data.load_questions('easy_vqa', limit=1)\n"
        "print(*sys.modules)\n"
    )
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "tokensel.data.easy_vqa" in loaded
    assert not loaded & (others | {"torch"})


def test_pictures_come_as_rgb_from_any_source(tmp_path):
    gray = Image.new("L", (5, 4), 7)
    gray.save(tmp_path / "gray.png")
    for source in (gray, tmp_path / "gray.png", str(tmp_path / "gray.png"), lambda: gray):
        picture = question(source).load_image()
        assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (5, 4), (7, 7, 7))


def broken_pictures(folder: Path) -> dict[str, object]:
    pixels = Image.effect_noise((64, 64), 50)
    for kind in ("png", "jpg"):
        pixels.save(folder / f"whole.{kind}")
        data = (folder / f"whole.{kind}").read_bytes()
        (folder / f"half.{kind}").write_bytes(data[: len(data) // 2])
    (folder / "words.png").write_text("no picture")
    (folder / "empty.png").write_text("")
    (folder / "folder.png").mkdir()
    return {
        "missing": folder / "nowhere.png",
        "half png": folder / "half.png",
        "half jpg": str(folder / "half.jpg"),
        "words": folder / "words.png",
        "empty": folder / "empty.png",
        "folder": folder / "folder.png",
        "lazily opened": Image.open(folder / "half.png"),
        "drawn": lambda: Image.open(folder / "half.jpg"),
        "failing": lambda: Image.open(folder / "nowhere.png"),
        "none": None,
    }


def test_a_broken_picture_is_a_bad_sample_that_names_its_question(tmp_path):
    for kind, source in broken_pictures(tmp_path).items():
        with pytest.raises(BadSampleError, match="question q7: ") as caught:
            question(source).load_image()
        assert caught.value.question_id == "q7", kind
        assert "\n" not in str(caught.value)


def test_a_questions_answer_must_be_one_of_its_choices():
    for fields in ({"answer": 2}, {"answer": -1}, {"choices": ()}, {"choices": ("x",) * 27}):
        with pytest.raises(TokenselError, match="question q7: "):
            question(None, **fields)


def test_a_question_without_picture_id_is_its_own_cluster():
    assert question(None).image_id == "q7"
    assert question(None, image_id="p").image_id == "p"
