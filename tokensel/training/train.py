"""Trains the embedded LLaVA from scratch: first its vision tower, then projector and decoder on frozen features.

Each step of either stage depends only on the seed and its number. Both stages save checkpoints and continue from them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from tokensel.data import LETTERS
from tokensel.data.diagrams import Item
from tokensel.data.easy_vqa import load_easy_vqa
from tokensel.models.embedded import build_config, build_model, build_processor, build_tokenizer
from tokensel.training.gallery import Gallery, choose_patches, labelled_easy_pictures
from tokensel.training.lessons import (
    IGNORED,
    EasyVQAQuestions,
    QuestionEncoder,
    QuestionTokens,
    TrainingPicture,
    corpus,
    pack_batch,
    question_loss,
)
from tokensel.training.optimization import Checkpoint, make_optimizers, scale_rates
from tokensel.training.schedule import TrainingSchedule, lesson_of_step, pictures_of_step
from tokensel.training.vision_lessons import VisionTrainer, vision_batch

#: Called after every step with the number of steps done and the step's figures.
Report = Callable[[int, dict[str, float]], None]


def make_student(seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The untrained model and its processor."""
    texts, hints = corpus()
    texts += sorted({q.text + "".join(f" {c}" for c in q.choices) for q in load_easy_vqa("train")})
    tokenizer = build_tokenizer(texts, [f"\nContext: {hint}" for hint in hints])
    return build_model(build_config(tokenizer), seed), build_processor(tokenizer)


def train_vision(
    model: LlavaForConditionalGeneration, schedule: TrainingSchedule, folder: Path, device: str, report: Report
) -> None:
    """Trains the vision tower in place on labels of every patch; see `vision_lessons`.

    folder: where the checkpoint vision.pt is written and continued from.
    """
    trainer = VisionTrainer(model.model.vision_tower, model.config.vision_config.hidden_size).to(device)
    optimizers = make_optimizers(trainer, schedule)
    checkpoint = Checkpoint(folder / "vision.pt", trainer, optimizers)
    easy = list(labelled_easy_pictures().values())
    for step in range(checkpoint.load(), schedule.vision_steps):
        left = (schedule.vision_steps - step) / schedule.vision_steps
        # The tower learns to distinguish shapes only at low rates, and everything else quickly at a high one.
        scale_rates(optimizers, schedule, min((step + 1) / 30, 1 if left > 0.88 else 0.4 * left**1.2))
        pixels, labels = vision_batch(step, schedule.vision_batch, easy)
        loss, right = trainer(pixels.to(device), {name: label.to(device) for name, label in labels.items()})
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, {"loss": loss.item(), **right})
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.vision_steps:
            checkpoint.save(step + 1)


def train_language(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    schedule: TrainingSchedule,
    folder: Path,
    device: str,
    report: Report,
) -> None:
    """Trains projector and decoder in place on the frozen tower's features; see `lessons`.

    folder: where the checkpoint language.pt is written and continued from.
    """
    model.to(device)
    model.model.vision_tower.requires_grad_(False).eval()
    student = nn.ModuleDict({"projector": model.model.multi_modal_projector, "decoder": model.model.language_model})
    optimizers = make_optimizers(student, schedule)
    checkpoint = Checkpoint(folder / "language.pt", student, optimizers)
    easy = EasyVQAQuestions(load_easy_vqa("train"))
    gallery = Gallery(model, easy, device)
    labelled = [k for k, image_id in enumerate(easy.image_ids) if image_id in gallery.labelled]
    encoder = QuestionEncoder(tokenizer)
    decoder = model.model.language_model
    if schedule.compiled:
        decoder = torch.compile(decoder, dynamic=True)  # type: ignore[assignment]
    for step in range(checkpoint.load(), schedule.steps):
        scale_rates(optimizers, schedule, min(1, (step + 1) / 20, (schedule.steps - step) / (0.65 * schedule.steps)))
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        pictures = list(pictures_of_step(step, schedule, labelled))
        found = gallery.features(pictures)
        tokens = lesson_of_step(step, schedule).tokens
        patches = torch.stack([choose_patches(each, tokens, generator) for each in found])
        features = torch.stack([each.features[p] for each, p in zip(found, patches, strict=True)]).float().to(device)
        questions, groups = _questions_of_step(step, schedule, pictures, easy, encoder)
        projected = model.model.multi_modal_projector(features)
        batch = pack_batch(encoder, questions, projected, patches, model.get_input_embeddings())
        hidden = decoder(
            inputs_embeds=batch["inputs_embeds"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state
        loss, right = question_loss(hidden, model.lm_head, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, {"loss": loss.item(), **_shares_right(right, questions, groups)})
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            checkpoint.save(step + 1)


def _questions_of_step(
    step: int,
    schedule: TrainingSchedule,
    pictures: list[TrainingPicture],
    easy: EasyVQAQuestions,
    encoder: QuestionEncoder,
) -> tuple[list[list[QuestionTokens]], list[tuple[str, str]]]:
    """The encoded questions of each picture, and the family and style of every question in that order."""
    rng = random.Random(f"asked/{schedule.seed}/{step}")
    lesson = lesson_of_step(step, schedule)
    questions: list[list[QuestionTokens]] = []
    groups: list[tuple[str, str]] = []
    for picture in pictures:
        if picture.family == "easy_vqa":
            items = easy.items(picture.index, rng, lesson.questions)
        else:
            items = picture.diagram(inked=False).items
        if picture.family == "scene":
            rng.shuffle(items)
        row = []
        for item in items[: lesson.questions]:
            style = rng.choices(list(lesson.styles), list(lesson.styles.values()))[0]
            row.append(encoder.encode(item, style, rng))
            groups.append((_family_of(picture, item), style))
        questions.append(row)
    return questions, groups


def _family_of(picture: TrainingPicture, item: Item) -> str:
    """The question's family; a scene has questions of several."""
    if picture.family != "scene":
        return picture.family
    if item.short.isdigit():
        return "count"
    return "place" if "at the" in item.text or "farthest" in item.text else "shape" if "shape" in item.text else "color"


def _shares_right(
    right: Tensor, questions: list[list[QuestionTokens]], groups: list[tuple[str, str]]
) -> dict[str, float]:
    """The share of targets predicted right per kind of target, and of answers per family.

    right: BoolTensor over all targets of the batch, in order. Questions whose hint states the answer are counted apart.
    """
    flags = iter(right.tolist())
    marks: dict[str, list[bool]] = defaultdict(list)
    every_question = (question for row in questions for question in row)
    for question, (family, style) in zip(every_question, groups, strict=True):
        for target, kind in zip(question.targets, question.kinds, strict=True):
            if target == IGNORED:
                continue
            flag = next(flags)
            stated = style == "stated"
            marks[f"{kind}/stated" if stated else kind].append(flag)
            if kind in ("letter", "open", "word") and not stated:
                marks[f"{family}.{'letter' if kind == 'letter' else 'word'}"].append(flag)
    return {key: sum(values) / len(values) for key, values in marks.items()}


def save_student(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Writes an ordinary checkpoint: float16 safetensors, config, tokenizer and processor."""
    folder.mkdir(parents=True, exist_ok=True)
    # Training ends each sequence at the answer's letter, so generation must stop there too.
    letters = [processor.tokenizer(f" ASSISTANT: {letter}")["input_ids"][-1] for letter in LETTERS[:5]]
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *letters]
    model.to("cpu").half().save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
