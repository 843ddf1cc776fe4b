"""The classic attributes of a model config: their defaults, and the reduction that they describe."""

from typing import TYPE_CHECKING, Any

from tokensel.errors import TokenselError

if TYPE_CHECKING:
    from torch import Tensor

# custom_layout and custom_seed are additions; all other names are the original's.
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
# The switch of each scheme -> its settings for the picture's span: index of the first token, number of tokens.
SPAN_SETTINGS = {
    "use_custom_selection": ("custom_sys_length", "custom_image_token_length"),
    "use_fast_v": ("fast_v_sys_length", "fast_v_image_token_length"),
    "use_hmap_v": ("hmap_v_sys_length", "hmap_v_img_length"),
}
SELECTION_METHODS = ("fps", "tome")
HEADS = {"avg_all_heads": "mean", "max_head": "max_head", "weighted_combination": "weighted"}


def active_scheme(config: Any) -> str | None:
    """The one switch of SPAN_SETTINGS that is on in `config`, or None. `config` has the attributes of DEFAULTS.

    Raises TokenselError if several switches are on.
    """
    on = [switch for switch in SPAN_SETTINGS if getattr(config, switch)]
    if len(on) > 1:
        raise TokenselError(f"{' and '.join(on)}: only one of them can be on")
    return on[0] if on else None


def classic_reduction(config: Any) -> dict[str, Any]:
    """The arguments of `reduce_tokens` for `config`; "seed" is included only if the selection is random.

    As in the original code, fps starts at a random token and fills the freed positions with zeros, FastV masks tokens
    or (inplace) removes them, and HiMAP removes them. Raises TokenselError for a value that is not allowed.
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
            "cut_off_layer": config.cut_off_layer or None,  # the original's scripts write 0 for none
        }
    return {"method": "full"}


def _custom(config: Any) -> dict[str, Any]:
    method = config.custom_selection_method
    if method not in SELECTION_METHODS:
        raise TokenselError(f"custom_selection_method={method!r}: choose from {', '.join(SELECTION_METHODS)}")
    random_settings = {"start": None, "seed": config.custom_seed} if method == "fps" else {}
    return {
        "method": method,
        "kept": config.custom_kept_tokens,
        "agg_layer": config.custom_agg_layer,
        "temperature": config.custom_temperature,
        "layout": config.custom_layout,
    } | random_settings


def _fast_v(config: Any) -> dict[str, Any]:
    strategy = config.fast_v_token_selection_method
    if strategy not in HEADS:
        raise TokenselError(f"fast_v_token_selection_method={strategy!r}: choose from {', '.join(HEADS)}")
    random_settings = {"seed": config.custom_seed} if config.fast_v_agg_layer == 0 else {}
    return {
        "method": "fastv",
        "kept": config.fast_v_attention_rank,
        "agg_layer": config.fast_v_agg_layer,
        "layout": "compact" if config.fast_v_inplace else "mask",
        "heads": HEADS[strategy],
        "alpha": config.fast_v_weighted_alpha,
    } | random_settings


def span_warnings(config: Any, starts: "Tensor", count: int) -> list[str]:
    """One line for each span setting that differs from the picture's actual span.

    Parameters:
        starts: LongTensor[B]: index of the picture's first token, padding not counted
        count: number of the picture's visual tokens

    A setting that has its default value is not reported, because the user may never have set it.
    """
    scheme = active_scheme(config)
    if scheme is None:
        return []
    sys_length, image_length = SPAN_SETTINGS[scheme]
    actual = (
        (sys_length, "the picture begins at token", starts.unique().tolist()),
        (image_length, "the picture's visual tokens are", [count]),
    )
    lines = []
    for name, words, values in actual:
        setting = getattr(config, name)
        if setting not in (None, DEFAULTS[name]) and values != [setting]:
            lines.append(
                f"{name}={setting}: {words} {', '.join(map(str, values))} in this prompt; this setting is ignored"
            )
    return lines
