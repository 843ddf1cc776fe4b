"""Where the parts are in a transformers model: the text decoder, its layers, the vision part, the head."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from tokensel.errors import TokenselError


@dataclass(frozen=True)
class Anatomy:
    """decoder: the Llama-like stack of layers. llava: the module that joins picture and text, None without one.
    head: from hidden states to logits, None for a headless model. image_token_id: what stands for a visual token."""

    decoder: Any
    llava: Any | None
    head: nn.Module | None
    image_token_id: int | None

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers

    @property
    def num_layers(self) -> int:
        return min(len(self.decoder.layers), self.decoder.config.num_hidden_layers)

    @property
    def attention_name(self) -> str:
        """The attention implementation in use: "sdpa", "eager", "flash_attention_2", ..."""
        return self.decoder.config._attn_implementation

    @property
    def uses_flash(self) -> bool:
        """Whether layers take 2-D masks. Without one, they take a gap in position_ids for packed sequences."""
        return "flash" in self.attention_name


def find_parts(model: nn.Module) -> Anatomy:
    """Finds the parts of a LLaVA-like model or a Llama-like decoder, with or without a head.

    Raises TokenselError when there is no Llama-like decoder inside.
    """
    candidates = [model, getattr(model, "model", None)]
    llava = next(
        (part for part in candidates if part is not None and hasattr(part, "language_model")),
        None,
    )
    if llava is not None:
        candidates = [
            llava.language_model,
            getattr(llava.language_model, "model", None),
        ]
    for decoder in candidates:
        if isinstance(getattr(decoder, "layers", None), nn.ModuleList) and hasattr(decoder, "rotary_emb"):
            config: Any = model.config
            token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
            return Anatomy(decoder, llava, model.get_output_embeddings(), token)  # type: ignore[operator]
    raise TokenselError(
        f"model={type(model).__name__}: must be a LLaVA-like model or a Llama-like decoder of transformers"
    )
