"""Finds the parts of a transformers model: the text decoder, its layers, the vision part and the head."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from tokensel.errors import TokenselError
from tokensel.models.families import Family, family_of, refuse_recurrent


@dataclass(frozen=True)
class ModelParts:
    """The parts of a model that the engine works on.

    Parameters:
        decoder: the Llama-like stack of layers
        llava: the module that joins picture and text; None for a text-only model
        head: maps hidden states to logits; None for a headless model
        image_token_id: the token that stands for one visual token in input_ids
        family: the differences between model families
        tokenizer: for methods that read words; None where nobody gave one
    """

    decoder: Any
    llava: Any | None
    head: nn.Module | None
    image_token_id: int | None
    family: Family
    tokenizer: Any | None = None

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.decoder.layers

    @property
    def num_layers(self) -> int:
        """The number of layers that the decoder runs."""
        return min(len(self.decoder.layers), self.decoder.config.num_hidden_layers)

    @property
    def attention_name(self) -> str:
        """The attention implementation in use: "sdpa", "eager", "flash_attention_2", ..."""
        return self.decoder.config._attn_implementation

    def rotary(self, hidden: Tensor, position_ids: Tensor, layer: int = 0) -> tuple[Tensor, Tensor]:
        """cos and sin of a decoder layer, [B, T, d] each.

        position_ids: [B, T], or [axes, B, T], where a leading axis may hold the text's own positions; it is ignored.
        """
        embedding = self.decoder.rotary_emb
        kind = {}
        if "layer_type" in signature(embedding.forward).parameters:  # one for each type of layer
            kind = {"layer_type": self.decoder.config.layer_types[layer]}
        return embedding(hidden, position_ids=position_ids[-3:] if position_ids.ndim == 3 else position_ids, **kind)

    @property
    def uses_flash(self) -> bool:
        """Whether the layers take 2-D masks.

        Without a mask, such layers treat a gap in position_ids as the border between packed sequences.
        """
        return "flash" in self.attention_name


def find_parts(model: nn.Module, family: str | None = None, tokenizer: Any | None = None) -> ModelParts:
    """The parts of a LLaVA-like model or a Llama-like decoder, with or without a head.

    family: the tested family that the model is like, if it belongs to none of them; None = what it was loaded with.
    tokenizer: the model's, if known.

    Raises TokenselError if the model contains no Llama-like decoder, has layers that cannot be reduced, or belongs to a
    family that has not been tested.
    """
    refuse_recurrent(getattr(model, "config", None))
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
            # A plain decoder has no pictures to differ in.
            known = family_of(config, family) if llava is not None else family_of(None, "llava")
            settings: Any = getattr(decoder, "config", None)
            known.check_attention(getattr(settings, "_attn_implementation", None))
            head: Any = model.get_output_embeddings()  # type: ignore[operator]
            return ModelParts(decoder, llava, head, token, known, tokenizer)
    raise TokenselError(
        f"model={type(model).__name__}: must be a LLaVA-like model or a Llama-like decoder of transformers"
    )
