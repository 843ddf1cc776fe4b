"""Every method against its official code, on the cases of the folder that TOKENSEL_OFFICIAL names.

`pytest tests/methods/test_official.py -n 0 -rA -s` prints `METHOD: matched K of N` for every method.
"""

import pytest
from helpers.official import UNMATCHED, cases, check_of, folder, methods


@pytest.mark.parametrize("method", methods())
def test_the_choice_is_the_official_one(method):
    check = check_of(method)
    stable = [case for case in cases(method) if case.stable]
    failures = {}
    for case in stable:
        try:
            check(case)
        except AssertionError as error:
            failures[case.name] = str(error).splitlines()[0][:300]
    print(f"{method}: matched {len(stable) - len(failures)} of {len(stable)}, {folder().name}")
    unexplained = {name: why for name, why in failures.items() if (method, name) not in UNMATCHED}
    assert not unexplained, "\n".join(f"{method} {name}: {why}" for name, why in unexplained.items())


def test_few_cases_are_left_unmatched():
    count = sum(case.stable for method in methods() for case in cases(method))
    assert len(UNMATCHED) <= 0.03 * count
