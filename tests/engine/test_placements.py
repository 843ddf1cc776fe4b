"""A model whose weights lie elsewhere: on two devices, in main memory, on disk. The choice stays the same."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from helpers.families import QUESTIONS, load_family, save_family
from helpers.methods import kept_of
from helpers.models import llava_inputs, tiny_llava
from helpers.two_devices import ONE, TWO, Devices, Mixed, Placed, place, placed

from tokensel import METHODS, TokenselError, make_stages, reduce_tokens
from tokensel.engine.split import SplitModel
from tokensel.models import load_model, weights

REDUCING = [name for name in sorted(METHODS) if not METHODS[name].changes_picture and not METHODS[name].passes_through]


def settings_of(method):
    return {} if method == "no_image" else {"kept": kept_of(method, 8)}


@dataclass
class Chosen:
    logits: torch.Tensor
    positions: torch.Tensor | None


@torch.no_grad()
def prefill(model, inputs, method):
    with reduce_tokens(model, method, **settings_of(method)) as record:
        logits = model(**inputs).logits[:, -1]
    return Chosen(logits.as_subclass(torch.Tensor), record.positions)


@pytest.fixture(scope="module")
def plain():
    """The model, its inputs, and what each method chooses where everything lies on one device."""
    model = tiny_llava(attn_implementation="eager")
    inputs = llava_inputs(model, (5, 9))
    return SimpleNamespace(
        model=model, inputs=inputs, of={method: prefill(model, inputs, method) for method in REDUCING}
    )


@pytest.fixture(scope="module")
def apart(plain):
    """The same over two devices, as device_map=auto spreads it: the tower and two decoder layers, then all others."""
    model = copy.deepcopy(plain.model)
    llava, decoder = model.model, model.model.language_model
    for part in (llava.vision_tower, llava.multi_modal_projector, decoder.embed_tokens, decoder.rotary_emb):
        place(part, ONE)
    for number, layer in enumerate(decoder.layers):
        place(layer, ONE if number < 2 else TWO)
    place(decoder.norm, TWO)
    place(model.lm_head, TWO)
    return model, {name: placed(value, ONE) for name, value in plain.inputs.items()}


def alike(found, expected):
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert (found.positions is None) == (expected.positions is None)
    assert found.positions is None or found.positions.tolist() == expected.positions.tolist()


def test_tensors_of_two_devices_do_not_meet_unnoticed():
    with Devices():
        one, two = placed(torch.ones(2), ONE), placed(torch.ones(2), TWO)
        assert (one + two.to(ONE)).device == torch.arange(2, device=ONE).device == ONE
        assert type(two.to("cpu")) is torch.Tensor
        for other in (two, torch.ones(2)):
            with pytest.raises(Mixed):
                one + other


@pytest.mark.slow
@pytest.mark.parametrize("method", REDUCING)
def test_a_method_over_two_devices_chooses_what_it_chooses_on_one(plain, apart, method):
    model, inputs = apart
    with Devices():
        alike(prefill(model, inputs, method), plain.of[method])


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("method", ["fps", "fastv", "tome_merge", "pyramiddrop"])
def test_generation_and_the_model_in_pieces_over_two_devices_equal_those_on_one(plain, apart, method):
    new = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    stages = make_stages(method, kept=8, num_layers=4)
    found = []
    for model, inputs in ((plain.model, plain.inputs), apart):
        with Devices():
            with reduce_tokens(model, method, kept=8):
                written = [model.generate(**inputs, **new, use_cache=cached).tolist() for cached in (True, False)]
            split = SplitModel(model)
            found.append((written, split.logits(split.reduce_all(split.embed(**inputs), stages))))
    assert found[0][0] == found[1][0]
    assert isinstance(found[1][1], Placed)
    torch.testing.assert_close(found[1][1].as_subclass(torch.Tensor), found[0][1], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=["memory", "disk"])
def offloaded(plain, request, tmp_path_factory):
    accelerate = pytest.importorskip("accelerate")
    model, device = copy.deepcopy(plain.model), torch.device("cpu")
    if request.param == "memory":
        return accelerate.cpu_offload(model, execution_device=device)
    return accelerate.disk_offload(model, tmp_path_factory.mktemp("weights"), execution_device=device)


@pytest.mark.sampled
@pytest.mark.parametrize("method", REDUCING)
def test_a_method_chooses_the_same_where_weights_are_offloaded(plain, offloaded, method):
    assert next(offloaded.model.language_model.layers[0].self_attn.q_proj.parameters()).device.type == "meta"
    alike(prefill(offloaded, plain.inputs, method), plain.of[method])


@pytest.mark.sampled
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_towers_are_read_the_same_where_weights_are_offloaded(family):
    accelerate = pytest.importorskip("accelerate")
    loaded = load_family(family)
    inputs = loaded.prepare(QUESTIONS[:1])
    other = accelerate.cpu_offload(copy.deepcopy(loaded.model), execution_device=torch.device("cpu"))
    for method in ("fastervlm", "visionzip"):
        alike(prefill(other, inputs, method), prefill(loaded.model, inputs, method))


def test_quantization_needs_its_package_and_says_so(monkeypatch):
    monkeypatch.setattr(weights, "is_bitsandbytes_available", lambda: False)
    for bits in ("8bit", "4bit"):
        message = rf"^model.quantization={bits}: needs the package bitsandbytes and a GPU$"
        with pytest.raises(TokenselError, match=message):
            load_model("tiny", quantization=bits)


@torch.no_grad()
def test_a_model_of_four_bits_chooses_as_one_of_the_same_weights_in_full(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    loaded = load_model(save_family("llava", tmp_path), quantization="4bit")
    inputs, whole = loaded.prepare(QUESTIONS[:2]), copy.deepcopy(load_family("llava").model)
    quantized = [
        name for name, part in loaded.model.named_modules() if hasattr(getattr(part, "weight", None), "quant_state")
    ]
    assert any(name.endswith("q_proj") for name in quantized)
    for name in quantized:
        weight = loaded.model.get_submodule(name).weight
        restored = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        whole.get_submodule(name).weight.copy_(restored.float())
    for method in ("fps", "fastv", "fastervlm", "dart"):
        alike(prefill(loaded.model, inputs, method), prefill(whole, inputs, method))
