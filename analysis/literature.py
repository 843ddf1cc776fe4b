"""Figures that others have published, to draw beside measured results: never in one column with them."""

from pathlib import Path

import pandas as pd

_TYPES = {"kept": "Int64", "n": "Int64", "correct": "Int64", "accuracy": "Float64", "latency_s": "Float64"}


def published() -> pd.DataFrame:
    """One row per published figure.

    Columns: method (by its name here; full: the model unreduced), kept (visual tokens; 0: all cut), accuracy (share),
    n and correct (where the source tells them), model, data, latency_s (seconds per question), setting, source, note.
    They come from different prompts, scorings and ways to count kept tokens: read setting and note before comparing.
    """
    frame = pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False, na_values=[""])
    text = [name for name in frame.columns if name not in _TYPES]
    frame = frame.astype(_TYPES | dict.fromkeys(text, "string"))
    return frame.fillna({"setting": "", "note": ""})
