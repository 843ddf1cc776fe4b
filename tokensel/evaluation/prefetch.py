"""Work done ahead of who needs it: the next items in the background, the results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(work: Callable[[Given], Made], given: Iterator[Given], workers: int = 1) -> Generator[Made, None, None]:
    """The work's results in order, the next `workers` of them under way while the caller works on one.

    Several workers share torch's threads of this process among them. What the work raises is raised when its turn
    comes; what was not begun then never is. Close it (contextlib.closing) if you may leave it early: left to the
    garbage collector, it would wait for its threads wherever that happens to run, in a starting thread too.
    """
    threads = torch.get_num_threads()

    def alone() -> None:
        if workers > 1:
            torch.set_num_threads(max(1, threads // workers))

    with ThreadPoolExecutor(max_workers=workers, initializer=alone) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for each in given:
                waiting.append(pool.submit(work, each))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            if workers > 1:
                torch.set_num_threads(threads)
