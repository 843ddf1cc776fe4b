"""The script that measures large folders makes one that every reader accepts."""

import importlib.util
from argparse import Namespace
from pathlib import Path

from tokensel.evaluation.sweep.rows import folder_rows

SCRIPT = Path(__file__).parents[1] / "scripts" / "large_folder.py"


def test_the_folder_holds_the_points_and_predictions_that_were_asked_for(tmp_path):
    spec = importlib.util.spec_from_file_location("large_folder", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    args = Namespace(folder=tmp_path / "large", points=8, questions=20, batch=8)
    for step in (script.append, script.reopen, script.figures):
        step(args)
    rows = folder_rows(args.folder)
    assert [row.setting["method"] for row in rows] == ["full", "fastv", "fps", "random", "tome", "no_image"]
    assert sum(len(answers) for row in rows for answers in row.answers) == 8 * 20
    assert {row.metrics["n"] for row in rows} == {20}
