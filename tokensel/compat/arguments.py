"""The original command line's flags: names, defaults, and which may be combined."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from tokensel.choices import DTYPES, LAYOUTS
from tokensel.compat.config import DEFAULTS, HEADS, SELECTION_METHODS, SPAN_SETTINGS, active_scheme, classic_reduction
from tokensel.errors import TokenselError

CONV_MODES = ("model", "vicuna_v1", "llava_v1")
# A key in the library's messages -> the flag that sets it.
_FLAGS = {
    "data.path": "--question-file",
    "data.image_folder": "--image-folder",
    "model.path": "--model-path",
    "model.device": "--device",
    "model.dtype": "--dtype",
    "model.family": "--family",
}
_SCHEME_FLAGS = {
    "use_custom_selection": {
        "kept": "--custom-kept-tokens",
        "agg_layer": "--custom-agg-layer",
        "temperature": "--custom-temperature",
    },
    "use_fast_v": {
        "kept": "--fast-v-attention-rank",
        "agg_layer": "--fast-v-agg-layer",
        "alpha": "--fast-v-weighted-alpha",
    },
    "use_hmap_v": {
        "kept": "--hmap-v-attn-txt-rank, --hmap-v-attn-img-rank",
        "agg_layer": "--hmap-v-attn-txt-layer, --hmap-v-attn-img-layer",
        "cut_off_layer": "--cut-off-layer",
    },
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise TokenselError(message)


def parse_flags(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as attributes; those of a reduction are named as in `tokensel.compat.config.DEFAULTS`.

    Raises TokenselError for an unknown flag, a value out of range, and flags that exclude each other.
    """
    flags = _parser(description).parse_args(argv)
    if flags.baseline and (flags.use_fast_v or flags.use_hmap_v):
        raise TokenselError("--baseline: cannot be combined with --use-fast-v or --use-hmap-v")
    flags.use_custom_selection = not (flags.baseline or flags.use_fast_v or flags.use_hmap_v)
    if flags.custom_layout and not flags.use_custom_selection:
        raise TokenselError(
            "--layout: only for the custom selection; FastV has --fast-v-inplace, HiMAP always removes tokens"
        )
    flags.custom_layout = flags.custom_layout or DEFAULTS["custom_layout"]
    if flags.model_base not in (None, flags.model_path):
        raise TokenselError(f"--model-base={flags.model_base}: must be omitted; merge weights and base first")
    if flags.num_chunks < 1 or not 0 <= flags.chunk_idx < flags.num_chunks:
        raise TokenselError(
            f"--chunk-idx={flags.chunk_idx}: must be at least 0 and less than --num-chunks={flags.num_chunks}"
        )
    if not 0 <= flags.custom_seed < 2**31:
        raise TokenselError(f"--seed={flags.custom_seed}: must be an integer from 0 to {2**31 - 1}")
    if flags.num_samples < 1 and flags.num_samples != -1:
        raise TokenselError(f"--num-samples={flags.num_samples}: must be an integer from 1, or -1 for all")
    from tokensel.engine.stages import make_stages  # loads torch, which the checks above do not need

    try:
        make_stages(**classic_reduction(flags))
    except TokenselError as error:
        raise TokenselError(with_flag_names(str(error), flags)) from error
    return flags


def with_flag_names(message: str, flags: argparse.Namespace | None) -> str:
    """The library's message with its keys replaced by the flags that set them."""
    scheme = active_scheme(flags) if flags is not None else None
    for key, flag in _SCHEME_FLAGS.get(scheme or "", {}).items():
        if message.startswith(f"{key}="):
            return flag + message.removeprefix(key)
    for key, flag in _FLAGS.items():
        message = message.replace(key, flag)
    return message


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m runners.infer",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model-path", default="tiny", help="tiny (embedded, default), a folder, or a hub id; transformers' format")
    add("--model-base", help="allowed only if equal to --model-path; merge weights that need a base first")
    add("--image-folder", help="the folder of the questions' pictures")
    add("--question-file", required=True, help="LLaVA's format: id, image, conversations (.json or .jsonl)")
    add(
        "--conv-mode",
        choices=CONV_MODES,
        default="model",
        help="model: the checkpoint's own chat template; vicuna_v1: LLaVA-1.5's, with its system prompt",
    )
    add(
        "--single-pred-prompt",
        action="store_true",
        help='append "Answer with the option\'s letter ..." to each question, as the sweep always does',
    )
    add("--num-chunks", type=int, default=1, help="number of chunks of equal length to split the questions into")
    add("--chunk-idx", type=int, default=0, help="the chunk to evaluate, from 0")
    add("--num-samples", type=int, default=-1, help="evaluate only the first N of them; -1 (default): all")
    add("--baseline", action="store_true", help="the full model, without reduction")
    add("--output-file", help="JSON file for the figures, the settings and every prediction")
    add("--seed", type=int, default=0, dest="custom_seed", help="seed of random starts (default: 0)")
    add("--layout", choices=LAYOUTS, dest="custom_layout", help="layout of the custom selection (default: zero_fill)")
    add("--device", default="auto", help="cpu, cuda, cuda:<index>, or auto (default)")
    add("--family", help="the tested family that a checkpoint of another one is like")
    add("--dtype", default="float32", choices=DTYPES, help="dtype of the weights (default: float32); auto: as stored")
    _add_scheme_flags(parser)
    return parser


def _add_scheme_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for every key of DEFAULTS that has none yet."""
    choices = {"custom_selection_method": SELECTION_METHODS, "fast_v_token_selection_method": tuple(HEADS)}
    # The names of these two in the original's eval_scivqa.py.
    aliases = {"hmap_v_sys_length": ["--sys-length"], "hmap_v_img_length": ["--img-length"]}
    span_settings = {name for names in SPAN_SETTINGS.values() for name in names}
    for name, default in DEFAULTS.items():
        if name in ("use_custom_selection", "custom_seed", "custom_layout"):
            continue
        text = f"default: {default}"
        if name in span_settings:
            text += "; the actual position in the prompt is used, with a note if it differs"
        settings: dict[str, Any] = {"default": default, "help": text, "type": int if default is None else type(default)}
        if isinstance(default, bool):
            settings |= {"nargs": "?", "const": True, "type": _parse_bool, "metavar": "True"}
        if name in choices:
            settings["choices"] = choices[name]
        parser.add_argument(f"--{name.replace('_', '-')}", *aliases.get(name, []), dest=name, **settings)


def _parse_bool(text: str) -> bool:
    """True or False: FastV's scripts pass `--use-fast-v True`, HiMAP's only `--use-fast-v`."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r}: choose True or False")
    return text == "True"
