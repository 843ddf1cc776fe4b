"""Documents for tasks of lmms-eval that tests write, and what such a task stores of an answer."""

import io
import json

import datasets
import numpy as np
from PIL import Image


def rows(count=4):
    """Documents of which two neighbours show the same picture."""
    found = []
    for number in range(count):
        file = io.BytesIO()
        noise = np.random.default_rng(number // 2).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, "PNG")
        picture = {"bytes": file.getvalue(), "path": None}
        found.append({"image": picture, "question": f"What is {number}?", "answer": str(number), "box": [0, 0, 5, 5]})
    return found


def dataset(documents):
    found = datasets.Dataset.from_list(documents)
    return found.cast_column("image", datasets.Image())


def scores(question, said):
    share, kept = question.benchmark.score(question, said)
    return share, json.loads(json.dumps(kept))
