"""What one start of the sweep works on: each group's questions, each grid point's folder and key."""

import json
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

from tokensel.evaluation.sweep.plan import Group, Row
from runners.terminal.table import Result
from tokensel.data import Question, draw_order, load_questions
from tokensel.data.yes_no import yes_no_figures
from tokensel.errors import TokenselError
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.keys import code_digest, ids_digest, questions_digest
from tokensel.evaluation.store import PointStore, point_key
from tokensel.evaluation.summary import summarize
from tokensel.models.families import family_of
from tokensel.models.loading import checkpoint_config, checkpoint_revision

_ERROR = "error.json"


@dataclass
class PointWork:
    """A grid point with its folder. settings: what its key is the hash of, and where that came from. asked:
    the questions it has to answer. metrics: the stored figures, if any. error: why it failed in this start, or ""."""

    point: GridPoint
    key: str
    store: PointStore
    settings: dict[str, Any]
    asked: list[Question]
    metrics: dict[str, Any] | None
    error: str = ""

    @property
    def missing(self) -> int:
        """How many predictions are missing."""
        # Not by done_ids, which would make the folder and lock it.
        done = {row["id"] for row in self.store.predictions()}
        return sum(question.id not in done for question in self.asked)

    def rows(self, questions: list[Question]) -> list[dict[str, Any]]:
        """The stored predictions of these questions."""
        ids = {question.id for question in questions}
        return [row for row in self.store.predictions() if row["id"] in ids]

    def figures(self, questions: list[Question]) -> dict[str, Any]:
        """`summarize` of the stored predictions of these questions, and under yes_no what MME and POPE make of them."""
        rows = self.rows(questions)
        told = yes_no_figures(rows, questions)
        return summarize(rows) | ({"yes_no": told} if told else {})

    def has_figures(self, latency: dict[str, Any]) -> bool:
        """Whether metrics.json is complete: of the wanted questions, timed as wanted, and no failure came after."""
        if self.metrics is None or self.metrics["questions"] != ids_digest(self.asked) or self._error_file.exists():
            return False
        return not self.needs_timing(latency)

    def needs_timing(self, latency: dict[str, Any]) -> bool:
        """Whether the stored times are missing, or were taken otherwise. repeats 0 leaves them as they
        are."""
        if latency["repeats"] == 0:
            return False
        return self.metrics is None or self.metrics["provenance"]["protocol"]["latency"] != latency

    def finish(self, metrics: dict[str, Any]) -> None:
        """Stores the figures; what an earlier start failed with is gone."""
        self._error_file.unlink(missing_ok=True)
        self.store.write_metrics(metrics)
        self.metrics = metrics

    def fail(self, error: str) -> None:
        """Notes why the point failed, also in its folder: {"error": one line}."""
        self.error = error
        partial = self._error_file.with_name(f".{_ERROR}.partial")
        partial.write_text(json.dumps({"error": error}, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, self._error_file)

    @property
    def _error_file(self) -> Path:
        return self.store.folder / _ERROR


@dataclass
class GroupWork:
    """A group made ready. questions: all of the data set, in `draw_order`; points: by key; rows:
    each with its point's key."""

    group: Group
    questions: list[Question]
    points: dict[str, PointWork]
    rows: list[tuple[Row, str]]

    def asked(self, limit: int | None) -> list[Question]:
        """`load_questions`' own rule for a limit: a smaller one takes a part of a larger one."""
        return self.questions[:limit]

    def results(self) -> list[Result]:
        """The rows of the final table."""
        return [self._result(row, self.points[key]) for row, key in self.rows]

    def _result(self, row: Row, work: PointWork) -> Result:
        asked = self.asked(row.limit)
        rows = work.rows(asked)
        setting = {"model": str(self.group.model["path"]), "data": self.group.data["name"]}
        setting |= {"scoring": self.group.scoring, **self.group.protocol_settings, "limit": row.limit}
        point = row.point.settings()
        options = {f"method.{name}": value for name, value in point.pop("method_options").items()}
        told = ("key", "code", "protocol", "questions", *setting, *point)
        metrics = {name: value for name, value in (work.metrics or {}).items() if name not in told}
        return Result(
            key=work.key,
            setting=setting | point | options,
            # The stored figures are those of the largest question set.
            metrics=metrics | work.figures(asked),
            correct={line["id"]: bool(line["correct"]) for line in rows if not line.get("skipped")},
            chance=mean(1 / len(question.choices) for question in asked),
            error=work.error,
        )


def prepare(group: Group, folder: Path, on_bad_sample: str) -> GroupWork:
    """Finds a group's checkpoint, questions and stores; loads no model.

    Raises TokenselError for what the checkpoint's files, the data set and the stores can tell.
    """
    model, data = group.model, group.data
    path = str(model["path"])
    revision = checkpoint_revision(path)
    _check_against_config(group)
    options = {key: value for key, value in data.items() if key != "name"}
    questions = _questions(data["name"], json.dumps(options, sort_keys=True))
    shared = {
        "model": {
            "revision": revision or f"{path}@{model['revision']}",
            "dtype": model["dtype"],
            "attn_implementation": model["attn_implementation"],
            "quantization": model.get("quantization"),
            "vision_tower": model.get("vision_tower"),
        },
        "data": {"name": data["name"], "options": options, "digest": questions_digest(questions)},
        "scoring": group.scoring,
        "protocol": group.protocol_settings,
    }
    work = GroupWork(group, questions, {}, [])
    for row in group.rows:
        settings = shared | row.point.settings() | {"code": code_digest(row.point.method)}
        key = point_key(settings)
        work.rows.append((row, key))
        asked = work.asked(row.limit)
        known = work.points.get(key)
        if known is None:
            store = PointStore(folder / key)
            settings["model"] = settings["model"] | {"path": path}
            work.points[key] = PointWork(row.point, key, store, settings, asked, store.metrics())
        elif len(asked) > len(known.asked):
            known.asked = asked
    if on_bad_sample == "error":
        _refuse_skipped(work)
    return work


@lru_cache(maxsize=4)  # jobs that a launcher starts one by one in this process share it
def _questions(name: str, options: str) -> list[Question]:
    """All questions of a data set in `draw_order`, so that a limit takes the first ones."""
    return sorted(load_questions(name, **json.loads(options)), key=draw_order)


def _check_against_config(group: Group) -> None:
    """agg_layer must be in range; kept above the number of visual tokens is said once."""
    model = group.model
    config = checkpoint_config(str(model["path"]), model["revision"], model["trust_remote_code"])
    if config is None:
        return
    layers = getattr(config, "text_config", config).num_hidden_layers
    for row in group.rows:
        row.point.stages(layers)
    vision = getattr(config, "vision_config", None)
    if vision is None or not family_of(config).fixed_size:
        return
    count = (vision.image_size // vision.patch_size) ** 2
    above = sorted({kept for row in group.rows if (kept := row.point.final_kept) is not None and kept > count})
    if above:
        listed = ",".join(map(str, above))
        print(f"note: kept={listed}: a picture has {count} visual tokens; none is removed", file=sys.stderr)


def _refuse_skipped(work: GroupWork) -> None:
    for point in work.points.values():
        for row in point.rows(point.asked):
            if row.get("skipped"):
                raise TokenselError(
                    f"on_bad_sample=error: {row.get('error') or row['id']}; skipped by an earlier start in "
                    f"{point.store.folder}: use on_bad_sample=skip, or delete that folder once it is repaired"
                )
