"""What each training step shows: how many pictures of which families, how many visual tokens, which question styles."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tokensel.training.lessons import N_VISUAL, TrainingPicture

#: Steps alternate between these two mixtures of picture families. Scenes train finding one object among few; diagrams
#: train weighing many small marks, which is learned only while few other pictures are shown.
MIXTURES = (
    {"scene": 0.85, "easy_vqa": 0.15},
    {"attract": 0.25, "force": 0.1, "concentration": 0.25, "energy": 0.12, "membrane": 0.28},
)
#: Questions per picture in each mixture. Fewer for diagrams, whose questions are paraphrases of one another.
QUESTIONS = (4, 2)
#: How often each picture is shown on average, every time with other questions and other patches.
REPETITIONS = 4


@dataclass(frozen=True)
class TrainingSchedule:
    """Length, batch sizes and learning rates of a training.

    Parameters:
        vision_steps, steps: optimizer steps of the vision stage and of the language stage.
        vision_batch, batch: pictures per step of each stage.
        save_every: steps between two checkpoints.
        compiled: run the decoder through torch.compile. On a CPU this costs two minutes at the start and makes every
            step a third faster.
    """

    seed: int = 0
    vision_steps: int = 900
    vision_batch: int = 16
    steps: int = 1650
    batch: int = 32
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    save_every: int = 50
    compiled: bool = False


@dataclass(frozen=True)
class Lesson:
    """Settings of one step of the language stage.

    families: share of the pictures per family. shapes: the most shapes in a scene. tokens: visual tokens per picture.
    pictures: pictures in the batch. questions: questions per picture. styles: share of the questions per style.
    """

    families: dict[str, float]
    shapes: int
    tokens: int
    pictures: int
    questions: int
    styles: dict[str, float]


def lesson_of_step(step: int, schedule: TrainingSchedule) -> Lesson:
    """The settings of a step.

    Over time scenes grow, more visual tokens are shown, and hints state the answer less often.
    """
    done, kind = step / schedule.steps, step % 2
    tokens = (64, 24 if done < 0.65 else 48)[kind] if done < 0.8 else 128 if done < 0.92 else N_VISUAL
    stated, open_ = 0.25 if done < 0.3 else 0.05, 0.3 if done < 0.5 else 0.1
    return Lesson(
        families=MIXTURES[kind],
        shapes=1 if done < 0.05 else 2 if done < 0.15 else 3 if done < 0.25 else 4,
        tokens=tokens,
        pictures=max(1, int(schedule.batch * (0.25 if tokens == N_VISUAL else (1, 1.5)[kind]))),
        questions=QUESTIONS[kind],
        styles={"stated": stated, "open": open_, "choice": 1 - stated - open_},
    )


def pictures_of_step(step: int, schedule: TrainingSchedule, labelled: list[int]) -> Iterator[TrainingPicture]:
    """The pictures of a step, drawn from a pool that grows so that each is shown about REPETITIONS times.

    labelled: indices of the easy-VQA pictures that may be drawn.
    """
    rng = random.Random(f"lesson/{schedule.seed}/{step}")
    lesson = lesson_of_step(step, schedule)
    for _ in range(lesson.pictures):
        family = rng.choices(list(lesson.families), list(lesson.families.values()))[0]
        if family == "easy_vqa":
            yield TrainingPicture(family, rng.choice(labelled), 1)
            continue
        pool = 200 + int(step * lesson.pictures * lesson.families[family] / 2 / REPETITIONS)
        # Half of the scenes may be smaller than the present maximum, so that small scenes are not forgotten.
        shapes = lesson.shapes if rng.random() < 0.5 else rng.randint(1, lesson.shapes)
        yield TrainingPicture(family, rng.randrange(pool), shapes if family == "scene" else 0)
