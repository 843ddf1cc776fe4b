"""What the files of a grid point must look like for those that read them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# What a column of 64-bit integers can hold.
_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Share = Annotated[float, Field(lt=1)]


class StoredFields(BaseModel):
    """The fields of metrics.json and config.yaml that readers compute with, each of which an old file may lack."""

    model_config = ConfigDict(extra="allow", strict=True)

    kept: _Whole | _Share | str | list[Any] | None = None
    agg_layer: _Whole | list[Any] | None = None
    seed: _Whole | None = None
    n: _Whole | None = None
    correct: _Whole | None = None
    skipped: _Whole | None = None
    accuracy: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    questions: str | None = None
    method: str | None = None
    model: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    protocol: dict[str, Any] | None = None
    method_options: dict[str, Any] | None = None
    budgets: list[str] | None = None
    provenance: dict[str, Any] | None = None


def check_prediction(record: Any) -> None:
    """Raises ValueError, KeyError or TypeError unless a line of predictions.jsonl is one."""
    right = isinstance(record["id"], str)
    if "answer" in record or "prediction" in record:
        prediction, margin = record.get("prediction"), record.get("margin")
        right &= isinstance(record["correct"], bool) and isinstance(record.get("skipped", False), bool)
        right &= prediction is None or (isinstance(prediction, int | str) and not isinstance(prediction, bool))
        right &= margin is None or isinstance(margin, int | float)
    if not right:
        raise ValueError(record)
