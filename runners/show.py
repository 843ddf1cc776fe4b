"""Draws which visual tokens of a picture or video each method keeps, what they gather, and the model's answers.

    python -m runners.show image=cat.png question="Is there a cat?" choices=yes,no method=fps,tome,fastv kept=8,32
    python -m runners.show data=diagrams question_id=diagrams-test-shape-3 method=fps,tome kept=8,32 output=shape.html
    python -m runners.show image=cat.png question="What is this?" model=/models/llava-1.5-7b-hf kept=64
    python -m runners.show video=cat.mp4 question="Does it jump?" model=/models/llava-onevision-7b frames=8 kept=64

The PNG or HTML page shows the survivors on the picture, or on the frames of the video, and, below, the weights with
which each survivor gathers the other tokens, with the methods side by side. Without choices the model answers in words.
Arguments:

    image, question, choices           your own picture, a question about it, and its choices if there are any
    video, frames (8)                  or your own video, a file or a folder of frames, and how many of them it sees
    answer                             the correct answer to it, if you know it
    data, question_id                  or a question of a data set: diagrams, easy_vqa, question_file (with path and
                                       image_folder), ..; data.OPTION sets its options. Default: one of its questions
    method (fps,tome,fastv)            names, or FILE.py:CLASS; method.OPTION sets their options
    kept (8,32)                        [64,16] for two stages
    agg_layer, temperature, aggregation, aggregation.path, position, seed                as for the sweep
    model (tiny), dtype, device        tiny, a folder, or a hub id
    family                             the tested family that a model of another one is like
    conv, prompt, image_aspect         the protocol, as for the sweep
    output (outputs/show.png)          a .png or .html file

Where standard output is no terminal, or with json=true, its last line is one JSON object: output, image, question,
visual_tokens, full (the unreduced model's answer), and for every method and kept the answer, margin and positions.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from runners.terminal.arguments import read_arguments, write_whole
from runners.terminal.command import run_command
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_file
from runners.terminal.program import importing, start
from tokensel.errors import TokenselError

KEYS = (
    *("image", "video", "frames", "question", "choices", "answer", "data", "question_id", "path", "image_folder"),
    *(
        "method",
        "kept",
        "agg_layer",
        "temperature",
        "aggregation",
        "aggregation.path",
        "position",
        "seed",
        "model",
        "family",
        "dtype",
    ),
    *("device", "conv", "prompt", "image_aspect", "output"),
)
OUTPUT = "outputs/show.png"
PREFIXES = ("method.", "data.")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws what these arguments describe (default: the command line's). Returns 0, or 2 for a mistake in them."""
    return run_command(__doc__, argv, _run)


def _run(arguments: Sequence[str]) -> int:
    arguments, wanted = take_json(arguments)
    plain, given = read_arguments(arguments, KEYS, PREFIXES)
    if plain:
        raise TokenselError(f"{plain[0]}: must be KEY=VALUE; keys are {', '.join(KEYS)}")
    given = {"output": OUTPUT} | given
    check_file(Path(given["output"]))
    with importing():  # slow, and not needed to report the mistakes above
        from analysis.survivors import Tracer
        from runners.survivors.output import as_record, draw, print_table, trace
        from runners.survivors.request import load_requested_model, read_request

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="kept=.*nothing is removed")  # the Tracer raises an error for it
        request = read_request(given)
        tracer = Tracer(load_requested_model(given), request.question, request.in_words)
        grid = [[trace(tracer, point) for point in points] for points in request.points]
        full, _ = tracer.full_answer()
        write_whole(request.output, draw(tracer, grid, request, full))
    print_table(grid, full, request.correct)
    print(f"Drawn: {request.output}")
    line = {
        "output": str(request.output),
        "image": given.get("image") or given.get("video") or request.question.image_id,
        "question": request.question.text,
        "visual_tokens": tracer.visual_tokens,
        "correct": request.correct,
        "full": full,
        "answers": [as_record(survivors, request.correct) for line in grid for survivors in line],
    }
    print_record(line, wanted)
    return 0


if __name__ == "__main__":
    start(main)
