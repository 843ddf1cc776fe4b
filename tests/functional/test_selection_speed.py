"""The functional core against the original's formulae written out: equal results, and several times faster.

The bounds are a fraction of what one thread measures, to allow for a busy machine. The measurements are printed by
`python -m runners.benchmark.literal`.
"""

import json
import time

import pytest
import torch

from runners.benchmark import literal as bench_literal

BOUNDS = {"fps": 2.0, "tome": 4.0, "cross_attention": 0.4}


@pytest.fixture(scope="module")
def figures():
    tokens = torch.randn(576, 1024, generator=torch.Generator().manual_seed(0))
    return bench_literal.compare(tokens, 8, repeats=9, clock=time.thread_time)


@pytest.mark.parametrize("function", BOUNDS)
def test_selection_stays_faster_than_the_formulae_written_out(figures, function):
    assert figures[function]["same"]
    assert figures[function]["ratio"] > BOUNDS[function]


def test_the_bench_prints_a_card_and_one_line_of_json(capsys):
    arguments = ["--tokens", "20", "--hidden", "8", "--kept", "2,5", "--repeats", "1"]
    assert bench_literal.main(arguments) == 0
    *card, last = capsys.readouterr().out.splitlines()
    seen = json.loads(last)
    assert set(seen["kept"]) == {"2", "5"}
    assert all(row["same"] for functions in seen["kept"].values() for row in functions.values())
    assert sum("tome" in line for line in card) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kept", "8,x"], "kept=8,x: must be whole numbers"),
        (["--kept", "576"], "from 1 to 575"),
        (["--repeats", "0"], "repeats=0: must be at least 1"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(capsys, arguments, message):
    assert bench_literal.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
