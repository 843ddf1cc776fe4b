"""Measures speed and memory, compared with the full model and with what the hardware allows.

    python -m runners.bench                                                    # all parts, the embedded model
    python -m runners.bench parts=b model=random:llava_1024 kept=8,64 agg_layer=2
    python -m runners.bench parts=b,c model=random:llava_7b device=cuda        # a GPU, no download

Part a: selection and aggregation against their formulas written out literally. Part b: time to first token, decoding,
memory and KV cache of one prompt, compared with the speed-up that its FLOPs imply and the time that the device's
measured bandwidth and FLOP rate allow. Part c: the cost of a grid relative to one pass of the full model. Part d:
loading pictures alone.

Within a run, contenders alternate. Figures are medians with quartiles, ratios are medians of paired ratios. Writes
bench.json, bench.parquet and bench.png. Keys and their defaults:

    parts=a,b,c,d  model=tiny  data=diagrams  questions=300  device=auto
    dtype=         weights: float32 on a CPU, float16 on CUDA
    repeats=11     timed runs in parts a and b
    passes=3       timed passes in parts c and d
    kept=8,16,32,64,128,192  agg_layer=0,2,8                        of part b
    sizes=576x192,576x4096,2880x4096                                visual tokens x hidden size of part a
    threads=       CPU threads; default: 1 in part a, torch's number in the others
    batch_size=8   output=outputs/bench
    compile=false  true: run parts b and c with compiled graphs, in part b also the full model
    json=          true or false: print the figures as a line of JSON; default: where standard output is no terminal
"""

from collections.abc import Sequence

from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_results
from runners.terminal.program import importing, start

FILES = ("bench.json", "bench.parquet", "bench.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark with these arguments (default: the command line's). Returns the exit status.

    0: all figures are there. 1: a grid point of part b failed. 2: a mistake in the arguments, the model or the data.
    130: interrupted.
    """
    return run_command(__doc__, argv, _run, "interrupted: bench.json has the parts that were finished")


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    from runners.benchmark.output import announce
    from runners.benchmark.settings import read_settings

    settings = read_settings(arguments)
    check_results(settings.output, FILES, "output")
    announce("loading libraries")
    with importing():  # slow, and not needed to report a mistake
        from runners.benchmark.run import run_benchmark

    report = run_benchmark(settings)
    print_record(report, wanted)
    failed = any("error" in line for part in report["parts"].values() for line in part["rows"])
    return 1 if failed else 0


if __name__ == "__main__":
    start(main)
