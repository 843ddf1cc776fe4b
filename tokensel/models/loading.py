"""Loads a checkpoint: the embedded one, a folder, a hub id, or a shape with random weights."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedConfig
from transformers.utils import is_accelerate_available, is_bitsandbytes_available, logging

from tokensel.choices import DTYPES, QUANTIZATIONS
from tokensel.errors import TokenselError, check_choice, first_line
from tokensel.models.families import FAMILIES
from tokensel.models.hub import hub_options
from tokensel.models.loaded import LoadedModel
from tokensel.models.original.weights import is_original_layout, load_original
from tokensel.models.processors import load_processor
from tokensel.models.random_weights import RANDOM_SHAPES, random_config, random_llava

# Checkpoints that come with the package, by name.
EMBEDDED: dict[str, Path] = {"tiny": Path(__file__).parent / "tiny"}

RANDOM = "random:"
_SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WEIGHTS = "model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Errors that transformers raises for damaged, unsupported and unreachable checkpoints.
LOAD_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, LookupError, TypeError)
LOAD_ERRORS += (ImportError, SafetensorError, UnpicklingError)


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
) -> LoadedModel:
    """Loads a checkpoint of one of the families, in evaluation mode and without gradients.

    Parameters:
        path: "tiny" (embedded); a folder or a hub id "owner/name", in transformers' layout or LLaVA-1.5's original one;
            or "random:SHAPE" for random weights in a real shape: llava_7b, llava_13b, llava_1024
        dtype: float32, float16, bfloat16, or auto: as stored
        device: cpu, cuda, cuda:<index>, or auto: cuda if available
        revision: branch, tag or commit of a hub checkpoint
        device_map: auto: accelerate spreads the model over all GPUs; None: all of it on `device`
        quantization: 8bit or 4bit weights, by bitsandbytes; None: no quantization
        vision_tower: for the original layout: the folder or hub id of its CLIP tower; None: the one that its config
            names

    Pictures are always prepared with PIL, even if torchvision is installed: torchvision's resizing rounds differently,
    and predictions must not depend on what else is installed.

    Raises TokenselError, in one line that names the key, for an unknown name, dtype or device, a folder without config
    or weights, damaged or incomplete weights, a model of another family, and a hub that cannot be reached.
    """
    path = str(path)
    check_choice("model.dtype", dtype, DTYPES)
    target = find_device(device)
    placement = _placement(device_map, quantization, dtype)
    folder = checkpoint_folder(path)
    source = str(folder) if folder else path
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not folder and not path.startswith(RANDOM):
        hub |= hub_options(path, revision)
    try:
        if path.startswith(RANDOM):
            _refuse_placement(path, placement)
            shape = f"{path.removeprefix(RANDOM)}_random"
            model, processor = random_llava(shape, dtype=dtype, device=target, attn_implementation=attn_implementation)
        elif is_original_layout(PreTrainedConfig.get_config_dict(source, **hub)[0]):
            _refuse_placement(path, placement)
            options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation, "device": target}
            options |= {"revision": revision, "trust_remote_code": trust_remote_code, "vision_tower": vision_tower}
            model, processor = load_original(source, folder, **options)
        else:
            config = AutoConfig.from_pretrained(source, **hub)
            check_choice(f"model.path={path}: model_type", config.model_type, FAMILIES)
            # The processor is loaded first: if it fails, 14 GB of weights need not be read.
            processor = load_processor(source, path, config, hub)
            model = _load_weights(
                source, path, config, dtype, attn_implementation, quiet=bool(folder), **placement, **hub
            )
            model = model if placement else model.to(target)
    except TokenselError:
        raise
    except LOAD_ERRORS as error:
        raise TokenselError(explain(path, folder, error)) from error
    model.requires_grad_(False).eval()
    return LoadedModel(
        model=model,
        processor=processor,
        path=path,
        name=Path(path).name,
        device=model.get_input_embeddings().weight.device,
        revision=checkpoint_revision(path) or getattr(model.config, "_commit_hash", None) or revision,
    )


def _load_weights(
    source: str, path: str, config: Any, dtype: str, attn_implementation: str, quiet: bool, **options: Any
) -> Any:
    # A download shows its progress bar; that of reading a folder would disturb the sweep's own.
    with _no_progress_bar() if quiet else nullcontext():
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            source,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **options,
        )
    model, report = loaded
    # transformers only warns about missing weights and fills them with random numbers.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise TokenselError(
            f"model.path={path}: the weights lack {len(missing)} tensors of the model, first {missing[0]}"
        )
    return model


def _refuse_placement(path: str, placement: dict[str, Any]) -> None:
    if placement:
        keys = "device_map, quantization"
        raise TokenselError(f"model.path={path}: {keys} must be null for random weights and for the original layout")


def _placement(device_map: str | None, quantization: str | None, dtype: str) -> dict[str, Any]:
    """The arguments of from_pretrained for device_map and quantization; empty for a model on one device."""
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


def checkpoint_folder(path: str | Path) -> Path | None:
    """The folder of a path or an embedded name; None for a hub id and for random weights. Loads nothing.

    Raises TokenselError if there is no such model, or the folder lacks its config or weights.
    """
    if str(path).startswith(RANDOM):
        shapes = [name.removesuffix("_random") for name in RANDOM_SHAPES]
        check_choice("model.path", str(path), [RANDOM + shape for shape in shapes])
        return None
    folder = EMBEDDED.get(str(path), Path(path).expanduser())
    if folder.is_dir():
        _check_folder(str(path), folder)
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(str(path)) or str(path).startswith("."):
        raise TokenselError(
            f"model.path={path}: no such model; choose {', '.join(EMBEDDED)}, an existing folder, "
            "or a hub id owner/name"
        )
    return None


def checkpoint_config(path: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Any | None:
    """The configuration of the model that `load_model` would load; None if only loading can determine it. Loads no
    weights.

    Raises TokenselError if there is no such model, and for an unavailable hub id.
    """
    folder = checkpoint_folder(path)
    if str(path).startswith(RANDOM):
        return random_config(f"{str(path).removeprefix(RANDOM)}_random")
    hub: dict[str, Any] = {} if folder else hub_options(str(path), revision)
    try:
        return AutoConfig.from_pretrained(folder or path, trust_remote_code=trust_remote_code, **hub)
    except LOAD_ERRORS:  # load_model's error will say more precisely what is wrong
        return None


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
    for file in sorted(folder.iterdir()):
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


def _check_folder(path: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise TokenselError(f"model.path={path}: {folder} has no config.json; it needs one, and {_WEIGHTS}")
    if any((folder / name).is_file() for name in _SINGLE_WEIGHTS):
        return
    for index in (folder / f"{name}.index.json" for name in _SINGLE_WEIGHTS):
        if not index.is_file():
            continue
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise TokenselError(f"model.path={path}: {index} is not a list of weight shards") from error
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise TokenselError(f"model.path={path}: {folder} lacks the weight shard {missing[0]}")
        return
    raise TokenselError(f"model.path={path}: {folder} has no weights; it needs {_WEIGHTS}")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


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
    reason = first_line(error)
    if folder is not None:
        if isinstance(error, SafetensorError):
            return f"model.path={path}: the weights in {folder} are truncated or damaged ({reason})"
        return f"model.path={path}: {folder} cannot be loaded ({type(error).__name__}: {reason})"
    return (
        f"model.path={path}: is available neither on the hub nor in its cache; set model.path to a folder, or HF_HOME "
        f"to a cache that holds it ({type(error).__name__}: {reason})"
    )
