"""What the training's command line refuses, before it loads or writes anything."""

import pytest

from runners import train_tiny


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--steps -1", "--steps=-1: must be an integer from 0 to 2147483647"),
        ("--batch 0", "--batch=0: must be an integer from 1 to 2147483647"),
        ("--seed 99999999999999999999", "--seed=99999999999999999999: must be an integer from 0 to 2147483647"),
        ("--evaluate --limit x", "--limit=x: must be an integer from 0 to 2147483647"),
        ("--evaluate --device tpu", "--device=tpu: unknown; choose one of cpu, cuda, cuda:<index>, auto"),
        ("--evaluate --path /none", "--path=/none: no such model"),
        ("--steps", "--steps: expected one argument"),
        ("--outt tiny", "unrecognized arguments: --outt tiny"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert train_tiny.main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []
