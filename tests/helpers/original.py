"""A small LLaVA-1.5 written in transformers' layout and in its authors', for the tests of that layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, LlavaProcessor, PreTrainedTokenizerFast

from helpers.models import tiny_llava
from tokensel.errors import TokenselError
from tokensel.models.embedded import CHAT_TEMPLATE
from tokensel.models.original.weights import load_original

SIDE = 84
ROWS = 320
COMMIT = "0123456789" * 4
STYLES = ("sharded-bin", "single-bin", "legacy-bin", "sharded-safetensors", "single-safetensors", "projector-apart")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """As the original's: no image token, no padding token, <s> before every prompt."""
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["USER: what color is the shape? ASSISTANT: A B C D E"] * 3
    special = ["<unk>", "<s>", "</s>"]
    raw.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


VOCABULARY = len(make_tokenizer())


def make_model():
    """In transformers' layout: <image> and <pad> follow the vocabulary, the embeddings are padded."""
    model = tiny_llava(image_size=SIDE, vocab_size=ROWS, rms_norm_eps=1e-5, rope_theta=50_000.0)
    model.config.image_token_index = VOCABULARY
    model.config.pad_token_id = model.config.text_config.pad_token_id = VOCABULARY + 1
    return model


def image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def write_hf(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(AddedToken("<image>", special=True, normalized=False), special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    make_model().save_pretrained(folder)
    LlavaProcessor(
        image_processor(),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def original_tensors(model) -> dict[str, torch.Tensor]:
    """The decoder, projector and tower as the original names them, with the rows of its own vocabulary only."""
    llava, tensors = model.model, {}
    for name, tensor in llava.language_model.state_dict().items():
        tensors[f"model.{name}"] = tensor
    for old, new in ((0, llava.multi_modal_projector.linear_1), (2, llava.multi_modal_projector.linear_2)):
        tensors[f"model.mm_projector.{old}.weight"] = new.weight.detach()
        tensors[f"model.mm_projector.{old}.bias"] = new.bias.detach()
    tensors["lm_head.weight"] = model.lm_head.weight.detach()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:VOCABULARY].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)  # a stored buffer is not believed
    return tensors


def tower_tensors(model) -> dict[str, torch.Tensor]:
    state = model.model.vision_tower.state_dict()
    return {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in state.items()}


def write_tower(folder: Path, whole_clip: bool = True) -> Path:
    """A checkpoint of CLIP as the hub holds it, both halves and position ids in a .bin; or of its vision half alone."""
    vision = make_model().model.vision_tower
    if whole_clip:
        text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = CLIPConfig(vision_config=vision.config.to_dict(), text_config=text, projection_dim=16)
        clip = CLIPModel(config)
        clip.vision_model.load_state_dict(vision.state_dict())
        folder.mkdir()
        config.save_pretrained(folder)
        ids = {"vision_model.embeddings.position_ids": torch.arange(37)[None]}
        torch.save(clip.state_dict() | ids, folder / "pytorch_model.bin")
    else:
        vision.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def config_of(tower: Path | str, **changes) -> dict:
    text = make_model().config.text_config
    config = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 50_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": VOCABULARY,
        "image_aspect_ratio": "square",
        "mm_hidden_size": 24,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
    }
    return config | changes


def write_original(folder: Path, tower: Path | str, style: str, tensors: dict | None = None, **changes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(tower, **changes)))
    make_tokenizer().save_pretrained(folder)
    tensors = original_tensors(make_model()) if tensors is None else tensors
    if style == "projector-apart":
        apart = {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name}
        torch.save(apart, folder / "mm_projector.bin")
    is_bin = not style.endswith("safetensors")
    single = "pytorch_model.bin" if is_bin else "model.safetensors"
    if not style.startswith("sharded"):
        write_weights(folder / single, tensors, zipped=style != "legacy-bin")
        return folder
    stem, ending = single.split(".")
    names, weight_map = sorted(tensors), {}
    for number in (1, 2):
        shard = f"{stem}-{number:05d}-of-00002.{ending}"
        part = names[: len(names) // 2] if number == 1 else names[len(names) // 2 :]
        write_weights(folder / shard, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, shard)
    (folder / f"{single}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_weights(path: Path, tensors: dict, zipped: bool = True) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def load(folder: Path | str, dtype: str = "float32", **options):
    options = {"attn_implementation": "sdpa", "revision": None, "trust_remote_code": False} | options
    return load_original(str(folder), folder if isinstance(folder, Path) else None, dtype=dtype, **options)


def inputs_of(processor, swap: bool = False) -> dict[str, torch.Tensor]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    images = [noise, Image.new("RGB", (40, 120), "orange")]
    texts = ["what color is the shape?\nA. red\nB. teal", "is it red? " * 4]
    content = [[{"type": "image"}, {"type": "text", "text": text}] for text in texts]
    prompts = [
        processor.apply_chat_template([{"role": "user", "content": part}], add_generation_prompt=True)
        for part in content
    ]
    return processor(images=images[::-1] if swap else images, text=prompts, padding=True, return_tensors="pt")


def logits_of(model, processor, **options) -> torch.Tensor:
    """The original vocabulary's logits at every token of two prompts of unequal length: [tokens, VOCABULARY]."""
    inputs = inputs_of(processor, **options)
    with torch.no_grad():
        logits = model(**inputs).logits
    return logits[inputs["attention_mask"].bool()][:, :VOCABULARY]


def assert_same(ours, theirs) -> None:
    ours_in, theirs_in = inputs_of(ours[1]), inputs_of(theirs[1])
    for key in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(ours_in[key], theirs_in[key]), key
    torch.testing.assert_close(logits_of(*ours), logits_of(*theirs), atol=1e-5, rtol=0)


def error_of(folder: Path | str, **options) -> str:
    with pytest.raises(TokenselError) as caught:
        load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"model.path={folder}: ")
    return message


def change_config(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def into_cache(cache: Path, hub_id: str, folder: Path) -> None:
    """As the hub's client stores a checkpoint, of commit 0123...: found without a network."""
    entry = cache / f"models--{hub_id.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, entry / "snapshots" / COMMIT)
