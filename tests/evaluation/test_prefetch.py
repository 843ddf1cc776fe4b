"""prefetch: results in order, computed in background threads, with errors raised in place of a result."""

import threading
import time

import pytest
import torch

from tokensel.evaluation.prefetch import prefetch


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_however_long_each_takes(workers):
    def work(number):
        time.sleep(0.02 if number % 2 else 0)
        return number, threading.current_thread() is threading.main_thread()

    assert list(prefetch(work, iter(range(9)), workers)) == [(number, False) for number in range(9)]


def test_the_next_items_are_started_while_the_caller_handles_one():
    started = []
    results = prefetch(lambda number: started.append(number), iter(range(9)), 2)
    next(results)
    time.sleep(0.1)
    assert started == [0, 1, 2]
    results.close()
    assert started == [0, 1, 2]


def test_workers_share_the_threads_and_give_them_back():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert set(prefetch(lambda _: torch.get_num_threads(), iter(range(6)), 2)) == {2}
        assert set(prefetch(lambda _: torch.get_num_threads(), iter(range(6)), 1)) == {4}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_an_exception_is_raised_in_place_of_its_result():
    done = []

    def work(number):
        if number == 2:
            raise ValueError("two")
        return number

    with pytest.raises(ValueError, match="two"):
        done.extend(prefetch(work, iter(range(100)), 2))
    results = prefetch(work, iter(range(100)), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
