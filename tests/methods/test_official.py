"""Every method against its official code, on the cases of the folder that TOKENSEL_OFFICIAL names.

`pytest tests/methods/test_official.py -n 0 -s` prints `METHOD: matched K of N` for every method. docs/methods.md holds
the table that `table` makes of all cases.
"""

import re
from pathlib import Path

import pytest
from helpers.official import FULL, RoundingDecides, cases, check_of, folder, methods, sources

# The share of the stable cases that rounding may decide otherwise than exact arithmetic does.
MOST_UNDECIDED = 0.03


def outcomes(method):
    """What became of each stable case: None if it matched, else the error."""
    check, found = check_of(method), {}
    for case in (case for case in cases(method) if case.stable):
        try:
            found[case.name] = check(case)
        except AssertionError as error:
            found[case.name] = error
    return found


@pytest.fixture(scope="module")
def found():
    return {method: outcomes(method) for method in methods()}


@pytest.mark.parametrize("method", methods())
def test_the_choice_is_the_official_one(method, found):
    matched = sum(error is None for error in found[method].values())
    print(f"{method}: matched {matched} of {len(found[method])}, {folder().name}")
    wrong = {name: error for name, error in found[method].items() if error and not isinstance(error, RoundingDecides)}
    assert not wrong, "\n".join(f"{method} {name}: {str(error).splitlines()[0][:300]}" for name, error in wrong.items())


def test_rounding_decides_few_cases(found):
    errors = [(method, name, error) for method, cases in found.items() for name, error in cases.items()]
    undecided = [f"{method} {name}: {error}" for method, name, error in errors if isinstance(error, RoundingDecides)]
    assert len(undecided) <= MOST_UNDECIDED * len(errors), "\n".join(undecided)


def table(found):
    """The methods with their official code and the cases matched, in Markdown."""
    lines = ["| method | official code | cases matched |", "|---|---|---|"]
    for method, outcome in found.items():
        repository, commit = re.match(r"([\w.-]+/[\w.-]+)[ @]+(\w+)?", sources()[method]).groups()
        matched = sum(error is None for error in outcome.values())
        lines.append(f"| `{method}` | {repository}, {commit} | {matched} of {len(outcome)} |")
    return "\n".join(lines)


@pytest.mark.skipif(folder() != FULL, reason="needs all reference cases; a clone has a sample of them")
def test_the_documentation_has_the_table_of_matched_cases(found):
    shown = table({method: outcome for method, outcome in found.items() if method != "next_order"})
    assert shown in (Path(__file__).parents[2] / "docs" / "methods.md").read_text(), shown
