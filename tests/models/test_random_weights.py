"""LLaVA's shapes with random weights: their sizes, seeds, and the error if memory is short."""

import os

import pytest
import torch
from PIL import Image

from tokensel.errors import TokenselError
from tokensel.models import random_weights
from tokensel.models.meta import build_on_meta
from tokensel.models.random_weights import RANDOM_SHAPES, LlavaShape, free_bytes, random_llava, shape_config

CPU = torch.device("cpu")
SMALL = LlavaShape(
    64,
    3,
    4,
    96,
    vocab_size=576,
    vision_hidden_size=32,
    vision_layers=3,
    vision_heads=2,
    vision_intermediate_size=48,
    vision_projection_size=16,
)


@pytest.fixture(autouse=True)
def small_shape(monkeypatch):
    monkeypatch.setitem(RANDOM_SHAPES, "small", SMALL)


def make(shape: str = "small", dtype: str = "float32", **options):
    return random_llava(shape, dtype=dtype, device=CPU, attn_implementation="sdpa", **options)


def on_meta(shape: str):
    _, processor = make()
    return build_on_meta(shape_config(RANDOM_SHAPES[shape], processor.tokenizer), torch.bfloat16, "sdpa")


def count(d: int, layers: int, ff: int, vocab: int, v: int, v_layers: int, v_ff: int) -> int:
    """The number of parameters of a LLaVA-1.5 with these sizes."""
    decoder = 2 * vocab * d + layers * (4 * d * d + 3 * d * ff + 2 * d) + d
    block = 4 * (v * v + v) + (v * v_ff + v_ff) + (v_ff * v + v) + 4 * v
    tower = v + 3 * 14 * 14 * v + 577 * v + v_layers * block + 4 * v
    projector = (v * d + d) + (d * d + d)
    return decoder + tower + projector


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ("llava_7b_random", (4096, 32, 11008, 32064, 1024, 24, 4096)),
        ("llava_13b_random", (5120, 40, 13824, 32064, 1024, 24, 4096)),
        ("llava_1024_random", (1024, 16, 2752, 576, 256, 4, 1024)),
    ],
)
def test_parameters_add_up_to_llavas(shape, sizes):
    assert sum(parameter.numel() for parameter in on_meta(shape).parameters()) == count(*sizes)


def test_7b_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in on_meta("llava_7b_random").parameters()) == 7_063_427_072


def test_7b_has_llavas_settings():
    config = on_meta("llava_7b_random").config
    text, vision = config.text_config, config.vision_config
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim, text.rms_norm_eps) == (32, 32, 128, 1e-5)
    assert (vision.num_attention_heads, vision.hidden_act, vision.image_size, vision.patch_size) == (
        16,
        "quick_gelu",
        336,
        14,
    )
    assert (config.vision_feature_layer, config.image_seq_length) == (-2, 576)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_seed_fixes_the_weights_and_nothing_else_does(dtype):
    torch.manual_seed(1)
    first = make(dtype=dtype)[0].state_dict()
    torch.manual_seed(2)
    again, other = make(dtype=dtype)[0].state_dict(), make(dtype=dtype, seed=1)[0].state_dict()
    assert {tensor.dtype for tensor in first.values()} == {getattr(torch, dtype)}
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].ndim > 1 or name.endswith("class_embedding")]
    assert len(drawn) > 30
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_the_global_random_state_is_unchanged():
    torch.manual_seed(3)
    make()
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_norms_scale_by_one_biases_are_zero_and_weights_normal():
    state = make()[0].state_dict()
    assert all((state[name] == 1).all() for name in state if "norm" in name and name.endswith("weight"))
    assert all((state[name] == 0).all() for name in state if name.endswith("bias"))
    weight = state["model.language_model.layers.2.mlp.up_proj.weight"]
    assert weight.std() == pytest.approx(0.02, rel=0.05)
    assert weight.mean() == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_picture_and_a_prompt_run_and_generate_with_finite_logits(dtype):
    model, processor = make(dtype=dtype)
    picture = Image.linear_gradient("L").convert("RGB")
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(images=[picture], text=[prompt], return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 576
    logits = model(**inputs).logits
    assert logits.isfinite().all()
    assert logits.float().std(-1).min() > 0.01
    assert not model.training
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


def test_rotary_frequencies_equal_those_of_an_ordinary_model():
    model, _ = make(dtype="bfloat16")
    usual = type(model)(model.config)
    for ours, theirs in zip(model.named_buffers(), usual.named_buffers(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1]), ours[0]


def test_auto_is_the_dtype_that_llava_is_stored_in():
    assert make(dtype="auto")[0].dtype == torch.float16


@pytest.mark.parametrize(("dtype", "needed"), [("bfloat16", "14.1 GB"), ("float32", "28.3 GB")])
def test_short_memory_is_reported_before_any_weight_is_created(monkeypatch, dtype, needed):
    monkeypatch.setattr(random_weights, "free_bytes", lambda device: 9_870_000_000)
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("memory was taken"))
    with pytest.raises(TokenselError) as caught:
        make("llava_7b_random", dtype=dtype)
    message = str(caught.value)
    assert message.startswith("model.path=llava_7b_random: its weights need " + needed)
    assert dtype in message
    assert "cpu has 9.9 GB free" in message
    assert "\n" not in message


def test_memory_is_not_checked_if_the_system_does_not_report_it(monkeypatch):
    monkeypatch.setattr(random_weights, "free_bytes", lambda device: None)
    assert make()[0].dtype == torch.float32


def test_free_memory_is_below_the_machines_total():
    free = free_bytes(CPU)
    assert free is not None
    assert 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_for_a_gpu_are_created_in_its_memory():
    device = torch.device("cuda")
    model, _ = random_llava("llava_1024_random", dtype="bfloat16", device=device, attn_implementation="sdpa")
    again, _ = random_llava("llava_1024_random", dtype="bfloat16", device=device, attn_implementation="sdpa")
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    assert 0 < free_bytes(device) <= torch.cuda.get_device_properties(device).total_memory


def test_an_unknown_shape_lists_the_choices():
    with pytest.raises(TokenselError, match=r"llava_9b_random.*llava_7b_random, llava_13b_random, llava_1024_random"):
        make("llava_9b_random")
