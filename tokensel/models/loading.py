"""Loads a checkpoint: the embedded one, a folder, a hub id, or a shape with random weights."""

import hashlib
import os
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from tokensel.choices import DTYPES
from tokensel.errors import TokenselError, as_typed, check_choice
from tokensel.models.checkpoint_files import check_folder, naming
from tokensel.models.families import FAMILIES, family_of, treat_as
from tokensel.models.hub import hub_options
from tokensel.models.loaded import LoadedModel
from tokensel.models.original.weights import is_original_layout, load_original
from tokensel.models.processors import load_processor
from tokensel.models.random_published import described_config, random_model, random_names
from tokensel.models.weights import load_weights, no_reports, read_placement

# Checkpoints that come with the package, by name.
EMBEDDED: dict[str, Path] = {"tiny": Path(__file__).parent / "tiny"}

RANDOM = "random:"
# Of another library's message, in characters.
_REASON = 300
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Errors that transformers raises for damaged, unsupported and unreachable checkpoints.
LOAD_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)
LOAD_ERRORS += (ArithmeticError, ImportError, SafetensorError, StrictDataclassError, UnpicklingError)
# Those of them that fields of the configuration raise.
CONFIG_ERRORS = (StrictDataclassError, TypeError, AttributeError, KeyError, IndexError, ArithmeticError)


def load_model(
    path: str | Path = "tiny",
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | None = None,
    quantization: str | None = None,
    vision_tower: str | None = None,
    family: str | None = None,
) -> LoadedModel:
    """Loads a checkpoint of one of the families, in evaluation mode and without gradients.

    Parameters:
        path: "tiny" (embedded); a folder or a hub id "owner/name", in transformers' layout or LLaVA-1.5's original one;
            or "random:SHAPE" for random weights in a real shape: llava_1024, or a file of conf/model such as llava_7b
        dtype: float32, float16, bfloat16, or auto: as stored
        device: cpu, cuda, cuda:<index>, or auto: cuda if available
        revision: branch, tag or commit of a hub checkpoint
        device_map: auto: accelerate spreads the model over all GPUs; None: all of it on `device`
        quantization: 8bit or 4bit weights, by bitsandbytes; None: no quantization
        vision_tower: for the original layout: the folder or hub id of its CLIP tower; None: the one that its config
            names
        family: the tested family that a model of another one is like; None: its own

    Pictures are always prepared with PIL, even if torchvision is installed: torchvision's resizing rounds differently,
    and predictions must not depend on what else is installed.

    Raises TokenselError, in one line that names the key, for an unknown name, dtype or device, an option that has no
    effect here, a folder without config or weights or with a wrong field in a file, weights that are damaged,
    incomplete or more than the configuration has a place for, a model of another family, and a hub that cannot be
    reached.
    """
    path = str(path)
    check_choice("model.dtype", dtype, DTYPES)
    options: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "vision_tower": vision_tower,
    }
    check_options(path, device=device, family=family, **options)
    target = find_device(device)
    placement = read_placement(device_map, quantization, dtype)
    folder = checkpoint_folder(path)
    source = str(folder) if folder else path
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not folder and not path.startswith(RANDOM):
        hub |= hub_options(path, revision)
    try:
        if path.startswith(RANDOM):
            _refuse_placement(path, placement)
            name, options = path.removeprefix(RANDOM), {"dtype": dtype, "attn_implementation": attn_implementation}
            model, processor = random_model(name, device=target, **options)
        elif is_original_layout(PreTrainedConfig.get_config_dict(source, **hub)[0]):
            _refuse_placement(path, placement)
            options |= {"dtype": dtype, "attn_implementation": attn_implementation, "device": target}
            model, processor = load_original(source, folder, **options)
        else:
            with naming(path, source, "config.json", kinds=CONFIG_ERRORS), no_reports():
                config = AutoConfig.from_pretrained(source, **hub)
            check_family(path, config, family)
            family_of(config).check_attention(attn_implementation)
            # The processor is loaded first: if it fails, 14 GB of weights need not be read.
            processor = load_processor(source, path, config, hub)
            _check_image_token(path, config, processor)
            with naming(path, source, "config.json", kinds=CONFIG_ERRORS):
                model = load_weights(
                    source, path, config, dtype, attn_implementation, quiet=bool(folder), **placement, **hub
                )
            model = model if placement else model.to(target)
    except TokenselError:
        raise
    except LOAD_ERRORS as error:
        raise TokenselError(explain(path, folder, error)) from error
    treat_as(model.config, family)
    model.requires_grad_(False).eval()
    return LoadedModel(
        model=model,
        processor=processor,
        path=path,
        name=Path(path).name,
        device=model.get_input_embeddings().weight.device,
        revision=checkpoint_revision(path) or getattr(model.config, "_commit_hash", None) or revision,
    )


def _check_image_token(path: str, config: Any, processor: Any) -> None:
    """Raises TokenselError unless config.json and the tokenizer agree on the token that stands for a picture."""
    written, read = family_of(config).image_token_id(processor), getattr(config, "image_token_id", None)
    if read is not None and read != written:
        raise TokenselError(
            f"model.path={path}: config.json has image_token_id={read}; the tokenizer writes pictures as {written}"
        )


def check_family(path: str, config: Any, family: str | None) -> None:
    """Raises TokenselError unless a checkpoint belongs to a tested family, or is to be treated as one of `family`."""
    treat_as(config, family)
    try:
        family_of(config)
    except TokenselError as error:
        raise TokenselError(f"model.path={path}: {error}") from error


def _refuse_placement(path: str, placement: dict[str, Any]) -> None:
    if placement:
        keys = "device_map, quantization"
        raise TokenselError(f"model.path={path}: {keys} must be null for random weights and for the original layout")


def check_options(
    path: str | Path,
    *,
    device: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    vision_tower: str | None = None,
    family: str | None = None,
    **others: Any,
) -> None:
    """Checks arguments of `load_model` as far as that is possible without loading anything. others: are not checked.

    Raises TokenselError for a model or a device that does not exist, and for an option that has no effect here.
    """
    find_device(device)
    if family is not None:
        check_choice("model.family", family, FAMILIES)
    if not isinstance(trust_remote_code, bool):
        raise TokenselError(f"model.trust_remote_code={as_typed(trust_remote_code)}: must be true or false")
    folder = checkpoint_folder(path)
    if folder is None and not str(path).startswith(RANDOM):
        return
    if revision is not None:
        raise TokenselError(f"model.revision={revision}: must be null; only checkpoints of the hub have revisions")
    if vision_tower is not None and (folder is None or not is_original_layout(_stored_config(folder))):
        raise TokenselError(
            f"model.vision_tower={vision_tower}: must be null; only checkpoints in LLaVA-1.5's original layout need one"
        )


def _stored_config(folder: Path) -> dict[str, Any]:
    return PreTrainedConfig.get_config_dict(folder)[0]


def checkpoint_folder(path: str | Path) -> Path | None:
    """The folder of a path or an embedded name; None for a hub id and for random weights. Loads nothing.

    Raises TokenselError if there is no such model, or the folder lacks its config or weights.
    """
    if str(path).startswith(RANDOM):
        check_choice("model.path", str(path), [RANDOM + name for name in random_names()])
        return None
    folder = EMBEDDED.get(str(path), Path(os.path.expanduser(path)))
    # os.path: pathlib raises an error for a name that is too long, and for a user's home that is not there.
    if os.path.isdir(folder):
        check_folder(str(path), folder)
        return folder
    if os.path.exists(folder) or not HUB_ID.fullmatch(str(path)) or str(path).startswith("."):
        raise TokenselError(
            f"model.path={path}: no such model; choose {', '.join(EMBEDDED)}, an existing folder, "
            "or a hub id owner/name"
        )
    return None


def checkpoint_config(
    path: str | Path, revision: str | None = None, trust_remote_code: bool = False, family: str | None = None
) -> Any | None:
    """The configuration of the model that `load_model` would load; None if only loading can determine it. Loads no
    weights.

    Raises TokenselError if there is no such model, and for an unavailable hub id.
    """
    folder = checkpoint_folder(path)
    if str(path).startswith(RANDOM):
        config: Any = described_config(str(path).removeprefix(RANDOM))
        treat_as(config, family)
        return config
    hub: dict[str, Any] = {} if folder else hub_options(str(path), revision)
    try:
        config = AutoConfig.from_pretrained(folder or path, trust_remote_code=trust_remote_code, **hub)
    except LOAD_ERRORS:  # load_model's error will say more precisely what is wrong
        return None
    treat_as(config, family)
    return config


def checkpoint_revision(path: str | Path) -> str | None:
    """A digest of a folder's config, tokenizer, processor and weights, which identifies the model without loading it.

    None for a hub id. Of a file above 64 MiB only the size and 64 blocks of 1 MiB are read; training changes every
    block.
    """
    folder = checkpoint_folder(path)
    if str(path).startswith(RANDOM):
        return f"{path}-seed0"
    if folder is None:
        return None
    digest = hashlib.sha256()
    for file in filter(Path.is_file, sorted(folder.iterdir())):  # a pipe would be read for ever
        if file.suffix in (".safetensors", ".bin", ".model", ".jinja") or _is_setting(file):
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            _digest_file(digest, file)
    return digest.hexdigest()[:16]


def _is_setting(file: Path) -> bool:
    # Not every json file: figures stored beside the weights do not change the model.
    return file.suffix == ".json" and ("config" in file.name or "token" in file.name)


def _digest_file(digest: "hashlib._Hash", file: Path, blocks: int = 64, block_bytes: int = 1 << 20) -> None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= blocks * block_bytes:
            digest.update(opened.read())
            return
        for block in range(blocks):
            opened.seek((size - block_bytes) * block // (blocks - 1))
            digest.update(opened.read(block_bytes))


def find_device(device: str) -> torch.device:
    """The device that a name means; auto: cuda if available. Raises TokenselError for one that torch does not see."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise TokenselError(f"model.device={device}: unknown; choose one of cpu, cuda, cuda:<index>, auto")
    target = torch.device(device)
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise TokenselError(
            f"model.device={device}: torch sees {torch.cuda.device_count()} CUDA devices; choose cpu or auto"
        )
    return target


def explain(path: str, folder: Path | None, error: Exception) -> str:
    """One line on why a checkpoint cannot be loaded. error: one of LOAD_ERRORS."""
    reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
    if folder is not None:
        if isinstance(error, SafetensorError):
            return f"model.path={path}: the weights in {folder} are truncated or damaged ({reason})"
        return f"model.path={path}: {folder} cannot be loaded ({type(error).__name__}: {reason})"
    return (
        f"model.path={path}: is available neither on the hub nor in its cache; set model.path to a folder, or HF_HOME "
        f"to a cache that holds it ({type(error).__name__}: {reason})"
    )
