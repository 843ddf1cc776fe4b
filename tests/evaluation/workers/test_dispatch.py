"""The driver hands out batches and stores answers in order, whatever workers do: these workers only pretend."""

import random
from collections import defaultdict

import pytest

from tokensel.data import Question
from tokensel.data.protocol import Protocol
from tokensel.errors import BadSampleError, TokenselError
from tokensel.evaluation.failure import Failure
from tokensel.evaluation.grid_point import GridPoint
from tokensel.evaluation.workers.crew import Died, Said
from tokensel.evaluation.workers.dispatch import Dispatch
from tokensel.evaluation.workers.spec import Answered, Hello, PassSpec, PointSpec, Refusal, batches_of

KEYS = ["a", "b", "c"]
QUESTIONS = [Question(f"q{index:02}", f"text {index}", ("x", "y"), 0, None) for index in range(60)]


def a_spec(**changes):
    points = [PointSpec(key, GridPoint("full"), "code") for key in KEYS]
    values = {"model": {"path": "tiny"}, "revision": None, "protocol": Protocol(), "data": "diagrams"}
    values |= {"data_options": {}, "count": 60, "digest": "", "points": points, "batch_size": 4} | changes
    return PassSpec(**values)


@pytest.fixture(autouse=True)
def stored_at_once(monkeypatch):
    monkeypatch.setattr("tokensel.evaluation.workers.dispatch.FLUSH_SECONDS", 0.01)


class FakeCrew:
    """Answers at once, in any order. kills: of a task, whether its worker dies of it. dies: the same, by chance."""

    def __init__(self, workers=3, kills=lambda lacking: False, dies=0.0, left=None, seed=0):
        self.workers, self.kills, self.dies, self.left = workers, kills, dies, left or {}
        self.random = random.Random(seed)
        self.events, self.tasks, self.deaths = [], defaultdict(list), 0
        self.sent = []

    def begin(self, spec, alone=None):
        self.spec = spec
        self.batches = batches_of(QUESTIONS, spec.batch_size)
        self.events += [self.hello(worker) for worker in range(self.workers)]

    def hello(self, worker):
        return Said(worker, Hello(self.spec.name, 3, "cpu", {}))

    def leftovers(self):
        return self.left

    def send(self, worker, task):
        self.tasks[worker].append(task)
        self.sent.append(task)

    def wait(self, seconds):
        events, self.events = self.events, []
        for worker in range(self.workers):
            tasks = self.tasks[worker]
            self.random.shuffle(tasks)
            while tasks and self.random.random() < 0.7:
                task = tasks.pop()
                if self.kills(task.lacking) or self.random.random() < self.dies:
                    self.deaths += 1
                    tasks.clear()
                    events += [Died(worker, "signal 9"), self.hello(worker)]
                    break
                events.append(Said(worker, self.answer(task)))
        return events

    def answer(self, task):
        lines = {key: {id: f"{key} {id}\n" for id in ids} for key, ids in task.lacking.items()}
        return Answered(task.number, lines)


class Memory:
    """What is stored, in the order in which it was."""

    def __init__(self, on_bad_sample="skip"):
        self.lines = {key: {} for key in KEYS}
        self.failures, self.bad, self.on_bad_sample = {}, {}, on_bad_sample

    def lacking(self, questions):
        found = {}
        for key in KEYS:
            ids = [question.id for question in questions if question.id not in self.lines[key]]
            if ids and key not in self.failures:
                found[key] = ids
        return found

    def store(self, lines):
        for key, new in lines.items():
            for id, line in new.items():
                assert id not in self.lines[key]
                if key not in self.failures:
                    self.lines[key][id] = line

    def store_bad(self, question, error):
        if self.on_bad_sample == "error":
            raise error
        self.bad[question.id] = str(error)
        for key in KEYS:
            self.lines[key].setdefault(question.id, "skipped\n")

    def fail(self, key, failure):
        self.failures[key] = failure


def dispatched(crew, memory=None, **spec):
    memory = memory or Memory()
    spec = a_spec(**spec)
    Dispatch(crew, spec, batches_of(QUESTIONS, spec.batch_size), memory).run()
    return memory


BATCHES = [[question.id for question in batch] for batch in batches_of(QUESTIONS, 4)]
IN_ORDER = [id for batch in BATCHES for id in batch]


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_stored_in_the_order_of_the_batches_however_workers_finish(seed):
    memory = dispatched(FakeCrew(seed=seed))
    assert all(list(memory.lines[key]) == IN_ORDER for key in KEYS)


def test_workers_that_die_by_chance_lose_and_double_nothing():
    deaths = 0
    for seed in range(20):
        crew = FakeCrew(dies=0.05, seed=seed)
        memory = dispatched(crew)
        deaths += crew.deaths
        assert not memory.bad
        assert not memory.failures
        assert [list(memory.lines[key]) for key in KEYS] == [IN_ORDER] * 3, seed
    assert deaths > 10


def test_a_question_that_kills_its_worker_is_named_and_skipped():
    crew = FakeCrew(kills=lambda lacking: any("q17" in ids for ids in lacking.values()))
    memory = dispatched(crew)
    assert list(memory.bad) == ["q17"]
    assert "question q17: its worker dies whenever it is asked" in memory.bad["q17"]
    assert all(set(memory.lines[key]) == set(IN_ORDER) for key in KEYS)
    assert memory.lines["a"]["q18"] == "a q18\n"


def test_a_question_that_kills_its_worker_is_an_error_where_bad_samples_are():
    crew = FakeCrew(kills=lambda lacking: any("q17" in ids for ids in lacking.values()))
    memory = Memory("error")
    with pytest.raises(BadSampleError, match="question q17"):
        dispatched(crew, memory)
    stored = list(memory.lines["a"])
    assert stored == IN_ORDER[: len(stored)]


def test_a_point_that_kills_its_worker_fails_and_the_others_are_complete():
    memory = dispatched(FakeCrew(kills=lambda lacking: "b" in lacking))
    assert list(memory.failures) == ["b"]
    assert not memory.bad
    assert all(list(memory.lines[key]) == IN_ORDER for key in "ac")


def test_a_batch_that_kills_only_as_a_whole_ends_the_sweep_in_one_line():
    def kills(lacking):
        return list(lacking.values()) == [BATCHES[2]] * 3

    with pytest.raises(TokenselError, match="batch_size=4: workers die of the batch of questions"):
        dispatched(FakeCrew(kills=kills))


def test_what_earlier_workers_have_left_is_not_asked_again():
    left = {key: {id: f"{key} {id}\n" for id in BATCHES[0] + BATCHES[1]} for key in KEYS}
    crew = FakeCrew(left=left)
    memory = dispatched(crew)
    asked = {id for task in crew.sent for ids in task.lacking.values() for id in ids}
    assert asked == {id for batch in BATCHES[2:] for id in batch}
    assert list(memory.lines["a"]) == IN_ORDER


def test_a_point_that_fails_is_asked_no_more():
    class Failing(FakeCrew):
        def answer(self, task):
            answered = super().answer(task)
            return Answered(task.number, answered.lines, {"b": Failure("ValueError: no")} if task.batch == 2 else {})

    crew = Failing()
    memory = dispatched(crew)
    assert memory.failures == {"b": Failure("ValueError: no")}
    assert len(memory.lines["b"]) < len(IN_ORDER)
    assert list(memory.lines["a"]) == IN_ORDER


def test_a_worker_that_refuses_ends_the_sweep_with_its_reason():
    class Refusing(FakeCrew):
        def hello(self, worker):
            return Said(worker, Refusal("model.path=x: no such folder"))

    with pytest.raises(TokenselError, match=r"model\.path=x"):
        dispatched(Refusing())


def test_answers_ahead_of_the_oldest_open_batch_are_bounded():
    crew = FakeCrew(workers=1)
    memory = Memory()
    waiting = []
    dispatch = Dispatch(crew, a_spec(batch_size=1), batches_of(QUESTIONS, 1), memory)
    first = batches_of(QUESTIONS, 1)[0][0].id
    held = []

    def answer(task):
        if first in task.lacking["a"] and len(held) < 40:
            held.append(task)
            crew.tasks[0].append(task)
            return Answered(0)  # of no task: the first one is not answered yet
        return FakeCrew.answer(crew, task)

    crew.answer = answer
    store = memory.store
    memory.store = lambda lines: (waiting.append(len(dispatch.answered)), store(lines))
    dispatch.run()
    assert max(waiting, default=0) <= 12
    assert len(memory.lines["a"]) == 60
