"""The classic interface: snippets of the original code on a stock model, and the selection they read afterwards."""

import copy
import warnings

import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tokensel import TokenselError, reduce_tokens
from tokensel.compat.config import DEFAULTS, classic_reduction
from tokensel.compat.inputs import expand_placeholder
from tokensel.compat.model import (
    IMAGE_TOKEN_INDEX,
    ClassicModel,
    load_pretrained_model,
    process_images,
    tokenizer_image_token,
)
from tokensel.data import load_questions
from tokensel.data.protocol import Protocol
from tokensel.evaluation.answers import row_keys
from tokensel.evaluation.grid_point import GridPoint
from tokensel.models import load_model

VISUAL = 36  # the random checkpoint's; the embedded one has 576
NEW = 6
STAGES = {"hmap_v_attn_txt_layer": 1, "hmap_v_attn_txt_rank": 12, "hmap_v_attn_img_layer": 2, "hmap_v_attn_img_rank": 5}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def model(loaded):
    """A classic model with a fresh config, so that no test sees the settings of another."""
    before = copy.copy(loaded.model.config)
    classic = ClassicModel(loaded)
    classic.config.custom_kept_tokens = 5
    yield classic
    loaded.model.config = before


def set_config(model, **attributes):
    for name, value in attributes.items():
        setattr(model.config, name, value)


def ask(loaded, question):
    """The classic input_ids [1, T] and images [1, 3, H, W] of a question."""
    prompt = loaded.prompt(question)
    ids = tokenizer_image_token(prompt, loaded.processor.tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
    return ids.unsqueeze(0), process_images([question.load_image()], loaded.processor.image_processor)


def ask_all(loaded, questions):
    """A left-padded batch: input_ids, attention_mask, images."""
    rows, images = zip(*(ask(loaded, question) for question in questions), strict=True)
    longest = max(row.shape[1] for row in rows)
    pad = loaded.processor.tokenizer.pad_token_id
    ids = [torch.nn.functional.pad(row, (longest - row.shape[1], 0), value=pad) for row in rows]
    masks = [torch.arange(longest)[None] >= longest - row.shape[1] for row in rows]
    return torch.cat(ids), torch.cat(masks).long(), torch.cat(images)


def stock_answer(loaded, questions, **reduction):
    """New tokens [B, new] of the stock model under reduce_tokens with the processor's own inputs, and the record."""
    inputs = loaded.prepare(questions)
    with reduce_tokens(loaded.model, **reduction) as record:
        written = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=NEW)
    return written[:, inputs["input_ids"].shape[1] :], record


def test_the_classic_snippet_runs_on_the_embedded_model_and_on_a_saved_copy(tmp_path):
    source = load_model("tiny")
    source.model.save_pretrained(tmp_path)
    source.processor.save_pretrained(tmp_path)
    (question,) = load_questions("diagrams", limit=1)
    found = []
    for path in ("tiny", str(tmp_path)):
        tokenizer, model, image_processor, context_len = load_pretrained_model(
            path, None, "llava-tiny", use_custom_selection=True
        )
        model.config.use_custom_selection = True
        model.config.custom_sys_length = 35
        model.config.custom_image_token_length = 576
        model.config.custom_kept_tokens = 8
        model.config.custom_agg_layer = 2
        model.config.custom_selection_method = "fps"
        model.config.custom_temperature = 0.1
        model.model.reset_custom_selection()
        assert model.model.last_selected_positions is None
        image_tensor = image_processor.preprocess(question.load_image(), return_tensors="pt")["pixel_values"][0]
        images = image_tensor.unsqueeze(0).to(device=model.device, dtype=model.dtype)
        prompt = f"USER: <image>\n{question.text} ASSISTANT:"
        input_ids = tokenizer_image_token(prompt, tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt").unsqueeze(0)
        assert tokenizer_image_token(tokenizer.bos_token + prompt, tokenizer) == input_ids[0].tolist()
        with torch.inference_mode():
            output = model.generate(
                input_ids, images=images, max_new_tokens=NEW, use_cache=True, do_sample=False, stopping_criteria=None
            )
        positions, indices = model.model.last_selected_positions, model.model.last_gen_kept_indices
        assert context_len == 2048
        assert positions.shape == (1, 8)
        begin = input_ids[0].tolist().index(IMAGE_TOKEN_INDEX)
        assert indices.tolist() == (positions + begin).tolist()
        found.append((output[:, input_ids.shape[1] :].tolist(), positions.tolist(), tokenizer.batch_decode(output)))
    assert found[0] == found[1]
    assert 0 < len(found[0][0][0]) <= NEW


@pytest.mark.parametrize(
    ("attributes", "point"),
    [
        ({"use_custom_selection": True}, GridPoint("fps", 5, 2, layout="zero_fill", method_options={"start": None})),
        (
            {"use_custom_selection": True, "custom_seed": 4, "custom_layout": "compact", "custom_agg_layer": 3},
            GridPoint("fps", 5, 3, seed=4, method_options={"start": None}),
        ),
        (
            {"use_custom_selection": True, "custom_selection_method": "tome", "custom_temperature": 0.3},
            GridPoint("tome", 5, 2, temperature=0.3, layout="zero_fill"),
        ),
        ({"use_fast_v": True, "fast_v_attention_rank": 7}, GridPoint("fastv", 7, 2, layout="mask")),
        (
            {"use_fast_v": True, "fast_v_attention_rank": 7, "fast_v_agg_layer": 0, "custom_seed": 2},
            GridPoint("fastv", 7, 0, layout="mask", seed=2),
        ),
        (
            {
                "use_fast_v": True,
                "fast_v_attention_rank": 7,
                "fast_v_agg_layer": 1,
                "fast_v_inplace": True,
                "fast_v_token_selection_method": "weighted_combination",
                "fast_v_weighted_alpha": 0.4,
            },
            GridPoint("fastv", 7, 1, method_options={"heads": "weighted", "alpha": 0.4}),
        ),
        (
            {"use_fast_v": True, "fast_v_attention_rank": 7, "fast_v_token_selection_method": "max_head"},
            GridPoint("fastv", 7, 2, layout="mask", method_options={"heads": "max_head"}),
        ),
        ({}, GridPoint("full")),
    ],
)
def test_generate_equals_the_same_grid_point(loaded, model, attributes, point):
    set_config(model, **attributes)
    # FastV's two layouts write the same, so the outputs alone would not tell them apart.
    assert classic_reduction(model.config).get("layout", "compact") == point.layout
    for question in make_questions(3)[1:]:
        keys = row_keys([question], loaded.device)
        input_ids, images = ask(loaded, question)
        output = model.generate(input_ids, images=images, row_keys=keys, do_sample=False, max_new_tokens=NEW)
        expected, record = stock_answer(
            loaded, [question], method=point.make_method(), row_keys=keys, **point.reduction()
        )
        assert output[:, input_ids.shape[1] :].tolist() == expected.tolist()
        chosen = model.model.last_selected_positions, model.model.last_gen_kept_indices
        for ours, theirs in zip(chosen, (record.positions, record.indices), strict=True):
            assert theirs is None if ours is None else ours.tolist() == theirs.tolist()
        assert (chosen[0] is None) == (point.method == "full")


@pytest.mark.parametrize("cut_off", [None, 0, 3])
def test_himap_runs_in_two_stages(loaded, model, cut_off):
    set_config(model, use_hmap_v=True, cut_off_layer=cut_off, **STAGES)
    assert classic_reduction(model.config)["cut_off_layer"] == (cut_off or None)
    (question,) = make_questions(1)
    input_ids, images = ask(loaded, question)
    output = model.generate(input_ids, images=images, do_sample=False, max_new_tokens=NEW)
    expected, record = stock_answer(
        loaded, [question], method="himap", kept=(12, 5), agg_layer=(1, 2), cut_off_layer=cut_off or None
    )
    assert output[:, input_ids.shape[1] :].tolist() == expected.tolist()
    assert model.model.last_selected_positions.tolist() == record.positions.tolist()


def test_defaults_are_the_original_ones_and_a_saved_config_keeps_its_values(model, loaded, tmp_path):
    path = save_checkpoint(tmp_path)
    _, plain, _, _ = load_pretrained_model(path, None, "any")
    assert {name: getattr(plain.config, name) for name in DEFAULTS} == DEFAULTS
    classic = (8, 2, "fps", 0.1, 35, 576)
    names = ("kept_tokens", "agg_layer", "selection_method", "temperature", "sys_length", "image_token_length")
    assert tuple(DEFAULTS[f"custom_{name}"] for name in names) == classic
    assert classic_reduction(plain.config) == {"method": "full"}
    plain.config.custom_kept_tokens = 3
    plain.config.save_pretrained(path)
    _, again, _, _ = load_pretrained_model(path, str(path), "any", use_custom_selection=True)
    assert (again.config.custom_kept_tokens, again.config.use_custom_selection) == (3, True)


def test_a_left_padded_batch_equals_its_rows(loaded, model):
    model.config.use_custom_selection = True
    questions = [make_questions(10)[index] for index in (0, 4, 7)]
    input_ids, mask, images = ask_all(loaded, questions)
    assert not mask.all(), "the rows differ in length"
    keys = row_keys(questions, loaded.device)
    length = input_ids.shape[1]
    for masked in ({"attention_mask": mask}, {}):
        output = model.generate(
            input_ids, images=list(images), row_keys=keys, do_sample=False, max_new_tokens=NEW, **masked
        )
        positions, indices = model.model.last_selected_positions, model.model.last_gen_kept_indices
        for row, question in enumerate(questions):
            alone, image = ask(loaded, question)
            written = model.generate(alone, images=image, row_keys=keys[row : row + 1], max_new_tokens=NEW)
            answer = written[0, alone.shape[1] :].tolist()
            assert output[row, length : length + len(answer)].tolist() == answer
            assert positions[row].tolist() == model.model.last_selected_positions[0].tolist()
            padding = length - alone.shape[1]
            assert indices[row].tolist() == (model.model.last_gen_kept_indices[0] + padding).tolist()


def test_the_answer_is_read_by_position_and_by_decoding_everything(loaded, model):
    input_ids, images = ask(loaded, make_questions(1)[0])
    options = {"images": images, "do_sample": False, "max_new_tokens": NEW}
    output = model.generate(input_ids, **options)
    tokenizer = loaded.processor.tokenizer
    by_position = tokenizer.batch_decode(output[:, input_ids.shape[1] :], skip_special_tokens=True)
    assert by_position == tokenizer.batch_decode(output, skip_special_tokens=True) != [""]
    assert model.generate(inputs=input_ids, image_sizes=[(9, 9)], **options).tolist() == output.tolist()
    output_dict = model.generate(input_ids, return_dict_in_generate=True, output_scores=True, **options)
    assert output_dict["sequences"].tolist() == output_dict.sequences.tolist() == output.tolist()
    assert len(output_dict.scores) == NEW


def test_output_is_the_same_without_a_cache_and_with_output_attentions(loaded, model):
    model.config.use_custom_selection = True
    input_ids, images = ask(loaded, make_questions(1)[0])
    options = {"images": images, "do_sample": False, "max_new_tokens": NEW}
    output = model.generate(input_ids, **options)
    with pytest.warns(UserWarning, match="output_attentions"):
        again = model.generate(input_ids, use_cache=False, output_attentions=True, **options)
    assert again.tolist() == output.tolist()


def test_a_reset_and_a_prompt_without_picture_clear_the_selection(loaded, model):
    model.config.use_custom_selection = True
    input_ids, images = ask(loaded, make_questions(1)[0])
    for reset in (model.model.reset_custom_selection, model.model.reset_fastv, model.model.reset_hmapv):
        model.generate(input_ids, images=images, max_new_tokens=1)
        assert model.model.last_selected_positions.shape == model.model.last_gen_kept_indices.shape == (1, 5)
        reset()
        assert model.model.last_selected_positions is model.model.last_gen_kept_indices is None
    model.generate(input_ids, images=images, max_new_tokens=1)
    text = input_ids[input_ids != IMAGE_TOKEN_INDEX].unsqueeze(0)
    output = model.generate(text, do_sample=False, max_new_tokens=NEW)
    assert model.model.last_selected_positions is None
    assert (
        output.tolist()[0][text.shape[1] :]
        == loaded.model.generate(text, max_new_tokens=NEW)[0, text.shape[1] :].tolist()
    )


def test_the_start_is_random_from_a_seed_that_is_printed_once(loaded, model, capsys):
    set_config(model, use_custom_selection=True, custom_kept_tokens=1)
    input_ids, images = ask(loaded, make_questions(1)[0])
    starts = {}
    for seed in (0, 0, 1, 2, 3):
        model.config.custom_seed = seed
        model.generate(input_ids, images=images, max_new_tokens=1)
        start = model.model.last_selected_positions.item()
        assert starts.setdefault(seed, start) == start
    assert len(set(starts.values())) > 1
    assert capsys.readouterr().err.splitlines() == [f"custom_seed={seed}: fps draws from it" for seed in range(4)]
    set_config(model, custom_selection_method="tome")
    model.generate(input_ids, images=images, max_new_tokens=1)
    assert capsys.readouterr().err == ""


def test_a_wrong_span_is_reported_once_and_never_used(loaded, model):
    model.config.use_custom_selection = True
    input_ids, mask, images = ask_all(loaded, [make_questions(5)[index] for index in (0, 4)])
    begin = (input_ids[0] == IMAGE_TOKEN_INDEX).int().argmax() - (mask[0] == 0).sum()

    def generate():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.generate(input_ids, images=images, attention_mask=mask, max_new_tokens=1)
        return [str(warning.message) for warning in caught], model.model.last_selected_positions.tolist()

    lines, chosen = generate()  # the defaults do not fit this prompt, but nobody set them
    assert lines == []
    set_config(model, custom_sys_length=9, custom_image_token_length=100)
    lines, again = generate()
    assert again == chosen
    assert [line.split(":")[0] for line in lines] == ["custom_sys_length=9", "custom_image_token_length=100"]
    assert f"token {begin} " in lines[0]
    assert f"are {VISUAL} " in lines[1]
    assert generate() == ([], chosen)
    set_config(model, custom_sys_length=int(begin), custom_image_token_length=VISUAL)
    assert generate() == ([], chosen)
    set_config(model, use_custom_selection=False, use_fast_v=True, fast_v_attention_rank=4, fast_v_sys_length=36)
    assert generate()[0][0].startswith("fast_v_sys_length=36: the picture begins")


def test_tokenizer_image_token_has_one_placeholder_for_the_pictures_tokens(loaded):
    tokenizer = loaded.processor.tokenizer
    for question in make_questions(4):
        ids = tokenizer_image_token(loaded.prompt(question), tokenizer)
        assert ids.count(IMAGE_TOKEN_INDEX) == 1
        place = ids.index(IMAGE_TOKEN_INDEX)
        ids[place : place + 1] = [loaded.processor.image_token_id] * VISUAL
        assert [ids] == loaded.tokenize([question])[0].tolist()
    twice = tokenizer_image_token("<image> and <image>", tokenizer, -7, return_tensors="pt")
    assert twice.dtype == torch.long
    assert (twice == -7).sum() == 2
    assert tokenizer_image_token("<s>USER:", tokenizer) == tokenizer("<s>USER:", add_special_tokens=False).input_ids


@given(
    rows=st.lists(st.lists(st.integers(1, 9), min_size=4, max_size=4), min_size=1, max_size=3),
    places=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    count=st.integers(1, 5),
)
@settings(max_examples=40)
def test_expand_placeholder_repeats_the_value_at_the_index(rows, places, count):
    places = places[: len(rows)]
    expected = [row[:p] + [row[p]] * count + row[p + 1 :] for row, p in zip(rows, places, strict=True)]
    assert expand_placeholder(torch.tensor(rows), torch.tensor(places), count).tolist() == expected


def test_process_images_crops_or_pads(loaded):
    processor = loaded.processor.image_processor
    wide = Image.new("RGB", (40, 20), "red")
    cropped = process_images([wide], processor)
    assert torch.equal(cropped, loaded.with_protocol(Protocol(image_aspect="crop")).pixels([wide]))
    loaded.model.config.image_aspect_ratio = "pad"
    colour = tuple(int(255 * mean) for mean in processor.image_mean)
    square = Image.new("RGB", (40, 40), colour)
    square.paste(wide, (0, 10))
    padded = process_images([wide], processor, loaded.model.config)
    assert torch.equal(padded, loaded.pixels([square]))
    assert not torch.equal(padded, cropped)
    loaded.model.config.image_aspect_ratio = "anyres"
    with pytest.raises(TokenselError, match="image_aspect_ratio='anyres'"):
        process_images([wide], processor, loaded.model.config)
    del loaded.model.config.image_aspect_ratio


def test_it_wraps_the_stock_model_without_changing_it(loaded, model):
    assert model.eval() is model
    assert model.to("cpu") is model.float() is model
    assert model.config is loaded.model.config
    assert model.dtype == torch.float32
    assert model.model.language_model is loaded.model.model.language_model
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in loaded.model.parameters())
    with pytest.raises(AttributeError):
        _ = model.no_such_thing
    model.config.use_custom_selection = True
    input_ids, images = ask(loaded, make_questions(1)[0])
    model.generate(input_ids, images=images, max_new_tokens=1)
    assert "generate" not in vars(loaded.model)
    assert not any(layer._forward_pre_hooks for layer in loaded.model.model.language_model.layers)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"input_ids": None}, "input_ids=NoneType: must be"),
        ({"input_ids": torch.tensor([1, IMAGE_TOKEN_INDEX])}, r"input_ids=\[2\]: must be"),
        ({"input_ids": torch.tensor([[1, -200, -200, 5]])}, r"hold \[2\] placeholders"),
        ({"input_ids": torch.tensor([[1, -200, 5], [1, 4, 5]])}, r"hold \[1, 0\] placeholders"),
        ({"input_ids": torch.tensor([[1, 4, 5]])}, "images: given, but no row"),
        ({"images": None}, r"images=NoneType: must be pixel values \[1, 3"),
        ({"images": torch.zeros(3, 84, 84)}, r"images=\[3, 84, 84\]"),
        ({"images": torch.zeros(2, 3, 84, 84)}, r"images=\[2, 3, 84, 84\]"),
        ({"images": [torch.zeros(3, 84, 84), torch.zeros(3, 8, 8)]}, "images=list"),
        ({"attention_mask": torch.ones(1, 2)}, r"attention_mask=\[1, 2\]"),
        ({"attention_mask": torch.tensor([[1, 1, 0]]), "input_ids": torch.tensor([[1, -200, 0]])}, "on the left"),
        ({"config": {"use_fast_v": True}}, "use_custom_selection and use_fast_v: only one"),
        ({"config": {"custom_kept_tokens": 0}}, "kept=0"),
        ({"config": {"custom_agg_layer": 5}}, "agg_layer=5: must be from 0 to 4"),
        ({"config": {"custom_selection_method": "kmeans"}}, "custom_selection_method='kmeans': choose from fps, tome"),
        ({"config": {"custom_layout": "short"}}, "layout='short'"),
        (
            {"config": {"use_custom_selection": False, "use_fast_v": True, "fast_v_token_selection_method": "min"}},
            "fast_v_token_selection_method='min': choose from avg_all_heads",
        ),
    ],
)
def test_a_mistake_is_one_line(loaded, model, change, expected):
    model.config.use_custom_selection = True
    set_config(model, **change.pop("config", {}))
    model.model.last_selected_positions = torch.zeros(1, 5)
    input_ids, images = ask(loaded, make_questions(1)[0])
    with pytest.raises(TokenselError, match=expected) as caught:
        model.generate(**({"input_ids": input_ids, "images": images, "max_new_tokens": 1} | change))
    assert "\n" not in str(caught.value)
    assert model.model.last_selected_positions is None, "an earlier selection must not remain after a failed call"


def test_a_base_and_another_return_type_are_refused(loaded):
    with pytest.raises(TokenselError, match="model_base=vicuna: must be None"):
        load_pretrained_model("tiny", "vicuna", "llava-lora")
    with pytest.raises(TokenselError, match="return_tensors='np'"):
        tokenizer_image_token("a", loaded.processor.tokenizer, return_tensors="np")
