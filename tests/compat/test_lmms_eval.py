"""tokensel as a model of lmms-eval: its answers are the stock model's under reduce_tokens, and mistakes are refused."""

import io
import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import datasets
import pytest
import torch
from helpers.checkpoints import make_questions, save_checkpoint
from lmms_folders import write_folder
from PIL import Image

from tokensel import BadSampleError, TokenselError, reduce_tokens
from tokensel.compat.lmms_eval.options import read_options
from tokensel.data import stable_hash
from tokensel.models import load_model

pytest.importorskip("lmms_eval", reason="needs lmms-eval: pip install --no-deps lmms-eval==0.7.3")

from lmms_eval.api.instance import Instance
from lmms_eval.models.registry_v2 import ModelRegistryV2

from tokensel.compat.lmms_eval.model import Tokensel

ROOT = Path(__file__).parents[2]
OPTIONS = {"method": "random", "kept": 9, "agg_layer": 1, "seed": 3, "device": "cpu"}
RULES = {"max_new_tokens": 5, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("lmms_eval"))


@pytest.fixture(scope="module")
def documents():
    """Six, two of them with two pictures and one with none."""
    asked = make_questions(8)
    pictures = [each.load_image() for each in asked]
    shown = [[pictures[0]], [pictures[1]], [pictures[2], pictures[3]], [], [pictures[4], pictures[5]], [pictures[6]]]
    return [{"words": each.text, "shown": them} for each, them in zip(asked, shown, strict=False)]


def make_model(checkpoint, documents, batch_size=1, **options):
    model = Tokensel(pretrained=str(checkpoint), batch_size=batch_size, **(OPTIONS | options))
    model.task_dict = {"shapes": {"test": documents}}
    return model


def request(kind, *arguments):
    return Instance(kind, arguments, 0, {"task": "shapes", "doc_id": 0, "repeats": 1})


def ask(document, number, rules=RULES):
    place = (lambda each: each["shown"], number, "shapes", "test")
    return request("generate_until", document["words"], dict(rules), *place)


def inputs_by_hand(loaded, document, behind=""):
    """The stock model's inputs for one document. behind: text after the prompt."""
    content = [{"type": "image"}] * len(document["shown"]) + [{"type": "text", "text": document["words"]}]
    prompt = loaded.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pictures = [loaded.prepare_image(picture) for picture in document["shown"]]
    return loaded.processor(images=pictures or None, text=prompt + behind, return_tensors="pt")


def reduced(loaded, number):
    key = torch.tensor([int(stable_hash(f"shapes-{number}")[:15], 16)])
    return reduce_tokens(loaded.model, "random", kept=9, agg_layer=1, seed=3, row_keys=key)


def test_answers_are_those_of_the_stock_model_under_reduce_tokens(checkpoint, documents):
    loaded = load_model(checkpoint)
    expected = []
    for number, document in enumerate(documents):
        inputs = inputs_by_hand(loaded, document)
        with reduced(loaded, number), torch.no_grad():
            written = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)
        text = loaded.processor.tokenizer.decode(written[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        expected.append(text.split("\n\n")[0])
    model = make_model(checkpoint, documents)
    asked = [ask(document, number) for number, document in enumerate(documents)]
    assert model.generate_until(asked) == expected
    assert len(set(expected)) > 1
    assert make_model(checkpoint, documents, seed=4).generate_until(asked) != expected


def test_batches_change_no_answer_and_each_request_has_its_own_rules(checkpoint, documents):
    long = RULES | {"max_new_tokens": 9, "until": []}
    asked = [ask(each, number, rules) for number, each in enumerate(documents) for rules in (RULES, long)]
    alone = make_model(checkpoint, documents).generate_until(asked)
    assert make_model(checkpoint, documents, batch_size=8).generate_until(asked) == alone
    assert any(len(second) > len(first) for first, second in zip(alone[::2], alone[1::2], strict=True))


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(checkpoint, documents):
    model = make_model(checkpoint, documents)
    (whole,) = model.generate_until([ask(documents[0], 0)])
    stop = whole[len(whole) // 2 :]
    assert model.generate_until([ask(documents[0], 0, RULES | {"until": [stop]})]) == [whole[: whole.find(stop)]]


def test_likelihoods_are_those_of_the_stock_model_under_reduce_tokens(checkpoint, documents):
    loaded, model = load_model(checkpoint), make_model(checkpoint, documents, batch_size=4)
    asked, expected = [], []
    for number in (0, 2, 3):
        for behind in (" red", " what is green", " blue"):
            words = documents[number]["words"]
            asked.append(request("loglikelihood", words, behind, lambda each: each["shown"], number, "shapes", "test"))
            whole, prompt = (inputs_by_hand(loaded, documents[number], text) for text in (behind, ""))
            with reduced(loaded, number), torch.no_grad():
                # The prompt alone is reduced: its continuation must not change which tokens are kept.
                cache = loaded.model(**prompt, use_cache=True)
                ids = whole.input_ids[:, prompt.input_ids.shape[1] :]
                logits = [cache.logits[:, -1]]
                for token in ids[0, :-1]:
                    cache = loaded.model(input_ids=token.view(1, 1), past_key_values=cache.past_key_values)
                    logits.append(cache.logits[:, -1])
            log = torch.cat(logits).log_softmax(-1)
            expected.append((-log.gather(1, ids.T).mean().item(), bool((log.argmax(-1) == ids[0]).all())))
    found = [each.text for each in model.loglikelihood(asked)]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in expected], abs=1e-4)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]


def test_every_continuation_can_be_a_function_of_the_document(checkpoint, documents):
    model = make_model(checkpoint, documents)
    place = (lambda each: each["shown"], 1, "shapes", "test")
    given = [request("loglikelihood", "what", text, *place) for text in (" red", lambda each: " red")]
    first, second = model.loglikelihood(given)
    assert first.text == second.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept": "many"}, "kept=many: must be an integer from 0"),
        ({"keep": 8}, "keep: unknown option; options are pretrained, method, kept,"),
        ({"keep": 8}, "did you mean kept?"),
        ({"method": "fpz"}, "method='fpz' is unknown; choose from"),
        ({"method": "fps", "start": "foo"}, "start=foo"),
        ({"method": "fps", "method.start": "foo"}, "method.start=foo"),
        ({"method": "tome", "start": "medoid"}, "start: unknown option"),
        ({"dtype": "float8"}, "dtype=float8: choose one of float32"),
        ({"batch_size": "auto"}, "batch_size=auto: must be an integer from 1"),
        ({"agg_layer": "[1"}, "[1: must be a list"),
        ({"layout": "mask", "method": "tome"}, "layout"),
        ({"budget": "flops:0.4"}, "budget: unknown option"),
    ],
)
def test_a_mistake_names_the_option_in_one_line(options, message):
    with pytest.raises(TokenselError) as caught:
        read_options({"kept": 8} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_mean_what_they_mean_in_a_sweep():
    typed = {"pretrained": "tiny", "method": "pyramiddrop", "kept": "[288,72]", "agg_layer": "[2,8]"}
    point = read_options(typed | {"temperature": 1.0, "dtype": "bfloat16", "position": "null"}).point()
    assert (point.kept, point.agg_layer, point.temperature, point.position) == ((288, 72), (2, 8), 1, None)
    assert read_options({"method": "fps", "kept": 0.25, "start": "null"}).point().method_options == {"start": None}
    assert read_options({}).point().method == read_options({"method": "none"}).point().method == "full"
    assert read_options({"kept": "25%", "method": "fps", "precision": "model"}).point().precision == "model"


def test_a_missing_checkpoint_is_named_by_the_option(tmp_path):
    with pytest.raises(TokenselError, match=r"^pretrained=.*nowhere"):
        Tokensel(pretrained=str(tmp_path / "nowhere"), device="cpu")


def test_what_it_cannot_do_is_refused_by_name(checkpoint, documents):
    strange = [*documents[:1], {"words": "what", "shown": ["film.mp4"]}, {"words": "what", "shown": [{"array": []}]}]
    model = make_model(checkpoint, strange)
    with pytest.raises(TokenselError, match="question shapes-1: shows a video"):
        model.generate_until([ask(strange[1], 1)])
    with pytest.raises(TokenselError, match="question shapes-2: shows a sound"):
        model.generate_until([ask(strange[2], 2)])
    with pytest.raises(TokenselError, match=r"task=shapes: generation_kwargs: .*sampled"):
        model.generate_until([ask(strange[0], 0, RULES | {"do_sample": True, "temperature": 1.0})])
    with pytest.raises(TokenselError, match="acc_mutual_info"):
        model.loglikelihood([request("loglikelihood", "", "red")])
    rounds = request("generate_until_multi_round", "what", RULES, None, None, 0, "shapes", "test")
    with pytest.raises(TokenselError, match="task=shapes: asks in several rounds"):
        model.generate_until_multi_round([rounds])


def test_a_truncated_picture_names_its_document(checkpoint, documents):
    file = io.BytesIO()
    documents[0]["shown"][0].save(file, "PNG")
    broken = Image.open(io.BytesIO(file.getvalue()[:300]))
    model = make_model(checkpoint, [{"words": "what", "shown": [broken]}], batch_size=2)
    with pytest.raises(BadSampleError, match="question shapes-0: "):
        model.generate_until([ask({"words": "what"}, 0)])
    model.task_dict = {"shapes": {"test": [{"words": "what"}]}}
    place = (lambda each: [broken.convert("RGB")], 0, "shapes", "test")
    with pytest.raises(BadSampleError, match="question shapes-0: its picture cannot be read"):
        model.generate_until([request("generate_until", "what", RULES, *place)])


def test_lmms_eval_finds_the_model_by_its_entry_point():
    group = "lmms_eval.models"
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    registry = ModelRegistryV2()
    for name, value in offered.items():
        registry.register_manifest(EntryPoint(name, value, group).load()())
    assert registry.get_model_class("tokensel") is registry.get_model_class("tokensel_qwen2_5_vl") is Tokensel


def test_finding_the_model_loads_no_torch():
    check = "import sys, tokensel.compat.lmms_eval; sys.exit('torch' in sys.modules or 'lmms_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_command_of_lmms_eval_runs_a_task_with_it(checkpoint, tmp_path):
    pytest.importorskip("pytablewriter", reason="lmms-eval's command prints its table with pytablewriter")
    folder = tmp_path / "lmms-lab-encoder" / "POPE"  # where the task looks for its data, from the current directory
    write_folder("pope", folder, 2)
    options = ",".join(f"{name}={value}" for name, value in (OPTIONS | {"pretrained": checkpoint}).items())
    command = [sys.executable, "-m", "lmms_eval", "--model", "tokensel", "--model_args", options, "--tasks", "pope"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    place = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    said = subprocess.run(
        [*command, "--batch_size", "3", "--output_path", "out", "--log_samples"],
        cwd=tmp_path,
        env=os.environ | offline | place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-2000:]
    assert "pope_accuracy" in said.stdout
    (file,) = tmp_path.glob("out/**/*samples_pope.jsonl")
    written = {each["doc_id"]: each["filtered_resps"] for each in map(json.loads, file.read_text().splitlines())}
    rows = datasets.load_dataset("parquet", data_files=str(folder / "data" / "*.parquet"))["train"]
    words = "{}\nAnswer the question using a single word or phrase."
    documents = [{"words": words.format(row["question"]), "shown": [row["image"]]} for row in rows]
    model = make_model(checkpoint, documents)
    model.task_dict = {"pope": {"test": documents}}
    rules = {"max_new_tokens": 128, "until": ["\n\n"]}
    asked = [
        request("generate_until", each["words"], rules, lambda each: each["shown"], number, "pope", "test")
        for number, each in enumerate(documents)
    ]
    assert [written[number] for number in range(2)] == [text.strip() for text in model.generate_until(asked)]
