"""scripts/versions.sh with a stand-in for Python: which versions it installs, its table, its exit status."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Makes environments of itself. Its registry has version 99.1.0, which does not go with the project.
# Its pytest fails with transformers 5.18.
STAND_IN = f"""#!/usr/bin/env bash
place=$(dirname "$(dirname "$(dirname "$0")")")
case "$*" in
  *"-m venv "*) mkdir -p "${{@: -1}}/bin" && ln -s "$(realpath "$0")" "${{@: -1}}/bin/python" ;;
  *"pip index versions "*) echo "${{@: -1}} (99.1.0)" ;;
  *"pip install "*) echo "$@" && cat "$place/constraints.txt" && [[ $* != *"-e .[test] transformers==99."* ]] ;;
  *"-m pytest "*)
    echo "$@"
    failures=0
    [[ $place != *-5.18-* ]] || failures=2
    echo "<testsuites><testsuite tests='9' failures='$failures' errors='0' skipped='3' time='4.2'/></testsuites>" \\
      >"$place/pytest.xml"
    exit $((failures > 0)) ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    stand_in = tmp_path / "bin" / "python3"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    def run(*arguments):
        environment = os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
        command = [ROOT / "scripts" / "versions.sh", "--dir", tmp_path / "made", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


def pinned(package):
    return re.search(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)


def oldest(package):
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(re.match(r".*>=([\d.]+)", each).group(1) for each in requirements if each.startswith(f"{package}>="))


def table(result):
    return [line.split() for line in result.stdout.splitlines()[2:]]


def test_oldest_pinned_and_newest_are_tested_and_the_core_with_the_oldest_torch(run, tmp_path):
    result = run("--core", "--", "-k", "cached")
    assert result.returncode == 0, result.stderr
    of_torch, of_transformers = pinned("torch"), pinned("transformers")
    versions = [(oldest("transformers"), of_torch), (of_transformers, of_torch), ("99.1.0", of_torch)]
    versions += [(of_transformers, oldest("torch"))]
    assert [tuple(row[:2]) for row in table(result)] == versions
    assert [row[2:7] for row in table(result)] == [["all", "6", "0", "3", "4"]] * 3 + [["core", "6", "0", "3", "4"]]
    logs = [Path(row[7]) for row in table(result)]
    for (transformers, torch), log in zip(versions, logs, strict=True):
        installed = (log.parent / "install.log").read_text()
        assert f"transformers=={transformers}" in installed
        assert f"\ntorch=={torch}\n" in f"\n{installed}"
        assert ("\nnumpy==" in installed) == (transformers == of_transformers)
        assert log.read_text().endswith("-k cached\n")
        assert ("installed over one that does" in installed) == (transformers == "99.1.0")
        assert not (log.parent / "venv").exists()
    assert "tests/engine" in logs[3].read_text()
    assert "tests/engine" not in logs[2].read_text()


def test_results_are_tested_with_the_oldest_wandb_and_pandas_2(run):
    result = run("libraries=oldest")
    assert result.returncode == 0, result.stderr
    (row,) = table(result)
    assert row[:3] == [pinned("transformers"), pinned("torch"), "results"]
    log = Path(row[7])
    assert f"wandb=={oldest('wandb')} pandas<3" in (log.parent / "install.log").read_text()
    assert "tests/analysis tests/evaluation tests/runners" in log.read_text()


def test_a_version_that_fails_is_in_the_table_and_the_exit_status(run):
    result = run("5.18", "pinned")
    assert result.returncode == 1
    assert [row[3:6] for row in table(result)] == [["4", "2", "3"], ["6", "0", "3"]]


def test_kept_environments_are_used_again(run, tmp_path):
    log = Path(table(run("pinned", "--keep"))[0][7]).parent / "install.log"
    log.write_text("before")
    assert run("pinned").returncode == 0
    assert log.read_text() == "before"


@pytest.mark.parametrize("argument", ["latest", "--all", "torch"])
def test_an_unknown_argument_is_refused(run, argument):
    result = run(argument)
    assert result.returncode == 2
    assert result.stderr.startswith(f"versions.sh: {argument}: ")


def test_the_pinned_version_is_in_the_declared_range():
    def parts(version):
        return [int(part) for part in version.split(".")[:2]]

    text = (ROOT / "pyproject.toml").read_text()
    assert parts(oldest("transformers")) <= parts(pinned("transformers"))
    assert parts(pinned("transformers")) < parts(re.search(r'"transformers>=[\d.]+,<([\d.]+)"', text).group(1))
