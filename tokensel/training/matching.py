"""Training an aggregator to match the full model: losses, learning rates, and the state of a training.

A training depends on its plan and its questions alone: one that was stopped continues as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as as_safetensors
from torch import Tensor

from tokensel.errors import TokenselError
from tokensel.training.aggregator import LearnedAggregator

#: Over what the full model's next-token distribution is matched.
TARGETS = ("vocabulary", "letters")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingPlan:
    """What an aggregator's training depends on beside model, method and questions.

    Parameters:
        seed: of the projections' beginning and of the order of batches.
        steps: optimizer steps, at most. batch_size: questions per step. learning_rate: the highest; it rises over
            `warmup` steps and then falls to zero along a cosine.
        rank, heads: of the aggregator.
        target: the loss is KL(full || reduced) over the vocabulary, or over the letters of the answers.
        hidden_weight, hidden_layer: what the text's hidden states about to enter that layer add to the loss: their mean
            squared difference from the full model's, relative to the full model's.
        evaluate_every: steps between two looks at the validation questions. patience: the training ends after so many
            looks without a better one.
    """

    seed: int = 0
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 5e-3
    warmup: int = 50
    rank: int = 8
    heads: int = 4
    target: str = "vocabulary"
    hidden_weight: float = 0.0
    hidden_layer: int | None = None
    evaluate_every: int = 100
    patience: int = 6

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def chunk(self, step: int, chunks: int) -> int:
        """Which of `chunks` batches a step shows: all of them once, in a new order, and then again."""
        epoch, place = divmod(step, chunks)
        return random.Random(f"aggregator/{self.seed}/{epoch}").sample(range(chunks), chunks)[place]


def distribution_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each row, in nats: logits [B, V] each -> [B]. float32 inside."""
    full, reduced = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    return (full.exp() * (full - reduced)).sum(-1)


def letters_loss(student: Tensor, teacher: Tensor, answer_ids: Sequence[Sequence[int]]) -> Tensor:
    """`distribution_loss` over the tokens that begin each row's possible answers: logits [B, V] each -> [B]."""
    rows = [
        distribution_loss(a[list(ids)].unsqueeze(0), b[list(ids)].unsqueeze(0))
        for a, b, ids in zip(student, teacher, answer_ids, strict=True)
    ]
    return torch.cat(rows)


def hidden_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """The squared distance of the text's hidden states from the teacher's, relative to the teacher's own square, of
    each row: [B, S, D] each, real: BoolTensor[B, S] -> [B]."""
    apart = ((student.float() - teacher.float()) ** 2).sum(-1) * real
    size = (teacher.float() ** 2).sum(-1) * real
    return apart.sum(-1) / size.sum(-1).clamp_min(1e-12)


@dataclass
class TrainingState:
    """A training after `step` steps, and everything it needs to go on.

    best: the parameters with the least loss on the validation questions, found after `best_step` steps. waited: looks
    at them since. log: a record of every look.
    """

    aggregator: LearnedAggregator
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = math.inf
    waited: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    def look(self, loss: float, record: Mapping[str, Any]) -> None:
        """Notes the loss on the validation questions after the present step."""
        self.log.append(dict(record))
        if loss < self.best_loss:
            self.best = {name: value.detach().cpu().clone() for name, value in self.aggregator.state_dict().items()}
            self.best_step, self.best_loss, self.waited = self.step, loss, 0
        else:
            self.waited += 1

    def as_bytes(self, identity: str) -> bytes:
        """The state as a safetensors file. identity: of the training, see `identity_of`."""
        tensors = {f"now.{name}": value for name, value in self.aggregator.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.aggregator.named_parameters():
            moments = self.optimizer.state.get(parameter) or {}
            tensors |= {f"{moment}.{name}": moments[moment] for moment in _MOMENTS if moment in moments}
        progress = {name: getattr(self, name) for name in ("step", "best_step", "waited", "log")}
        progress["best_loss"] = None if math.isinf(self.best_loss) else self.best_loss
        metadata = {"training": json.dumps({"identity": identity} | progress)}
        return as_safetensors({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)

    def restore(self, data: bytes, identity: str, named: str) -> None:
        """Takes the state from a file's bytes. named: the setting and file, for messages.

        Raises TokenselError for a damaged file, and for one of another training.
        """
        try:
            tensors = read_safetensors(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            progress = json.loads(header["__metadata__"]["training"])
            if progress["identity"] != identity:
                raise TokenselError(
                    f"{named}: is of a training with other settings, questions or model; choose another output_dir, or "
                    "fresh=true to begin anew"
                )
            self.aggregator.load_state_dict(_named(tensors, "now"))
            self.best = _named(tensors, "best")
            moments = {moment: _named(tensors, moment) for moment in _MOMENTS}
            for name, parameter in self.aggregator.named_parameters():
                if name in moments["exp_avg"]:
                    found = {moment: moments[moment][name].to(parameter.device) for moment in _MOMENTS}
                    self.optimizer.state[parameter] = {"step": torch.tensor(float(progress["step"])), **found}
            self.step, self.best_step = progress["step"], progress["best_step"]
            self.best_loss = math.inf if progress["best_loss"] is None else progress["best_loss"]
            self.waited, self.log = progress["waited"], progress["log"]
        except TokenselError:
            raise
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise TokenselError(f"{named}: is damaged; fresh=true begins anew") from error


def identity_of(plan: TrainingPlan, settings: Mapping[str, Any]) -> str:
    """A digest of everything that a training depends on. settings: plain values, of model, method and questions."""
    text = json.dumps([asdict(plan), dict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _named(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
