"""A checkpoint without its weights: enough to word questions and to count their tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from tokensel.errors import TokenselError
from tokensel.models.families import treat_as
from tokensel.models.hub import hub_options
from tokensel.models.loaded import LoadedModel
from tokensel.models.loading import (
    LOAD_ERRORS,
    RANDOM,
    check_family,
    check_options,
    checkpoint_config,
    checkpoint_folder,
    explain,
)
from tokensel.models.original import is_original_layout, original_processor
from tokensel.models.processors import load_processor
from tokensel.models.random_published import described_processor


@dataclass(frozen=True)
class _Described:
    """What LoadedModel asks of a model when it encodes questions."""

    config: Any
    dtype: torch.dtype = torch.float32


def load_without_weights(
    path: str | Path = "tiny",
    revision: str | None = None,
    trust_remote_code: bool = False,
    vision_tower: str | None = None,
    family: str | None = None,
    **unused: Any,
) -> LoadedModel:
    """A LoadedModel that encodes questions as `load_model`'s does, on the CPU, and cannot answer them.

    Takes the arguments of `load_model`, and ignores those that concern the weights. Raises TokenselError as it does.
    """
    path = str(path)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, "family": family}
    check_options(path, vision_tower=vision_tower, **options)
    folder = checkpoint_folder(path)
    source = str(folder) if folder else path
    try:
        if path.startswith(RANDOM):
            config, processor = checkpoint_config(path), described_processor(path.removeprefix(RANDOM))
        else:
            hub: dict[str, Any] = {"trust_remote_code": trust_remote_code}
            hub |= {} if folder else hub_options(path, revision)
            if is_original_layout(PreTrainedConfig.get_config_dict(source, **hub)[0]):
                config, processor = original_processor(source, folder, revision, vision_tower)
            else:
                config = checkpoint_config(path, revision, trust_remote_code)
                check_family(path, config, family)
                processor = load_processor(source, path, config, hub)
    except TokenselError:
        raise
    except LOAD_ERRORS as error:
        raise TokenselError(explain(path, folder, error)) from error
    treat_as(config, family)
    return LoadedModel(_Described(config), processor, path, Path(path).name, torch.device("cpu"))
