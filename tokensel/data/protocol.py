"""The protocol of an evaluation: how a question is worded, put to the model and shown, and how its answer is read.

The same model scores far apart under different ones, so a protocol belongs to every figure.
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from tokensel.data.prompts import READINGS, instruction, is_yes_no, question_words, read_answer, read_yes_no
from tokensel.data.question import Question
from tokensel.errors import BadSampleError, TokenselError

# LLaVA's conversation.py, under its names. With Llama's tokenizer the picture begins at token 35 after either.
_SYSTEM = {
    "vicuna_v1": "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "llava_v1": "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.",
}
CHOICES: dict[str, tuple[str, ...]] = {
    "prompt": ("llava", "lmms"),
    "conv": ("model", *_SYSTEM),
    "image_aspect": ("pad", "crop"),
    "reading": READINGS,
}


@dataclass(frozen=True)
class Protocol:
    """One way to evaluate. The defaults are those of LLaVA's evaluation, in the model's own conversation template.

    prompt        llava: LLaVA's model_vqa_science.py --single-pred-prompt, which strips the question's words of white
                  space at both ends before it adds the instruction; lmms: lmms-eval's scienceqa_img, which does not
    conv          model: the checkpoint's chat template; vicuna_v1: what LLaVA-1.5 was tuned and is evaluated with;
                  llava_v1: the same with "human" for "user"
    image_aspect  pad: to a square first, as LLaVA evaluates; crop: handed to the processor as it is. LLaVA-1.5's then
                  resizes the short side and cuts out the centre; one that tiles or keeps the proportions (LLaVA-NeXT,
                  Qwen) does that and cuts nothing
    reading       of a written answer: llava, lmms or exact, see `read_answer`

    Raises TokenselError for any other value.
    """

    prompt: str = "llava"
    conv: str = "model"
    image_aspect: str = "pad"
    reading: str = "llava"

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise TokenselError(f"{key}={getattr(self, key)}: unknown; choose one of {', '.join(allowed)}")

    def text(self, question: Question) -> str:
        """The words of the user's turn, without the picture."""
        words = question_words(question)
        if self.prompt == "llava":
            words = words.strip()
        return f"{words}\n{instruction(question)}"

    def conversation(self, question: Question, processor: Any) -> str:
        """The whole prompt up to where the answer begins; the picture is one image token.

        Raises BadSampleError if the question's own words hold the image token, which would stand for a second picture.
        """
        text = self.text(question)
        if processor.image_token in text:
            raise BadSampleError(
                f"question {question.id}: its text holds the image token {processor.image_token}",
                question_id=question.id,
            )
        if self.conv == "model":
            picture = [] if question.image is None else [{"type": "image"}]
            turn = {"role": "user", "content": [*picture, {"type": "text", "text": text}]}
            return processor.apply_chat_template([turn], add_generation_prompt=True)
        seen = "" if question.image is None else f"{processor.image_token}\n"
        return f"{_SYSTEM[self.conv]} USER: {seen}{text} ASSISTANT:"

    def prepare_image(self, image: Image.Image, image_processor: Any) -> Image.Image:
        """What the processor is given. image: RGB. pad: in the middle of a square of the processor's mean colour."""
        width, height = image.size
        if self.image_aspect == "crop" or width == height:
            return image
        side = max(width, height)
        # LLaVA's expand2square: the colour cut off to whole values, an odd row or column more after than before.
        square = Image.new(image.mode, (side, side), tuple(int(mean * 255) for mean in image_processor.image_mean))
        square.paste(image, ((side - width) // 2, (side - height) // 2))
        return square

    def read(self, text: str, question: Question) -> int | None:
        """The index of the choice that a written answer names; None if it names none, which is scored as wrong.

        Where the answer is yes or no, all readings take the first word, whatever its case and punctuation.
        """
        if not is_yes_no(question):
            return read_answer(text, len(question.choices), self.reading)
        choices = [choice.lower() for choice in question.choices]
        word = read_yes_no(text)
        return choices.index(word) if word in choices else None
