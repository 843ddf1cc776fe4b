"""Answers the questions of a file one by one through the original code's interface, as its evaluation script does."""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokensel.compat.config import DEFAULTS
from tokensel.compat.model import ClassicModel, tokenizer_image_token
from tokensel.data import LETTERS, Question, load_questions
from tokensel.data.prompts import INSTRUCTION, read_answer
from tokensel.data.protocol import Protocol
from tokensel.errors import TokenselError
from tokensel.evaluation.answers import greedy_settings, row_keys
from tokensel.evaluation.store import PointStore
from tokensel.models import LoadedModel, load_model
from tokensel.models.loading import checkpoint_folder


@dataclass(frozen=True)
class Answers:
    """A record per question for the JSON file, and the seconds that generating all of them took."""

    records: list[dict[str, Any]]
    seconds: float


def choose_questions(flags: Namespace) -> list[Question]:
    """The questions of the given chunk, with their pictures checked.

    Raises TokenselError for a file, a picture or a checkpoint that cannot be read, before any model is loaded.
    """
    questions = choose_chunk(
        load_questions("question_file", path=flags.question_file, image_folder=flags.image_folder), flags
    )
    checkpoint_folder(flags.model_path)
    for question in questions:
        if question.video is not None:
            raise TokenselError(
                f"--question-file: question {question.id} shows a video; this command takes pictures only"
            )
        if question.image is not None:
            question.load_image()
    return questions


def choose_chunk(questions: list[Question], flags: Namespace) -> list[Question]:
    """One of num_chunks consecutive chunks of equal length, as LLaVA splits them, cut to num_samples.

    Raises TokenselError if the chunk is empty.
    """
    size = math.ceil(len(questions) / flags.num_chunks)
    chunk = questions[flags.chunk_idx * size : (flags.chunk_idx + 1) * size]
    if not chunk:
        raise TokenselError(
            f"--chunk-idx={flags.chunk_idx}: {len(questions)} questions in --num-chunks={flags.num_chunks} are "
            f"{math.ceil(len(questions) / size)} chunks of {size}; choose a smaller one"
        )
    return chunk[: flags.num_samples] if flags.num_samples > 0 else chunk


def load_classic(flags: Namespace) -> tuple[LoadedModel, ClassicModel]:
    """The checkpoint, and its classic interface with the reduction of the flags."""
    loaded = load_model(flags.model_path, device=flags.device, dtype=flags.dtype, family=flags.family)
    # The original script crops pictures.
    loaded = loaded.with_protocol(Protocol(image_aspect="crop", conv=flags.conv_mode))
    model = ClassicModel(loaded)
    for name in DEFAULTS:
        setattr(model.config, name, getattr(flags, name))
    return loaded, model


def answer_questions(
    questions: list[Question],
    loaded: LoadedModel,
    model: ClassicModel,
    with_instruction: bool,
    progress: Callable[[int], None],
    store: PointStore | None = None,
) -> Answers:
    """Answers each question greedily.

    with_instruction: whether the prompt ends in "Answer with the option's letter ...". progress: called with 1 after
    each question. store: gets every answer at once; those that it has already are not computed again.
    """
    known = {} if store is None else {record["id"]: record for record in store.predictions()}
    records, seconds = [], 0.0
    for question in questions:
        record = known.get(question.id)
        if record is None:
            record, taken = _answer(question, loaded, model, with_instruction)
            record |= {"seconds": taken}
            if store is not None:
                store.append([record])
        seconds += record["seconds"]
        records.append({name: value for name, value in record.items() if name != "seconds"})
        progress(1)
    return Answers(records, seconds)


def _generated(model: ClassicModel, question: Question, *arguments: Any, **options: Any) -> Any:
    try:
        return model.generate(*arguments, **options)
    except FloatingPointError as error:
        raise TokenselError(f"question {question.id}: {error}") from error


def _answer(
    question: Question, loaded: LoadedModel, model: ClassicModel, with_instruction: bool
) -> tuple[dict[str, Any], float]:
    """The record of one question, and the seconds that generating its answer took."""
    prompt = loaded.prompt(question)
    pictures = loaded.load_images(question)
    loaded.shape_of(question, pictures)  # refuses a prompt that is too long
    if not with_instruction:
        prompt = "".join(prompt.rsplit(f"\n{INSTRUCTION}", 1))
    tokenizer = loaded.processor.tokenizer
    input_ids = torch.as_tensor(tokenizer_image_token(prompt, tokenizer)).unsqueeze(0).to(loaded.device)
    images = loaded.pixels(pictures) if pictures else None
    keys = row_keys([question], loaded.device)
    start = time.perf_counter()
    # The copy to the CPU waits until the device has finished.
    output = _generated(
        model,
        question,
        input_ids,
        images=images,
        row_keys=keys,
        questions=[loaded.protocol.question_text(question)],
        **greedy_settings(),
    ).cpu()
    taken = time.perf_counter() - start
    text = tokenizer.decode(output[0, input_ids.shape[1] :], skip_special_tokens=True)
    chosen = read_answer(text, len(question.choices))
    record = {
        "id": question.id,
        "prediction": None if chosen is None else LETTERS[chosen],
        "answer": LETTERS[question.answer],
        "correct": chosen == question.answer,
        "text": text,
    }
    return record, taken
