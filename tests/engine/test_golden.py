"""Parity with the original implementations, on their reference vectors."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache, LlamaConfig, LlamaModel

from tokensel import Context, Method, Selection, TokenselError, reduce_tokens
from tokensel.functional import cross_attention, farthest_point_sampling, tome_centers

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())


@cache
def file(name):
    return load_file(GOLDEN / name)


def tensor(case, name):
    entry = case["tensors"][name]
    return file(entry["file"])[entry["key"]]


# Where the original does what nobody should repeat: what it does, and what stands here instead (tested below).
EXCEPTIONS = {
    "small.edge.fastv.padmask": "padding is attended to as if it were text",
    "small.edge.custom.kept0.tome": "raises inside argmax; one line names kept",
    "small.edge.fastv.rank_gt_N": "raises inside topk; kept above N passes through",
    "small.edge.himap.cut_eq_img": "a cut-off at the image stage is silently ignored; one line says where it may lie",
    "small.edge.himap.cut_between": "a cut-off between the stages raises an IndexError; one line says where it may lie",
    "small.batch2.custom.tome.k8.L2.T0.1": "only the first row is reduced; every row is",
    "small.batch2.himap.t2r32.i4r8.c0": "the first row's choice serves all; each row has its own",
    "small.batch2.fastv_adv.weighted.r16.L2": "the first row's choice serves all; each row has its own",
    "small.decode_cached.fastv.r16.L2": "every decoded token ranks anew; the choice of the prefill holds",
    "small.decode_cached.himap.t2r32.i4r8.c5": "the first decoded token raises an IndexError; decoding goes on",
}
# Compared all the same: up to the batch's first row, or the prefill's last position.
PARTLY = tuple(name for name in EXCEPTIONS if "batch2" in name or "decode_cached" in name)


def cases(group, decoding=False):
    chosen = [
        case
        for case in MANIFEST["cases"]
        if case["group"] == group
        and ("mode" in case["params"]) == decoding
        and (case["id"] not in EXCEPTIONS or case["id"] in PARTLY)
    ]
    return pytest.mark.parametrize("case", chosen, ids=[case["id"] for case in chosen])


def same_choice(case, key, ours, theirs):
    """Equal indices where the original's are stable; elsewhere equal up to identical tokens, as it says itself."""
    stable = case.get("index_stable", {})
    if stable.get(key, True):
        assert ours.tolist() == theirs.tolist()
    elif stable.get(f"{key}_mod_dup_group", False):
        group = tensor(case, "dup_group")
        assert group[ours].tolist() == group[theirs].tolist()


@cases("A_functions")
def test_functions_match_the_originals(case):
    params, tensors, tokens = case["params"], case["tensors"], tensor(case, "tokens")[None]
    if "tome_indices" in tensors:
        same_choice(case, "tome", tome_centers(tokens, params["kept"])[0], tensor(case, "tome_indices"))
    if "tome" in case.get("expected_error", {}):
        with pytest.raises(TokenselError, match="kept=0"):
            tome_centers(tokens, params["kept"])
    for start in params.get("fps_starts", [params["start"]] if "start" in params else []):
        ours = farthest_point_sampling(tokens, params["kept"], start)[0]
        same_choice(case, f"fps_start{start}", ours, tensor(case, f"fps_start{start}_indices"))
    for temperature in params.get("temperatures", []):
        free = "query" in tensors
        queries = tensor(case, "query")[None] if free else tokens[:, tensor(case, "fps_start0_indices")]
        ours = cross_attention(queries, tokens, temperature)[0]
        torch.testing.assert_close(ours, tensor(case, f"xattn_T{temperature}"), atol=1e-4, rtol=0)


@cache
def model():
    settings = {key: value for key, value in MANIFEST["model_config"].items() if key != "use_cache"}
    built = LlamaModel(LlamaConfig(**settings)).eval()
    weights = {key.removeprefix("model."): value for key, value in file(MANIFEST["weights_file"]).items()}
    missing, unexpected = built.load_state_dict(weights, strict=False)
    assert not missing
    assert all("rotary" in key for key in unexpected)
    return built


@dataclass
class Given(Method):
    """Keeps the tokens it was told to."""

    name: ClassVar[str] = "given"
    tokens: tuple = ()

    def select(self, context: Context) -> Selection:
        return Selection(torch.tensor([self.tokens]).expand(len(context.row_keys), -1))


def inputs(case):
    params = case["params"]
    entry = MANIFEST["inputs"]["small_batch2" if params.get("batch") == 2 else params["geometry"]]
    return file(entry["file"])[entry["key"]]


def image_mask(case, length):
    size = MANIFEST["geometries"][case["params"]["geometry"]]
    mask = torch.zeros(2 if case["params"].get("batch") == 2 else 1, length, dtype=torch.bool)
    mask[:, size["sys"] : size["sys"] + size["image"]] = True
    return mask


def setting(case):
    """The case's method and scheme as arguments of reduce_tokens."""
    params = case["params"]
    if case["method"] == "custom":
        options = {"start": params.get("fps_start")} if params["custom_selection_method"] == "fps" else {}
        return {
            "method": params["custom_selection_method"],
            "kept": params["custom_kept_tokens"],
            "agg_layer": params["custom_agg_layer"],
            "temperature": params["custom_temperature"],
            "layout": "zero_fill",
        } | options
    if case["method"] == "himap" and params.get("use_hmap_v"):
        return {
            "method": "himap",
            "kept": (params["hmap_v_attn_txt_rank"], params["hmap_v_attn_img_rank"]),
            "agg_layer": (params["hmap_v_attn_txt_layer"], params["hmap_v_attn_img_layer"]),
            "cut_off_layer": params["cut_off_layer"] or None,
        }
    heads = {"max_head": "max_head", "weighted_combination": "weighted"}
    chosen = {
        "method": "fastv",
        "kept": params["fast_v_attention_rank"],
        "agg_layer": params["fast_v_agg_layer"],
        "layout": "compact" if params.get("fast_v_inplace") else "mask",
        "heads": heads.get(params.get("fast_v_token_selection_method"), "mean"),
        "alpha": params.get("fast_v_weighted_alpha", 0.7),
    }
    if params["fast_v_agg_layer"] == 0:
        survivors = tuple(tensor(case, "kept_image_relative").tolist())
        return {key: chosen[key] for key in ("kept", "agg_layer", "layout")} | {"method": Given(survivors)}
    return chosen


def forward(case, embeds, **options):
    """Last hidden states, and what was chosen."""
    with torch.no_grad():
        if case["method"] == "baseline":
            return model()(inputs_embeds=embeds, **options).last_hidden_state, None
        with reduce_tokens(model(), image_mask=image_mask(case, embeds.shape[1]), **setting(case)) as record:
            return model()(inputs_embeds=embeds, **options).last_hidden_state, record


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@cases("B_model")
def test_whole_forward_matches_the_originals(case):
    if case["params"].get("input_ids"):
        with torch.no_grad():
            close(model()(tensor(case, "input_ids")).last_hidden_state, tensor(case, "last_hidden_state"))
        return
    hidden, record = forward(case, inputs(case))
    # The original served every row of a batch with the first row's choice; its first row is right.
    hidden, tensors = hidden[:1], case["tensors"]
    if "last_hidden_state" in tensors:
        close(hidden, tensor(case, "last_hidden_state")[:1])
    if "last_hidden_state_tail8" in tensors:
        close(hidden[:, -8:], tensor(case, "last_hidden_state_tail8"))
    for chosen in ("selected_positions", "kept_image_relative"):
        if chosen in tensors:
            assert record.positions[0].tolist() == tensor(case, chosen).tolist()
    if "topk0" in tensors and case["method"] != "himap":
        assert set(record.positions[0].tolist()) == set(tensor(case, "topk0").tolist())


@cases("B_model", decoding=True)
def test_decoding_matches_the_originals(case):
    prompt = inputs(case)
    entry = MANIFEST["inputs"]["small_decode_tokens"]
    new = file(entry["file"])[entry["key"]]
    ours = []
    if (
        case["params"]["mode"] == "recompute"
    ):  # the original chooses anew at every step, so every step is a prompt of its own
        for step in range(new.shape[1] + 1):
            ours.append(forward(case, torch.cat([prompt, new[:, :step]], 1), use_cache=False)[0][0, -1])
    else:
        ours = decode_cached(case, prompt, new)
    theirs = tensor(case, "last_pos_hidden")
    if case["id"] in PARTLY:
        ours, theirs = ours[:1], theirs[:1]
    close(torch.stack(ours), theirs)


@torch.no_grad()
def decode_cached(case, prompt, new):
    def run():
        cache = DynamicCache(config=model().config)
        outputs = [model()(inputs_embeds=prompt, past_key_values=cache, use_cache=True)]
        for step in range(new.shape[1]):
            outputs.append(model()(inputs_embeds=new[:, step : step + 1], past_key_values=cache, use_cache=True))
        return [output.last_hidden_state[0, -1] for output in outputs]

    if case["method"] == "baseline":
        return run()
    with reduce_tokens(model(), image_mask=image_mask(case, prompt.shape[1]), **setting(case)):
        return run()


himap_cases = [case for case in MANIFEST["cases"] if "position_ids_from_layer0" in case.get("tensors", {})]


@pytest.mark.parametrize("case", [c for c in himap_cases if c["id"] not in EXCEPTIONS], ids=lambda case: case["id"])
def test_himap_keeps_the_same_tokens_at_every_layer(case):
    seen = {}

    def watch(index):
        def look(layer, args, kwargs):
            seen[index] = kwargs["position_ids"][0].tolist()

        return look

    with torch.no_grad(), reduce_tokens(model(), image_mask=image_mask(case, inputs(case).shape[1]), **setting(case)):
        handles = [
            layer.register_forward_pre_hook(watch(index), with_kwargs=True)
            for index, layer in enumerate(model().layers)
        ]
        model()(inputs_embeds=inputs(case))
        for handle in handles:
            handle.remove()
    changes = {name.removeprefix("position_ids_from_layer"): name for name in case["tensors"] if "from_layer" in name}
    for layer, name in changes.items():
        assert seen[int(layer)] == tensor(case, name).tolist()


def case_of(name):
    return next(case for case in MANIFEST["cases"] if case["id"] == name)


def test_the_exceptions_are_cases_and_all_others_are_compared():
    known = {case["id"] for case in MANIFEST["cases"]}
    assert set(EXCEPTIONS) <= known
    groups = {case["group"] for case in MANIFEST["cases"]}
    assert groups == {"A_functions", "B_model", "C_tome"}  # the last in test_merging


def test_what_stands_in_place_of_the_originals_mistakes():
    with pytest.raises(TokenselError, match="kept=0"):
        forward(case_of("small.edge.custom.kept0.tome"), inputs(case_of("small.edge.custom.kept0.tome")))
    case = case_of("small.edge.fastv.rank_gt_N")
    with pytest.warns(UserWarning, match="64 visual tokens"):
        ours = forward(case, inputs(case))[0]
    assert torch.equal(ours, model()(inputs_embeds=inputs(case)).last_hidden_state)
    for name in ("small.edge.himap.cut_eq_img", "small.edge.himap.cut_between"):
        with pytest.raises(TokenselError, match=r"cut_off_layer=\d: must lie above"):
            forward(case_of(name), inputs(case_of(name)))
    case = case_of("small.edge.himap.cut_eq_img")
    whole = {**case, "params": case["params"] | {"cut_off_layer": 0}}
    close(forward(whole, inputs(case))[0], tensor(case, "last_hidden_state"))


def test_padding_is_not_attended_to():
    case = case_of("small.edge.fastv.padmask")
    embeds = inputs(case)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    mask[:, :2] = 0
    with torch.no_grad():
        arguments = setting(case)
        with reduce_tokens(model(), image_mask=image_mask(case, 81), **arguments) as record:
            padded = model()(inputs_embeds=embeds, attention_mask=mask).last_hidden_state[:, -1]
        with reduce_tokens(model(), image_mask=image_mask(case, 81)[:, 2:], **arguments) as alone:
            cut = model()(
                inputs_embeds=embeds[:, 2:], position_ids=torch.arange(2, 81)[None], attention_mask=mask[:, 2:]
            )
    assert record.positions.tolist() == alone.positions.tolist()
    close(padded, cut.last_hidden_state[:, -1])
