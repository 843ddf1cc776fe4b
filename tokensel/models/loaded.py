"""A loaded checkpoint: turns questions into input tensors, and answers into token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from tokensel.data import LETTERS, Question
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError, TokenselError, first_line
from tokensel.models.bounds import check_length, check_picture
from tokensel.models.families import ALONG_PROMPT, COMPANIONS, Family, family_of


@dataclass
class Encoded:
    """Questions as input tensors, on the model's device.

    Parameters:
        input_ids, attention_mask: [B, T], left padded
        pictures: pixel_values and its companions, one entry per distinct picture
        picture_indices: LongTensor[P]: which of them each picture of the prompts is, row by row
        picture_sizes: width and height of each row's picture before it was padded to a square; None if it was not, and
            for several
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    pictures: dict[str, torch.Tensor]
    picture_indices: torch.Tensor
    picture_sizes: list[tuple[int, int] | None]

    @property
    def several(self) -> bool:
        """Whether a prompt has several pictures."""
        return len(self.picture_indices) > len(self.input_ids)


@dataclass
class LoadedModel:
    """A vision-language model in evaluation mode with its processor.

    Parameters:
        path: as the user gave it; name is its last part, used in tables
        revision: a hub checkpoint's commit, or a digest of a folder's files; it changes whenever the weights do
        protocol: how questions are worded, pictures prepared and answers read
    """

    model: Any
    processor: Any
    path: str
    name: str
    device: torch.device
    revision: str | None = None
    protocol: Protocol = field(default_factory=Protocol)

    def with_protocol(self, protocol: Protocol) -> "LoadedModel":
        """The same model, evaluated with another protocol."""
        return replace(self, protocol=protocol)

    @property
    def family(self) -> Family:
        """The differences between model families."""
        return family_of(self.model.config)

    @property
    def image_token_id(self) -> int:
        """The token that stands for one visual token in input_ids."""
        return self.family.image_token_id(self.processor)

    def prompt(self, question: Question, said: Sequence[str] = ()) -> str:
        """The question in its conversation template, up to where the answer begins; see `Protocol.conversation`.

        Each picture is one image token. said: the answers to its first turns: the prompt is then the next turn's.
        """
        return self.protocol.conversation(question, self.processor, said)

    @cached_property
    def num_image_tokens(self) -> int:
        """The number of visual tokens of a square picture: 576 for 336 px and 14 px patches.

        In families of one picture size, that of every picture.
        """
        return self.count_image_tokens((336, 336))

    def count_image_tokens(self, size: tuple[int, int]) -> int:
        """The number of visual tokens of a picture with this width and height."""
        # Counted in the processor's output, so that it cannot disagree with the processor.
        inputs = self._run_processor([Image.new("RGB", size)], [self.processor.image_token])
        return int((inputs["input_ids"] == self.image_token_id).sum())

    def tokenize(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids and attention_mask, both [B, T], left padded, on the model's device.

        Image tokens are expanded as the processor expands them. In families of one picture size no picture is opened.
        """
        if not self.family.fixed_size:
            encoded = self.encode(questions)
            return encoded.input_ids, encoded.attention_mask
        image_token = self.processor.image_token
        expanded = self.family.expanded(self.processor, self.num_image_tokens)
        texts = [self.prompt(question).replace(image_token, expanded) for question in questions]
        return self._tokenize_texts(texts)

    def _starts_with_bos(self, texts: Sequence[str]) -> bool:
        """Whether the chat template itself writes the first token, so that the tokenizer must not add another."""
        first = self.processor.tokenizer.bos_token
        return bool(first) and all(text.startswith(first) for text in texts)

    def prepare_image(self, image: Image.Image) -> Image.Image:
        """The picture as it is passed to the processor, e.g. padded to a square."""
        return self.protocol.prepare_image(image, self.processor.image_processor)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """pixel_values [B, 3, H, W] in the model's dtype, on its device; for families with one picture size."""
        prepared = [self.prepare_image(image) for image in images]
        values = self.processor.image_processor(images=prepared, return_tensors="pt")["pixel_values"]
        return values.to(self.device, self.model.dtype)

    def load_images(self, question: Question) -> list[Image.Image]:
        """The question's pictures. Raises BadSampleError if one cannot be read, or is too large once it is prepared."""
        images = question.load_images()
        padded, processor = self.protocol.image_aspect == "pad", self.processor.image_processor
        for image in images:
            check_picture(question, image, processor, padded=padded, resized=self.family.fixed_size)
        return images

    def shape_of(self, question: Question, images: Sequence[Image.Image]) -> tuple[Any, ...]:
        """A key that is equal for questions that may share a batch: equally many visual tokens, in the same shapes.

        images: the question's pictures.

        Raises BadSampleError for a question that cannot be asked: its text contains the image token, its prompt is
        longer than the model's positions, the processor refuses a picture, or the family does not take several.
        """
        text = self.prompt(question)
        if len(images) > 1 and not self.family.several_pictures:
            raise BadSampleError(
                f"question {question.id}: has {len(images)} pictures; with model_type={self.model.config.model_type} "
                "only questions about one are tested",
                question_id=question.id,
            )
        try:
            shapes = [self.picture_shape(image) for image in images]
        except ValueError as error:  # of the processors, such as Qwen's for a picture 200 times as wide as high
            raise BadSampleError(
                f"question {question.id}: its picture cannot be prepared ({first_line(error)})", question_id=question.id
            ) from error
        count = sum(shape[0] if shape else self.num_image_tokens for shape in shapes)
        check_length(question, text, count, self.processor.tokenizer, self.model.config)
        return (len(shapes), *shapes) if len(shapes) > 1 else shapes[0] if shapes else ()

    def picture_shape(self, image: Image.Image) -> tuple[Any, ...]:
        """A key that is equal for pictures that may share a batch: same number, rows and columns of visual tokens."""
        if self.family.fixed_size:
            return ()
        size = self.prepare_image(image).size
        if size not in self._shapes:
            pictures = self._run_processor([Image.new("RGB", size)], [self.processor.image_token])
            shown = pictures.pop("input_ids") == self.image_token_id
            pictures |= self.family.companions(shown, pictures)
            self._shapes[size] = (int(shown.sum()), self.family.grid(self.model.config, pictures))
        return self._shapes[size]

    @cached_property
    def _shapes(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        return {}

    def encode(self, questions: Sequence[Question], images: Mapping[str, Image.Image] | None = None) -> Encoded:
        """The questions as tensors.

        images: the questions' pictures by their `picture_ids`; None: they are opened here.

        Raises BadSampleError for a broken picture.
        """
        if images is None:
            images = {
                id: image for q in questions for id, image in zip(q.picture_ids, self.load_images(q), strict=True)
            }
        texts = [self.prompt(question) for question in questions]
        image_ids = [id for question in questions for id in question.picture_ids]
        sizes = [
            self._padded(images[question.image_id]) if len(question.pictures) == 1 else None for question in questions
        ]
        if self.family.fixed_size or not image_ids:
            unique = list(dict.fromkeys(image_ids))
            pictures = {"pixel_values": self.pixels([images[id] for id in unique])} if unique else {}
            indices = torch.tensor([unique.index(id) for id in image_ids], dtype=torch.long, device=self.device)
            ids, mask = self.tokenize(questions) if self.family.fixed_size else self._tokenize_texts(texts)
            return Encoded(ids, mask, pictures, indices, sizes)
        inputs = self._run_processor([self.prepare_image(images[id]) for id in image_ids], texts)
        ids, mask = inputs.pop("input_ids").to(self.device), inputs.pop("attention_mask").to(self.device)
        inputs = {name: value for name, value in inputs.items() if name not in ALONG_PROMPT}
        inputs |= self.family.companions(ids == self.image_token_id, inputs)
        inputs = {name: self._to_device(value) for name, value in inputs.items()}
        return Encoded(ids, mask, inputs, torch.arange(len(image_ids), device=self.device), sizes)

    def _padded(self, image: Image.Image) -> tuple[int, int] | None:
        """The picture's size, if it is padded to a square."""
        return None if self.protocol.image_aspect == "crop" or image.width == image.height else image.size

    def _tokenize_texts(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        special = {"add_special_tokens": not self._starts_with_bos(texts)}
        encoded = self.processor.tokenizer(texts, padding=True, return_tensors="pt", **special)
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def _run_processor(self, images: list[Image.Image], texts: list[str]) -> dict[str, torch.Tensor]:
        special = {"add_special_tokens": not self._starts_with_bos(texts)}
        return dict(
            self.processor(
                images=self.family.for_processor(images), text=texts, padding=True, return_tensors="pt", **special
            )
        )

    def _to_device(self, value: torch.Tensor) -> torch.Tensor:
        dtype = self.model.dtype if value.is_floating_point() else value.dtype
        return value.to(self.device, dtype)

    def prepare(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """The model's keyword arguments: input_ids and attention_mask [B, T], pixel_values, and what else its family
        needs.

        pixel_values: [pictures, 3, H, W], without entries for questions that have no picture.

        Raises BadSampleError for a broken picture.
        """
        return self.arguments(self.encode(questions))

    def arguments(self, encoded: Encoded) -> dict[str, torch.Tensor]:
        """The model's keyword arguments for encoded questions, with an entry for each picture of each row."""
        inputs = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
        if len(encoded.picture_indices):
            taken = self.family.take(encoded.pictures, encoded.picture_indices.tolist())
            inputs |= {name: value for name, value in taken.items() if name not in COMPANIONS}
        return inputs | self.family.along_prompt(encoded.input_ids, self.model.config)

    def letter_ids(self, n: int) -> list[int]:
        """The ids of the tokens that answer A, B, ... as the first word after the prompt, for n choices.

        Raises TokenselError if two letters have the same id.
        """
        if not 1 <= n <= len(LETTERS):
            raise TokenselError(f"{n} choices: must be from 1 to {len(LETTERS)}, one per letter")
        return self.word_ids(LETTERS[:n])

    def answer_ids(self, question: Question) -> list[int]:
        """The ids of the first token of each possible answer: the letters of the choices, or Yes and No."""
        return self.word_ids(question.choices) if question.form == "yes_no" else self.letter_ids(len(question.choices))

    def continuation(self, prompt: str, text: str) -> list[int]:
        """The ids of the tokens that continue a prompt with a text, behind a space if neither has white space there."""
        space = "" if prompt[-1:].isspace() or text[:1].isspace() else " "
        return self.ids_behind(prompt, prompt + space + text)

    def ids_behind(self, prompt: str, whole: str) -> list[int]:
        """The ids of the tokens that a longer text has behind those of the prompt, with which it begins."""
        plain, ids = self._token_ids(prompt), self._token_ids(whole)
        # The prompt's own tokens have run already, so a token that spans both cannot be used.
        return ids[len(plain) :] if ids[: len(plain)] == plain else self._token_ids(whole[len(prompt) :])

    def word_ids(self, words: Sequence[str]) -> list[int]:
        """The ids of the first tokens of these words where they follow the prompt.

        They are found by comparing the tokens of the prompt with and without the word, which works for any tokenizer.
        Raises TokenselError if two words have the same id.
        """
        prompt = self.prompt(Question(id="letters", text="?", choices=("yes", "no"), answer=0, image=None))
        # After "ASSISTANT:" the answer is " A"; after a template that ends in a line break or a space, "A".
        space = "" if prompt[-1:].isspace() else " "
        plain = self._token_ids(prompt)
        ids = []
        for word in words:
            answered = self._token_ids(prompt + space + word)
            ids.append(next(new for old, new in zip([*plain, None], answered, strict=False) if new != old))
        if len(set(ids)) < len(words):
            raise TokenselError(
                f"model.path={self.path}: the tokenizer does not write the answers {', '.join(words)} "
                "as one token each; scoring=letter needs that"
            )
        return ids

    def _token_ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
