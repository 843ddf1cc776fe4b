"""A frame of the lines of a sweep's final table."""

from collections.abc import Sequence

import pandas as pd

from tokensel.evaluation.sweep.results import TableRow, as_record


def as_frame(results: Sequence[TableRow]) -> pd.DataFrame:
    """One row per grid point, one column per setting and figure, ready for parquet."""
    frame = pd.DataFrame([as_record(result, results) for result in results])
    for column in frame.columns:
        # Options such as fps's start mix words and numbers, which parquet has no type for.
        if frame[column].map(type).nunique() > 1 and frame[column].map(lambda value: isinstance(value, str)).any():
            frame[column] = frame[column].map(lambda value: None if pd.isna(value) else str(value))
    return frame
