"""Real checkpoints without their weights: exactly their published settings, few and narrow layers, random weights.

What LoadedModel makes of pictures and prompts is compared with what transformers' own processors and models make.
"""

import pytest
import torch
import yaml
from helpers.families import make_picture
from helpers.published import DEPTH, OF_EACH_TYPE, PUBLISHED, described, narrow, narrowed, save_narrow
from transformers import AutoModelForImageTextToText

from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.evaluation.accuracy import evaluate
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.latency import LatencyMeter
from tokensel.models import load_model
from tokensel.models.families import picture_arguments
from tokensel.models.meta import build_on_meta
from tokensel.models.parts import find_parts
from tokensel.models.published import NAMES, published
from tokensel.models.random_published import random_model, random_names

# Width and height: square, of usual cameras in both directions, long ones, small ones, large ones.
SHAPES = [(336, 336), (640, 480), (480, 640), (896, 672), (1200, 300), (150, 600), (97, 61), (56, 56), (500, 350)]
SHAPES.append((700, 1000))
FEW = SHAPES[1:6:4]
# As model cards give them, in billions.
PARAMETERS = {
    "llava_7b": 7.06, "llava_13b": 13.35, "llava_next_7b": 7.06, "llava_next_video_7b": 7.06,
    "llava_onevision_7b": 8.03, "qwen2_5_vl_7b": 8.29, "qwen3_vl_8b": 8.77, "qwen3_vl_30b_a3b": 31.07, "smolvlm": 2.25,
    "internvl3_8b": 7.94, "gemma3_4b": 4.30, "gemma3_12b": 12.19, "video_llava_7b": 7.37,
}  # fmt: skip
# Visual tokens of a square picture of 336 pixels, as papers and model cards have them.
SQUARE = {
    "llava_7b": 576,
    "llava_13b": 576,
    "qwen2_5_vl_7b": 12 * 12,
    "gemma3_4b": 256,
    "internvl3_8b": 256,
    "smolvlm": 17 * 81,
    "video_llava_7b": 256,
}
CONVERSATION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def asking(shape, text="What is it?"):
    picture = make_picture(shape)
    return Question("q", text, (), -1, picture, form="text", answers=("cat",), instruction="")


def uncropped(name):
    """Pictures as they are: the processor alone decides about them."""
    return narrow(name).with_protocol(Protocol(image_aspect="crop"))


def stock_inputs(loaded, question):
    """What transformers' processor makes of the conversation and the picture by itself."""
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": loaded.protocol.text(question)}]}]
    prompt = loaded.processor.apply_chat_template(talk, add_generation_prompt=True)
    bos = loaded.processor.tokenizer.bos_token
    given = {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}
    images = loaded.family.for_processor([question.load_image()])
    return loaded.processor(images=images, text=[prompt], return_tensors="pt", **given)


def compare_with_stock(name, shapes):
    loaded = uncropped(name)
    for shape in shapes:
        question = asking(shape)
        inputs, stock = loaded.prepare([question]), stock_inputs(loaded, question)
        assert torch.equal(inputs["input_ids"], stock["input_ids"]), shape
        count = int((stock["input_ids"] == loaded.model.config.image_token_id).sum())
        found = loaded.shape_of(question, [question.load_image()])
        assert (found[0] if found else loaded.num_image_tokens) == count, shape
        yield shape, inputs, count


def test_every_model_of_conf_has_its_published_settings_and_random_weights():
    from runners.sweep import CONF

    files = {file.stem: yaml.safe_load(file.read_text()) for file in (CONF / "model").glob("*.yaml")}
    assert {name.removesuffix("_random") for name in files if name.endswith("_random")} == set(random_names())
    assert set(random_names()) == {*NAMES, "llava_1024"}
    # InternVL3.5's special tokens could not be found.
    assert set(files) - {"tiny", "local", *(name for name in files if name.endswith("_random"))} == {
        *NAMES,
        "internvl3_5_8b",
    }
    for name in NAMES:
        assert files[name]["path"] == published(name)["checkpoint"]
        assert files[f"{name}_random"]["path"] == f"random:{name}"
        assert files[f"{name}_random"]["dtype"] == files[name]["dtype"]
    assert tuple(PUBLISHED) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_prompts_and_counts_of_visual_tokens_are_those_of_transformers(name):
    assert len(list(compare_with_stock(name, FEW))) == len(FEW)
    special = published(name)["tokenizer"]["special"]
    tokenizer = narrow(name).processor.tokenizer
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in special} == special
    if name in SQUARE:
        assert narrow(name).count_image_tokens((336, 336)) == SQUARE[name]


class Seen(Exception):
    """Ends a forward where the decoder begins; holds the position ids that it is given, None = 0, 1, 2, ..."""


@torch.no_grad()
def stock_positions(parts, inputs):
    """What the stock model gives its decoder. Its forward raises an error of its own unless the pictures' features are
    as many as the prompt's image tokens."""

    def stop(module, args, kwargs):
        raise Seen(kwargs.get("position_ids"))

    hook = parts.decoder.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        parts.llava(**inputs, use_cache=False)
    except Seen as seen:
        (positions,) = seen.args
        return torch.arange(inputs["input_ids"].shape[1]).unsqueeze(0) if positions is None else positions[-3:]
    finally:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_EACH_TYPE)
def test_ten_picture_shapes_give_transformers_prompts_counts_and_positions(name):
    loaded = uncropped(name)
    parts = find_parts(loaded.model)
    for shape, inputs, count in compare_with_stock(name, SHAPES):
        expected = stock_positions(parts, inputs)
        ids, pictures = inputs["input_ids"], picture_arguments(inputs)
        positions = loaded.family.position_ids(parts.llava, ids, inputs["attention_mask"], pictures)
        assert torch.equal(positions, expected.expand_as(positions)), shape
        assert int((ids == parts.image_token_id).sum()) == count, shape


class Kept:
    """A point's predictions."""

    def __init__(self):
        self.rows = {}

    def stored_ids(self):
        return self.rows.keys()

    def append(self, rows):
        self.rows |= {row["id"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_EACH_TYPE)
def test_a_narrow_checkpoint_goes_through_loading_a_sweep_and_timing(name, tmp_path):
    loaded = load_model(save_narrow(name, tmp_path))
    assert loaded.model.config.get_text_config().num_hidden_layers == DEPTH
    picture = make_picture((97, 61))
    asked = [Question(f"q{k}", "what? " * (k + 1), ("red", "teal"), 0, picture, image_id="p") for k in range(2)]
    points, stores = [GridPoint("full"), GridPoint("fps", 8, 1)], [Kept(), Kept()]
    assert evaluate(loaded, asked, points, stores, batch_size=2) == {}
    assert [sorted(store.rows) for store in stores] == [["q0", "q1"]] * 2
    assert all(row["margin"] >= 0 for store in stores for row in store.rows.values())
    times = LatencyMeter(loaded, asked[0], repeats=1, warmup=0, decode_tokens=2).measure(points[1])
    assert 0 < times["prefill_ms"]["p50"] < times["total_ms"]["p50"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_of_true_shape_has_the_published_number_of_parameters(name):
    model = build_on_meta(described(name)[0], torch.bfloat16, "sdpa")
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(PARAMETERS[name], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_random_weights_fill_every_tensor_as_an_ordinary_model_has_it(name):
    model = narrow(name).model
    usual = AutoModelForImageTextToText.from_config(model.config, attn_implementation="sdpa")
    names = [name for name, _ in usual.named_parameters()]
    assert [name for name, _ in model.named_parameters()] == names  # tied weights are named once
    usual = dict(usual.named_buffers())
    for key, buffer in model.named_buffers():
        assert torch.equal(buffer, usual[key]), key
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    weight = model.get_output_embeddings().weight
    assert 0.015 < weight.std() < 0.25  # a tied one is drawn as an embedding


def test_a_seed_fixes_the_weights_and_the_global_random_state_stays(monkeypatch):
    from tokensel.models import random_published

    config = narrow("qwen2_5_vl_7b").model.config
    monkeypatch.setattr(random_published, "described", lambda name: (config, narrow(name).processor))
    torch.manual_seed(3)
    options = {"dtype": "auto", "device": torch.device("cpu"), "attn_implementation": "eager"}
    model, processor = random_model("qwen2_5_vl_7b", **options)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert model.dtype == torch.bfloat16
    again = random_model("qwen2_5_vl_7b", **options)[0]
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)
    assert processor.image_token == "<|image_pad|>"


def test_narrowing_changes_sizes_and_nothing_else():
    config = published("qwen3_vl_8b")["config"]
    changed = narrowed(config)
    assert changed.keys() == config.keys()
    assert changed["text_config"].keys() == config["text_config"].keys()
    assert changed["vision_config"]["patch_size"] == config["vision_config"]["patch_size"]
