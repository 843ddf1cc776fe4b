"""Trains the embedded LLaVA from nothing: first its vision tower, then projector and decoder on frozen features.

Both stages are pure functions of (seed, step), keep a checkpoint as they go and continue from it.
"""

from __future__ import annotations

import random
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from tokensel.data import LETTERS
from tokensel.data.easy_vqa import load_easy_vqa
from tokensel.models.embedded import build_config, build_model, build_processor, build_tokenizer
from tokensel.training.lessons import (
    IGNORED,
    N_VISUAL,
    EasyLessons,
    Picture,
    Taught,
    Teacher,
    assemble,
    corpus,
    lesson_loss,
)
from tokensel.training.muon import Muon
from tokensel.training.vision_lessons import EasyPicture, VisionLesson, label_easy_vqa, to_pixels, vision_batch

#: What two kinds of lessons, taken in turn, show. In a scene one looks for an object among few; in a diagram one weighs
#: many small marks, which is only found while little else is shown.
LESSONS = (
    {"scene": 0.85, "easy_vqa": 0.15},
    {"attract": 0.25, "force": 0.1, "concentration": 0.25, "energy": 0.12, "membrane": 0.28},
)
#: Questions about one picture: many where they are distinct; where all ask the same in other words, fewer.
QUESTIONS = (4, 2)
#: How often a picture comes back, with other questions and other patches shown.
MEETINGS = 4
Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Plan:
    """How long and how large; `steps` and `vision_steps` are optimizer steps, `batch` pictures a step.

    compiled: the decoder through torch.compile, which takes two minutes once and then a third off every step on a CPU.
    """

    seed: int = 0
    vision_steps: int = 900
    vision_batch: int = 16
    steps: int = 1650
    batch: int = 32
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    save_every: int = 50
    compiled: bool = False


def make_student(seed: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The untrained model and its processor."""
    texts, hints = corpus()
    texts += sorted({q.text + "".join(f" {c}" for c in q.choices) for q in load_easy_vqa("train")})
    tokenizer = build_tokenizer(texts, [f"\nContext: {hint}" for hint in hints])
    return build_model(build_config(tokenizer), seed), build_processor(tokenizer)


def _optimizers(module: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices, AdamW on everything else (embeddings, norms, biases, heads)."""
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    hidden = [
        p for n, p in trained if p.ndim == 2 and not any(w in n for w in ("embed", "lm_head", "heads.", "summary"))
    ]
    ids = {id(p) for p in hidden}
    rest = [p for _, p in trained if id(p) not in ids]
    return [
        Muon(hidden, plan.muon_lr),
        torch.optim.AdamW(rest, plan.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_rate(optimizers: list[torch.optim.Optimizer], plan: Plan, share: float) -> None:
    for optimizer, rate in zip(optimizers, (plan.muon_lr, plan.adam_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share


class _Checkpoint:
    """Module and optimizers after some step, in one file that is replaced whole."""

    def __init__(self, path: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer]):
        self.path, self.module, self.optimizers = path, module, optimizers

    def load(self) -> int:
        """The number of steps already done."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        self.module.load_state_dict(state["module"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])

    def save(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        optimizers = [o.state_dict() for o in self.optimizers]
        torch.save({"step": step, "module": self.module.state_dict(), "optimizers": optimizers}, partial)
        partial.replace(self.path)


def easy_pictures() -> dict[str, EasyPicture]:
    """Training pictures of easy-VQA whose training questions tell both shape and colour."""
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for q in load_easy_vqa("train"):
        known[q.image_id]["path"] = str(q.image)
        if q.family in ("shape", "color"):
            known[q.image_id][q.family] = q.choices[q.answer]
    return {name: EasyPicture(**facts) for name, facts in sorted(known.items()) if len(facts) == 3}


def train_vision(model: LlavaForConditionalGeneration, plan: Plan, folder: Path, device: str, report: Report) -> None:
    """Teaches the tower in place with dense labels; see tiny_vision."""
    lesson = VisionLesson(model.model.vision_tower, model.config.vision_config.hidden_size).to(device)
    optimizers = _optimizers(lesson, plan)
    checkpoint = _Checkpoint(folder / "vision.pt", lesson, optimizers)
    easy = list(easy_pictures().values())
    for step in range(checkpoint.load(), plan.vision_steps):
        left = (plan.vision_steps - step) / plan.vision_steps
        # Shapes are told apart only at low rates; everything else is learned at once at a high one.
        _set_rate(optimizers, plan, min((step + 1) / 30, 1 if left > 0.88 else 0.4 * left**1.2))
        pixels, labels = vision_batch(step, plan.vision_batch, easy)
        loss, right = lesson(pixels.to(device), {k: v.to(device) for k, v in labels.items()})
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, {"loss": loss.item(), **right})
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.vision_steps:
            checkpoint.save(step + 1)


@dataclass(frozen=True)
class _Seen:
    features: Tensor  # [576, D_vision] float16, as the projector will get them
    salient: Tensor  # [576] bool: something is drawn there
    center: Tensor  # [576] bool: the middle of an object


class _Gallery:
    """Features of training pictures by the frozen tower, the latest ones kept."""

    def __init__(self, model: LlavaForConditionalGeneration, easy: EasyLessons, device: str, keep: int = 20_000):
        self.model, self.easy, self.device, self.keep = model, easy, device, keep
        self.labelled = easy_pictures()
        self.cache: OrderedDict[Picture, _Seen] = OrderedDict()

    def _look(self, name: Picture) -> tuple[Tensor, Tensor, Tensor]:
        if name.family == "easy_vqa":
            picture = self.easy.picture(name.index)
            facts = self.labelled[self.easy.names[name.index]]
            labels = label_easy_vqa(picture, facts.shape, facts.color)
        else:
            canvas = name.diagram().canvas
            picture, labels = canvas.picture(), canvas.labels()
        salient, center = (
            torch.from_numpy(labels.kind).flatten() > 0,
            torch.from_numpy(labels.center).flatten() > 0,
        )
        return to_pixels(picture), salient, center

    @torch.no_grad()
    def show(self, names: list[Picture]) -> list[_Seen]:
        missing = [n for n in dict.fromkeys(names) if n not in self.cache]
        for group in (missing[k : k + 16] for k in range(0, len(missing), 16)):
            looked = [self._look(n) for n in group]
            pixels = torch.stack([p for p, _, _ in looked]).to(self.device)
            states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            features = states[self.model.config.vision_feature_layer][:, 1:].half().cpu()
            for name, feature, (_, salient, center) in zip(group, features, looked, strict=True):
                self.cache[name] = _Seen(feature, salient, center)
        shown = [self.cache[n] for n in names]
        while len(self.cache) > self.keep:
            self.cache.popitem(last=False)
        return shown


def _glance(seen: _Seen, count: int, generator: torch.Generator) -> Tensor:
    """Which `count` patches a lesson shows, rising: object centres, most of what is drawn, some ground. -> [count]"""
    if count >= N_VISUAL:
        return torch.arange(N_VISUAL)
    score = torch.rand(N_VISUAL, generator=generator)
    drawn = (seen.salient & ~seen.center).nonzero().flatten()
    most = int(0.8 * count)
    kept = drawn[torch.randperm(len(drawn), generator=generator)[:most]]
    score[kept] += 2
    score[seen.center] += 4
    return score.topk(count).indices.sort().values


@dataclass(frozen=True)
class _Lesson:
    """What a step shows and asks. shapes: the most in a scene; pictures: how many; styles: shares of ways of asking."""

    families: dict[str, float]
    shapes: int
    tokens: int
    pictures: int
    questions: int
    styles: dict[str, float]


def _curriculum(step: int, plan: Plan) -> _Lesson:
    done, kind = step / plan.steps, step % 2
    tokens = (64, 24 if done < 0.65 else 48)[kind] if done < 0.8 else 128 if done < 0.92 else N_VISUAL
    told, open_ = 0.25 if done < 0.3 else 0.05, 0.3 if done < 0.5 else 0.1
    return _Lesson(
        families=LESSONS[kind],
        shapes=1 if done < 0.05 else 2 if done < 0.15 else 3 if done < 0.25 else 4,
        tokens=tokens,
        pictures=max(1, int(plan.batch * (0.25 if tokens == N_VISUAL else (1, 1.5)[kind]))),
        questions=QUESTIONS[kind],
        styles={"told": told, "open": open_, "choice": 1 - told - open_},
    )


def lesson_names(step: int, plan: Plan, labelled: list[int]) -> Iterator[Picture]:
    """The pictures of a step, from a pool that grows so that each is met about MEETINGS times."""
    rng = random.Random(f"lesson/{plan.seed}/{step}")
    lesson = _curriculum(step, plan)
    for _ in range(lesson.pictures):
        family = rng.choices(list(lesson.families), list(lesson.families.values()))[0]
        if family == "easy_vqa":
            yield Picture(family, rng.choice(labelled), 1)
            continue
        pool = 200 + int(step * lesson.pictures * lesson.families[family] / 2 / MEETINGS)
        # Smaller scenes than the present size stay in, at a lower share.
        shapes = lesson.shapes if rng.random() < 0.5 else rng.randint(1, lesson.shapes)
        yield Picture(family, rng.randrange(pool), shapes if family == "scene" else 0)


def train_language(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    folder: Path,
    device: str,
    report: Report,
) -> None:
    """Teaches projector and decoder in place on the frozen tower's features; see tiny_lessons."""
    model.to(device)
    model.model.vision_tower.requires_grad_(False).eval()
    student = nn.ModuleDict({"projector": model.model.multi_modal_projector, "decoder": model.model.language_model})
    optimizers = _optimizers(student, plan)
    checkpoint = _Checkpoint(folder / "language.pt", student, optimizers)
    easy = EasyLessons(load_easy_vqa("train"))
    gallery = _Gallery(model, easy, device)
    labelled = [k for k, name in enumerate(easy.names) if name in gallery.labelled]
    teacher = Teacher(tokenizer)
    decoder = model.model.language_model
    if plan.compiled:
        decoder = torch.compile(decoder, dynamic=True)  # type: ignore[assignment]
    for step in range(checkpoint.load(), plan.steps):
        _set_rate(optimizers, plan, min(1, (step + 1) / 20, (plan.steps - step) / (0.65 * plan.steps)))
        rng = random.Random(f"asked/{plan.seed}/{step}")
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        lesson = _curriculum(step, plan)
        names = list(lesson_names(step, plan, labelled))
        seen = gallery.show(names)
        patches = torch.stack([_glance(s, lesson.tokens, generator) for s in seen])
        features = torch.stack([s.features[p] for s, p in zip(seen, patches, strict=True)]).float().to(device)
        taught: list[list[Taught]] = []
        asked: list[tuple[str, str]] = []  # family and style of each question, in order
        for name in names:
            count = lesson.questions
            items = easy.items(name.index, rng, count) if name.family == "easy_vqa" else name.diagram(inked=False).items
            if name.family == "scene":
                rng.shuffle(items)
            row = []
            for item in items[:count]:
                style = rng.choices(list(lesson.styles), list(lesson.styles.values()))[0]
                row.append(teacher.teach(item, style, rng))
                asked.append((_family_of(name, item), style))
            taught.append(row)
        projected = model.model.multi_modal_projector(features)
        batch = assemble(teacher, taught, projected, patches, model.get_input_embeddings())
        hidden = decoder(
            inputs_embeds=batch["inputs_embeds"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state
        loss, right = lesson_loss(hidden, model.lm_head, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, {"loss": loss.item(), **_marks(right, taught, asked, batch["targets"])})
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            checkpoint.save(step + 1)


def _family_of(name: Picture, item) -> str:
    if name.family != "scene":
        return name.family
    if item.short.isdigit():
        return "count"
    return "place" if "at the" in item.text or "farthest" in item.text else "shape" if "shape" in item.text else "color"


def _marks(
    right: Tensor, taught: list[list[Taught]], asked: list[tuple[str, str]], targets: Tensor
) -> dict[str, float]:
    """Share right, by kind of target and (for letters) by family."""
    flags = iter(right.tolist())
    marks: dict[str, list[bool]] = defaultdict(list)
    question = iter(asked)
    for row in taught:
        for t in row:
            family, style = next(question)
            for target, kind in zip(t.targets, t.kinds, strict=True):
                if target != IGNORED:
                    flag = next(flags)
                    told = style == "told"
                    marks[f"{kind}/told" if told else kind].append(flag)
                    if kind in ("letter", "open", "word") and not told:
                        marks[f"{family}.{'letter' if kind == 'letter' else 'word'}"].append(flag)
    return {key: sum(values) / len(values) for key, values in marks.items()}


def save_student(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Writes a checkpoint like any other: float16 safetensors, config, tokenizer, processor."""
    folder.mkdir(parents=True, exist_ok=True)
    # Its lessons end with the answer's letter, so that is where it stops writing.
    letters = [processor.tokenizer(f" ASSISTANT: {letter}")["input_ids"][-1] for letter in LETTERS[:5]]
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *letters]
    model.to("cpu").half().save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
