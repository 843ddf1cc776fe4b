"""Loading intact and broken checkpoints, and turning questions into input tensors."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tokenizers import TEMPLATE, make_tokenizer
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError, TokenselError
from tokensel.models import checkpoint_revision, load_model


def make_checkpoint(folder: Path, image_size: int = 56) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=image_size,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).half().save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small-llava")


@pytest.fixture(scope="session")
def loaded(checkpoint: Path):
    return load_model(str(checkpoint))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def question(id: str = "q", text: str = "what color is the shape?", **fields) -> Question:
    fields = {"image": Image.new("RGB", (64, 48), "teal"), "choices": ("red", "teal"), "answer": 1} | fields
    return Question(id=id, text=text, **fields)


def error_of(path: Path | str, **options) -> str:
    with pytest.raises(TokenselError) as caught:
        load_model(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_loads_ready_for_inference_in_float32(loaded, checkpoint):
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.processor.tokenizer.padding_side == "left"
    assert (loaded.path, loaded.name, loaded.device.type) == (str(checkpoint), "small-llava", "cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16), ("auto", torch.float16)]
)
def test_dtype_is_cast_or_kept_as_stored(checkpoint, name, dtype):
    assert load_model(checkpoint, dtype=name).model.dtype == dtype


def test_prompt_has_llavas_wording_in_the_models_template(loaded):
    assert loaded.prompt(question()) == (
        "USER: <image>\nwhat color is the shape?\nA. red\nB. teal\n"
        "Answer with the option's letter from the given choices directly. ASSISTANT:"
    )
    assert "<image>" not in loaded.prompt(question(image=None))


def test_an_image_token_in_a_question_is_refused_with_its_id(loaded):
    with pytest.raises(BadSampleError, match="question odd"):
        loaded.prompt(question(id="odd", text="what is <image>?"))


def test_prepare_equals_the_processors_own_expansion(loaded):
    questions = [question(), question(id="longer", text="is it red? " * 4, image=Image.new("RGB", (30, 90), "red"))]
    loaded = loaded.with_protocol(Protocol(image_aspect="crop"))
    ours = loaded.prepare(questions)
    theirs = loaded.processor(
        images=[q.load_image() for q in questions],
        text=[loaded.prompt(q) for q in questions],
        padding=True,
        return_tensors="pt",
    )
    for key in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(ours[key], theirs[key]), key
    assert ours["attention_mask"][0, 0] == 0, "the shorter row is padded on the left"
    assert (ours["input_ids"] == loaded.model.config.image_token_id).sum(-1).tolist() == [16, 16]


def test_a_336_px_picture_becomes_576_tokens(tmp_path):
    assert load_model(make_checkpoint(tmp_path / "llava-336", image_size=336)).num_image_tokens == 576


def test_tokenize_opens_no_picture(loaded):
    input_ids, attention_mask = loaded.tokenize([question(image="nowhere.png")])
    assert input_ids.shape == attention_mask.shape == (1, input_ids.shape[1])


def test_a_batch_with_and_without_pictures_runs(loaded):
    inputs = loaded.prepare([question(), question(image=None)])
    assert inputs["pixel_values"].shape == (1, 3, 56, 56)
    assert loaded.model(**inputs).logits[:, -1].isfinite().all()


def test_letter_ids_follow_the_prompt(loaded):
    tokenizer = loaded.processor.tokenizer
    assert tokenizer.convert_ids_to_tokens(loaded.letter_ids(5)) == ["ĠA", "ĠB", "ĠC", "ĠD", "ĠE"]


def test_letters_that_share_a_first_token_are_an_error(loaded):
    with pytest.raises(TokenselError, match="one token each"):
        loaded.letter_ids(26)  # the tokenizer has merged a space only with the letters A to E


def test_letters_are_found_after_a_template_that_ends_in_a_line_break(copy):
    (copy / "chat_template.jinja").write_text(TEMPLATE.replace(" ASSISTANT:", "\nASSISTANT\n"))
    loaded = load_model(copy)
    assert loaded.prompt(question()).endswith("ASSISTANT\n")
    assert loaded.processor.tokenizer.convert_ids_to_tokens(loaded.letter_ids(5)) == ["A", "B", "C", "D", "E"]


def test_revision_changes_with_the_weights_and_not_with_other_files(checkpoint, copy):
    before = checkpoint_revision(checkpoint)
    (copy / "figures.json").write_text("{}")
    assert checkpoint_revision(copy) == before
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert checkpoint_revision(copy) != before


def test_a_folder_without_weights_says_what_is_allowed(copy):
    (copy / "model.safetensors").unlink()
    message = error_of(copy)
    assert str(copy) in message
    assert "no weights" in message
    assert "model.safetensors" in message


def test_a_folder_without_config_is_an_error(copy):
    (copy / "config.json").unlink()
    assert "no config.json" in error_of(copy)


def test_a_broken_config_is_an_error(copy):
    (copy / "config.json").write_text('{"model_type": ')
    assert "config.json cannot be read (no valid JSON)" in error_of(copy)


def test_a_model_of_another_family_is_an_error(copy):
    LlamaConfig().save_pretrained(copy)
    assert "llama" in error_of(copy)
    assert "model_type=llama: not tested; allowed are llava, " in error_of(copy)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_truncated_weights_are_an_error(copy, keep):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "truncated or damaged" in error_of(copy)


def test_missing_tensors_are_never_replaced_by_random_ones(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "q_proj" in name)
    del weights[lost]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors" in error_of(copy)


def test_a_missing_shard_is_named(copy):
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in error_of(copy)


class _Payload:
    """Unpickling it creates a file, as a malicious checkpoint could."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, 2))])
def test_a_pickle_that_runs_code_is_refused(copy, save):
    (copy / "model.safetensors").unlink()
    mark = copy / "code-ran"
    save({"weight": _Payload(mark)}, copy / "pytorch_model.bin")
    assert "cannot be loaded" in error_of(copy)
    assert not mark.exists()


def test_a_bin_of_plain_tensors_loads(copy, loaded):
    torch.save(loaded.model.half().state_dict(), copy / "pytorch_model.bin")
    loaded.model.float()
    (copy / "model.safetensors").unlink()
    again = load_model(copy)
    assert torch.equal(again.model.lm_head.weight, loaded.model.lm_head.weight)


@pytest.mark.parametrize("path", ["tinyy", "./nowhere", "/nowhere/at/all", "a/b/c", "../nowhere", "~/nowhere-at-all"])
def test_an_unknown_model_lists_the_choices(path):
    message = error_of(path)
    assert path in message
    assert "tiny" in message
    assert "folder" in message


def test_an_unreachable_hub_says_what_to_set(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = error_of("nobody/no-such-llava")
    assert "HF_HOME" in message
    assert "model.path" in message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": "int8"}, "model.dtype=int8"),
        ({"device": "tpu"}, "model.device=tpu"),
        ({"device": "cuda:99"}, "model.device=cuda:99"),
        ({"attn_implementation": "nonsense"}, "nonsense"),
    ],
)
def test_bad_options_are_named(checkpoint, options, named):
    assert named in error_of(checkpoint, **options)
