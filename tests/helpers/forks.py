"""Processes that have imported everything already: a new interpreter imports torch and transformers for seconds."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch


def start_fork(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Runs function(*arguments) in a copy of this process, with one thread."""
    process = multiprocessing.get_context("fork").Process(target=_alone, args=(function, arguments))
    process.start()
    return process


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # OpenMP's other threads are not copied, and it would wait for them
    function(*arguments)
