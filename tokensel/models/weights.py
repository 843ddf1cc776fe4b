"""Reads the weights of a checkpoint in transformers' layout into its model, and refuses those that do not fit."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.utils import is_accelerate_available, is_bitsandbytes_available, logging

from tokensel.choices import QUANTIZATIONS
from tokensel.errors import TokenselError, check_choice

# Buffers that older releases stored, but the model computes itself.
_COMPUTED = (".rotary_emb.inv_freq", ".position_ids")


def load_weights(
    source: str, path: str, config: Any, dtype: str, attn_implementation: str, quiet: bool, **options: Any
) -> Any:
    """The model in transformers' layout, with all of its weights and no others.

    Parameters:
        source: a folder or hub id; path: as the user gave it, for messages
        quiet: without a progress bar
        options: of from_pretrained

    Raises TokenselError for tensors that are missing, have another shape than the configuration's, or no place in it.
    """
    # A download shows its progress bar; that of reading a folder would disturb the sweep's own.
    with _no_progress_bar() if quiet else nullcontext(), no_reports():
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in one line
            **options,
        )
    model, report = loaded
    _check_report(path, report)
    return model


def _check_report(path: str, report: dict[str, Any]) -> None:
    """Refuses weights that are not the model's. transformers only warns, fills what is missing with random numbers, and
    runs a part of the model where the configuration has fewer layers than the weights."""
    for name, found, expected in sorted(report["mismatched_keys"]):
        shapes = f"{list(found)}; config.json asks for {list(expected)}"
        raise TokenselError(f"model.path={path}: the weights have {name} of shape {shapes}")
    if missing := sorted(report["missing_keys"]):
        raise TokenselError(
            f"model.path={path}: the weights lack {len(missing)} tensors of the model, first {missing[0]}"
        )
    if unexpected := sorted(name for name in report["unexpected_keys"] if not name.endswith(_COMPUTED)):
        raise TokenselError(
            f"model.path={path}: the weights hold {len(unexpected)} tensors that the model of config.json has no place "
            f"for, first {unexpected[0]}"
        )


def read_placement(device_map: str | None, quantization: str | None, dtype: str) -> dict[str, Any]:
    """The arguments of from_pretrained for device_map and quantization; empty for a model on one device.

    Raises TokenselError for an unknown value, and if a package that it needs is missing.
    """
    placement: dict[str, Any] = {}
    if device_map is not None:
        check_choice("model.device_map", device_map, ("auto", "balanced", "sequential"))
        placement["device_map"] = device_map
    if quantization is not None:
        check_choice("model.quantization", quantization, QUANTIZATIONS)
        if not is_bitsandbytes_available():
            raise TokenselError(f"model.quantization={quantization}: needs the package bitsandbytes and a GPU")
        compute = torch.float16 if dtype == "auto" else getattr(torch, dtype)
        placement["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if quantization == "8bit"
            else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
        )
        placement.setdefault("device_map", "auto")
    if placement and not is_accelerate_available():
        raise TokenselError(f"model.device_map={placement['device_map']}: needs the package accelerate")
    return placement


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


@contextmanager
def no_reports() -> Iterator[None]:
    """Without transformers' table of weights that do not fit, which are refused in one line."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
