"""Checks the config of the original LLaVA-1.5 layout and converts it to transformers' LlavaConfig."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from tokensel.errors import TokenselError

# The original's mm_vision_select_feature -> transformers' vision_feature_select_strategy: without or with [CLS].
SELECT_STRATEGIES = {"patch": "default", "cls_patch": "full"}
# Allowed values of image_aspect_ratio: left to the image processor, or padded to a square first.
ASPECT_RATIOS = ("square", "pad")
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "mm_vision_select_layer")


def is_original_layout(config: dict[str, Any]) -> bool:
    """Whether a config.json was written by the original LLaVA code rather than by transformers."""
    kind = config.get("model_type")
    return kind == "llava_llama" or (kind == "llava" and "mm_vision_tower" in config and "text_config" not in config)


def check_config(config: dict[str, Any], label: str) -> None:
    """Raises TokenselError if a key is missing, or projector, image tokens or picture tiles are not LLaVA-1.5's.

    label: how error messages name the checkpoint, as key=value.
    """
    missing = next((key for key in _NEEDED if not isinstance(config.get(key), int)), None)
    if missing:
        raise TokenselError(f"{label}: its config.json has {missing}={config.get(missing)}: must be a whole number")
    allowed: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "mm_projector_type": ("linear", ("mlp2x_gelu",)),
        "mm_vision_select_feature": ("patch", tuple(SELECT_STRATEGIES)),
        "image_aspect_ratio": ("square", ASPECT_RATIOS),
        "mm_use_im_start_end": (False, (False,)),
    }
    for key, (default, choices) in allowed.items():
        value = config.get(key)
        value = default if value is None else value
        if value not in choices:
            raise TokenselError(
                f"{label}: {key}={value} is not supported; choose one of {', '.join(str(choice) for choice in choices)}"
            )


def llava_config(
    config: dict[str, Any], vision: CLIPVisionConfig, tokens: dict[str, int | None], vocab_size: int, label: str
) -> LlavaConfig:
    """The LlavaConfig of transformers.

    Parameters:
        vision: the vision tower's config
        tokens: text_config's bos_token_id, eos_token_id and pad_token_id, and image_token_id
        vocab_size: rows of the embeddings, including those for added tokens
        label: how error messages name the checkpoint, as key=value

    Raises TokenselError if the projector does not fit the tower, or the numbers do not describe a decoder.
    """
    if config.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise TokenselError(
            f"{label}: mm_hidden_size={config['mm_hidden_size']} does not fit its vision tower, "
            f"which has hidden_size {vision.hidden_size}"
        )
    layer = config["mm_vision_select_layer"]
    if not -vision.num_hidden_layers - 1 <= layer <= vision.num_hidden_layers:
        raise TokenselError(
            f"{label}: mm_vision_select_layer={layer}: its vision tower has only {vision.num_hidden_layers} layers"
        )
    strategy = SELECT_STRATEGIES[config.get("mm_vision_select_feature") or "patch"]
    text = {key: config[key] for key in _TEXT_KEYS if config.get(key) is not None}
    special = {key: tokens[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    try:
        text_config = LlamaConfig(**text, **special, vocab_size=vocab_size)
    except (ValueError, TypeError, LookupError, StrictDataclassError) as error:
        raise TokenselError(
            f"{label}: its config.json does not describe a decoder ({' '.join(str(error).split())})"
        ) from error
    return LlavaConfig(
        vision_config=vision,
        text_config=text_config,
        image_token_index=tokens["image_token_id"],
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + (strategy == "full"),
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        projector_hidden_act="gelu",
        pad_token_id=tokens["pad_token_id"],
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
