"""Reads LLaVA-1.5 in its authors' layout (liuhaotian/llava-v1.5-7b) into transformers' LLaVA.

    model, processor = load_original("llava-v1.5-7b", Path("llava-v1.5-7b"), dtype="float16", ...)

In that layout tensors have other names, there is no image token, and the vision tower is a checkpoint of its own.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import CLIPVisionConfig, GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor

from tokensel.errors import TokenselError
from tokensel.models.meta import build_on_meta, restore_buffers
from tokensel.models.original.config import check_config, is_original_layout, llava_config
from tokensel.models.original.files import CheckpointFiles, read_tensors, reason_of
from tokensel.models.original.processor import build_processor

__all__ = ["is_original_layout", "load_original", "original_processor"]

_TOWER = "model.vision_tower.vision_tower."
_PROJECTOR = "model.mm_projector."
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
# Prefixes of parameter names: in transformers' LLaVA -> in the original.
_ORIGINAL_PREFIXES = {
    "model.vision_tower.": f"{_TOWER}vision_model.",
    "model.multi_modal_projector.linear_1.": f"{_PROJECTOR}0.",
    "model.multi_modal_projector.linear_2.": f"{_PROJECTOR}2.",
    "model.language_model.": "model.",
}
# Buffers that older releases stored, but the model computes itself.
_COMPUTED = (".rotary_emb.inv_freq", ".position_ids")
# Tensors of CLIP's text half, which is not used.
_CLIP_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
_ROWS_MULTIPLE = 64


def load_original(
    source: str,
    folder: Path | None,
    *,
    dtype: str,
    attn_implementation: str,
    revision: str | None,
    trust_remote_code: bool,
    vision_tower: str | None = None,
    device: torch.device | None = None,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A LLaVA-1.5 of the original layout, in evaluation mode, and its processor as in transformers' layout.

    Parameters:
        source: a folder's path, or a hub id; folder is that folder, None for a hub id
        dtype: a torch dtype's name, or auto: as stored
        vision_tower: a folder or hub id to use instead of the config's mm_vision_tower. Tower tensors that the
            checkpoint itself contains take precedence over it

    The checkpoint's own code is never run, whatever trust_remote_code says. The weights are read shard by shard into
    one copy on `device`. Prompts contain the image token, as in transformers' layout; it is added to the vocabulary
    with a padding token: ids 32000 and 32001 for LLaVA-1.5, in embeddings of 32064 rows.

    Raises TokenselError, in one line, for a missing, damaged or refused file, missing and unexpected tensors, a config
    that differs from LLaVA-1.5's, and a vision tower that cannot be found.
    """
    label = f"model.path={source}"
    parts = _parts(source, folder, revision, vision_tower)
    files, tower, config = parts.files, parts.tower, parts.stored
    weights = files.weights()
    target = device or torch.device("cpu")
    model: Any = build_on_meta(parts.config, _dtype(dtype, weights[0], label), attn_implementation)
    _WeightReader(model, config["vocab_size"], target, label).fill(files, weights, tower)
    model.tie_weights()
    restore_buffers(model, target)
    if config.get("image_aspect_ratio") == "pad":
        model.config.image_aspect_ratio = "pad"
    model.generation_config = GenerationConfig.from_model_config(model.config)
    if folder is None:
        # In the hub's cache, a file's folder is named after its commit.
        model.config._commit_hash = files.require("config.json").parent.name
    return model, parts.processor


def original_processor(
    source: str, folder: Path | None, revision: str | None = None, vision_tower: str | None = None
) -> tuple[Any, LlavaProcessor]:
    """The configuration and processor that `load_original` gives; reads no weights. Raises TokenselError as it does."""
    parts = _parts(source, folder, revision, vision_tower)
    return parts.config, parts.processor


@dataclass(frozen=True)
class _Parts:
    """What a checkpoint's small files say. stored: its config as it is; config: as transformers' LLaVA has it."""

    files: CheckpointFiles
    tower: CheckpointFiles
    stored: dict[str, Any]
    config: Any
    processor: LlavaProcessor


def _parts(source: str, folder: Path | None, revision: str | None, vision_tower: str | None) -> _Parts:
    label = f"model.path={source}"
    files = CheckpointFiles(
        source, folder, label, "set model.path to a folder, or HF_HOME to a cache that holds it", revision
    )
    stored = files.read_json("config.json")
    check_config(stored, label)
    tower = _tower_files(vision_tower or stored.get("mm_vision_tower"), label)
    vision = _vision_config(tower)
    processor = build_processor(files, tower, stored, vision.patch_size)
    config = llava_config(stored, vision, _token_ids(processor), _rows(stored, processor), label)
    return _Parts(files, tower, stored, config, processor)


class _WeightReader:
    """Reads tensors with the original names into a model on the meta device, until every parameter has one."""

    def __init__(self, model: Any, vocab_size: int, device: torch.device, label: str) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.device = device
        self.label = label
        self.tied = model.config.tie_word_embeddings
        self.parameters = dict(model.named_parameters())
        # Parameters not yet read: original name -> name in the model.
        self.pending = {_original_name(name): name for name in self.parameters}

    def fill(self, files: CheckpointFiles, weights: list[Path], tower: CheckpointFiles) -> None:
        """Reads the checkpoint's weights, then the separate projector and tower if the checkpoint lacks them."""
        for path in weights:
            self.read(path)
        if self._lacks_all(_PROJECTOR) and (projector := files.find("mm_projector.bin")):
            self.read(projector)
        if self._lacks_all(_TOWER):
            for path in tower.weights():
                self.read(path, of_tower=True)
        if self.pending:
            raise TokenselError(
                f"{self.label}: the weights lack {len(self.pending)} tensors of the model, first {min(self.pending)}"
            )

    def read(self, path: Path, of_tower: bool = False) -> None:
        """Reads all tensors of a file. Raises TokenselError for one that is not the model's or was already read."""
        taken, unexpected = {}, []
        for name, tensor in read_tensors(path, self.label):
            original = _name_in_tower(name) if of_tower else name
            if original is None or original.endswith(_COMPUTED) or (self.tied and original == "lm_head.weight"):
                continue
            if original in self.pending:
                target = self.pending.pop(original)
                taken[target] = self._converted(tensor, original, self.parameters[target], path)
            else:
                unexpected.append(name)
        if unexpected:
            raise TokenselError(
                f"{self.label}: {path} holds {len(unexpected)} tensors that the model does not have, "
                f"first {min(unexpected)}"
            )
        self.model.load_state_dict(taken, strict=False, assign=True)

    def _converted(self, tensor: Tensor, name: str, parameter: Tensor, path: Path) -> Tensor:
        """A copy in the parameter's dtype on the device, so that the file can be closed."""
        expected = list(parameter.shape)
        if name in _EMBEDDINGS:
            expected[0] = self.vocab_size
        if list(tensor.shape) != expected:
            raise TokenselError(f"{self.label}: {path} has {name} of shape {list(tensor.shape)}, not {expected}")
        copy = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
        copy[: len(tensor)] = tensor
        if len(copy) > len(tensor):
            # Added rows get the mean of all rows: their logit is the mean logit, so an added token is never the most
            # likely.
            copy[len(tensor) :] = copy[: len(tensor)].mean(0, dtype=torch.float32)
        return copy

    def _lacks_all(self, prefix: str) -> bool:
        wanted = [name for name in map(_original_name, self.parameters) if name.startswith(prefix)]
        return all(name in self.pending for name in wanted)


def _original_name(name: str) -> str:
    """A parameter's original name, from its name in transformers' LLaVA."""
    for new, old in _ORIGINAL_PREFIXES.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _name_in_tower(name: str) -> str | None:
    """The name in the original layout of a tensor of CLIP or of its vision half; None for one of CLIP's text half."""
    if name.startswith(_CLIP_TEXT):
        return None
    return f"{_TOWER}vision_model.{name.removeprefix('vision_model.')}"


def _tower_files(tower: object, label: str) -> CheckpointFiles:
    if not isinstance(tower, str) or not tower:
        raise TokenselError(f"{label}: its config.json names no mm_vision_tower; set model.vision_tower=FOLDER")
    remedy = "set model.vision_tower=FOLDER, or HF_HOME to a cache that holds it"
    folder = Path(os.path.expanduser(tower))
    found = os.path.isdir(folder)  # pathlib's raises an error for a name that is too long
    if not found and (folder.is_absolute() or tower.count("/") != 1 or tower.startswith((".", "~"))):
        raise TokenselError(
            f"{label}: its vision tower {tower} is neither a folder nor a hub id; set model.vision_tower=FOLDER"
        )
    return CheckpointFiles(tower, folder if found else None, f"{label}: its vision tower {tower}", remedy)


def _vision_config(tower: CheckpointFiles) -> CLIPVisionConfig:
    kind = tower.read_json("config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise TokenselError(f"{tower.label}: model_type={kind} is not supported; choose clip or clip_vision_model")
    path = tower.require("config.json")
    try:
        return CLIPVisionConfig.from_pretrained(path.parent)
    except (OSError, ValueError, TypeError, LookupError, StrictDataclassError) as error:
        raise TokenselError(f"{tower.label}: {path} does not describe a vision tower ({reason_of(error)})") from error


def _token_ids(processor: LlavaProcessor) -> dict[str, int | None]:
    tokenizer = processor.tokenizer
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names} | {"image_token_id": processor.image_token_id}


def _rows(config: dict[str, Any], processor: LlavaProcessor) -> int:
    """Rows of the embeddings: as stored if that is enough for every token, else the next sufficient multiple of 64."""
    needed = len(processor.tokenizer)
    if needed <= config["vocab_size"]:
        return config["vocab_size"]
    return -(-needed // _ROWS_MULTIPLE) * _ROWS_MULTIPLE


def _dtype(dtype: str, weights: Path, label: str) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    return next((tensor.dtype for _, tensor in read_tensors(weights, label)), torch.float32)
