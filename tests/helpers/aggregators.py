"""Aggregators for tests: with parameters as after a training, and files of them."""

from pathlib import Path

import torch

from tokensel.training.aggregator import LearnedAggregator, aggregator_bytes


def make_aggregator(width: int, seed: int = 0, **options) -> LearnedAggregator:
    """With parameters as after a training; options as of LearnedAggregator, or numbers that fill a parameter."""
    filled = {name: options.pop(name) for name in list(options) if name.endswith(("_up", "_down"))}
    aggregator = LearnedAggregator(width, **{"rank": 2, "heads": 2, "seed": seed} | options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in aggregator.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        for name, number in filled.items():
            getattr(aggregator, name).fill_(number)
    return aggregator


def write_aggregator(file: Path, width: int, seed: int = 0, **options) -> str:
    """Writes the file of one, and returns its path."""
    file.write_bytes(aggregator_bytes(make_aggregator(width, seed, **options)))
    return str(file)
