"""Tokenizer and image processor of the original LLaVA-1.5 layout, combined into transformers' LlavaProcessor."""

from importlib.util import find_spec
from typing import Any

from tokenizers import AddedToken
from transformers import LlamaTokenizer, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tokensel.errors import TokenselError
from tokensel.models.embedded import CHAT_TEMPLATE, IMAGE_TOKEN
from tokensel.models.original.config import SELECT_STRATEGIES
from tokensel.models.original.files import CheckpointFiles, reason_of

_PAD_TOKEN = "<pad>"
_FAST, _SLOW = "tokenizer.json", "tokenizer.model"
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_ERRORS = (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError)


def build_processor(
    files: CheckpointFiles, tower: CheckpointFiles, config: dict[str, Any], patch_size: int
) -> LlavaProcessor:
    """The model's tokenizer with image and padding tokens added, the tower's image processor, and LLaVA-1.5's template.

    Raises TokenselError for missing or damaged files, and if the packages to read a tokenizer.model are missing.
    """
    return LlavaProcessor(
        image_processor=_image_processor(tower),
        tokenizer=_tokenizer(files),
        patch_size=patch_size,
        vision_feature_select_strategy=SELECT_STRATEGIES[config.get("mm_vision_select_feature") or "patch"],
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _image_processor(tower: CheckpointFiles) -> CLIPImageProcessorPil:
    path = tower.require("preprocessor_config.json")
    try:
        return CLIPImageProcessorPil.from_pretrained(path.parent)
    except _ERRORS as error:
        raise TokenselError(f"{tower.label}: {path} cannot be used ({reason_of(error)})") from error


def _tokenizer(files: CheckpointFiles) -> PreTrainedTokenizerFast:
    fast = files.find(_FAST)
    path = fast or files.find(_SLOW)
    if path is None:
        raise TokenselError(f"{files.label}: {files.folder or files.source} has neither {_FAST} nor {_SLOW}")
    missing = [] if fast else [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
    if missing:
        raise TokenselError(f"{files.label}: its {_SLOW} needs packages: pip install sentencepiece protobuf")
    for name in _TOKENIZER_SETTINGS:
        files.find(name)  # downloads it into the folder of `path`
    try:
        if fast:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent)
        else:
            # legacy=True tokenizes the text after the image token as if it stood at the start. The original encodes the
            # pieces around a picture separately, and so always does this, whatever the tokenizer's own setting.
            tokenizer = LlamaTokenizer.from_pretrained(path.parent, legacy=True)
    except _ERRORS as error:
        raise TokenselError(f"{files.label}: {path} cannot be read ({reason_of(error)})") from error
    tokenizer.add_tokens(AddedToken(IMAGE_TOKEN, special=True, normalized=False), special_tokens=True)
    if tokenizer.pad_token in (None, tokenizer.unk_token):
        tokenizer.add_special_tokens({"pad_token": _PAD_TOKEN})
    tokenizer.padding_side = "left"
    return tokenizer


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
