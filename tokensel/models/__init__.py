"""Models: a checkpoint's name or folder becomes a model, its processor, and the prompts it understands.

from tokensel.models import load_model
loaded = load_model("tiny")                              # embedded; or a folder, or a hub id
inputs = loaded.prepare(questions)
logits = loaded.model(**inputs).logits[:, -1]
logits[:, loaded.letter_ids(4)].argmax(-1)
"""

from tokensel.models.loaded import LoadedModel
from tokensel.models.loading import EMBEDDED, checkpoint_revision, load_model

__all__ = ["EMBEDDED", "LoadedModel", "checkpoint_revision", "load_model"]
