"""Which seeds a sweep's random controls have."""

import pytest

from tokensel.evaluation.sweep.plan import make_plan
from tokensel.evaluation.sweep.reading import read_settings

MANY = ("fps", "tome", "divprune", "dart", "density", "grid", "pool", "visionzip", "vispruner", "apet", "holov",
        "prumerge", "scope", "flowcut", "cdpruner", "fastervlm", "pact")  # fmt: skip


def seeds(methods, **settings):
    """The seeds of the control random, with whether each is timed."""
    shared = {"model": {}, "data": {"name": "diagrams"}, "logger": {}, "kept": 8, **settings}
    plan = make_plan([read_settings(shared | {"method": {"name": name}}) for name in methods])
    points = [each for group in plan.groups for each in group.points if each.point.method == "random"]
    return [(each.point.seed, each.timed) for each in points]


def test_a_small_grid_has_one_seed_and_a_large_one_three_of_which_one_is_timed():
    assert seeds(["fps"]) == [(0, True)]
    assert sorted(seeds(MANY)) == [(0, True), (1, False), (2, False)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_stated_number_counts_whatever_the_grid(count):
    assert sorted(seeds(["fps"], control_seeds=count, seed=5)) == [(5 + more, more == 0) for more in range(count)]


def test_a_seed_that_is_asked_for_is_timed():
    assert sorted(seeds(["random"], control_seeds=3, seed=0)) == [(0, True), (1, False), (2, False)]
    assert sorted(seeds(["random", "fps"], control_seeds=2, seed=1)) == [(1, True), (2, False)]
