"""The classic flags of `runners.infer`: their names and defaults, and what goes together."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from tokensel.compat.config import DEFAULTS, HEADS, PLACES, SELECTION_METHODS, active_scheme, classic_reduction
from tokensel.engine.stages import LAYOUTS, make_stages
from tokensel.errors import TokenselError
from tokensel.models.loading import DTYPES

CONV_MODES = ("model", "vicuna_v1", "llava_v1")
# What the library calls it in its messages -> what it is called here.
_FLAGS = {
    "data.path": "--question-file",
    "data.image_folder": "--image-folder",
    "model.path": "--model-path",
    "model.device": "--device",
    "model.dtype": "--dtype",
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
    """The flags as attributes; those of a reduction have the names of `compat_config.DEFAULTS`.

    Raises TokenselError for an unknown flag, a value out of its range, and flags that exclude each other.
    """
    flags = _parser(description).parse_args(argv)
    if flags.baseline and (flags.use_fast_v or flags.use_hmap_v):
        raise TokenselError("--baseline: cannot be given beside --use-fast-v or --use-hmap-v")
    flags.use_custom_selection = not (flags.baseline or flags.use_fast_v or flags.use_hmap_v)
    if flags.custom_layout and not flags.use_custom_selection:
        raise TokenselError("--layout: is of the custom selection; FastV has --fast-v-inplace, HiMAP removes tokens")
    flags.custom_layout = flags.custom_layout or DEFAULTS["custom_layout"]
    if flags.model_base not in (None, flags.model_path):
        raise TokenselError(f"--model-base={flags.model_base}: must be left out; merge the weights with it first")
    if flags.num_chunks < 1 or not 0 <= flags.chunk_idx < flags.num_chunks:
        raise TokenselError(f"--chunk-idx={flags.chunk_idx}: must be from 0 and below --num-chunks={flags.num_chunks}")
    try:
        make_stages(**classic_reduction(flags))
    except TokenselError as error:
        raise TokenselError(in_flags(str(error), flags)) from error
    return flags


def in_flags(message: str, flags: argparse.Namespace | None) -> str:
    """The library's message with the names of flags for its keys."""
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
    add("--model-base", help="accepted if equal to --model-path: weights that need a base must be merged first")
    add("--image-folder", help="what the questions' pictures are relative to")
    add("--question-file", required=True, help="LLaVA's format: id, image, conversations (.json or .jsonl)")
    add(
        "--conv-mode",
        choices=CONV_MODES,
        default="model",
        help="model: the checkpoint's own chat template; vicuna_v1: LLaVA-1.5's, with its system sentence",
    )
    add(
        "--single-pred-prompt",
        action="store_true",
        help='ends each question with "Answer with the option\'s letter ...", as the sweep always does',
    )
    add("--num-chunks", type=int, default=1, help="split the questions into so many runs of equal length ...")
    add("--chunk-idx", type=int, default=0, help="... and ask this one, from 0")
    add("--num-samples", type=int, default=-1, help="only the first so many of them; -1 (default): all")
    add("--baseline", action="store_true", help="the model as it is, without reduction")
    add("--output-file", help="JSON with the figures, the settings and every prediction")
    add("--seed", type=int, default=0, dest="custom_seed", help="of random starts (default: 0)")
    add("--layout", choices=LAYOUTS, dest="custom_layout", help="of the custom selection (default: zero_fill)")
    add("--device", default="auto", help="cpu, cuda, cuda:<index>, or auto (default)")
    add("--dtype", default="float32", choices=DTYPES, help="of the weights (default: float32); auto: as stored")
    _add_scheme_flags(parser)
    return parser


def _add_scheme_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each of DEFAULTS that has none of its own yet."""
    choices = {"custom_selection_method": SELECTION_METHODS, "fast_v_token_selection_method": tuple(HEADS)}
    # eval_scivqa.py's names of these two
    aliases = {"hmap_v_sys_length": ["--sys-length"], "hmap_v_img_length": ["--img-length"]}
    places = {name for names in PLACES.values() for name in names}
    for name, default in DEFAULTS.items():
        if name in ("use_custom_selection", "custom_seed", "custom_layout"):
            continue
        told = f"default: {default}"
        if name in places:
            told += "; the picture's real place is used, and told if another is set"
        settings: dict[str, Any] = {"default": default, "help": told, "type": int if default is None else type(default)}
        if isinstance(default, bool):
            settings |= {"nargs": "?", "const": True, "type": _truth, "metavar": "True"}
        if name in choices:
            settings["choices"] = choices[name]
        parser.add_argument(f"--{name.replace('_', '-')}", *aliases.get(name, []), dest=name, **settings)


def _truth(text: str) -> bool:
    """FastV's scripts write --use-fast-v True, HiMAP's --use-fast-v."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r}: choose True or False")
    return text == "True"
