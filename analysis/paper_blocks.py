"""What the methods of one block of the paper's table share: the number of kept visual tokens, a share, or a budget."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.columns import CONTROLS
from tokensel.auto import read_auto
from tokensel.errors import TokenselError
from tokensel.evaluation.sweep.budget import read_budget

# kept as a number, "25%", "auto", "average_tokens:64" or "flops:0.4"; None: what is not reduced.
Block = int | str | None


def blocks_of(row: Mapping[Hashable, Any]) -> list[Block]:
    """The blocks that a row of `load_results` belongs to: several if its kept is the solution of several budgets."""
    if row["method"] in CONTROLS:
        return [None]
    if not pd.isna(row["budget"]):
        return list(row["budget"].split(", "))
    if not pd.isna(row["kept_share"]):
        return [row["kept_share"]]
    return [None if pd.isna(row["kept"]) else int(row["kept"])]


def block_name(block: Block) -> str:
    """The block in words."""
    if not isinstance(block, str):
        return f"{block} visual tokens"
    if block.startswith("auto"):
        return f"as many visual tokens as cover the picture ({block})"
    if block.endswith("%"):
        return f"{block} of the visual tokens"
    budget = read_budget(block)
    if budget.kind == "flops":
        return f"{100 * budget.target:g}% of the full model's FLOPs"
    return f"{budget.target:g} visual tokens per layer (average)"


def block_order(block: Block) -> tuple[int, str, float]:
    """A sort key: what is not reduced, then kept visual tokens, shares and budgets, each from much to little, and auto
    last."""
    if not isinstance(block, str):
        return (0, "", 0.0) if block is None else (1, "", -float(block))
    if block.startswith("auto"):
        return 4, block, 0.0
    if block.endswith("%"):
        return 2, "", -float(block.removesuffix("%"))
    budget = read_budget(block)
    return 3, budget.kind, -budget.target


def read_block(text: str) -> Block:
    """Reads a block as `--budget` names it. Raises TokenselError for anything else."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    if text.startswith("auto"):
        return str(read_auto(text))
    try:
        if text.endswith("%") and 0 < float(text.removesuffix("%")) <= 100:
            return f"{float(text.removesuffix('%')):g}%"
        return str(read_budget(text))
    except (ValueError, TokenselError) as error:
        allowed = "must be a number of visual tokens, a share such as 25%, average_tokens:NUMBER or flops:SHARE"
        raise TokenselError(f"budget={text if len(text) < 60 else f'{text[:40]}...'}: {allowed}") from error
