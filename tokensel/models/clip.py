"""CLIP's text tower and projections, for methods that compare a question with the patches of a picture."""

import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from tokensel.errors import TokenselError, as_typed, first_line
from tokensel.models.hub import hub_options
from tokensel.models.loading import HUB_ID, LOAD_ERRORS, checkpoint_revision

# That of LLaVA-1.5's vision tower.
DEFAULT = "openai/clip-vit-large-patch14-336"
_ERRORS: tuple[type[Exception], ...] = (TokenselError, *LOAD_ERRORS)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = tuple(f"{name}.index.json" for name in _WEIGHTS)


class Clip(nn.Module):
    """What CLIP adds to the vision tower of a LLaVA: the text tower, and the projections of both to a shared space.

    Parameters:
        path: a folder or hub id of a CLIP checkpoint. options: of from_pretrained

    Raises TokenselError for weights that cannot be read.
    """

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        super().__init__()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
            # The vision tower's layers are read too, and dropped: they are the model's own.
            whole: Any = _complete(path, options)
        except LOAD_ERRORS as error:
            raise TokenselError(f"method.clip={path}: cannot be loaded ({first_line(error)})") from error
        self.text, self.text_projection = whole.text_model, whole.text_projection
        self.norm, self.projection = whole.vision_model.post_layernorm, whole.visual_projection
        self.requires_grad_(False).eval()

    @property
    def width(self) -> int:
        """The width of the tower's features."""
        return self.projection.in_features

    @torch.no_grad()
    def patches(self, features: Tensor) -> Tensor:
        """The tower's patch features [B, N, D_vision] in the shared space: [B, N, C] in float32."""
        return self.projection(self.norm(features.float()))

    @torch.no_grad()
    def questions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The texts in the shared space: [B, S, C] in float32, and which of them are real: BoolTensor[B, S].

        A text of more tokens than CLIP has places (77) is cut into S segments, as in CDPruner's release.
        """
        length, device = self.text.config.max_position_embeddings, self.projection.weight.device
        ids = [self.tokenizer(text, verbose=False)["input_ids"] for text in texts]
        segments = [[row[start : start + length] for start in range(0, len(row), length)] for row in ids]
        most = max(map(len, segments))
        flat = [segment for row in segments for segment in [*row, *[[]] * (most - len(row))]]
        tokens = torch.tensor([segment + [0] * (length - len(segment)) for segment in flat], device=device)
        # A segment that stands for none attends to its first token, so that nothing is divided by zero.
        real = torch.tensor([[1] * max(1, len(each)) + [0] * (length - max(1, len(each))) for each in flat])
        embeds = self.text_projection(self.text(tokens, attention_mask=real.to(device)).pooler_output)
        mask = torch.tensor([bool(segment) for segment in flat], device=device)
        return embeds.view(len(texts), most, -1), mask.view(len(texts), most)


@cache
def load_clip(path: str) -> Clip | None:
    """A CLIP checkpoint, loaded once; None where `clip_config` is None. Raises TokenselError for damaged weights."""
    return None if clip_config(path) is None else Clip(*_source(path))


@cache
def clip_config(path: str) -> CLIPConfig | None:
    """The configuration of a CLIP checkpoint. Loads no weights.

    None, with a warning, if the default is not to be had here. Raises TokenselError for any other that is not.
    """
    try:
        source, options = _source(path)
        config, _ = CLIPConfig.get_config_dict(source, **options)
        if config.get("model_type") != "clip":
            raise TokenselError(f"method.clip={path}: model_type={config.get('model_type')}; must be 'clip'")
        return CLIPConfig.from_dict(config)
    except _ERRORS as error:
        reason = first_line(error).removeprefix(f"method.clip={path}: ")
        if path != DEFAULT:
            raise TokenselError(
                f"method.clip={as_typed(path)}: {reason}; method.clip=null chooses without CLIP"
            ) from error
        warnings.warn(f"method.clip={path}: the decoder's embeddings serve instead ({reason})", stacklevel=2)
        return None


def clip_flops(path: str, patches: int) -> int:
    """FLOPs of `Clip.patches`, `Clip.questions` for one text of one segment, and the cosines of both."""
    config = clip_config(path)
    assert config is not None
    text, width = config.text_config, config.text_config.hidden_size
    length = text.max_position_embeddings
    layer = length * width * (8 * width + 4 * text.intermediate_size + 4 * length)
    projections = patches * config.vision_config.hidden_size + width + patches
    return text.num_hidden_layers * layer + 2 * config.projection_dim * projections


def clip_revision(path: str) -> str | None:
    """A digest of a folder's files, to tell its weights from others; None for a hub id."""
    folder = Path(os.path.expanduser(path))
    return checkpoint_revision(folder) if os.path.isdir(folder) else None


def _source(path: str) -> tuple[str, dict[str, Any]]:
    """A folder or hub id, and the options of from_pretrained. Raises TokenselError where there are no weights."""
    folder = Path(os.path.expanduser(path))
    if path and os.path.isdir(folder):
        if not any((folder / name).is_file() for name in _WEIGHTS + _SHARDS):
            raise TokenselError(f"method.clip={path}: the folder has no weights")
        return str(folder), {"local_files_only": True}
    if os.path.exists(folder) or not HUB_ID.fullmatch(path):
        raise TokenselError(
            f"method.clip={path}: no such checkpoint; choose an existing folder, or a hub id owner/name"
        )
    try:
        options = hub_options(path)
    except TokenselError as error:
        raise TokenselError(str(error).replace("model.path", "method.clip")) from error
    cached = (try_to_load_from_cache(path, name) for name in _WEIGHTS + _SHARDS)
    if options.get("local_files_only") and not any(isinstance(each, str) for each in cached):
        raise TokenselError(f"method.clip={path}: the hub cannot be reached, and the cache lacks its weights")
    return path, options


def _complete(path: str, options: dict[str, Any]) -> CLIPModel:
    """The checkpoint in float32. transformers only warns about missing weights, and fills them with random numbers."""
    loaded: Any = CLIPModel.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **options)
    model, report = loaded
    if report["missing_keys"]:
        raise ValueError(f"the weights lack {len(report['missing_keys'])} tensors, first {min(report['missing_keys'])}")
    return model
