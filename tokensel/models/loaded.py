"""A loaded checkpoint: how questions become its input tensors, and which token ids its answers are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from tokensel.data import LETTERS, Question
from tokensel.data.protocol import Protocol
from tokensel.errors import TokenselError
from tokensel.models.families import ALONG_PROMPT, Family, family_of


@dataclass
class Encoded:
    """Questions as input tensors, on the model's device.

    input_ids, attention_mask: [B, T], left padded. pictures: pixel_values and what else the model is given with them,
    an entry per picture. places: LongTensor[rows with a picture], which of the pictures is each row's.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pictures: dict[str, torch.Tensor]
    places: torch.Tensor


@dataclass
class LoadedModel:
    """A vision-language model in evaluation mode with its processor.

    path       as the user gave it; name is its last part, for tables
    revision   a hub checkpoint's commit, or a digest of a folder's files: changes whenever the weights do
    protocol   how questions are worded, put and shown, and answers read
    """

    model: Any
    processor: Any
    path: str
    name: str
    device: torch.device
    revision: str | None = None
    protocol: Protocol = field(default_factory=Protocol)

    def with_protocol(self, protocol: Protocol) -> "LoadedModel":
        """The same model, asked in another way."""
        return replace(self, protocol=protocol)

    @property
    def family(self) -> Family:
        """What differs between model families."""
        return family_of(self.model.config)

    def prompt(self, question: Question) -> str:
        """The question in its conversation template, up to where its answer begins.

        The picture is one image token; a question without a picture has none. Raises BadSampleError if the
        question's own words hold the image token, which would stand for a second picture.
        """
        return self.protocol.conversation(question, self.processor)

    @cached_property
    def num_image_tokens(self) -> int:
        """How many visual tokens a picture becomes: 576 at 336 px with 14 px patches. Of a square one, where its shape
        matters."""
        return self.count_image_tokens((336, 336))

    def count_image_tokens(self, size: tuple[int, int]) -> int:
        """How many visual tokens a picture of this width and height becomes."""
        # Asked of the processor, so that it is never a second opinion on what the processor does.
        inputs = self._processed([Image.new("RGB", size)], [self.processor.image_token])
        return int((inputs["input_ids"] == self.processor.image_token_id).sum())

    def tokenize(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids and attention_mask, both [B, T], left padded, on the model's device.

        The image tokens are expanded as the processor does, but where all pictures give equally many none is opened.
        """
        if not self.family.fixed_size:
            encoded = self.encode(questions)
            return encoded.input_ids, encoded.attention_mask
        tokenizer = self.processor.tokenizer
        image_token = self.processor.image_token
        expanded = image_token * self.num_image_tokens
        texts = [self.prompt(question).replace(image_token, expanded) for question in questions]
        encoded = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not self._begun(texts))
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def _begun(self, texts: Sequence[str]) -> bool:
        """Whether the template writes the first token itself: then it must not get a second one."""
        first = self.processor.tokenizer.bos_token
        return bool(first) and all(text.startswith(first) for text in texts)

    def show(self, image: Image.Image) -> Image.Image:
        """The picture as the processor is given it: padded to a square, say."""
        return self.protocol.picture(image, self.processor.image_processor)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """pixel_values [B, 3, H, W] in the model's dtype, on its device; for families of one picture size."""
        shown = [self.show(image) for image in images]
        values = self.processor.image_processor(images=shown, return_tensors="pt")["pixel_values"]
        return values.to(self.device, self.model.dtype)

    def picture_shape(self, image: Image.Image) -> tuple[Any, ...]:
        """Equal for pictures that may share a batch: equally many visual tokens, in the same rows and columns."""
        if self.family.fixed_size:
            return ()
        size = self.show(image).size
        if size not in self._shapes:
            pictures = self._processed([Image.new("RGB", size)], [self.processor.image_token])
            count = int((pictures.pop("input_ids") == self.processor.image_token_id).sum())
            self._shapes[size] = (count, self.family.grid(self.model.config, pictures))
        return self._shapes[size]

    @cached_property
    def _shapes(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        return {}

    def encode(self, questions: Sequence[Question], opened: Mapping[str, Image.Image] | None = None) -> Encoded:
        """The questions as tensors. opened: their pictures by image_id; None: opened here.

        Raises BadSampleError for a broken picture.
        """
        if opened is None:
            opened = {q.image_id: q.load_image() for q in questions if q.image is not None}
        shown = [question.image_id for question in questions if question.image is not None]
        if self.family.fixed_size or not shown:
            unique = list(dict.fromkeys(shown))
            pictures = {"pixel_values": self.pixels([opened[id] for id in unique])} if unique else {}
            places = torch.tensor([unique.index(id) for id in shown], dtype=torch.long, device=self.device)
            return Encoded(
                *(self.tokenize(questions) if self.family.fixed_size else self._text(questions)), pictures, places
            )
        texts = [self.prompt(question) for question in questions]
        inputs = self._processed([self.show(opened[id]) for id in shown], texts)
        ids, mask = inputs.pop("input_ids").to(self.device), inputs.pop("attention_mask").to(self.device)
        inputs = {name: value for name, value in inputs.items() if name not in ALONG_PROMPT}
        inputs = {name: self._placed(value) for name, value in inputs.items()}
        return Encoded(ids, mask, inputs, torch.arange(len(shown), device=self.device))

    def _text(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        texts = [self.prompt(question) for question in questions]
        tokenizer = self.processor.tokenizer
        encoded = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=not self._begun(texts))
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def _processed(self, images: list[Image.Image], texts: list[str]) -> dict[str, torch.Tensor]:
        special = {"add_special_tokens": not self._begun(texts)}
        return dict(
            self.processor(
                images=self.family.for_processor(images), text=texts, padding=True, return_tensors="pt", **special
            )
        )

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        dtype = self.model.dtype if value.is_floating_point() else value.dtype
        return value.to(self.device, dtype)

    def prepare(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """The model's keyword arguments: input_ids, attention_mask [B, T]; pixel_values [pictures, 3, H, W] and what
        else its family takes.

        Questions without a picture have no row in pixel_values. Raises BadSampleError for a broken picture.
        """
        return self.arguments(self.encode(questions))

    def arguments(self, encoded: Encoded) -> dict[str, torch.Tensor]:
        """The model's keyword arguments for encoded questions, with a picture for every row that has one."""
        inputs = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
        if len(encoded.places):
            inputs |= self.family.take(encoded.pictures, encoded.places.tolist())
        return inputs | self.family.along_prompt(encoded.input_ids, self.model.config)

    def letter_ids(self, n: int) -> list[int]:
        """The ids of the tokens that answer A, B, ... as the first word after the prompt, for n choices.

        Raises TokenselError if the letters do not differ in that token.
        """
        if not 1 <= n <= len(LETTERS):
            raise TokenselError(f"{n} choices: must be from 1 to {len(LETTERS)}, there is a letter for each")
        return self.word_ids(LETTERS[:n])

    def answer_ids(self, question: Question) -> list[int]:
        """The ids of the tokens that begin an answer with each of the choices: their letters, or Yes and No."""
        return self.word_ids(question.choices) if question.form == "yes_no" else self.letter_ids(len(question.choices))

    def word_ids(self, words: Sequence[str]) -> list[int]:
        """The ids of the tokens by which these words, as the first one after the prompt, differ.

        Found by comparing the tokens of a prompt with and without the word, so it holds for any tokenizer.
        Raises TokenselError if they do not differ in that token.
        """
        prompt = self.prompt(Question(id="letters", text="?", choices=("yes", "no"), answer=0, image=None))
        # "ASSISTANT:" is answered by " A"; a template that ends in a line break or a space, by "A".
        space = "" if prompt[-1:].isspace() else " "
        plain = self._ids(prompt)
        ids = []
        for word in words:
            answered = self._ids(prompt + space + word)
            ids.append(next(new for old, new in zip([*plain, None], answered, strict=False) if new != old))
        if len(set(ids)) < len(words):
            raise TokenselError(
                f"model.path={self.path}: the tokenizer does not write the answers {', '.join(words)} "
                "as one token each; scoring=letter needs that"
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
