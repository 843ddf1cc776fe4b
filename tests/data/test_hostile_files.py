"""Question files and pictures that nobody would make on purpose: each is refused in one line, none hangs or fills the
memory."""

import json
import os

import pytest
from PIL import Image

from tokensel.data import load_questions
from tokensel.data.question import Question
from tokensel.errors import BadSampleError, TokenselError
from tokensel.models.bounds import MOST_PIXELS, check_length, check_picture
from tokensel.models.weightless import load_without_weights


@pytest.fixture(scope="module")
def tiny():
    return load_without_weights("tiny")


def question(image=None, text="What is it?"):
    return Question("q", text, ("red", "green"), 0, image)


def entry(**changes):
    turns = [{"from": "human", "value": "what?\nA. a\nB. b"}, {"from": "gpt", "value": "A"}]
    return {"id": "q", "conversations": turns} | changes


HOSTILE = {
    "a lone surrogate as id": (json.dumps([entry(id="\ud800")]), "half of a character"),
    "a lone surrogate as picture": (json.dumps([entry(image="\udfff.png")]), "half of a character"),
    "deep nesting": ("[" * 100_000, "nested too deeply"),
    "a number of thousands of digits": ('[{"id": 1' + "0" * 5000 + "}]", "too many digits"),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_json_that_cannot_be_used_is_one_line(tmp_path, kind, suffix):
    text, problem = HOSTILE[kind]
    file = tmp_path / f"questions{suffix}"
    file.write_text(text)
    with pytest.raises(TokenselError, match=problem) as caught:
        load_questions("question_file", path=str(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
def test_json_of_pope_and_scienceqa_is_read_as_carefully(tmp_path, kind):
    text, problem = HOSTILE[kind]
    for name in ("coco_pope_random.json", "problems.json", "pid_splits.json"):
        (tmp_path / name).write_text(text)
    for options in ({"name": "pope", "image_folder": str(tmp_path)}, {"name": "scienceqa"}):
        with pytest.raises(TokenselError, match=problem):
            load_questions(path=str(tmp_path), **options)


def test_a_pipe_as_picture_is_a_bad_sample_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadSampleError, match=r"pipe.png cannot be read \(is not a file\)"):
        question(tmp_path / "pipe.png").load_image()


@pytest.mark.parametrize("size", [(1, 20000), (65000, 1)])
@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_a_thin_picture_is_bounded_after_padding_and_resizing(tiny, size, aspect):
    from tokensel.data.protocol import Protocol

    with pytest.raises(BadSampleError, match=f"{size[0]} x {size[1]} pixels has .* at most {MOST_PIXELS}") as caught:
        tiny.with_protocol(Protocol(image_aspect=aspect)).load_images(question(Image.new("RGB", size)))
    assert caught.value.question_id == "q"


def test_a_large_photograph_is_within_the_bounds(tiny):
    photograph = Image.new("L", (8000, 6000))
    check_picture(question(), photograph, tiny.processor.image_processor, padded=True, resized=True)
    check_picture(question(), photograph, tiny.processor.image_processor, padded=False, resized=True)


def test_a_prompt_longer_than_the_models_positions_is_a_bad_sample(tiny):
    most = tiny.model.config.text_config.max_position_embeddings
    assert tiny.shape_of(question(text="word " * (most // 8)), []) == ()
    with pytest.raises(BadSampleError, match=f"the model has positions for {most}"):
        tiny.shape_of(question(text="word " * most), [])


def test_the_pictures_tokens_count_among_the_positions(tiny):
    text, most = "word", tiny.model.config.text_config.max_position_embeddings
    words = len(tiny.processor.tokenizer(text)["input_ids"])
    check_length(question(), text, most - words + 1, tiny.processor.tokenizer, tiny.model.config)
    with pytest.raises(BadSampleError, match=f"has {most + 1} tokens"):
        check_length(question(), text, most - words + 2, tiny.processor.tokenizer, tiny.model.config)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("diagrams", {"families": 5}, "data.families=5: must be a list of names or null"),
        ("diagrams", {"families": "shape"}, "data.families=shape: must be a list of names or null"),
        ("diagrams", {"families": [5]}, "data.families=[5]: must be a list of names or null"),
        ("diagrams", {"split": "foo"}, "data.split=foo: unknown; choose one of test, train, validation"),
        ("diagrams", {"per_family": True}, "data.per_family=true: must be an integer"),
        ("question_file", {"path": 5}, "data.path=5: must be text"),
        ("question_file", {"path": ""}, "data.path=: must be text"),
        ("scienceqa", {"images_only": 1}, "data.images_only=1: must be true or false"),
        ("scienceqa", {"split": True}, "data.split=true: must be text"),
        ("pope", {"path": None}, "data.path=null: must be text"),
        ("mme", {"config": 5}, "data.config=5: must be text or null"),
    ],
)
def test_an_option_of_another_type_is_refused_as_it_was_typed(name, options, told):
    with pytest.raises(TokenselError) as caught:
        load_questions(name, **options)
    assert str(caught.value) == told
