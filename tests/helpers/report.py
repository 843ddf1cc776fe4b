"""Folders of results as a sweep leaves them, written without running one, and a reader of reports."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from tokensel.data import Question, load_questions
from tokensel.evaluation.digests import ids_digest, questions_digest
from tokensel.evaluation.store import PointStore, point_key
from tokensel.evaluation.summary import summarize

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quotes\" & 'apostrophes' `ticks` {{title}}",
    "שלום עולם \u202eמימין",
    "emoji 🧪🔬 \u2028 line",
)
COMMAND = "python -m runners.sweep kept=4,9 method=fps --multirun"


class Page(HTMLParser):
    """What a browser would make of a page, as far as these tests look."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.policy = ""
        self.contents: dict[str, list[str]] = {"script": [], "style": []}
        self.rows: list[dict] = []
        self.columns: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(name)
        self.attributes += [(name, key, value) for key, value in attrs]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        if name == "table" and given.get("class") == "points":
            self.columns = []
        if name == "th" and "data-name" in given:
            self.columns.append(given["data-name"] or "")
        if name == "tr" and "data-key" in given:
            self.rows.append(
                {"key": given["data-key"], "status": given["data-status"], "values": [], "of": self.columns}
            )
        elif name in ("td", "th") and "data-value" in given and self.rows:
            self.rows[-1]["values"].append(given["data-value"])
        if name not in ("meta", "img", "br"):
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        while self._open and self._open.pop() != name:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.contents:
            self.contents[self._open[-1]].append(data)
        else:
            self.words.append(data)

    @property
    def data(self) -> dict:
        return json.loads(self.contents["script"][0])

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def table(self) -> dict[str, dict[str, str]]:
        return {row["key"]: dict(zip(row["of"], row["values"], strict=True)) for row in self.rows}


def write_questions(folder: Path, count: int, pictures: int = 8, texts: tuple[str, ...] = ("Which is it",)) -> dict:
    """A question file with pictures beside it; returns the settings `data` that a sweep stores for it."""
    images = folder / "images"
    images.mkdir(parents=True)
    names = [f"p{place} {HOSTILE[place % len(HOSTILE)].replace('/', '_')}.png" for place in range(pictures)]
    for place, name in enumerate(names):
        Image.new("RGB", (60, 40 + 10 * place), (20 * place, 90, 200 - 20 * place)).save(images / name)
    entries = []
    for place in range(count):
        text = f"{texts[place % len(texts)]}, number {place}?"
        entries.append(
            {
                "id": f"q{place:05d}",
                "image": names[place % pictures],
                "conversations": [
                    {"from": "human", "value": f"<image>\n{text}\nA. {texts[place % len(texts)]}\nB. no\nC. neither"},
                    {"from": "gpt", "value": "ABC"[place % 3]},
                ],
            }
        )
    path = folder / "questions.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    options = {"path": str(path), "image_folder": str(images)}
    return {
        "name": "question_file",
        "options": options,
        "digest": questions_digest(load_questions("question_file", **options)),
    }


def write_point(
    folder: Path,
    data: dict[str, Any],
    asked: list[Question],
    method: str,
    kept: int | None,
    accuracy: float,
    *,
    metrics: bool = True,
    error: str | None = None,
    positions: int = 4,
    protocol: dict[str, Any] | None = None,
    device: str = "cpu (x86_64)",
    agg_layer: int | None = 2,
    seed: int | None = None,
) -> dict[str, Any]:
    """One point's folder, with random answers of about this accuracy. Returns its metrics."""
    passes = method in ("full",)
    told = {"prompt": "llava", "conv": "model", "image_aspect": "pad", "reading": None} | (protocol or {})
    settings: dict[str, Any] = {
        "model": {"path": "tiny", "revision": "r0", "dtype": "float32"},
        "data": data,
        "scoring": "letter",
        "protocol": told,
        "method": method,
        "method_options": {},
        "kept": kept,
        "agg_layer": None if passes else agg_layer,
        "temperature": 0.1 if method == "fps" else None,
        "layout": None if passes else "compact",
        "seed": seed,
    }
    key = point_key(settings)
    # Not by the key, which changes with where the data lies.
    rng = random.Random(f"{method} {kept} {agg_layer} {told}" + ("" if seed is None else f" {seed}"))
    rows = []
    for place, question in enumerate(asked):
        count = len(question.choices)
        right = rng.random() < accuracy
        wrong = (question.answer + rng.randrange(1, count)) % count
        prediction = question.answer if right else wrong
        row = {
            "id": question.id,
            "answer": question.answer,
            "correct": right,
            "skipped": False,
            "prediction": prediction,
        }
        row["margin"] = round(rng.random(), 6)
        if place < positions and kept is not None:
            row["positions"] = sorted(rng.sample(range(36), kept))
        rows.append(row)
    store = PointStore(folder / key)
    store.write_config(settings)
    store.append(rows)
    figures: dict[str, Any] = {}
    if metrics:
        low = 40 + rng.random() * 30
        times = {"p25": low, "p50": low + 3, "p75": low + 8}
        figures = {"key": key, **settings, **summarize(rows), "questions": ids_digest(asked)}
        figures |= dict.fromkeys(("select_ms", "vision_ms", "prefill_ms", "decode_ms", "total_ms"), times)
        figures |= {
            "speedup": 1.7,
            "speedup_total": 1.4,
            "flops": 10**9 + (kept or 36),
            "kv_bytes": 10**6 + 512 * (kept or 36),
        }
        figures |= {
            "flops_ratio": 0.3 + 0.7 * (36 if kept is None else kept) / 36,
            "tokens_layer_mean": float(kept or 36),
        }
        figures["provenance"] = {
            "versions": {"python": "3.11.0", "torch": "2.13.0"},
            "device": device,
            "threads": 2,
            "command": COMMAND,
            "protocol": {"scoring": "letter", **told, "batch_size": 8, "visual_tokens": 36, "text_tokens": 20}
            | {"latency": {"repeats": 3, "warmup": 1, "decode_tokens": 4}},
        }
        store.write_metrics(figures)
    if error is not None:
        (folder / key / "error.json").write_text(json.dumps({"error": error}), encoding="utf-8")
    store.close()
    return figures


def write_sweep(root: Path) -> Path:
    """Two protocols, a failed point, an unfinished one, and texts that want to be markup; with results.parquet."""
    data = write_questions(root / "data", 50, texts=HOSTILE)
    asked = load_questions("question_file", **data["options"])
    out = root / "sweep <i>&amp;"
    points = [write_point(out, data, asked, "full", None, 0.95)]
    for kept in (4, 9):
        for method, accuracy in (("fps", 0.9), ("fastv", 0.4), ("random", 0.5)):
            points.append(write_point(out, data, asked, method, kept, accuracy))
    points.append(write_point(out, data, asked, "no_image", 0, 0.3))
    write_point(out, data, asked, "tome", 4, 0.5, metrics=False, error="RuntimeError: <u>no</u> memory")
    write_point(out, data, asked[:7], "tome", 9, 0.5, metrics=False)
    for method, kept, accuracy in (("full", None, 0.2), ("fps", 4, 0.8)):
        points.append(write_point(out, data, asked, method, kept, accuracy, protocol={"conv": "vicuna_v1"}))
    pd.DataFrame([_flat(point) for point in points]).to_parquet(out / "results.parquet")
    return out


def _flat(metrics: dict[str, Any]) -> dict[str, Any]:
    """A row of results.parquet: nested times as name_quartile, other nested figures left out."""
    flat: dict[str, Any] = {"chance": 1 / 3, "error": ""}
    for name, value in metrics.items():
        if name.endswith("_ms"):
            flat |= {f"{name}_{quartile}": time for quartile, time in value.items()}
        elif not isinstance(value, dict):
            flat[name] = value
    return flat
