"""Evaluates one method on a question file, with the flags and the JSON of the original research code.

    python -m runners.infer --question-file questions.json --image-folder pictures --single-pred-prompt \\
        --custom-kept-tokens 8 --custom-agg-layer 2 --custom-selection-method fps --output-file fps.json
    python -m runners.infer --question-file questions.json --image-folder pictures --single-pred-prompt \\
        --use-fast-v --fast-v-attention-rank 8 --fast-v-agg-layer 2 --output-file fastv.json

Questions are answered one by one with greedy decoding, and an answer is read as LLaVA reads it. With
--single-pred-prompt the accuracy equals that of a sweep with scoring=generate. avg_latency is in seconds per question
and includes the vision tower. The last line of standard output is JSON.
"""

import json
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from runners.classic.evaluation import answer_questions, choose_questions, load_classic
from runners.classic.output import check_output, model_config, print_table, write_json
from runners.terminal.progress import SweepProgress
from tokensel.compat.arguments import parse_flags, with_flag_names
from tokensel.errors import TokenselError
from tokensel.evaluation.summary import summarize


def main(argv: Sequence[str] | None = None) -> int:
    """Runs with these flags (default: the command line's). Returns 0, 2 for a mistake, or 130 if interrupted."""
    flags = None
    try:
        flags = parse_flags(__doc__, argv)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            _run(flags)
    except TokenselError as error:
        print(f"error: {with_flag_names(str(error), flags)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    return 0


def _run(flags: Namespace) -> None:
    questions = choose_questions(flags)
    output = None if flags.output_file is None else check_output(Path(flags.output_file))
    loaded, model = load_classic(flags)
    with SweepProgress("answering") as progress:
        progress.expect(points=1, questions=len(questions), wanted=len(questions), timed=0)
        answers = answer_questions(questions, loaded, model, flags.single_pred_prompt, progress.predicted)
    summary = summarize(answers.records)
    figures = {
        "accuracy": summary["accuracy"],
        "avg_latency": answers.seconds / len(answers.records),
        "total_samples": summary["n"],
        "correct_samples": summary["correct"],
        "model_config": model_config(flags, loaded.device),
    }
    if output is not None:
        write_json(output, figures | {"predictions": answers.records})
    print_table(figures, summary)
    print(json.dumps(figures | {"output_file": flags.output_file}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
