"""A loaded checkpoint: how questions become its input tensors, and which token ids its answers are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from tokensel.data import Question
from tokensel.errors import BadSampleError, TokenselError
from tokensel.prompts import LETTERS, build_prompt


@dataclass
class LoadedModel:
    """A LLaVA model in evaluation mode with its processor.

    path       as the user gave it; name is its last part, for tables
    revision   a hub checkpoint's commit, or a digest of a folder's files: changes whenever the weights do
    """

    model: Any
    processor: Any
    path: str
    name: str
    device: torch.device
    revision: str | None = None

    def prompt(self, question: Question) -> str:
        """The question in the model's own conversation template, up to where its answer begins.

        The picture is one image token; a question without a picture has none. Raises BadSampleError if the
        question's own words hold the image token, which would stand for a second picture.
        """
        text = build_prompt(question)
        if self.processor.image_token in text:
            raise BadSampleError(
                f"question {question.id}: its text holds the image token {self.processor.image_token}",
                question_id=question.id,
            )
        picture = [] if question.image is None else [{"type": "image"}]
        conversation = [{"role": "user", "content": [*picture, {"type": "text", "text": text}]}]
        return self.processor.apply_chat_template(conversation, add_generation_prompt=True)

    @cached_property
    def num_image_tokens(self) -> int:
        """How many visual tokens a picture becomes: 576 at 336 px with 14 px patches."""
        # Asked of the processor, so that it is never a second opinion on what the processor does.
        side = 64
        inputs = self.processor(images=Image.new("RGB", (side, side)), text=self.processor.image_token)
        return int((torch.as_tensor(inputs["input_ids"]) == self.processor.image_token_id).sum())

    def tokenize(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids and attention_mask, both [B, T], left padded, on the model's device.

        The image tokens are expanded as the processor does, but no picture is opened: for cached features.
        """
        tokenizer = self.processor.tokenizer
        image_token = self.processor.image_token
        expanded = image_token * self.num_image_tokens
        texts = [self.prompt(question).replace(image_token, expanded) for question in questions]
        # A template that writes the first token itself must not get a second one.
        has_first = bool(tokenizer.bos_token) and all(text.startswith(tokenizer.bos_token) for text in texts)
        encoded = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not has_first)
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """pixel_values [B, 3, H, W] in the model's dtype, on its device."""
        values = self.processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return values.to(self.device, self.model.dtype)

    def prepare(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """The model's keyword arguments: input_ids, attention_mask [B, T]; pixel_values [pictures, 3, H, W].

        Questions without a picture have no row in pixel_values. Raises BadSampleError for a broken picture.
        """
        input_ids, attention_mask = self.tokenize(questions)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        images = [question.load_image() for question in questions if question.image is not None]
        if images:
            inputs["pixel_values"] = self.pixels(images)
        return inputs

    def letter_ids(self, n: int) -> list[int]:
        """The ids of the tokens that answer A, B, ... as the first word after the prompt, for n choices.

        Found by comparing the tokens of a prompt with and without the letter, so it holds for any tokenizer.
        Raises TokenselError if the letters do not differ in that token.
        """
        if not 1 <= n <= len(LETTERS):
            raise TokenselError(f"{n} choices: must be from 1 to {len(LETTERS)}, there is a letter for each")
        prompt = self.prompt(Question(id="letters", text="?", choices=("yes", "no"), answer=0, image=None))
        # "ASSISTANT:" is answered by " A"; a template that ends in a line break or a space, by "A".
        space = "" if prompt[-1:].isspace() else " "
        plain = self._ids(prompt)
        ids = []
        for letter in LETTERS[:n]:
            answered = self._ids(prompt + space + letter)
            ids.append(next(new for old, new in zip([*plain, None], answered, strict=False) if new != old))
        if len(set(ids)) < n:
            raise TokenselError(
                f"model.path={self.path}: the tokenizer does not write the answers {', '.join(LETTERS[:n])} "
                "as one token each; scoring=letter needs that"
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
