"""LLaVA-1.5 in the layout of its authors' code (liuhaotian/llava-v1.5-7b), read into transformers' LLaVA.

    model, processor = load_original("llava-v1.5-7b", Path("llava-v1.5-7b"), dtype="float16", ...)

That layout names its tensors otherwise, has no image token, and leaves the vision tower to a checkpoint of its own.
"""

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

__all__ = ["is_original_layout", "load_original"]

_TOWER = "model.vision_tower.vision_tower."
_PROJECTOR = "model.mm_projector."
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
# A prefix in transformers' LLaVA -> in the original.
_ORIGINAL_PREFIXES = {
    "model.vision_tower.": f"{_TOWER}vision_model.",
    "model.multi_modal_projector.linear_1.": f"{_PROJECTOR}0.",
    "model.multi_modal_projector.linear_2.": f"{_PROJECTOR}2.",
    "model.language_model.": "model.",
}
# Buffers that older releases stored: the model computes them.
_COMPUTED = (".rotary_emb.inv_freq", ".position_ids")
# The other half of a whole CLIP.
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
    """A LLaVA-1.5 of the original layout, in evaluation mode, and the processor of transformers' layout for it.

    source        a folder's path, or a hub id; folder is that folder, None for a hub id
    dtype         a torch dtype's name, or auto: as stored
    vision_tower  a folder or hub id in place of the config's mm_vision_tower. The checkpoint's own tower tensors,
                  where it has them, go before those of that checkpoint

    No code of the checkpoint is run, whatever trust_remote_code says. The weights are read shard by shard into one
    copy on `device`. Prompts hold the image token as transformers' layout does, and it is added to the vocabulary
    with a padding token: 32000 and 32001 for LLaVA-1.5, in embeddings of 32064 rows.

    Raises TokenselError, in one line: a missing, damaged or refused file, missing and unexpected tensors, a config
    that is not LLaVA-1.5's, a vision tower that cannot be found.
    """
    told = f"model.path={source}"
    files = CheckpointFiles(
        source, folder, told, "set model.path to a folder, or HF_HOME to a cache that holds it", revision
    )
    config = files.read_json("config.json")
    check_config(config, told)
    tower = _tower_files(vision_tower or config.get("mm_vision_tower"), told)
    vision = _vision_config(tower)
    processor = build_processor(files, tower, config, vision.patch_size)
    weights = files.weights()
    target = device or torch.device("cpu")
    model: Any = build_on_meta(
        llava_config(config, vision, _token_ids(processor), _rows(config, processor), told),
        _dtype(dtype, weights[0], told),
        attn_implementation,
    )
    _Filling(model, config["vocab_size"], target, told).fill(files, weights, tower)
    model.tie_weights()
    restore_buffers(model, target)
    if config.get("image_aspect_ratio") == "pad":
        model.config.image_aspect_ratio = "pad"
    model.generation_config = GenerationConfig.from_model_config(model.config)
    if folder is None:
        # In the hub's cache a file lies in a folder named after its commit.
        model.config._commit_hash = files.require("config.json").parent.name
    return model, processor


class _Filling:
    """Puts tensors of the original names into a model without memory, until none of its parameters lacks one."""

    def __init__(self, model: Any, vocab_size: int, device: torch.device, told: str) -> None:
        self.model = model
        self.vocab_size = vocab_size
        self.device = device
        self.told = told
        self.tied = model.config.tie_word_embeddings
        self.parameters = dict(model.named_parameters())
        # Original name -> name in the model, of all that is still to come.
        self.pending = {_original_name(name): name for name in self.parameters}

    def fill(self, files: CheckpointFiles, weights: list[Path], tower: CheckpointFiles) -> None:
        for path in weights:
            self.read(path)
        if self._lacks_all(_PROJECTOR) and (projector := files.find("mm_projector.bin")):
            self.read(projector)
        if self._lacks_all(_TOWER):
            for path in tower.weights():
                self.read(path, of_tower=True)
        if self.pending:
            raise TokenselError(
                f"{self.told}: the weights lack {len(self.pending)} tensors of the model, first {min(self.pending)}"
            )

    def read(self, path: Path, of_tower: bool = False) -> None:
        """Takes all of a file's tensors. Raises TokenselError for one that is not the model's, or came before."""
        taken, strange = {}, []
        for name, tensor in read_tensors(path, self.told):
            original = _name_in_tower(name) if of_tower else name
            if original is None or original.endswith(_COMPUTED) or (self.tied and original == "lm_head.weight"):
                continue
            if original in self.pending:
                target = self.pending.pop(original)
                taken[target] = self._converted(tensor, original, self.parameters[target], path)
            else:
                strange.append(name)
        if strange:
            raise TokenselError(
                f"{self.told}: {path} holds {len(strange)} tensors that the model has no place for, "
                f"first {min(strange)}"
            )
        self.model.load_state_dict(taken, strict=False, assign=True)

    def _converted(self, tensor: Tensor, name: str, parameter: Tensor, path: Path) -> Tensor:
        """A copy in the parameter's dtype on the device, so that the file can be let go."""
        expected = list(parameter.shape)
        if name in _EMBEDDINGS:
            expected[0] = self.vocab_size
        if list(tensor.shape) != expected:
            raise TokenselError(f"{self.told}: {path} has {name} of shape {list(tensor.shape)}, not {expected}")
        copy = torch.empty(parameter.shape, dtype=parameter.dtype, device=self.device)
        copy[: len(tensor)] = tensor
        if len(copy) > len(tensor):
            # The mean of all rows: its logit is the mean logit, so that no added token is ever the likeliest.
            copy[len(tensor) :] = copy[: len(tensor)].mean(0, dtype=torch.float32)
        return copy

    def _lacks_all(self, prefix: str) -> bool:
        wanted = [name for name in map(_original_name, self.parameters) if name.startswith(prefix)]
        return all(name in self.pending for name in wanted)


def _original_name(name: str) -> str:
    """A parameter's name in transformers' LLaVA -> in the original."""
    for new, old in _ORIGINAL_PREFIXES.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _name_in_tower(name: str) -> str | None:
    """A tensor's name in a checkpoint of CLIP or of its vision half -> in the original; None if of the text half."""
    if name.startswith(_CLIP_TEXT):
        return None
    return f"{_TOWER}vision_model.{name.removeprefix('vision_model.')}"


def _tower_files(tower: object, told: str) -> CheckpointFiles:
    if not isinstance(tower, str) or not tower:
        raise TokenselError(f"{told}: its config.json names no mm_vision_tower; set model.vision_tower=FOLDER")
    remedy = "set model.vision_tower=FOLDER, or HF_HOME to a cache that holds it"
    folder = Path(tower).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or tower.count("/") != 1 or tower.startswith((".", "~"))):
        raise TokenselError(f"{told}: its vision tower {tower} is no folder; set model.vision_tower=FOLDER")
    return CheckpointFiles(tower, folder if folder.is_dir() else None, f"{told}: its vision tower {tower}", remedy)


def _vision_config(tower: CheckpointFiles) -> CLIPVisionConfig:
    kind = tower.read_json("config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise TokenselError(f"{tower.told}: model_type={kind} is not supported; choose clip or clip_vision_model")
    path = tower.require("config.json")
    try:
        return CLIPVisionConfig.from_pretrained(path.parent)
    except (OSError, ValueError, TypeError, LookupError, StrictDataclassError) as error:
        raise TokenselError(f"{tower.told}: {path} makes no vision tower ({reason_of(error)})") from error


def _token_ids(processor: LlavaProcessor) -> dict[str, int | None]:
    tokenizer = processor.tokenizer
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in names} | {"image_token_id": processor.image_token_id}


def _rows(config: dict[str, Any], processor: LlavaProcessor) -> int:
    """Rows of the embeddings: as stored if they hold every token, else the next multiple of 64 that does."""
    needed = len(processor.tokenizer)
    if needed <= config["vocab_size"]:
        return config["vocab_size"]
    return -(-needed // _ROWS_MULTIPLE) * _ROWS_MULTIPLE


def _dtype(dtype: str, weights: Path, told: str) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    return next((tensor.dtype for _, tensor in read_tensors(weights, told)), torch.float32)
