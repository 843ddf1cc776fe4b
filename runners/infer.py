"""One method on a question file, in the flags and with the JSON of the original research code.

    python -m runners.infer --question-file questions.json --image-folder pictures --single-pred-prompt \\
        --custom-kept-tokens 8 --custom-agg-layer 2 --custom-selection-method fps --output-file fps.json
    python -m runners.infer --question-file questions.json --image-folder pictures --single-pred-prompt \\
        --use-fast-v --fast-v-attention-rank 8 --fast-v-agg-layer 2 --output-file fastv.json

Questions are asked one by one and answered greedily; an answer is read as LLaVA reads it. With --single-pred-prompt the
accuracy is the sweep's for scoring=generate. avg_latency is in seconds per question and includes the vision tower.
The last line of standard output is JSON.
"""

import json
import math
import os
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from runners.terminal.progress import SweepProgress
from tokensel.compat.arguments import parse_flags, with_flag_names
from tokensel.compat.config import DEFAULTS, active_scheme, classic_reduction
from tokensel.compat.model import ClassicModel, tokenizer_image_token
from tokensel.data import LETTERS, Question, load_questions
from tokensel.data.prompts import INSTRUCTION, read_answer
from tokensel.data.protocol import Protocol
from tokensel.errors import TokenselError
from tokensel.evaluation.accuracy import ANSWER_TOKENS
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.summary import summarize
from tokensel.models import LoadedModel, load_model
from tokensel.models.loading import checkpoint_folder

# model_config's keys in the original's JSON -> the config's attributes.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs with these flags (default: the command line's). Returns 0, 2 for a mistake, or 130 if interrupted."""
    flags = None
    try:
        flags = parse_flags(__doc__, argv)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            _run(flags)
    except TokenselError as error:
        print(f"error: {with_flag_names(str(error), flags)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


def _run(flags: Namespace) -> None:
    questions = _chunk(
        load_questions("question_file", path=flags.question_file, image_folder=flags.image_folder), flags
    )
    output = None if flags.output_file is None else _writable(Path(flags.output_file))
    checkpoint_folder(flags.model_path)
    for question in questions:  # a broken picture is found now, not after an hour
        if question.image is not None:
            question.load_image()
    loaded = load_model(flags.model_path, device=flags.device, dtype=flags.dtype)
    loaded = loaded.with_protocol(Protocol(image_aspect="crop", conv=flags.conv_mode))  # as the original runner does
    model = ClassicModel(loaded)
    for name in DEFAULTS:
        setattr(model.config, name, getattr(flags, name))
    predictions, seconds = [], 0.0
    with SweepProgress(points=1, wanted=len(questions), timed=0) as progress:
        for question in questions:
            prediction, took = _ask(question, loaded, model, flags.single_pred_prompt)
            predictions.append(prediction)
            seconds += took
            progress.predicted_rows(1)
    summary = summarize(predictions)
    figures = {
        "accuracy": summary["accuracy"],
        "avg_latency": seconds / len(predictions),
        "total_samples": summary["n"],
        "correct_samples": summary["correct"],
        "model_config": _settings(flags, loaded.device),
    }
    if output is not None:
        _write(output, figures | {"predictions": predictions})
    _print_table(figures, summary)
    print(json.dumps(figures | {"output_file": flags.output_file}), flush=True)


def _chunk(questions: list[Question], flags: Namespace) -> list[Question]:
    """LLaVA's split into neighbours, and then the first num_samples."""
    size = math.ceil(len(questions) / flags.num_chunks)
    chunk = questions[flags.chunk_idx * size : (flags.chunk_idx + 1) * size]
    if not chunk:
        raise TokenselError(
            f"--chunk-idx={flags.chunk_idx}: {len(questions)} questions in --num-chunks={flags.num_chunks} are "
            f"{math.ceil(len(questions) / size)} chunks of {size}; choose a smaller one"
        )
    return chunk[: flags.num_samples] if flags.num_samples > 0 else chunk


def _ask(question: Question, loaded: LoadedModel, model: ClassicModel, with_instruction: bool) -> tuple[dict, float]:
    """A prediction's row, and the seconds that writing the answer took."""
    prompt = loaded.prompt(question)
    if not with_instruction:
        prompt = "".join(prompt.rsplit(f"\n{INSTRUCTION}", 1))
    tokenizer = loaded.processor.tokenizer
    input_ids = torch.as_tensor(tokenizer_image_token(prompt, tokenizer)).unsqueeze(0).to(loaded.device)
    images = None if question.image is None else loaded.pixels([question.load_image()])
    keys = row_keys([question], loaded.device)
    began = time.perf_counter()
    written = model.generate(
        input_ids, images=images, row_keys=keys, do_sample=False, max_new_tokens=ANSWER_TOKENS
    ).cpu()
    took = time.perf_counter() - began
    text = tokenizer.decode(written[0, input_ids.shape[1] :], skip_special_tokens=True)
    chosen = read_answer(text, len(question.choices))
    row = {
        "id": question.id,
        "prediction": None if chosen is None else LETTERS[chosen],
        "answer": LETTERS[question.answer],
        "correct": chosen == question.answer,
        "text": text,
    }
    return row, took


def _settings(flags: Namespace, device: torch.device) -> dict[str, Any]:
    scheme, reduction = active_scheme(flags), classic_reduction(flags)
    original = {key: getattr(flags, name) for key, name in _CLASSIC_NAMES.get(scheme or "", {}).items()}
    asked = ("model_path", "dtype", "conv_mode", "single_pred_prompt", "num_chunks", "chunk_idx", "num_samples")
    return {
        "use_custom_selection": flags.use_custom_selection,
        "use_fastv": flags.use_fast_v,
        "use_himap": flags.use_hmap_v,
        **original,
        "method": reduction["method"],
        "kept": reduction.get("kept"),
        "layout": reduction.get("layout"),
        "seed": reduction.get("seed"),
        **{name: getattr(flags, name) for name in (*asked, "question_file", "image_folder")},
        "device": str(device),
    }


def _writable(path: Path) -> Path:
    """The path, with its folder made. Raises TokenselError where no file can be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TokenselError(f"--output-file={path}: its folder cannot be made ({error.strerror})") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise TokenselError(f"--output-file={path}: must be a file in a folder that can be written to")
    return path


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _print_table(figures: dict[str, Any], summary: dict[str, Any]) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
