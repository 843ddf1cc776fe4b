"""A checkpoint and questions for tests of the sweep: random weights, four layers, 36 visual tokens."""

import json
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from helpers.models import tiny_llava
from helpers.tokenizers import TEMPLATE, make_tokenizer
from tokensel.data import Question

SIZE = 84


def save_checkpoint(folder: Path, seed: int = 0) -> Path:
    tokenizer = make_tokenizer()
    model = tiny_llava(seed=seed, image_size=SIZE, vocab_size=len(tokenizer))
    model.config.image_token_index = model.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def picture(index: int) -> Image.Image:
    noise = torch.randint(0, 256, (SIZE, SIZE, 3), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def make_questions(count: int, per_picture: int = 2) -> list[Question]:
    return [
        Question(
            id=f"q{index}",
            text="what is it " + "and " * (index % 5) + "?",
            choices=("red", "green", "blue", "gray")[: 2 + index % 3],
            answer=index % 2,
            image=lambda index=index: picture(index // per_picture),
            image_id=f"p{index // per_picture}",
        )
        for index in range(count)
    ]


def save_question_file(folder: Path, count: int) -> Path:
    """The same questions in the question-file format, with their pictures beside it in `images`."""
    images = folder / "images"
    images.mkdir(parents=True)
    entries = []
    for question in make_questions(count):
        name = f"{question.image_id}.png"
        question.load_image().save(images / name)
        lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", question.choices, strict=False)]
        prompt = "\n".join([question.text, *lines]) + "\n<image>"
        entries.append(
            {
                "id": question.id,
                "image": name,
                "conversations": [
                    {"from": "human", "value": prompt},
                    {"from": "gpt", "value": f"The answer is {'ABCD'[question.answer]}."},
                ],
            }
        )
    path = folder / "questions.json"
    path.write_text(json.dumps(entries))
    return path
