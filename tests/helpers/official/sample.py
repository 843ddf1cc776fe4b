"""Writes the committed sample of the reference cases: `PYTHONPATH=tests python -m helpers.official.sample`.

Of every method it takes the smallest cases, one of each kind in turn, as many as fit in PER_METHOD bytes.
"""

import itertools
import json
import sys
from collections.abc import Iterable
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from helpers.official import FULL, SAMPLE

PER_METHOD = 160_000
LEAST_CASES = 3


def chosen(cases: list[dict[str, Any]], tensors: dict[str, Tensor]) -> list[str]:
    """The names of the cases to take, in the order of the manifest."""
    sizes = {name: size_of(tensors, [name]) for name in map(name_of, cases)}
    by_kind: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: sizes[name_of(case)]):
        by_kind.setdefault(f"{case.get('kind')} {case.get('stage')}", []).append(name_of(case))
    turns = [name for name in itertools.chain(*itertools.zip_longest(*by_kind.values())) if name is not None]
    taken: set[str] = set()
    for name in turns:
        if len(taken) < LEAST_CASES or sum(sizes[each] for each in taken) + sizes[name] <= PER_METHOD:
            taken.add(name)
    return [name_of(case) for case in cases if name_of(case) in taken]


def name_of(case: dict[str, Any]) -> str:
    return case.get("case", case.get("name"))


def size_of(tensors: dict[str, Tensor], prefixes: Iterable[str]) -> int:
    starts = tuple(f"{prefix}." for prefix in prefixes)
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith(starts))


def write_sample() -> None:
    manifest = json.loads((FULL / "manifest.json").read_text())
    SAMPLE.mkdir(parents=True, exist_ok=True)
    for entry in manifest["methods"].values():
        with safe_open(FULL / entry["file"], "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        taken = chosen(entry["cases"], tensors)
        left = [name_of(case) for case in entry["cases"] if name_of(case) not in taken]
        entry["cases"] = [case for case in entry["cases"] if name_of(case) in taken]
        named = {case["weights"] for case in entry["cases"] if "weights" in case}
        unused = (
            tuple(f"{prefix}." for prefix in {name.split(".")[0] for name in tensors} if prefix.startswith("weights"))
            if named
            else ()
        )
        used = tuple(f"{prefix}." for prefix in named)
        dropped = tuple(f"{name}." for name in left)
        kept = {
            name: tensor
            for name, tensor in tensors.items()
            if not name.startswith(dropped) and (not name.startswith(unused) or name.startswith(used))
        }
        save_file(kept, SAMPLE / entry["file"])
    (SAMPLE / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    print(sum(file.stat().st_size for file in SAMPLE.iterdir()), "bytes")


if __name__ == "__main__":
    sys.exit(write_sample())
