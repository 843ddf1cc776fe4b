"""Evaluates one method on a question file, with the flags and the JSON of the original research code.

    python -m runners.infer --question-file questions.json --image-folder pictures --single-pred-prompt \\
        --custom-kept-tokens 8 --custom-agg-layer 2 --custom-selection-method fps --output-file fps.json
    python -m runners.infer --question-file questions.json --image-folder pictures --single-pred-prompt \\
        --use-fast-v --fast-v-attention-rank 8 --fast-v-agg-layer 2 --output-file fastv.json

Questions are answered one by one with greedy decoding, and an answer is read as LLaVA reads it. With
--single-pred-prompt the accuracy equals that of a sweep with scoring=generate. avg_latency is in seconds per question
and includes the vision tower. Where standard output is no terminal, or with json=true, its last line is JSON.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from runners.terminal.notes import notes
from runners.terminal.output import print_record, take_json
from runners.terminal.places import check_file
from runners.terminal.program import importing, start
from tokensel.compat.arguments import parse_flags, with_flag_names
from tokensel.errors import TokenselError, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Runs with these flags (default: the command line's). Returns 0, 2 for a mistake, or 130 if interrupted."""
    flags = None
    try:
        arguments, json = take_json(sys.argv[1:] if argv is None else argv)
        flags = parse_flags(__doc__, arguments)
        with notes():
            _run(flags, json)
    except TokenselError as error:
        print(f"error: {printable(with_flag_names(str(error), flags))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = flags is not None and flags.output_file is not None
        print(f"interrupted: {'the same command continues' if kept else 'nothing was written'}", file=sys.stderr)
        return 130
    return 0


def _run(flags: Namespace, json: bool | None) -> None:
    from runners.terminal.progress import SweepProgress

    if flags.output_file is not None:
        check_file(Path(flags.output_file), "--output-file")
    with SweepProgress() as progress:
        with importing():
            from runners.classic.evaluation import answer_questions, choose_questions, load_classic
            from runners.classic.output import model_config, open_answers, print_table, write_json
            from tokensel.evaluation.summary import summarize

        progress.doing("reading the questions")
        questions = choose_questions(flags)
        store = None if flags.output_file is None else open_answers(Path(flags.output_file), flags, questions)
        progress.doing("loading the model")
        loaded, model = load_classic(flags)
        progress.doing("answering")
        progress.expect(points=1, questions=len(questions), wanted=len(questions), timed=0)
        answers = answer_questions(questions, loaded, model, flags.single_pred_prompt, progress.predicted, store)
    summary = summarize(answers.records)
    figures = {
        "accuracy": summary["accuracy"],
        "avg_latency": answers.seconds / len(answers.records),
        "total_samples": summary["n"],
        "correct_samples": summary["correct"],
        "model_config": model_config(flags, loaded.device),
    }
    if store is not None:
        write_json(Path(flags.output_file), figures | {"predictions": answers.records}, store)
    print_table(figures, summary)
    print_record(figures | {"output_file": flags.output_file}, json)


if __name__ == "__main__":
    start(main)
