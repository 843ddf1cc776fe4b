"""Costs by formula against torch's FLOP counter on the same forward pass."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from helpers.families import FAMILIES, FAMILY_METHODS, load_family, make_picture
from helpers.flops import counting
from helpers.models import llava_inputs, single_row, tiny_llama, tiny_llava
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokensel import METHODS, Context, Selection, TokenselError, make_stages, reduce_tokens
from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.engine import selection
from tokensel.evaluation.flops import picture_flops, prefill_cost
from tokensel.functional import centers_cpu as central
from tokensel.methods import FarthestPoint, FastV, HiMAP, Method, RandomSubset
from tokensel.models.families import picture_arguments

# In addition to every method with its defaults: options, several stages, layouts, aggregations and layers.
POINTS = [
    ("fps", {"kept": 4, "agg_layer": 2}),
    ("fps", {"kept": 4, "agg_layer": 2, "start": "peripheral"}),
    ("fps", {"kept": 4, "agg_layer": 2, "start": None}),
    ("fps", {"kept": 9, "agg_layer": 0, "aggregation": "none"}),
    ("fps", {"kept": 9, "agg_layer": 1, "aggregation": "mean", "layout": "zero_fill"}),
    ("tome", {"kept": 8, "agg_layer": 1}),
    ("fastv", {"kept": 4, "agg_layer": 0}),
    ("fastv", {"kept": 4, "agg_layer": 2, "layout": "mask"}),
    ("random", {"kept": 12, "agg_layer": 3}),
    ("random", {"kept": 12, "agg_layer": 4}),
    ("random", {"kept": 700, "agg_layer": 1}),
    ("himap", {"kept": 5, "agg_layer": [1, 2]}),
    ("himap", {"kept": [20, 5], "agg_layer": [1, 3], "layout": "mask"}),
    ("himap", {"kept": 5, "agg_layer": [0, 2], "cut_off_layer": 3}),
    ("pyramiddrop", {"kept": [20, 11, 3], "agg_layer": [0, 2, 3]}),
    ("pyramiddrop", {"kept": 3, "agg_layer": [1, 2], "layout": "zero_fill", "position": "source"}),
    ("semantic", {"kept": 4, "agg_layer": 0}),
    ("semantic", {"kept": 4, "agg_layer": 2, "relevance": "embeddings"}),
    ("semantic", {"kept": 4, "agg_layer": 2, "power": 0}),
    ("sparsevlm", {"kept": [25, 17], "agg_layer": [1, 3]}),
    ("sparsevlm", {"kept": 10, "agg_layer": 2, "recycled": 0}),
    ("sparsevlm", {"kept": [25, 17], "agg_layer": [1, 3], "version": 2}),
    ("dart", {"kept": 2, "agg_layer": 1}),
    ("dart", {"kept": 9, "agg_layer": 0}),
    ("feather", {"kept": 9, "agg_layer": 2, "rotary": True}),
    ("tome_merge", {"kept": 5, "agg_layer": 0, "proportional": True}),
    ("visionzip", {"kept": 9, "contextual": 0.4}),
    ("visionzip", {"kept": 9, "contextual": 0}),
    ("visionzip", {"kept": 9, "contextual": 0, "cls": False}),
    ("prumerge", {"kept": 20}),
    ("prumerge_plus", {"kept": 4}),
    ("prumerge_plus", {"kept": 12, "as_released": True}),
    ("prumerge_plus", {"kept": 20, "as_released": True, "ratio": 0.2}),
    ("vispruner", {"kept": 9, "important_ratio": 1.0}),
    ("vispruner", {"kept": 8, "important_ratio": 0.25}),
    ("holov", {"kept": 9, "crops": 5}),
    ("holov", {"kept": 9, "crops": None}),
    ("holov", {"kept": 30, "as_released": True}),
    ("prunesid", {"kept": 1}),
    ("prunesid", {"kept": 16, "exact": True}),
    ("prunesid", {"kept": 16, "groups": 9, "as_released": True}),
    ("apet", {"kept": [20, 12], "agg_layer": [0, 2]}),
    ("apet", {"kept": 15, "agg_layer": 0, "basis": 3}),
    ("apet", {"kept": 15, "agg_layer": 1, "blend": 0.5}),
    ("vscan", {"kept": [20, 7], "agg_layer": [0, 2], "rotary": False}),
    ("vscan", {"kept": 17, "agg_layer": 0, "window": 3}),
    ("vscan", {"kept": 17, "agg_layer": 0, "windows": "limit", "window": 4}),
    ("flowcut", {"kept": [20, 7], "agg_layer": [0, 2]}),
    ("no_image", {"agg_layer": 2}),
]


@dataclass
class Measured:
    """FLOPs of one prompt's prefill, and the size of its KV cache in bytes."""

    flops: int
    cache_bytes: int


def matrix_vector(matrix, vector, **rest):
    return 2 * matrix.numel()


@contextmanager
def one_by_one(model):
    """Experts run one after the other in the block: torch has no formula for the products of several at once."""
    config = model.config.get_text_config()
    before = getattr(config, "_experts_implementation", None)
    if before is not None:
        config._experts_implementation = "eager"
    yield
    if before is not None:
        config._experts_implementation = before


@contextmanager
def uncounted(counter):
    """Merging deepstack features as a method merged their tokens does not count."""
    merge = selection.features_of

    def quietly(*given):
        before = counter.total
        features = merge(*given)
        counter.total = before
        return features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "features_of", quietly)
        yield


def measured(model, method, settings, inputs, image_mask=None):
    reducing = reduce_tokens(model, method, image_mask=image_mask, **settings)
    with (
        one_by_one(model),
        counting(model, {torch.ops.aten.mv: matrix_vector}) as counter,
        reducing,
        uncounted(counter),
    ):
        output = model(**inputs, use_cache=True, logits_to_keep=1)
    layers = output.past_key_values.layers
    return Measured(counter.total, sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in layers))


def counted(config, method, settings, text_tokens, visual_tokens, **rest):
    layers = getattr(config, "text_config", config).num_hidden_layers
    stages = make_stages(method, num_layers=layers, **settings)
    return prefill_cost(config, text_tokens=text_tokens, visual_tokens=visual_tokens, stages=stages, **rest)


def check(model, method, settings, inputs, visual_tokens, image_mask=None, **rest):
    text_tokens = inputs["input_ids"].shape[1] - visual_tokens
    cost = counted(model.config, method, settings, text_tokens, visual_tokens, **rest)
    found = measured(model, method, settings, inputs, image_mask)
    assert cost.total == found.flops
    if settings.get("layout") != "mask":  # with mask the cache also holds masked tokens
        assert cost.kv_bytes == found.cache_bytes
    assert cost.selection_counted
    return cost


def own_settings(method):
    """The settings that a method needs on a picture of at least 16 visual tokens."""
    return {"full": {}, "no_image": {}}.get(method, {"kept": 5})


@pytest.fixture(scope="module")
def llava():
    return tiny_llava()


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("method", "settings"),
    [*POINTS, *((name, own_settings(name)) for name in sorted(METHODS) if not METHODS[name].changes_picture)],
)
def test_cost_of_a_llava_prefill_equals_the_flop_counter(llava, method, settings):
    inputs = single_row(llava_inputs(llava, texts=(7,)), 0)
    check(llava, method, settings, inputs, 36)


def test_the_quick_counter_counts_what_torchs_own_does(llava):
    inputs = single_row(llava_inputs(llava, texts=(7,)), 0)
    with reduce_tokens(llava, "himap", kept=5):
        with counting(llava) as quick:
            llava(**inputs)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            llava(**inputs)
    rotary = [sum(counts.values()) for name, counts in counter.get_flop_counts().items() if name.endswith("rotary_emb")]
    assert quick.total == counter.get_total_flops() - sum(rotary) > 0


@pytest.mark.parametrize("method", ["fps", "himap", "pyramiddrop", "sparsevlm", "no_image"])
def test_cost_of_a_llama_prefill_equals_the_flop_counter(method):
    settings = own_settings(method) | {"agg_layer": 2}
    model = tiny_llama(head_dim=16)  # not hidden size / heads
    ids = torch.randint(4, 97, (1, 50), generator=torch.Generator().manual_seed(0))
    image_mask = torch.zeros(1, 50, dtype=torch.bool)
    image_mask[:, 5:41] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    check(model, method, settings, inputs, 36, image_mask)


@pytest.fixture(scope="module")
def families():
    """A family's model and the inputs of a wide picture: several tiles, or more than one window."""
    made = {}

    def of(family):
        if family not in made:
            loaded = load_family(family).with_protocol(Protocol(image_aspect="crop"))  # as wide as it is
            question = Question(id="q", text="what?", choices=("red", "teal"), answer=0, image=make_picture((240, 130)))
            made[family] = loaded.model, loaded.prepare([question])
        return made[family]

    return of


# Every method in a family at least, every family with about four methods.
SOME_CASES = [
    (family, method)
    for family, method in FAMILY_METHODS
    if (FAMILIES.index(family) + sorted(METHODS).index(method)) % 8 == 0
]


@pytest.mark.parametrize(("family", "method"), SOME_CASES)
def test_cost_in_every_family_equals_the_flop_counter(families, family, method):
    model, inputs = families(family)
    visual_tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    check(model, method, own_settings(method), inputs, visual_tokens, pictures=inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_cost_of_the_vision_tower_equals_the_flop_counter(families, family):
    model, inputs = families(family)
    pictures = picture_arguments(inputs)
    visual_tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.model.get_image_features(**pictures)
    if "image_grid_thw" in inputs:
        assert inputs["image_grid_thw"].tolist() == [[1, 6, 12]]  # two windows of at most 8 x 8 patches, neither full
    cost = picture_flops(model.config, visual_tokens, pictures)
    assert sum(cost) == counter.get_total_flops()
    # Without the pictures it is an estimate, exact only for families whose pictures have one fixed size.
    ratio = sum(picture_flops(model.config, visual_tokens)) / sum(cost)
    assert ratio == 1 if load_family(family).family.fixed_size else 0.5 < ratio < 1.5


def test_a_kept_cls_token_is_projected_too():
    model = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.model.get_image_features(torch.zeros(2, 3, 84, 84))
    pixels = {"pixel_values": torch.empty(2, 3, 84, 84)}
    assert sum(picture_flops(model.config, 74, pixels)) == counter.get_total_flops()
    assert picture_flops(model.config, 74, images=2) == picture_flops(model.config, 74, pixels)


def test_several_pictures_of_a_prompt_are_encoded_separately(families):
    model, _ = families("qwen2_vl")
    one, two = picture_flops(model.config, 16), picture_flops(model.config, 32, images=2)
    assert two == (2 * one[0], 2 * one[1])
    assert picture_flops(model.config, 32)[0] > two[0]


def test_on_a_gpu_tome_counts_the_iterations_that_a_cpu_can_skip(llava, monkeypatch):
    monkeypatch.setattr(central, "_all_different", lambda *tokens: False)  # a GPU never takes the shortcut
    inputs = single_row(llava_inputs(llava, texts=(7,)), 0)
    settings = {"kept": 12, "agg_layer": 1}
    on_gpu = check(llava, "tome", settings, inputs, 36, device="cuda")
    on_cpu = counted(llava.config, "tome", settings, 10, 36)
    assert on_gpu.selection - on_cpu.selection == 3 * 12 * 2 * 36 * 32


def test_a_7b_prefill_costs_two_flops_per_parameter_and_position():
    """In addition to attention: 4 x 32 layers x 4096 x 640 squared."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
    cost = prefill_cost(
        LlavaConfig(vision_config=vision, text_config=text), text_tokens=64, visual_tokens=576, bytes_per_value=2
    )
    in_layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert cost.decoder == 2 * in_layers * 640 + 4 * 32 * 4096 * 640**2
    assert cost.kv_bytes == 2 * 32 * 4096 * 640 * 2
    assert cost.vision == pytest.approx(382e9, rel=0.01)
    assert cost.projector == 2 * 576 * (1024 * 4096 + 4096**2)


def test_layer_mean_counts_visual_tokens_before_and_after_the_reduction():
    config = tiny_llama().config
    cost = prefill_cost(config, text_tokens=10, visual_tokens=36, kept=4, agg_layer=1)
    assert cost.tokens_layer_mean == (36 + 3 * 4) / 4
    assert len(cost.layers) == 4
    assert cost.layers[0] > cost.layers[1] == cost.layers[3]
    masked = prefill_cost(config, text_tokens=10, visual_tokens=36, kept=4, agg_layer=1, layout="mask")
    assert masked.tokens_layer_mean == 36


def test_settings_given_separately_cost_the_same_as_stages():
    config = tiny_llama().config
    sizes = {"text_tokens": 10, "visual_tokens": 36}
    stages = make_stages("himap", kept=[20, 5], agg_layer=[1, 2])
    alone = prefill_cost(config, **sizes, kept=[20, 5], agg_layer=[1, 2], method=HiMAP())
    assert alone == prefill_cost(config, **sizes, stages=stages)
    assert alone.selection > 0
    assert prefill_cost(config, **sizes, stages=make_stages("full")) == prefill_cost(config, **sizes)


def test_half_precision_halves_the_cache_only():
    config = tiny_llama().config
    whole = prefill_cost(config, text_tokens=10, visual_tokens=36)
    half = prefill_cost(config, text_tokens=10, visual_tokens=36, bytes_per_value=2)
    assert (half.kv_bytes * 2, half.total) == (whole.kv_bytes, whole.total)


class NoReport(Method):
    name = "no_report"

    def select(self, context: Context) -> Selection:
        return Selection(context.row_keys.new_zeros(1, context.kept))


class OverridesSelect(FarthestPoint):
    def select(self, context: Context) -> Selection:
        return Selection(context.row_keys.new_zeros(1, context.kept))


class OverridesScore(FastV):
    def score(self, context: Context) -> torch.Tensor:
        return context.row_keys.new_zeros(1, context.count)


class ReportsAgain(OverridesSelect):
    def flops(self, sizes):
        return sizes.cosines(7)


@pytest.mark.parametrize(
    ("method", "counted"),
    [
        (NoReport(), False),
        (OverridesSelect(), False),
        (OverridesScore(), False),
        (ReportsAgain(), True),
        (FarthestPoint(), True),
    ],
)
def test_a_cost_states_whether_the_selection_is_counted(method, counted):
    config = tiny_llama().config
    stages = make_stages(method, kept=4, agg_layer=2, aggregation="none")
    cost = prefill_cost(config, text_tokens=10, visual_tokens=36, stages=stages)
    assert cost.selection_counted is counted
    assert prefill_cost(config, text_tokens=10, visual_tokens=3, stages=stages).selection_counted
    if isinstance(method, ReportsAgain):
        assert cost.selection == 2 * 7 * 36 * 32


def test_a_random_choice_is_free():
    cost = prefill_cost(
        tiny_llama().config, text_tokens=10, visual_tokens=36, kept=4, agg_layer=2, method=RandomSubset()
    )
    assert (cost.selection, cost.selection_counted) == (0, True)


def test_a_configuration_without_a_size_is_named():
    class Config:
        model_type = "strange"
        num_hidden_layers = 2

    with pytest.raises(TokenselError, match="model_type=strange: its configuration lacks a size"):
        prefill_cost(Config(), text_tokens=10, visual_tokens=36)


@pytest.mark.parametrize(
    ("stages", "lengths"),
    [
        ([], [41, 41, 41, 41]),
        (make_stages("fps", kept=4, agg_layer=2), [41, 41, 9, 9]),
        (make_stages("himap", kept=[20, 5], agg_layer=[1, 3]), [41, 25, 25, 10]),
        (make_stages("fps", kept=4, agg_layer=2, layout="zero_fill"), [41, 41, 41, 41]),
        (
            make_stages("fastv", kept=4, agg_layer=2, layout="mask"),
            [41, 41],
        ),  # from layer 2 on there is an explicit mask
    ],
)
def test_causal_savings_are_the_pairs_of_a_query_and_a_later_key(stages, lengths):
    config = tiny_llava().config
    cost = prefill_cost(config, text_tokens=5, visual_tokens=36, stages=stages)
    text = config.text_config
    width = text.num_attention_heads * text.head_dim
    pairs = sum(1 for length in lengths for query in range(length) for key in range(length) if key > query)
    assert cost.causal_savings == pairs * 2 * 2 * width  # two products, a multiplication and an addition each
    assert 0 < cost.causal_savings < cost.decoder
