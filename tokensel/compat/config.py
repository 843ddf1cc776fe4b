"""The classic config attributes: their defaults, and the reduction that they ask for."""

from typing import Any

from torch import Tensor

from tokensel.errors import TokenselError

# Attributes of the model's config. custom_layout and custom_seed are ours; all others are the original's.
DEFAULTS: dict[str, Any] = {
    "use_custom_selection": False,
    "custom_sys_length": 35,
    "custom_image_token_length": 576,
    "custom_kept_tokens": 8,
    "custom_agg_layer": 2,
    "custom_selection_method": "fps",
    "custom_temperature": 0.1,
    "custom_layout": "zero_fill",
    "custom_seed": 0,
    "use_fast_v": False,
    "fast_v_sys_length": 35,
    "fast_v_image_token_length": 576,
    "fast_v_attention_rank": 288,
    "fast_v_agg_layer": 2,
    "fast_v_inplace": False,
    "fast_v_token_selection_method": "avg_all_heads",
    "fast_v_weighted_alpha": 0.7,
    "use_hmap_v": False,
    "hmap_v_sys_length": 35,
    "hmap_v_img_length": 576,
    "hmap_v_attn_txt_layer": 2,
    "hmap_v_attn_txt_rank": 288,
    "hmap_v_attn_img_layer": 8,
    "hmap_v_attn_img_rank": 72,
    "cut_off_layer": None,
}
# The scheme's switch -> where it was told that the picture stands: first token, number of tokens.
PLACES = {
    "use_custom_selection": ("custom_sys_length", "custom_image_token_length"),
    "use_fast_v": ("fast_v_sys_length", "fast_v_image_token_length"),
    "use_hmap_v": ("hmap_v_sys_length", "hmap_v_img_length"),
}
SELECTION_METHODS = ("fps", "tome")
HEADS = {"avg_all_heads": "mean", "max_head": "max_head", "weighted_combination": "weighted"}


def active_scheme(config: Any) -> str | None:
    """The one switch of PLACES that is on in `config` (anything with the attributes of DEFAULTS), or None.

    Raises TokenselError if several are.
    """
    on = [switch for switch in PLACES if getattr(config, switch)]
    if len(on) > 1:
        raise TokenselError(f"{' and '.join(on)}: only one of them can be on")
    return on[0] if on else None


def classic_reduction(config: Any) -> dict[str, Any]:
    """What `config` asks for, as arguments of `reduce_tokens`. "seed" is among them only if something is drawn.

    fps starts at a random token and fills the freed places with zeros, FastV masks or (inplace) removes tokens,
    HiMAP removes them, as in the original code. Raises TokenselError for a value that is none of the choices.
    """
    scheme = active_scheme(config)
    if scheme == "use_custom_selection":
        return _custom(config)
    if scheme == "use_fast_v":
        return _fast_v(config)
    if scheme == "use_hmap_v":
        return {
            "method": "himap",
            "kept": (config.hmap_v_attn_txt_rank, config.hmap_v_attn_img_rank),
            "agg_layer": (config.hmap_v_attn_txt_layer, config.hmap_v_attn_img_layer),
            "layout": "compact",
            "cut_off_layer": config.cut_off_layer or None,  # in the original's scripts, 0 is none
        }
    return {"method": "full"}


def _custom(config: Any) -> dict[str, Any]:
    method = config.custom_selection_method
    if method not in SELECTION_METHODS:
        raise TokenselError(f"custom_selection_method={method!r}: choose from {', '.join(SELECTION_METHODS)}")
    drawn = {"start": None, "seed": config.custom_seed} if method == "fps" else {}
    return {
        "method": method,
        "kept": config.custom_kept_tokens,
        "agg_layer": config.custom_agg_layer,
        "temperature": config.custom_temperature,
        "layout": config.custom_layout,
    } | drawn


def _fast_v(config: Any) -> dict[str, Any]:
    strategy = config.fast_v_token_selection_method
    if strategy not in HEADS:
        raise TokenselError(f"fast_v_token_selection_method={strategy!r}: choose from {', '.join(HEADS)}")
    drawn = {"seed": config.custom_seed} if config.fast_v_agg_layer == 0 else {}
    return {
        "method": "fastv",
        "kept": config.fast_v_attention_rank,
        "agg_layer": config.fast_v_agg_layer,
        "layout": "compact" if config.fast_v_inplace else "mask",
        "heads": HEADS[strategy],
        "alpha": config.fast_v_weighted_alpha,
    } | drawn


def misplaced(config: Any, starts: Tensor, count: int) -> list[str]:
    """One line for each place attribute that was set and is not where the picture is.

    starts: LongTensor[B], the picture's first token, padding not counted; count: its visual tokens. An attribute at
    its default may never have been set, so nothing is said of it.
    """
    scheme = active_scheme(config)
    if scheme is None:
        return []
    sys_length, image_length = PLACES[scheme]
    found = (
        (sys_length, "the picture begins at token", starts.unique().tolist()),
        (image_length, "the picture's visual tokens are", [count]),
    )
    lines = []
    for name, words, real in found:
        given = getattr(config, name)
        if given not in (None, DEFAULTS[name]) and real != [given]:
            lines.append(f"{name}={given}: {words} {', '.join(map(str, real))} in this prompt; that is used")
    return lines
