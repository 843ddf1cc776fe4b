"""The optimizers of a training and the checkpoint from which an interrupted training continues."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from tokensel.errors import TokenselError, first_line
from tokensel.training.muon import Muon
from tokensel.training.schedule import TrainingSchedule


def make_optimizers(module: nn.Module, schedule: TrainingSchedule) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for everything else (embeddings, norms, biases, heads)."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    hidden = [
        parameter
        for name, parameter in trained
        if parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "heads.", "summary"))
    ]
    ids = {id(parameter) for parameter in hidden}
    rest = [parameter for _, parameter in trained if id(parameter) not in ids]
    return [
        Muon(hidden, schedule.muon_lr),
        torch.optim.AdamW(rest, schedule.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def scale_rates(optimizers: list[torch.optim.Optimizer], schedule: TrainingSchedule, share: float) -> None:
    """Sets the learning rates of `make_optimizers`' optimizers to `share` of the schedule's."""
    for optimizer, rate in zip(optimizers, (schedule.muon_lr, schedule.adam_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share


class Checkpoint:
    """A file with the module's and the optimizers' state after some step, replaced atomically."""

    def __init__(self, path: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer]):
        self.path, self.module, self.optimizers = path, module, optimizers

    def load(self) -> int:
        """Restores the state, if the file exists, and returns the number of steps already done."""
        if not os.path.exists(self.path):
            return 0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        self.module.load_state_dict(state["module"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])

    def save(self, step: int) -> None:
        """Writes the state after `step` steps. Raises TokenselError, and keeps the earlier state, if that fails."""
        partial = self.path.with_suffix(".partial")
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"step": step, "module": self.module.state_dict(), "optimizers": optimizers}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, partial)
            partial.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where there is no room
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise TokenselError(
                f"{self.path}: cannot be written ({first_line(error)}); the training continues from the state before"
            ) from error
