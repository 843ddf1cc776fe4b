"""Published figures, to be shown next to measured results but never mixed with them."""

from pathlib import Path

import pandas as pd

_TYPES = {"kept": "Int64", "n": "Int64", "correct": "Int64", "accuracy": "Float64", "latency_s": "Float64"}


def published() -> pd.DataFrame:
    """Loads one row per published figure.

    Columns: method (its name in this project; full is the unreduced model), kept (visual tokens; 0 means that all were
    removed), accuracy (share), n and correct (where the source states them), model, data, latency_s (seconds per
    question), setting, source, note. The sources differ in prompts, scoring and how they count kept tokens: read
    setting and note before comparing.
    """
    frame = pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False, na_values=[""])
    text = [name for name in frame.columns if name not in _TYPES]
    frame = frame.astype(_TYPES | dict.fromkeys(text, "string"))
    return frame.fillna({"setting": "", "note": ""})
