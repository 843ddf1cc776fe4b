"""Where the parts are in a transformers model: the text decoder, its layers, the vision part, the head."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tokensel.errors import TokenselError
from tokensel.models.families import Family, family_of


@dataclass(frozen=True)
class ModelParts:
    """decoder: the Llama-like stack of layers. llava: the module that joins picture and text, None without one.
    head: from hidden states to logits, None for a headless model. image_token_id: what stands for a visual token.
    family: what differs between models."""

    decoder: Any
    llava: Any | None
    head: nn.Module | None
    image_token_id: int | None
    family: Family

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

    def rotary(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [B, T, d] each, for position ids [B, T], or [axes, B, T] that may begin with the text's own."""
        return self.decoder.rotary_emb(
            hidden, position_ids=position_ids[-3:] if position_ids.ndim == 3 else position_ids
        )

    @property
    def uses_flash(self) -> bool:
        """Whether layers take 2-D masks. Without one, they take a gap in position_ids for packed sequences."""
        return "flash" in self.attention_name


def find_parts(model: nn.Module) -> ModelParts:
    """Finds the parts of a LLaVA-like model or a Llama-like decoder, with or without a head.

    Raises TokenselError when there is no Llama-like decoder inside.
    """
    candidates = [model, getattr(model, "model", None)]
    names = ("language_model", "text_model")
    found = [(part, name) for part in candidates for name in names if part is not None and hasattr(part, name)]
    llava = found[0][0] if found else None
    if found:
        decoder = getattr(*found[0])
        candidates = [decoder, getattr(decoder, "model", None)]
    for decoder in candidates:
        if isinstance(getattr(decoder, "layers", None), nn.ModuleList) and hasattr(decoder, "rotary_emb"):
            config: Any = model.config
            token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
            return ModelParts(decoder, llava, model.get_output_embeddings(), token, family_of(config))  # type: ignore[operator]
    raise TokenselError(
        f"model={type(model).__name__}: must be a LLaVA-like model or a Llama-like decoder of transformers"
    )
