"""Loads a checkpoint, by name or folder, as a model with its processor, its prompts and its answer tokens.

    from tokensel.models import load_model
    loaded = load_model("tiny")                              # embedded; or a folder, or a hub id
    inputs = loaded.prepare(questions)
    logits = loaded.model(**inputs).logits[:, -1]
    logits[:, loaded.letter_ids(4)].argmax(-1)

May import data, functional and errors. Imported by methods and every package above it.
"""

from tokensel.models.loaded import LoadedModel
from tokensel.models.loading import EMBEDDED, checkpoint_revision, load_model

__all__ = ["EMBEDDED", "LoadedModel", "checkpoint_revision", "load_model"]
