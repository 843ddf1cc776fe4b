"""Protocols: words, conversation and picture exactly as the model receives them, and the reading of answers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tokenizers import TEMPLATE, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from tokensel.data import Question, load_questions
from tokensel.data.protocol import CHOICES, Protocol
from tokensel.errors import BadSampleError, TokenselError

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "scienceqa" / "himap-inference-MCQ.json"
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def processor():
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    return LlavaProcessor(image_processor, make_tokenizer(), patch_size=14, chat_template=TEMPLATE)


def question(**fields) -> Question:
    fields = {"text": "Which is red?", "choices": ("left", "right"), "answer": 0, "image": Path("p.png")} | fields
    return Question(id="q", **fields)


def test_words_match_both_evaluations_where_these_agree():
    asked = question(hint="Two boxes.\n\nOne is red.", choices=("left", "right", "both", "none", "top"))
    expected = (
        "Context: Two boxes.\n\nOne is red.\nWhich is red?\nA. left\nB. right\nC. both\nD. none\nE. top\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert Protocol(prompt="llava").text(asked) == expected
    assert Protocol(prompt="lmms").text(asked) == expected


def test_llava_strips_the_words_and_lmms_does_not():
    asked = question(text="\n Which is red? ", choices=(" left", "right \n"))
    assert Protocol(prompt="llava").text(asked) == f"Which is red? \nA.  left\nB. right\n{LETTER}"
    assert Protocol(prompt="lmms").text(asked) == f"\n Which is red? \nA.  left\nB. right \n\n{LETTER}"
    hinted = question(hint=" Look. ", choices=("left", "right"))
    for prompt in ("llava", "lmms"):
        assert Protocol(prompt=prompt).text(hinted) == f"Context:  Look. \nWhich is red?\nA. left\nB. right\n{LETTER}"


def test_a_yes_no_question_ends_in_its_own_instruction():
    asked = question(text="Is there a dog? ", choices=("Yes", "No"), form="yes_no")
    expected = "Is there a dog?\nAnswer the question using a single word or phrase."
    assert Protocol(prompt="llava").text(asked) == expected
    assert Protocol(prompt="lmms").text(asked) == expected.replace("dog?", "dog? ")


def test_conversations_byte_for_byte(processor):
    words = f"Which is red?\nA. left\nB. right\n{LETTER}"
    templates = {
        "model": f"USER: <image>\n{words} ASSISTANT:",
        "vicuna_v1": "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
        f"helpful, detailed, and polite answers to the user's questions. USER: <image>\n{words} ASSISTANT:",
        "llava_v1": "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
        f"helpful, detailed, and polite answers to the human's questions. USER: <image>\n{words} ASSISTANT:",
    }
    assert set(templates) == set(CHOICES["conv"])
    for conv, expected in templates.items():
        protocol = Protocol(conv=conv)
        assert protocol.conversation(question(), processor) == expected
        assert protocol.conversation(question(image=None), processor) == expected.replace("<image>\n", "")


@pytest.mark.parametrize("conv", CHOICES["conv"])
def test_an_image_token_in_the_text_is_refused(processor, conv):
    with pytest.raises(BadSampleError, match="question q: its text contains the image token <image>"):
        Protocol(conv=conv).conversation(question(hint="an <image> here"), processor)


@pytest.mark.parametrize("key", CHOICES)
def test_an_unknown_value_is_refused_with_the_allowed_ones(key):
    with pytest.raises(TokenselError) as caught:
        Protocol(**{key: "x"})
    assert str(caught.value) == f"{key}=x: unknown; choose one of {', '.join(CHOICES[key])}"


def padded(image: np.ndarray, mean: list[float]) -> np.ndarray:
    """Padding computed pixel by pixel: outside the picture the mean colour, rounded down."""
    height, width, _ = image.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    square = np.zeros((side, side, 3), np.uint8)
    for row in range(side):
        for column in range(side):
            inside = top <= row < top + height and left <= column < left + width
            square[row, column] = image[row - top, column - left] if inside else [int(value * 255) for value in mean]
    return square


@given(
    width=st.integers(1, 9),
    height=st.integers(1, 9),
    mean=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_pad_agrees_with_a_slow_oracle(width, height, mean, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Protocol(image_aspect="pad").prepare_image(Image.fromarray(pixels), SimpleNamespace(image_mean=mean))
    assert np.array_equal(np.asarray(picture), padded(pixels, mean))


def test_pad_uses_clips_mean_colour_and_adds_the_odd_row_below():
    picture = Protocol().prepare_image(Image.new("RGB", (4, 1), "white"), CLIPImageProcessorPil())
    rows = np.asarray(picture)
    assert (rows[1] == 255).all()
    assert (rows[[0, 2, 3]] == [122, 116, 104]).all()


def test_crop_leaves_the_picture_to_the_processor(processor):
    stripe = Image.new("RGB", (168, 56), "white")
    stripe.paste("red", (0, 0, 56, 56))
    assert Protocol(image_aspect="crop").prepare_image(stripe, processor.image_processor) is stripe

    def red(protocol: Protocol) -> bool:
        shown = protocol.prepare_image(stripe, processor.image_processor)
        values = processor.image_processor(images=shown, return_tensors="np")["pixel_values"][0]
        return bool((values[0] - values[1] > 1).any())

    assert red(Protocol(image_aspect="pad"))
    assert not red(Protocol(image_aspect="crop"))


def test_answers_are_read_by_the_protocols_reading_and_the_questions_form():
    asked = question()
    assert [Protocol(reading=reading).read("B. right", asked) for reading in CHOICES["reading"]] == [1, 1, None]
    assert [Protocol(reading=reading).read("b", asked) for reading in CHOICES["reading"]] == [None, 1, None]
    yes_no = question(choices=("Yes", "No"), form="yes_no")
    for reading in CHOICES["reading"]:
        read = Protocol(reading=reading).read
        assert [read(text, yes_no) for text in ("Yes", "no.", "No, none")] == [0, 1, 1]
        assert [read(text, yes_no) for text in ("A", "maybe", "")] == [None] * 3


def test_every_scienceqa_prompt_has_the_entrys_own_words(processor, tmp_path):
    if not REFERENCE.is_file():
        pytest.skip(f"the ScienceQA question file is not at {REFERENCE}")
    entries = json.loads(REFERENCE.read_text())
    Image.new("RGB", (3, 2), "teal").save(tmp_path / "stub.png")
    for entry in entries:
        place = tmp_path / entry["image"]
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(tmp_path / "stub.png")
    questions = load_questions("question_file", path=str(REFERENCE), image_folder=str(tmp_path))
    assert len(questions) == len(entries) == 2017
    for entry, asked in zip(entries, questions, strict=True):
        own = entry["conversations"][0]["value"]
        assert own.startswith("<image>\n")
        for protocol in (Protocol(conv="vicuna_v1"), Protocol(conv="vicuna_v1", prompt="lmms")):
            assert protocol.conversation(asked, processor) == f"{VICUNA} USER: {own}\n{LETTER} ASSISTANT:", asked.id
        assert Protocol().conversation(asked, processor) == f"USER: {own}\n{LETTER} ASSISTANT:", asked.id
        assert Protocol().prepare_image(asked.load_image(), processor.image_processor).size == (3, 3)
        assert Protocol().read(entry["conversations"][1]["value"], asked) == asked.answer


def test_the_bare_question_is_the_prompt_without_the_instruction():
    question = Question("q", "which one?", ("red", "teal"), 0, None, hint="it is warm")
    protocol = Protocol()
    bare = protocol.question_text(question)
    assert bare == "Context: it is warm\nwhich one?\nA. red\nB. teal"
    assert protocol.text(question) == f"{bare}\nAnswer with the option's letter from the given choices directly."
    yes_no = Question("q", "is it red?", ("Yes", "No"), 0, None, form="yes_no")
    assert protocol.question_text(yes_no) == "is it red?"
    assert Protocol(prompt="lmms").question_text(Question("q", " which? ", ("a", "b"), 0, None)).startswith(" which? ")
