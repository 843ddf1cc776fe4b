"""An evaluation protocol: how a question is worded, how its picture is prepared, and how its answer is read.

The same model's accuracy differs widely between protocols, so results always record theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tokensel.data.prompts import (
    PICTURE,
    READINGS,
    is_yes_no,
    question_words,
    read_answer,
    read_yes_no,
    with_instruction,
)
from tokensel.data.question import Question
from tokensel.errors import BadSampleError, check_choice

# System prompts of LLaVA's conversation.py, by its names. With Llama's tokenizer, both put the picture at token 35.
_SYSTEM = {
    "vicuna_v1": "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "llava_v1": "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
}
_IMAGE = {"type": "image"}
_VIDEO = {"type": "video"}
CHOICES: dict[str, tuple[str, ...]] = {
    "prompt": ("llava", "lmms"),
    "conv": ("model", *_SYSTEM),
    "image_aspect": ("pad", "crop"),
    "reading": READINGS,
}


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate. The defaults are LLaVA's own evaluation, in the model's own conversation template.

    Parameters:
        prompt: llava: as LLaVA's model_vqa_science.py --single-pred-prompt, which strips white space from both ends of
            the question's words before it adds the instruction; lmms: as lmms-eval's scienceqa_img, which does not
        conv: model: the checkpoint's chat template; vicuna_v1: the template that LLaVA-1.5 was tuned and is evaluated
            with; llava_v1: the same with "human" instead of "user"
        image_aspect: pad: pad to a square first, as LLaVA evaluates; crop: leave the picture to the processor.
            LLaVA-1.5's processor then resizes the short side and crops the centre; one that tiles or keeps the aspect
            ratio (LLaVA-NeXT, Qwen) crops nothing
        reading: how a written answer is read: llava, lmms or exact; see `read_answer`

    Raises TokenselError for any other value.
    """

    prompt: str = "llava"
    conv: str = "model"
    image_aspect: str = "pad"
    reading: str = "llava"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            check_choice(key, getattr(self, key), allowed)

    def text(self, question: Question) -> str:
        """The text of the user's turn, without the pictures."""
        return with_instruction(question, self.question_text(question))

    def question_text(self, question: Question) -> str:
        """The bare question, for methods that read it: its hint, text and options as in the prompt, without the
        instruction how to answer."""
        words = question_words(question)
        return words.strip() if self.prompt == "llava" and question.instruction is None else words

    def conversation(self, question: Question, processor: Any, said: Sequence[str] = ()) -> str:
        """The whole prompt, up to where the answer begins. Each picture is one image token, a video one video token.

        said: of a question with several turns, the answers to the first ones: the prompt is then that of the next.

        Raises BadSampleError if the question's own text contains the image token, which would stand for another
        picture; of one with a video, if it contains the video token.
        """
        token = processor.video_token if question.video else processor.image_token
        first, *later = [self._content(turn, token) for turn in (question, *question.turns[: len(said)])]
        if self.conv == "model":
            talk = [_turn("user", first)]
            for text, content in zip(said, later, strict=True):
                talk += [_turn("assistant", [_words(text)]), _turn("user", content)]
            return processor.apply_chat_template(talk, add_generation_prompt=True)
        prompt = f"{_SYSTEM[self.conv]} USER: {_in_line(first, token)} ASSISTANT:"
        for text, content in zip(said, later, strict=True):
            prompt += f" {text}</s>USER: {_in_line(content, token)} ASSISTANT:"
        return prompt

    def _content(self, question: Question, token: str) -> list[dict[str, str]]:
        """The pictures, or the video, and words of a user's turn, in the form that chat templates take."""
        text, pictures = self.text(question), len(question.pictures)
        places = pictures > 1 or (pictures and question.benchmark is not None)
        words = text.split(PICTURE) if places and text.count(PICTURE) == pictures else [text]
        if any(token in each for each in words):
            kind = "video" if question.video else "image"
            raise BadSampleError(
                f"question {question.id}: its text contains the {kind} token {token}", question_id=question.id
            )
        if question.video:
            return [_VIDEO, _words(text)]
        if len(words) == 1:
            return [_IMAGE] * pictures + [_words(text)]
        content = [part for each in words for part in (_words(each), _IMAGE)][:-1]
        return [part for part in content if part != _words("")]

    def prepare_image(self, image: Image.Image, image_processor: Any) -> Image.Image:
        """The picture as it is passed to the processor. image: RGB.

        With image_aspect=pad it is centred in a square of the processor's mean colour.
        """
        width, height = image.size
        if self.image_aspect == "crop" or width == height:
            return image
        side = max(width, height)
        # As LLaVA's expand2square: the colour is rounded down; an odd row or column is added after the picture.
        square = Image.new(image.mode, (side, side), tuple(int(mean * 255) for mean in image_processor.image_mean))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        return square

    def read(self, text: str, question: Question) -> int | None:
        """The index of the choice that a written answer names; None if it names none, which is scored as wrong.

        For a yes/no question, every reading takes the first word, whatever its case and punctuation.
        """
        if not is_yes_no(question):
            return read_answer(text, len(question.choices), self.reading)
        choices = [choice.lower() for choice in question.choices]
        word = read_yes_no(text)
        return choices.index(word) if word in choices else None


def _words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _turn(role: str, content: list[dict[str, str]]) -> dict[str, Any]:
    return {"role": role, "content": content}


def _in_line(content: list[dict[str, str]], token: str) -> str:
    """A user's turn as one text: pictures or a video before the words have a line of their own."""
    before = 0
    while content[before : before + 1] in ([_IMAGE], [_VIDEO]):
        before += 1
    words = "".join(part.get("text", token) for part in content[before:])
    return " ".join([token] * before) + "\n" * (before > 0) + words
