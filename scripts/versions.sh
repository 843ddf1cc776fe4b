#!/usr/bin/env bash
# Runs the tests with several versions of transformers, each in a virtual environment of its own, and prints a table.
#
#   scripts/versions.sh                      pyproject.toml's oldest, the pinned one, and the registry's newest
#   scripts/versions.sh oldest 5.20.2        these
#   scripts/versions.sh --core               the three, then the library's core with the oldest torch
#   scripts/versions.sh torch=2.14.1         the library's core with this torch (or torch=oldest, torch=newest)
#   scripts/versions.sh libraries=oldest     what reads and logs results, with the oldest wandb and with pandas 2
#   scripts/versions.sh newest -- -k cached  what follows -- goes to pytest
#
#   --dir DIR   where environments and logs go; default: a new temporary folder
#   --keep      keep the environments (1.3 GB each and more); the next run with the same --dir uses them again
#
# The pinned version is installed with all of constraints.txt, other versions of transformers with its torch alone, as
# users without our constraints get them. A newest version beyond pyproject.toml's range is tested all the same: so it
# is known whether the range can be raised. On Linux the registry's torch is a CUDA build of several GB; where there is
# a CPU build, name its folder in PIP_FIND_LINKS. Exit status: 0 if all tests passed, 1 if not, 2 for a wrong argument.
set -uo pipefail
cd "$(dirname "$0")/.."

core=(tests/functional tests/methods tests/engine tests/models)
results=(tests/analysis tests/evaluation tests/runners)

refuse() {
  echo "versions.sh: $1" >&2
  exit 2
}

rows=() with_core=false dir="" keep=false options=()
while [ $# -gt 0 ]; do
  case $1 in
    --core) with_core=true ;;
    --keep) keep=true ;;
    --dir) dir=${2:-} && [ -n "$dir" ] && shift || refuse "--dir: needs a folder" ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" && exit 0 ;;
    --) shift && options=("$@") && break ;;
    oldest | pinned | newest | [0-9]* | torch=oldest | torch=newest | torch=[0-9]* | libraries=oldest) rows+=("$1") ;;
    *) refuse "$1: unknown; allowed are oldest, pinned, newest, a version, torch=VERSION, libraries=oldest and the options of --help" ;;
  esac
  shift
done
[ ${#rows[@]} -gt 0 ] || rows=(oldest pinned newest)
! $with_core || rows+=(torch=oldest)

dir=${dir:-$(mktemp -d "${TMPDIR:-/tmp}/tokensel-versions.XXXXXX")}
mkdir -p "$dir" && dir=$(cd "$dir" && pwd) || exit 2

lower_bound() { sed -n "s/^ *\"$1>=\([0-9.]*\).*/\1/p" pyproject.toml; }
pinned() { sed -n "s/^$1==//p" constraints.txt; }
newest() { python3 -m pip index versions "$1" 2>/dev/null | sed -n "1s/.*(\(.*\)).*/\1/p"; }

# version PACKAGE WORD: the number that a word stands for.
version() {
  case $2 in
    oldest) lower_bound "$1" ;;
    pinned) pinned "$1" ;;
    newest) newest "$1" ;;
    *) echo "$2" ;;
  esac
}

# install PLACE TRANSFORMERS TORCH: a virtual environment with the project and its test extras.
install() {
  local place=$1 transformers=$2 torch=$3 pip="$1/venv/bin/python -m pip install --quiet"
  python3 -m venv --clear "$place/venv" || return
  if [ "$transformers" = "$(pinned transformers)" ]; then
    sed "s/^torch==.*/torch==$torch/" constraints.txt >"$place/constraints.txt"
  else
    echo "torch==$torch" >"$place/constraints.txt"
  fi
  if $pip -c "$place/constraints.txt" -e ".[test]" "transformers==$transformers"; then return; fi
  echo "transformers $transformers does not meet what the project or a package asks for: installed over one that does"
  $pip -c "$place/constraints.txt" -e ".[test]" && $pip "transformers==$transformers" "torch==$torch"
}

# count PLACE: "passed failed skipped seconds" of the last run of pytest.
count() {
  python3 - "$1/pytest.xml" <<'PYTHON'
import sys
from xml.etree import ElementTree

try:
    suite = ElementTree.parse(sys.argv[1]).getroot().find("testsuite")
except (OSError, ElementTree.ParseError):
    sys.exit("- - - -")
tests, failures, errors, skipped = (int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped"))
print(tests - failures - errors - skipped, failures + errors, skipped, round(float(suite.get("time"))))
PYTHON
}

row() { printf '%-12s  %-8s  %-6s  %6s  %6s  %7s  %6s  %s\n' "$@"; }

# check TRANSFORMERS TORCH PART PYTEST_ARGUMENT...: one row of the table; fails where a test does.
check() {
  local transformers=$1 torch=$2 part=$3 place="$dir/transformers-$1-torch-$2" status=0
  [ "$part" != results ] || place="$place-old-libraries"
  shift 3
  mkdir -p "$place"
  if [ ! -f "$place/installed" ]; then
    if ! install "$place" "$transformers" "$torch" >"$place/install.log" 2>&1; then
      row "$transformers" "$torch" "$part" - - - - "not installed: $place/install.log"
      return 1
    fi
    if [ "$part" = results ] && ! "$place/venv/bin/python" -m pip install --quiet "wandb==$(lower_bound wandb)" "pandas<3" \
      >>"$place/install.log" 2>&1; then
      row "$transformers" "$torch" "$part" - - - - "not installed: $place/install.log"
      return 1
    fi
    touch "$place/installed"
  fi
  rm -f "$place/pytest.xml"
  "$place/venv/bin/python" -m pytest -rfEs --junitxml "$place/pytest.xml" "$@" ${options[@]+"${options[@]}"} \
    >"$place/pytest.log" 2>&1 || status=1
  # shellcheck disable=SC2046
  row "$transformers" "$torch" "$part" $(count "$place" 2>&1) "$place/pytest.log"
  $keep || rm -rf "$place/venv" "$place/installed"
  return $status
}

echo "Environments and logs: $dir"
row transformers torch tests passed failed skipped s log
result=0
for spec in "${rows[@]}"; do
  if [[ $spec == torch=* ]]; then
    transformers=$(pinned transformers) torch=$(version torch "${spec#torch=}") part=core tests=("${core[@]}")
  elif [ "$spec" = libraries=oldest ]; then
    transformers=$(pinned transformers) torch=$(pinned torch) part=results tests=("${results[@]}")
  else
    transformers=$(version transformers "$spec") torch=$(pinned torch) part=all tests=(tests)
  fi
  if [ -z "$transformers" ] || [ -z "$torch" ]; then
    row "$spec" - "$part" - - - - "no such version: is the registry within reach?"
    result=1
    continue
  fi
  check "$transformers" "$torch" "$part" "${tests[@]}" || result=1
done
exit $result
