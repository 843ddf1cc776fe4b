"""Trains an aggregator against the full model: the loop, its looks at the validation questions, and what it writes."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runners.terminal.arguments import write_whole
from runners.training.lessons import Lesson, run_reduced
from tokensel.engine.kept import kept_text
from tokensel.engine.stages import Stage
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models.parts import ModelParts
from tokensel.training.aggregator import LearnedAggregator, aggregator_bytes
from tokensel.training.matching import (
    TrainingPlan,
    TrainingState,
    distribution_loss,
    hidden_loss,
    identity_of,
    letters_loss,
)

#: Files in the training's folder.
RESULT, CHECKPOINT = "aggregator.safetensors", "checkpoint.safetensors"


@dataclass(frozen=True)
class Trained:
    """What is trained: the reduction at each kept, without its aggregator.

    points: one for each kept, with aggregation="cross_attention", whose temperature is where every head begins.
    """

    parts: ModelParts
    points: Sequence[GridPoint]
    plan: TrainingPlan

    def new_aggregator(self) -> LearnedAggregator:
        """The untrained aggregator: plain cross-attention."""
        plan = self.plan
        width = self.parts.decoder.config.hidden_size
        return LearnedAggregator(width, plan.rank, plan.heads, self.points[0].temperature, plan.seed)

    def stages(self, aggregator: LearnedAggregator | None) -> list[list[Stage]]:
        """For each kept, its stages with this aggregator; None: without parameters."""
        made = []
        for point in self.points:
            stages = point.stages(self.parts.num_layers)
            if aggregator is not None:
                stages = [with_aggregator(stage, aggregator) for stage in stages]
            made.append(stages)
        return made

    def losses(self, lesson: Lesson, stages: Sequence[Stage]) -> tuple[Tensor, Tensor]:
        """What is minimised for each question of a lesson, [B], and the logits [B, V]."""
        plan = self.plan
        layer = plan.hidden_layer if plan.hidden_weight else None
        logits, hidden = run_reduced(self.parts, lesson, stages, layer)
        if plan.target == "letters":
            loss = letters_loss(logits, lesson.logits, lesson.answer_ids)
        else:
            loss = distribution_loss(logits, lesson.logits)
        if hidden is not None and lesson.hidden is not None:
            loss = loss + plan.hidden_weight * hidden_loss(hidden, *lesson.hidden)
        return loss, logits


def with_aggregator(stage: Stage, aggregator: LearnedAggregator) -> Stage:
    """The stage with aggregation="learned"."""
    return replace(stage, aggregation="learned", aggregator=aggregator)


@torch.no_grad()
def measure(trained: Trained, lessons: Sequence[Lesson], stages: Sequence[Sequence[Stage]]) -> dict[str, float]:
    """The mean loss over these lessons and every kept; and for each kept loss@8, like_full@8 (the share of answers that
    are the full model's) and accuracy@8."""
    figures: dict[str, float] = {}
    for point, each in zip(trained.points, stages, strict=True):
        losses, like, right, asked = [], 0, 0, 0
        for lesson in lessons:
            loss, logits = trained.losses(lesson, each)
            losses.append(loss.double())
            for row, (ids, answer) in enumerate(zip(lesson.answer_ids, lesson.answers.tolist(), strict=True)):
                if answer >= 0:
                    chosen = int(logits[row, ids].argmax())
                    like += chosen == int(lesson.logits[row, ids].argmax())
                    right, asked = right + (chosen == answer), asked + 1
        name = kept_text(point.final_kept or 0)
        figures[f"loss@{name}"] = float(torch.cat(losses).mean())
        if asked:
            figures |= {f"like_full@{name}": like / asked, f"accuracy@{name}": right / asked}
    every = [value for name, value in figures.items() if name.startswith("loss@")]
    return {"loss": sum(every) / len(every)} | figures


def train_aggregator(
    trained: Trained,
    lessons: Sequence[Lesson],
    validation: Sequence[Lesson],
    folder: Path,
    settings: Mapping[str, Any],
    report: Callable[[TrainingState, float], None],
    stop_after: int | None = None,
) -> TrainingState:
    """Trains until the plan's steps are done or the validation questions' loss no longer falls.

    folder: where the state is kept and continued from; a stopped training gives the same parameters as one that was
    not. settings: what else the training depends on. report: called after every step with the state and the step's
    loss, nan where there was none. stop_after: ends before this step, as if killed right after a checkpoint.

    Raises TokenselError for a state of another training, and without accelerate.
    """
    plan, aggregator = trained.plan, trained.new_aggregator()
    accelerator = _accelerator(lessons[0].logits.device)
    aggregator.to(lessons[0].logits.device)
    optimizer = torch.optim.AdamW(aggregator.parameters(), plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    aggregator, optimizer = accelerator.prepare(aggregator, optimizer, device_placement=[False, False])
    inner = getattr(optimizer, "optimizer", optimizer)
    state, identity = TrainingState(aggregator, inner), identity_of(plan, settings)
    file = folder / CHECKPOINT
    if file.exists():
        state.restore(file.read_bytes(), identity, f"output_dir={folder}: {CHECKPOINT}")
    stages = trained.stages(aggregator)
    if not state.log:
        _look(trained, validation, stages, state, math.nan)
    recent: list[float] = []
    while state.step < plan.steps and state.waited < plan.patience and state.step != stop_after:
        step = state.step
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        # Each batch is met by each kept in turn.
        chunks = len(lessons) * len(stages)
        lesson, kept = divmod(plan.chunk(step, chunks), len(stages))
        loss = trained.losses(lessons[lesson], stages[kept])[0].mean()
        if not bool(loss.isfinite()):
            raise TokenselError(
                f"learning_rate={plan.learning_rate}: the loss is not finite after {step} steps; lower it"
            )
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(aggregator.parameters(), 1.0)
        optimizer.step()
        state.step += 1
        recent.append(float(loss.detach()))
        if state.step % plan.evaluate_every == 0 or state.step == plan.steps:
            _look(trained, validation, stages, state, sum(recent) / len(recent))
            recent.clear()
            write_whole(file, state.as_bytes(identity), "output_dir")
        report(state, float(loss.detach()))
    return state


def _look(
    trained: Trained,
    validation: Sequence[Lesson],
    stages: Sequence[Sequence[Stage]],
    state: TrainingState,
    train_loss: float,
) -> None:
    figures = measure(trained, validation, stages)
    record = {"step": state.step, "train_loss": None if math.isnan(train_loss) else train_loss} | figures
    temperatures = state.aggregator.log_temperature.detach().exp().tolist()
    state.look(figures["loss"], record | {"temperatures": [round(each, 5) for each in temperatures]})


def write_aggregator(trained: Trained, state: TrainingState, folder: Path, made: Mapping[str, Any]) -> Path:
    """Writes the best parameters found as an aggregator's file. made: how, for its metadata."""
    best = trained.new_aggregator()
    best.load_state_dict(state.best)
    best.made = {"plan": asdict(trained.plan), "best_step": state.best_step} | dict(made)
    path = folder / RESULT
    write_whole(path, aggregator_bytes(best), "output_dir")
    return path


def _accelerator(device: torch.device) -> Any:
    if importlib.util.find_spec("accelerate") is None:
        raise TokenselError("accelerate: needed to train, and not installed; pip install 'tokensel[training]'")
    from accelerate import Accelerator

    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")
