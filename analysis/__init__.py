"""Sweep results as pandas frames."""

from pathlib import Path

import pandas as pd


def load_results(folder: str | Path) -> pd.DataFrame:
    """The results of one sweep, one row per grid point.

    folder    the sweep's folder, for example outputs/sweep, or its results.parquet
    """
    path = Path(folder)
    return pd.read_parquet(path / "results.parquet" if path.is_dir() else path)
