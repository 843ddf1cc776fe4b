"""semantic against a slow loop on a stock model's own attention and hidden states, and what its options mean."""

from types import SimpleNamespace

import pytest
import torch
from helpers.choices import clear_steps
from helpers.evaluation import assert_same_predictions, evaluate_points
from helpers.families import load_family, make_picture
from helpers.models import IMAGE_TOKEN, llava_inputs, single_row, tiny_llava
from torch.nn.functional import cosine_similarity, normalize

from tokensel import METHODS, TokenselError, make_method, reduce_tokens
from tokensel.data import Question
from tokensel.data.topics import topic_words
from tokensel.evaluation.grid_point import GridPoint
from tokensel.methods.semantic import topic_tokens
from tokensel.testing import make_context

STAR, DOG = 60, [71, 72]


class Spelling:
    """A tokenizer that knows two words; " dog", with its space, has two tokens, "dog" others that stand nowhere."""

    bos_token_id = 1

    def __call__(self, words, is_split_into_words, truncation):
        (word,) = words
        return {"input_ids": [1, *{"star": [STAR], " star": [95], "dog": [90], " dog": DOG, "": []}[word]]}


def prompts():
    """Two rows of unequal length. The first has the star and half a dog, the second a dog; both stand before the
    picture too, where they do not count."""
    model = tiny_llava(attn_implementation="eager")
    inputs = llava_inputs(model, texts=(9, 6))
    ids = inputs["input_ids"]
    ids[(ids == STAR) | (ids == DOG[0]) | (ids == DOG[1])] = 5
    ids[0, [1, -3]], ids[0, -5] = STAR, DOG[0]
    ids[1, 3], ids[1, -4:-2] = DOG[1], torch.tensor(DOG)
    return model, inputs


QUESTIONS = ["What color is the star?", "How many dog are there?"]
TOPIC = [[-3], [-4, -3]]


def by_hand(model, inputs, layer, kept, relevance, words, power, floor):
    """The choices of one row without padding, by a loop in float64, and the visual tokens and weights behind them.

    words: the places of the text tokens that count.
    """
    with torch.no_grad():
        seen = model(**inputs, output_attentions=True, output_hidden_states=True)
    hidden = seen.hidden_states[layer][0].double()
    visual = (inputs["input_ids"][0] == IMAGE_TOKEN).nonzero().flatten()
    attention = seen.attentions[max(layer - 1, 0)][0].double().mean(0)
    cosine = cosine_similarity(hidden[:, None], hidden[None], dim=-1)
    score = {"attention": attention, "embeddings": cosine}[relevance][words][:, visual].mean(0)
    score = (score - score.min()) / (score.max() - score.min())
    weights = (floor + (1 - floor) * score) ** power
    cosine = cosine[visual][:, visual]
    order = [int((cosine @ weights).argmax())]
    while len(order) < kept:
        order.append(int((weights * (1 - cosine[order]).amin(0)).argmax()))
    return order, hidden[visual], weights


@pytest.mark.parametrize("relevance", ["attention", "embeddings"])
@pytest.mark.parametrize("words", ["instruction", "topic"])
@pytest.mark.parametrize(("layer", "power", "floor"), [(2, 1.0, 0.1), (0, 2.0, 0.3), (3, 0.5, 0.01)])
def test_the_choices_are_those_of_a_loop_on_the_stock_models_attention(relevance, words, layer, power, floor):
    model, inputs = prompts()
    options = {"relevance": relevance, "words": words, "power": power, "floor": floor, "agg_layer": layer}
    with (
        torch.no_grad(),
        reduce_tokens(model, "semantic", kept=9, questions=QUESTIONS, tokenizer=Spelling(), **options) as record,
    ):
        model(**inputs)
    for row, ours in enumerate(record.positions):
        alone = single_row(inputs, row)
        instruction = list(range(3 + 36, alone["input_ids"].shape[1]))
        places = instruction if words == "instruction" else TOPIC[row]
        order, tokens, weights = by_hand(model, alone, layer, 9, relevance, places, power, floor)
        assert ours.tolist() == order
        assert clear_steps(tokens, ours, weights) == 9


def test_each_of_two_pictures_is_rated_by_itself():
    model = tiny_llava(attn_implementation="eager")
    row = torch.tensor([[5, *[IMAGE_TOKEN] * 36, 6, 7, *[IMAGE_TOKEN] * 36, 8, 9, 10]])
    pixels = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": row, "pixel_values": pixels}
    with torch.no_grad():
        seen = model(**inputs, output_attentions=True, output_hidden_states=True)
        with reduce_tokens(model, "semantic", kept=10, agg_layer=2, power=1.0) as record:
            model(**inputs)
    for picture, begin in ((0, 1), (1, 39)):
        score = seen.attentions[1][0].double().mean(0)[75:, begin : begin + 36].sum(0)
        weights = 0.1 + 0.9 * (score - score.min()) / (score.max() - score.min())
        tokens = seen.hidden_states[2][0, begin : begin + 36].double()
        order = record.positions[0, 5 * picture : 5 * picture + 5] - 36 * picture
        assert clear_steps(tokens, order, weights) == 5
        unit = normalize(tokens, dim=1)
        assert int(order[0]) == int((unit @ unit.T @ weights).argmax())


@pytest.mark.parametrize("start", ["medoid", "peripheral", 7, None])
@torch.no_grad()
def test_without_power_it_is_fps_bit_for_bit_and_uses_no_attention(start):
    model = tiny_llava()
    inputs, keys = llava_inputs(model, texts=(9, 6)), torch.tensor([3, 4])
    found = []
    for method, options in (("fps", {}), ("semantic", {"power": 0, "words": "topic"}), ("semantic", {"power": 0.0})):
        with reduce_tokens(model, method, kept=8, start=start, row_keys=keys, **options) as record:
            found.append((record, model(**inputs).logits))
    assert not make_method("semantic", power=0).uses_attention
    for record, logits in found[1:]:
        assert torch.equal(record.positions, found[0][0].positions)
        assert torch.equal(logits, found[0][1])


def test_without_power_an_evaluation_stores_what_fps_does(tmp_path):
    questions = [
        Question(id=str(n), text="what?", choices=("A", "B"), answer=0, image=make_picture(seed=n)) for n in range(3)
    ]
    points = [
        GridPoint("fps", 4, agg_layer=2),
        GridPoint("semantic", 4, agg_layer=2, method_options={"power": 0.0}),
        GridPoint("semantic", 4, agg_layer=2),
    ]
    (fps, same, other), failures = evaluate_points(load_family("llava"), tmp_path, questions, points)
    assert not failures
    assert same == fps
    assert other != fps


@pytest.mark.parametrize("start", ["medoid", "peripheral", 7])
@pytest.mark.parametrize("relevance", ["attention", "embeddings"])
def test_equally_relevant_tokens_are_chosen_as_fps_chooses(start, relevance):
    tokens = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0))
    tokens[:, 30:] = tokens[:, :10]  # ties
    given = {"tokens": tokens, "text": torch.zeros(2, 3, 16), "attention": torch.full((2, 4, 40), 0.01)}
    expected = make_method("fps", start=start).select(make_context(35, **given)).indices
    method = make_method("semantic", start=start, relevance=relevance)
    assert torch.equal(method.select(make_context(35, **given)).indices, expected)
    noise = 1 + 1e-6 * torch.rand(2, 4, 40, generator=torch.Generator().manual_seed(1))
    near = given | {"attention": given["attention"] * noise}
    assert torch.equal(method.select(make_context(35, **near)).indices, expected)
    far = given | {"attention": given["attention"] * noise**1000}
    everywhere = make_method("semantic", start=start, floor=1.0).select(make_context(35, **far)).indices
    assert torch.equal(everywhere, expected)


def test_tokens_that_are_equally_unlike_the_words_are_chosen_as_fps_chooses():
    angle = torch.rand(2, 40, 1, generator=torch.Generator().manual_seed(3)) * 6.28
    tokens = torch.cat([-torch.ones_like(angle), angle.cos(), angle.sin()], 2)
    context = make_context(12, tokens=tokens, text=torch.tensor([[[1.0, 0, 0]]] * 2))
    expected = make_method("fps", start=3).select(context).indices
    chosen = make_method("semantic", relevance="embeddings", power=4, start=3).select(context).indices
    assert torch.equal(chosen, expected)


def scene():
    """A picture of 10 x 10 tokens: a plain background, a large object that nobody asks for (30 tokens) and a small one
    (6 tokens), which the question attends to. Returns the tokens, the attention and the small object's tokens."""
    generator = torch.Generator().manual_seed(2)
    kinds = torch.randn(3, 32, generator=generator)
    kind = torch.zeros(100, dtype=torch.long)
    kind[40:70], kind[[11, 12, 13, 21, 22, 23]] = 1, 2
    tokens = kinds[kind] + 0.7 * torch.randn(100, 32, generator=generator)
    attention = torch.where(kind == 2, 0.05, 0.005) * (1 + 0.1 * torch.rand(4, 100, generator=generator))
    return tokens[None], attention[None], {11, 12, 13, 21, 22, 23}


def test_the_object_that_is_asked_for_gets_the_survivors_and_the_rest_stays_covered():
    tokens, attention, asked = scene()
    share = {}
    for power in (0, 1, 3):
        context = make_context(9, tokens=tokens, text=torch.ones(1, 2, 32), attention=attention)
        chosen = set(make_method("semantic", power=power).select(context).indices[0].tolist())
        share[power] = len(chosen & asked)
        assert len(chosen) == 9
    assert share[0] <= 1
    assert share[1] == 6
    assert share[3] == 6
    # With the asked object taken up, the rest are spread over background and the other object.
    others = [token for token in make_method("semantic").select(context).indices[0].tolist() if token not in asked]
    assert len(others) == 3


def test_one_word_of_the_question_changes_the_choice_by_topic_and_no_other():
    loaded = load_family("llava")
    question = Question(id="a", text="star or circle?", choices=("A", "B"), answer=0, image=make_picture())
    inputs = loaded.prepare([question])

    def chosen(text, **options):
        reducing = {"kept": 5, "agg_layer": 2, "questions": [text], "tokenizer": loaded.processor.tokenizer}
        with torch.no_grad(), reduce_tokens(loaded.model, "semantic", **reducing, **options) as record:
            loaded.model(**inputs)
        return record.positions.tolist()

    star, circle = chosen("the star", words="topic", power=4.0), chosen("the circle", words="topic", power=4.0)
    assert star != circle
    assert star == chosen("What color is the star?", words="topic", power=4.0)
    whole = chosen("the star", power=4.0)
    assert chosen("the circle", power=4.0) == whole
    assert chosen("How many are there?", words="topic", power=4.0) == whole
    assert chosen("the zebra", words="topic", power=4.0) == whole


def test_topic_tokens_spell_a_whole_word_inside_the_instruction():
    embeddings = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    spelling = {"dog": [4, 5], " dog": [6, 7], "star": [8], " star": [9], "": [3]}

    def embed(texts):
        rows = [spelling.get(words[0], []) for words in texts]
        width = max(1, *map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        return embeddings[ids] * 2, torch.tensor([[n < len(row) for n in range(width)] for row in rows])

    def found(ids, questions, after=0):
        text = embeddings[torch.tensor(ids)] * (1 + 1e-4)
        mask = torch.ones(text.shape[:2], dtype=torch.bool)
        mask[:, :after] = False
        context = SimpleNamespace(questions=questions, inputs=(None, text), text_mask=mask, embed_words=embed)
        return topic_tokens(context).int().tolist()

    asked = ["Is there a dog?", "Which star?"]
    assert found([[4, 4, 5, 1, 6, 7, 5], [8, 4, 9, 8, 5, 1, 1]], asked) == [
        [0, 1, 1, 0, 1, 1, 0],
        [1, 0, 1, 1, 0, 0, 0],
    ]
    assert found([[4, 5, 1, 5, 4], [8, 1, 1, 8, 1]], asked, after=2) == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]]
    assert found([[4, 5, 8], [3, 5, 8]], ["dog and star", "star"]) == [[1, 1, 1], [0, 0, 1]]
    assert found([[4, 1], [0, 1]], ["dog", "star"]) == [[1, 1], [1, 1]]
    assert found([[1, 2, 4]], None) == [[1, 1, 1]]
    assert found([[0, 2, 4], [8, 8, 1]], ["What is it?", "star"]) == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What color is the star?", ["star"]),
        ("How many shapes are in the picture?", ["shapes"]),
        ("What shape is brown?", ["shape", "brown"]),
        ("What is farthest to the left?", []),
        ("Is there a Dog or a cat-flap near the door?", ["Dog", "cat", "flap", "door"]),
        ("What is it?", []),
        ("", []),
        ("What is this?\nAnswer the question using a single word or phrase.", []),
    ],
)
def test_topic_words_name_something(question, words):
    assert topic_words(question) == words


@pytest.mark.parametrize("relevance", ["attention", "embeddings"])
def test_a_row_does_not_depend_on_its_batch(tmp_path, relevance):
    loaded = load_family("llava")
    texts = ["what star?", "what color is the shape of all the stars and dogs?", "how is it the?"]
    questions = [
        Question(id=str(n), text=text, choices=("star", "dog"), answer=0, image=make_picture(seed=n))
        for n, text in enumerate(texts)
    ]
    options = {"relevance": relevance, "words": "topic", "power": 2.0}
    points = [GridPoint("semantic", 4, agg_layer=layer, method_options=options) for layer in (0, 2)]
    together, _ = evaluate_points(loaded, tmp_path / "3", questions, points, batch_size=3)
    alone, _ = evaluate_points(loaded, tmp_path / "1", questions[::-1], points, batch_size=1)
    assert_same_predictions(together, alone)


def test_no_token_is_chosen_twice_at_the_least_weight_allowed():
    tokens, attention, _ = scene()
    context = make_context(60, tokens=tokens, text=torch.ones(1, 2, 32), attention=attention)
    for floor, power in ((0.1, 4), (0.01, 2)):
        chosen = make_method("semantic", power=power, floor=floor).select(context).indices[0].tolist()
        assert len(set(chosen)) == 60


@torch.no_grad()
def test_without_power_as_many_tokens_cover_the_picture_as_with_fps():
    model = tiny_llava()
    inputs, found = llava_inputs(model, texts=(9, 6)), []
    for method, options in (("fps", {}), ("semantic", {"power": 0}), ("semantic", {})):
        with reduce_tokens(model, method, kept="auto", **options) as record:
            model(**inputs)
        found.append([row[row >= 0].tolist() for row in record.positions])
    assert found[1] == found[0]
    assert found[2] != found[0]


def test_attention_is_declared_where_it_is_used():
    assert METHODS["semantic"].uses_attention
    assert make_method("semantic").uses_attention
    assert not make_method("semantic", relevance="embeddings").uses_attention


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": -1}, "^power=-1: must be a number from 0$"),
        ({"power": float("nan")}, "^power=nan: must be a number from 0$"),
        ({"power": float("inf")}, "^power=inf: must be a number from 0$"),
        ({"power": 5}, r"^power=5: floor \*\* power is 1e-05; must be at least 0\.0001$"),
        ({"floor": 0}, "^floor=0: must be above 0 and at most 1$"),
        ({"floor": 1.5}, r"^floor=1\.5: must be above 0 and at most 1$"),
        ({"relevance": "clip"}, "^relevance='clip': choose from attention, embeddings$"),
        ({"words": "last"}, "^words='last': choose from instruction, topic$"),
        ({"start": "middle"}, "^start='middle'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(TokenselError, match=message):
        make_method("semantic", **options)
