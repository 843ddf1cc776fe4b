"""Runs work in background threads ahead of its consumer."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(work: Callable[[Item], Result], items: Iterator[Item], workers: int = 1) -> Generator[Result, None, None]:
    """Yields work(item) for every item, in order, computing the next `workers` results in the background.

    Several workers share this process's torch threads equally. An exception of `work` is raised in place of its
    result. Pending work is cancelled on error and when the generator is closed.

    Wrap it in contextlib.closing if you may stop early: otherwise the garbage collector closes it, which blocks
    whichever thread happens to run the collection until the running workers finish.
    """
    threads = torch.get_num_threads()

    def limit_threads() -> None:
        if workers > 1:
            torch.set_num_threads(max(1, threads // workers))

    with ThreadPoolExecutor(max_workers=workers, initializer=limit_threads) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            if workers > 1:
                torch.set_num_threads(threads)
