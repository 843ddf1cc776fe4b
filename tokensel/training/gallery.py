"""Training pictures as features of the frozen vision tower, and the choice of the patches that a step shows."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tokensel.data.easy_vqa import load_easy_vqa
from tokensel.training.lessons import N_VISUAL, EasyVQAQuestions, TrainingPicture
from tokensel.training.vision_lessons import EasyVQAPicture, label_easy_vqa, to_pixels


def labelled_easy_pictures() -> dict[str, EasyVQAPicture]:
    """The easy-VQA training pictures, by image_id, whose training questions state both shape and colour."""
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for question in load_easy_vqa("train"):
        known[question.image_id]["path"] = str(question.image)
        if question.family in ("shape", "color"):
            known[question.image_id][question.family] = question.choices[question.answer]
    return {name: EasyVQAPicture(**facts) for name, facts in sorted(known.items()) if len(facts) == 3}


@dataclass(frozen=True)
class PictureFeatures:
    """Per patch of one picture: the features, and what is drawn there."""

    features: Tensor  # [576, D_vision] float16, the projector's input
    salient: Tensor  # [576] bool: something is drawn there
    center: Tensor  # [576] bool: the middle of an object


class Gallery:
    """The frozen tower's features of training pictures; the `capacity` most recent ones are cached."""

    def __init__(
        self, model: LlavaForConditionalGeneration, easy: EasyVQAQuestions, device: str, capacity: int = 20_000
    ):
        self.model, self.easy, self.device, self.capacity = model, easy, device, capacity
        self.labelled = labelled_easy_pictures()
        self.cache: OrderedDict[TrainingPicture, PictureFeatures] = OrderedDict()

    @torch.no_grad()
    def features(self, pictures: list[TrainingPicture]) -> list[PictureFeatures]:
        """The features of each picture, in the order given."""
        missing = [picture for picture in dict.fromkeys(pictures) if picture not in self.cache]
        for group in (missing[k : k + 16] for k in range(0, len(missing), 16)):
            rendered = [self._render(picture) for picture in group]
            pixels = torch.stack([each for each, _, _ in rendered]).to(self.device)
            states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
            features = states[self.model.config.vision_feature_layer][:, 1:].half().cpu()
            for picture, feature, (_, salient, center) in zip(group, features, rendered, strict=True):
                self.cache[picture] = PictureFeatures(feature, salient, center)
        found = [self.cache[picture] for picture in pictures]
        while len(self.cache) > self.capacity:
            self.cache.popitem(last=False)
        return found

    def _render(self, picture: TrainingPicture) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [3, 336, 336], and the masks [576] of drawn patches and of object centres."""
        if picture.family == "easy_vqa":
            image = self.easy.picture(picture.index)
            facts = self.labelled[self.easy.image_ids[picture.index]]
            labels = label_easy_vqa(image, facts.shape, facts.color)
        else:
            canvas = picture.diagram().canvas
            image, labels = canvas.picture(), canvas.labels()
        salient = torch.from_numpy(labels.kind).flatten() > 0
        center = torch.from_numpy(labels.center).flatten() > 0
        return to_pixels(image), salient, center


def choose_patches(picture: PictureFeatures, count: int, generator: torch.Generator) -> Tensor:
    """The indices of the `count` patches to show, ascending: LongTensor[count].

    Object centres come first, then drawn patches (at most 0.8 * count), then others at random.
    """
    if count >= N_VISUAL:
        return torch.arange(N_VISUAL)
    score = torch.rand(N_VISUAL, generator=generator)
    drawn = (picture.salient & ~picture.center).nonzero().flatten()
    most = int(0.8 * count)
    preferred = drawn[torch.randperm(len(drawn), generator=generator)[:most]]
    score[preferred] += 2
    score[picture.center] += 4
    return score.topk(count).indices.sort().values
