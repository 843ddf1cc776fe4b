"""The GPU kernel against the reference implementation: in Triton's interpreter, across processes, and on a GPU.

Triton reads TRITON_INTERPRET when it is imported, so tests that need it run this file as a program in a separate
process, which prints its results as JSON.
"""

import inspect
import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tokensel.functional import farthest_point_sampling, inverse_norms, kernels
from tokensel.functional.sampling import farthest_points

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (pip install triton)")
needs_gpu = pytest.mark.skipif(
    find_spec("triton") is None or not torch.cuda.is_available(), reason="needs a CUDA device and Triton"
)

CASES = {  # batch, tokens, hidden, kept, dtype; with a batch or more than 64 tokens, every step is a launch
    "one program": (1, 21, 12, 7, "float32"),
    "several programs": (2, 19, 40, 5, "float16"),
    "half precision": (1, 64, 5, 6, "bfloat16"),
    "nothing but the start": (1, 9, 3, 1, "float32"),
}


def made_up(batch, count, hidden, dtype):
    tokens = torch.randn(batch, count, hidden, generator=torch.Generator().manual_seed(count))
    return tokens.to(getattr(torch, dtype))


def both(tokens, kept, start=3, stretch=1.0):
    """The choices of the kernel and of the reference. stretch: scales the norms; above 1, distances can be negative."""
    first = torch.full((len(tokens), 1), start, device=tokens.device)
    inverse = inverse_norms(tokens.float()) * stretch
    ours = kernels.farthest_points(tokens, inverse, first, kept)
    return ours.tolist(), farthest_points(tokens.float(), inverse, first, kept).tolist()


def degenerate():
    """Copies of two directions, a zero row, and cosines that only differ below the rounding of 1 - cosine."""
    return torch.tensor([[[2.0, 0, 0], [2, 0, 0], [0, 0, 0], [1, 1e-9, 2], [1, 0, 2], [2, 0, 0], [0, 3, 1e-9]]])


class BetweenProcesses:
    """Runs every program of the grid's first axis in a separate process, on shared memory."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*values, **options):
            shared = [value.share_memory_() if isinstance(value, torch.Tensor) else value for value in values]
            context = multiprocessing.get_context("fork")
            workers = [
                context.Process(target=self.run, args=(index, grid, shared, options)) for index in range(grid[0])
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            assert all(worker.exitcode == 0 for worker in workers)

        return launch

    def run(self, index, grid, values, options):
        from triton.runtime.interpreter import interpreter_builder

        place, extent = interpreter_builder.set_grid_idx, interpreter_builder.set_grid_dim
        interpreter_builder.set_grid_dim = lambda *_: extent(*grid, 1)
        interpreter_builder.set_grid_idx = lambda x, y, z: place(index, y, z)
        arrived, deadline = values[4], time.monotonic() + 8
        while index and not arrived.any() and time.monotonic() < deadline:
            time.sleep(0.01)  # if the first program does not wait, it ends before the others start
        self.kernel[(1, *grid[1:])](*values, **options)


def interpreted():
    seen = {name: both(made_up(*case[:3], case[4]), case[3]) for name, case in CASES.items()}
    seen["degenerate"] = both(degenerate(), 6, start=0)
    seen["negative distances"] = both(made_up(1, 12, 4, "float32") / 20 + 1, 5, stretch=1.1)
    kernel, shares = kernels._kernel, kernels.shares
    kernels.shares = lambda *_: (8, True)
    kernels._kernel, kernels.PATIENCE = BetweenProcesses(kernel), 200_000
    seen["between processes"] = both(made_up(2, 16, 6, "float32"), 8)
    # The interpreter runs one program at a time, so the first waits until it gives up.
    kernels._kernel, kernels.PATIENCE = kernel, 2
    seen["alone"] = both(made_up(1, 15, 6, "float32"), 3)
    kernels.shares = shares
    return seen


def compiled():
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    names = list(inspect.signature(kernels._choose).parameters)
    signature = dict(
        zip(names, ["*bf16", "*fp32", "*fp32", "*i64", "*i32"] + ["i32"] * 7 + ["constexpr"] * 3, strict=True)
    )
    source = ASTSource(kernels._kernel, signature, {"ROWS": 8, "COLUMNS": 256, "WAIT": True})
    options = {"num_warps": kernels.WARPS, "launch_cooperative_grid": True}
    built = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return {"cooperative": built.metadata.launch_cooperative_grid, "ptx": built.asm["ptx"]}


def elsewhere(what, interpret):
    """Returns what `interpreted` or `compiled` returns in a separate process."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": interpret, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, __file__, what], env=environment, capture_output=True, text=True, timeout=240
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stderr:
        pytest.skip("this Triton's interpreter cannot read a loop's bounds with NumPy 2.5 or newer")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def seen():
    return elsewhere("interpreted", "1")


@needs_triton
@pytest.mark.parametrize("case", [*CASES, "degenerate", "negative distances", "between processes"])
def test_the_kernel_makes_the_choices_of_the_reference(seen, case):
    ours, plain = seen[case]
    assert ours == plain


@needs_triton
def test_a_program_that_gives_up_waiting_returns_an_index_out_of_range(seen):
    ours, _ = seen["alone"]
    assert ours[0][1] == 15


@needs_triton
def test_the_kernel_compiles_for_hopper_with_acquire_and_release():
    built = elsewhere("compiled", "0")
    assert built["cooperative"]
    assert ".acq_rel." in built["ptx"]
    assert ".acquire." in built["ptx"]


@pytest.mark.parametrize(
    ("batch", "count", "processors", "expected"),
    [
        (1, 576, 132, (8, True)),
        (4, 576, 132, (32, True)),
        (16, 576, 132, (8, False)),
        (1, 4096, 132, (32, True)),
        (1, 40, 1, (64, True)),
        (1, 65, 1, (8, False)),
    ],
)
def test_programs_wait_for_each_other_only_where_all_fit_on_the_device(batch, count, processors, expected):
    rows, together = kernels.shares(batch, count, processors)
    assert (rows, together) == expected
    assert not together or batch * -(-count // rows) <= processors


def test_without_triton_the_kernel_is_not_used(monkeypatch):
    monkeypatch.setattr(kernels, "triton", None)
    kernels.usable.cache_clear()
    assert not kernels.usable(torch.device("cpu"), farthest_points)


@pytest.mark.parametrize("failure", ["raises", "differs"])
def test_a_kernel_that_fails_its_trial_is_not_used_and_a_warning_says_why(monkeypatch, failure):
    def broken(tokens, inverse, start, kept):
        if failure == "raises":
            raise RuntimeError("no C compiler\nand more")
        return farthest_points(tokens, inverse, start, kept).flip(1)

    monkeypatch.setattr(kernels, "triton", object())
    monkeypatch.setattr(kernels, "farthest_points", broken)
    kernels.usable.cache_clear()
    reason = {"raises": "RuntimeError: no C compiler$", "differs": "its choices differ from the reference$"}[failure]
    with pytest.warns(UserWarning, match=reason):
        assert not kernels.usable(torch.device("cpu"), farthest_points)
    kernels.usable.cache_clear()


@needs_gpu
@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_on_a_gpu_the_kernel_is_used_and_makes_the_choices_of_the_reference(batch, dtype):
    tokens = made_up(batch, 576, 1024, dtype).cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.usable(tokens.device, farthest_points)
    ours, plain = both(tokens, 64)
    assert ours == plain
    assert farthest_point_sampling(tokens, 64, 3).tolist() == ours


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"interpreted": interpreted, "compiled": compiled}[sys.argv[1]]()))
