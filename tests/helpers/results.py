"""Folders as a sweep leaves them, made without a model: for tests of what reads them."""

import hashlib
import json
from pathlib import Path

from tokensel.evaluation.store import PointStore
from tokensel.evaluation.summary import summarize

PROTOCOL = {"prompt": "llava", "conv": "model", "image_aspect": "pad", "reading": None}


def make_point(
    sweep: Path,
    method: str,
    kept: int | str | None,
    correct: dict[str, bool] | None,
    *,
    predicted: dict[str, bool] | None = None,
    error: str = "",
    figures: dict | None = None,
    **settings,
) -> str:
    """Writes one point's folder and returns its key.

    correct: by question id, what its figures are made of; None: it has none. predicted: what predictions.jsonl holds,
    if not the same. figures: in metrics.json, beside or in place of those made up here.
    """
    count = kept if isinstance(kept, int) else None
    whole = {
        "model": {"revision": "abc", "dtype": "float32", "path": "tiny"},
        "data": {"name": "diagrams", "options": {"split": "test"}, "digest": "d1"},
        "scoring": "letter",
        "protocol": PROTOCOL,
        "method": method,
        "method_options": {"start": "medoid"} if method == "fps" else {},
        "kept": kept,
        "agg_layer": None if kept is None else 2,
        "temperature": 0.1 if method == "fps" else None,
        "aggregation": None if kept is None else "none",
        "layout": None if kept is None else "compact",
        "position": None,
        "stages": None,
        "seed": 0 if method == "random" else None,
        "code": f"code-{method}",
    } | settings
    key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
    with PointStore(sweep / key) as store:
        store.write_config(whole)
        rows = [prediction(name, right) for name, right in (predicted or correct or {}).items()]
        store.append(rows)
        if correct is not None:
            figured = [row for row in rows if row["id"] in correct]
            digest = hashlib.sha256("\n".join(sorted(correct)).encode()).hexdigest()[:16]
            costs = {"prefill_ms": {"p25": 9.0, "p50": 10.0 + (count or 600) / 100, "p75": 20.0}, "speedup": 2.0}
            costs |= {"flops": 10**9, "flops_ratio": 0.2 + (count or 576) / 720, "kv_bytes": 2**20}
            told = {"versions": {"torch": "2"}, "device": "cpu", "threads": 1, "command": "python -m runners.sweep"}
            found = summarize(figured) | costs | {"questions": digest, "provenance": told} | (figures or {})
            store.write_metrics({"key": key, **whole, **found})
        if error:
            (sweep / key / "error.json").write_text(json.dumps({"error": error}))
    return key


def prediction(name: str, right: bool, answer: int = 1) -> dict:
    """A line of predictions.jsonl. A wrong answer is the choice after the right one."""
    row = {"id": name, "answer": answer, "correct": right, "skipped": False, "margin": 1.5}
    return row | {"prediction": answer if right else answer + 1, "positions": [0, 3] if name == "q0" else None}


def answers(pattern: str) -> dict[str, bool]:
    """answers("10") is {"q0": True, "q1": False}."""
    return {f"q{place}": mark == "1" for place, mark in enumerate(pattern)}
