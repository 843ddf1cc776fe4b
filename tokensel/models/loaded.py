"""A loaded checkpoint: turns questions into input tensors, and answers into token ids."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError, TokenselError, first_line
from tokensel.models.answer_tokens import AnswerTokens
from tokensel.models.bounds import check_length, check_picture, check_video
from tokensel.models.families import ALONG_PROMPT, COMPANIONS, Family, family_of, pixels_of

#: A PIL image, or the list of a video's frames.
Shown = Any


@dataclass
class Encoded:
    """Questions as input tensors, on the model's device.

    Parameters:
        input_ids, attention_mask: [B, T], left padded
        pictures: pixel_values and its companions, one entry per distinct picture; or pixel_values_videos and its own
        picture_indices: LongTensor[P]: which of them each picture or video of the prompts is, row by row
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

    @property
    def video(self) -> bool:
        """Whether the prompts show videos."""
        return "pixel_values_videos" in self.pictures


@dataclass
class LoadedModel(AnswerTokens):
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

        Each picture is one image token, a video one video token. said: the answers to its first turns: the prompt is
        then the next turn's.
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
        if not self.family.fixed_size or any(question.video for question in questions):
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
        values = pixels_of(self.processor.image_processor(images=prepared, return_tensors="pt"))
        return values.to(self.device, self.model.dtype)

    def load_images(self, question: Question) -> list[Shown]:
        """What the question shows: its pictures, or its video's frames as one entry.

        Raises BadSampleError for what cannot be read, or is too large once it is prepared.
        """
        padded, processor = self.protocol.image_aspect == "pad", self.processor.image_processor
        if question.video:
            frames = question.load_frames()
            check_picture(question, frames[0], processor, padded=False, resized=True)
            return [frames]
        images = question.load_images()
        for image in images:
            check_picture(question, image, processor, padded=padded, resized=self.family.fixed_size)
        return list(images)

    def shape_of(self, question: Question, images: Sequence[Shown]) -> tuple[Any, ...]:
        """A key that is equal for questions that may share a batch: equally many visual tokens, in the same shapes.

        images: what the question shows.

        Raises BadSampleError for a question that cannot be asked: its text contains the image token, its prompt is
        longer than the model's positions, the processor refuses a picture, or the family does not take several, or no
        video.
        """
        check_video(question, self.family.videos, self.model.config)
        text = self.prompt(question)
        if len(images) > 1 and not self.family.several_pictures:
            raise BadSampleError(
                f"question {question.id}: has {len(images)} pictures; with model_type={self.model.config.model_type} "
                "only questions about one are tested",
                question_id=question.id,
            )
        try:
            shapes = [self.video_shape(each) if isinstance(each, list) else self.picture_shape(each) for each in images]
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

    def video_shape(self, frames: Sequence[Image.Image]) -> tuple[Any, ...]:
        """A key that is equal for videos that may share a batch: the number of video tokens in the prompt, and the
        frames, rows and columns of the visual tokens."""
        size = (*frames[0].size, len(frames))
        if size not in self._shapes:
            blank = [Image.new("RGB", frames[0].size)] * len(frames)
            videos = self._run_processor([], [self.processor.video_token], [blank])
            count = int((videos.pop("input_ids") == self.processor.video_token_id).sum())
            self._shapes[size] = (count, self.family.video_grids(self.model.config, videos)[0])
        return self._shapes[size]

    @cached_property
    def _shapes(self) -> dict[tuple[int, ...], tuple[Any, ...]]:
        return {}

    def encode(self, questions: Sequence[Question], images: Mapping[str, Shown] | None = None) -> Encoded:
        """The questions as tensors.

        images: what the questions show by their `picture_ids`; None: it is opened here.

        Raises BadSampleError for a broken picture or video; TokenselError where some questions show a video and others
        do not.
        """
        if images is None:
            images = {
                id: image for q in questions for id, image in zip(q.picture_ids, self.load_images(q), strict=True)
            }
        if any(question.video for question in questions):
            return self._encode_videos(questions, images)
        texts = [self.prompt(question) for question in questions]
        image_ids = [id for question in questions for id in question.picture_ids]
        sizes = [
            self._padded(images[question.image_id]) if len(question.pictures) == 1 else None for question in questions
        ]
        if self.family.fixed_size or not image_ids:
            unique = list(dict.fromkeys(image_ids))
            pictures = {self._pixel_name: self.pixels([images[id] for id in unique])} if unique else {}
            indices = torch.tensor([unique.index(id) for id in image_ids], dtype=torch.long, device=self.device)
            ids, mask = self.tokenize(questions) if self.family.fixed_size else self._tokenize_texts(texts)
            return Encoded(ids, mask, pictures, indices, sizes)
        inputs = self._run_processor([self.prepare_image(images[id]) for id in image_ids], texts)
        return self._encoded(inputs, len(image_ids), sizes)

    def _encode_videos(self, questions: Sequence[Question], images: Mapping[str, Shown]) -> Encoded:
        for question in questions:
            check_video(question, self.family.videos, self.model.config)
            if not question.video:
                raise TokenselError(f"question {question.id}: shows no video, but others of its batch do")
        texts = [self.prompt(question) for question in questions]
        videos = [images[id] for question in questions for id in question.picture_ids]
        return self._encoded(self._run_processor([], texts, videos), len(videos), [None] * len(texts))

    def _encoded(self, inputs: dict[str, torch.Tensor], shown: int, sizes: list[tuple[int, int] | None]) -> Encoded:
        """The processor's output, with `shown` pictures or videos."""
        ids, mask = inputs.pop("input_ids").to(self.device), inputs.pop("attention_mask").to(self.device)
        inputs = {name: value for name, value in inputs.items() if name not in ALONG_PROMPT}
        inputs |= self.family.companions(ids == self.image_token_id, inputs)
        inputs = {name: self._to_device(value) for name, value in inputs.items()}
        return Encoded(ids, mask, inputs, torch.arange(shown, device=self.device), sizes)

    @cached_property
    def _pixel_name(self) -> str:
        """What the model's forward calls its pictures: older versions have another name in Video-LLaVA."""
        forward = getattr(self.model, "forward", None)  # which a model without weights lacks
        names = inspect.signature(forward).parameters if forward else ("pixel_values",)
        return "pixel_values" if "pixel_values" in names else "pixel_values_images"

    def _padded(self, image: Image.Image) -> tuple[int, int] | None:
        """The picture's size, if it is padded to a square."""
        return None if self.protocol.image_aspect == "crop" or image.width == image.height else image.size

    def _tokenize_texts(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        special = {"add_special_tokens": not self._starts_with_bos(texts)}
        encoded = self.processor.tokenizer(texts, padding=True, return_tensors="pt", **special)
        return encoded["input_ids"].to(self.device), encoded["attention_mask"].to(self.device)

    def _run_processor(
        self, images: list[Image.Image], texts: list[str], videos: Sequence[Shown] = ()
    ) -> dict[str, torch.Tensor]:
        options = {"padding": True, "return_tensors": "pt", "add_special_tokens": not self._starts_with_bos(texts)}
        if not videos:
            return dict(self.processor(images=self.family.for_processor(images), text=texts, **options))
        inputs = dict(self.processor(videos=list(videos), text=texts, **options))
        inputs.pop("video_metadata", None)
        return inputs | {name: torch.as_tensor(value) for name, value in inputs.items() if name == "second_per_grid_ts"}

    def _to_device(self, value: torch.Tensor) -> torch.Tensor:
        pixels = value.is_floating_point() and value.ndim > 1  # seconds stay as exact as they are
        return value.to(self.device, self.model.dtype if pixels else value.dtype)

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
