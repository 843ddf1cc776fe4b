"""The results in the original code's JSON, written to a file, and as a table for the terminal."""

import json
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from runners.terminal.arguments import write_whole
from tokensel.compat.config import DEFAULTS, active_scheme, classic_reduction
from tokensel.data import Question
from tokensel.evaluation.digests import questions_digest
from tokensel.evaluation.store import PointStore
from tokensel.models import checkpoint_revision

# For each scheme: keys of model_config in the original's JSON -> attributes of the model's config.
_CLASSIC_NAMES = {
    "use_custom_selection": {
        "sys_length": "custom_sys_length",
        "img_length": "custom_image_token_length",
        "kept_tokens": "custom_kept_tokens",
        "agg_layer": "custom_agg_layer",
        "selection_method": "custom_selection_method",
        "temperature": "custom_temperature",
    },
    "use_fast_v": {name: name for name in DEFAULTS if name.startswith("fast_v_")},
    "use_hmap_v": {
        "sys_length": "hmap_v_sys_length",
        "img_length": "hmap_v_img_length",
        "txt_layer": "hmap_v_attn_txt_layer",
        "img_layer": "hmap_v_attn_img_layer",
        "txt_rank": "hmap_v_attn_txt_rank",
        "img_rank": "hmap_v_attn_img_rank",
        "cut_off_layer": "cut_off_layer",
    },
}
# Flags that are stored in model_config under their own names.
_OWN_NAMES = (
    "model_path",
    "family",
    "dtype",
    "conv_mode",
    "single_pred_prompt",
    "num_chunks",
    "chunk_idx",
    "num_samples",
)


def model_config(flags: Namespace, device: torch.device) -> dict[str, Any]:
    """The model_config of the JSON: the original's keys, then the reduction and the flags in this project's words."""
    scheme, reduction = active_scheme(flags), classic_reduction(flags)
    original = {key: getattr(flags, name) for key, name in _CLASSIC_NAMES.get(scheme or "", {}).items()}
    return {
        "use_custom_selection": flags.use_custom_selection,
        "use_fastv": flags.use_fast_v,
        "use_himap": flags.use_hmap_v,
        **original,
        "method": reduction["method"],
        "kept": reduction.get("kept"),
        "layout": reduction.get("layout"),
        "seed": reduction.get("seed"),
        **{name: getattr(flags, name) for name in (*_OWN_NAMES, "question_file", "image_folder")},
        "device": str(device),
    }


def open_answers(output: Path, flags: Namespace, questions: Sequence[Question]) -> PointStore:
    """Where answers are kept until all are there: OUTPUT.partial, a folder beside the output.

    It holds those of an earlier start with the same flags, questions and checkpoint that was interrupted, and no
    others. Raises TokenselError if the folder cannot be written.
    """
    belongs = {name: str(value) for name, value in sorted(vars(flags).items()) if name != "output_file"}
    belongs |= {"questions": questions_digest(questions), "revision": str(checkpoint_revision(flags.model_path))}
    store = PointStore(output.with_name(f"{output.name}.partial"))
    try:
        earlier = yaml.safe_load((store.folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        earlier = None
    if earlier != belongs:
        store.clear()
        store.write_config(belongs)
    return store


def write_json(path: Path, content: dict[str, Any], answers: PointStore) -> None:
    """Writes the file atomically, and removes the answers that were kept for it."""
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(), "--output-file")
    answers.close()
    shutil.rmtree(answers.folder, ignore_errors=True)


def print_table(figures: dict[str, Any], summary: dict[str, Any]) -> None:
    """Prints a table of one line. figures: those of the JSON; summary: from `summarize`, for the interval."""
    settings = figures["model_config"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "kept", "layout", "seed", "correct", "accuracy % [95%]", "s per question"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    kept = settings["kept"]
    cells = [
        settings["method"],
        "" if kept is None else " ".join(map(str, kept)) if isinstance(kept, tuple) else str(kept),
        settings["layout"] or "",
        "" if settings["seed"] is None else str(settings["seed"]),
        f"{figures['correct_samples']} of {figures['total_samples']}",
        f"{100 * figures['accuracy']:.1f} \\[{100 * summary['ci_low']:.1f}, {100 * summary['ci_high']:.1f}]",
        f"{figures['avg_latency']:.3f}",
    ]
    table.add_row(*cells)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
