"""Models whose layers are not all attention over keys: they cannot be reduced, and are refused by name."""

from typing import Any

from tokensel.errors import TokenselError

# What configurations call such layers, and where they list the kinds of their layers.
_KINDS = ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "hybrid", "hybrid_sliding")
_LISTS = ("layer_types", "layers_block_type")


def refuse_recurrent(config: Any) -> None:
    """Raises TokenselError for the configuration of a model whose decoder has layers of linear attention, of a state
    space or of convolutions."""
    text = getattr(config, "text_config", None) or config
    kinds = next((list(getattr(text, name)) for name in _LISTS if getattr(text, name, None)), [])
    found = [kind for kind in kinds if kind in _KINDS]
    if found:
        raise TokenselError(
            f"model_type={config.model_type}: {len(found)} of {len(kinds)} layers are of the kind {found[0]}, which "
            "keeps one running state instead of keys: no token can be masked in it or removed from its cache; allowed "
            "are models with attention in every layer"
        )
