"""The order in which jobs compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from glow.demo.ask import Ask
from glow.demo.draw import draw_grid
from glow.demo.jobs import Event, Job, Jobs, Stopped
from glow.demo.models import Models
from glow.demo.safety import Uploads
from glow.errors import UsageError


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


class Visit:
    """A job and what its visitor was told."""

    def __init__(self, jobs: Jobs, visitor: str, control: str, work: Callable[[Job], Event]) -> None:
        self.events: list[Any] = []
        self.over = threading.Event()
        self.job = jobs.start(visitor, control, work, self.receive)

    def receive(self, event: Event | None) -> None:
        self.events.append(event)
        if event is None:
            self.over.set()


def held(jobs: Jobs) -> tuple[Visit, threading.Event]:
    """A job that computes until it is let go."""
    started, free = threading.Event(), threading.Event()

    def work(job: Job) -> Event:
        started.set()
        assert free.wait(10)
        return {}

    visit = Visit(jobs, "first", "held", work)
    assert started.wait(10)
    return visit, free


def test_the_turn_goes_round_the_visitors(jobs: Jobs) -> None:
    """One who asks for much does not keep the others waiting."""
    order: list[str] = []

    def work(name: str) -> Callable[[Job], Event]:
        return lambda job: {"done": order.append(name)}

    _, free = held(jobs)
    visits = [Visit(jobs, "a", str(i), work(f"a{i}")) for i in range(4)]
    while len(jobs._waiting.get("a", [])) < 4:
        pass
    visits += [Visit(jobs, "b", "0", work("b0"))]
    while "b" not in jobs._waiting:
        pass
    free.set()
    assert all(visit.over.wait(10) for visit in visits)
    assert order.index("b0") == 1
    assert sorted(order) == ["a0", "a1", "a2", "a3", "b0"]


def test_a_newer_request_has_the_place_of_the_one_that_it_replaces(jobs: Jobs) -> None:
    order: list[str] = []

    def work(name: str) -> Callable[[Job], Event]:
        return lambda job: {"done": order.append(name)}

    _, free = held(jobs)
    old = Visit(jobs, "a", "slider", work("old"))
    others = [Visit(jobs, name, "slider", work(name)) for name in "bc"]
    new = Visit(jobs, "a", "slider", work("new"))
    assert old.over.wait(10)
    free.set()
    assert all(visit.over.wait(10) for visit in [*others, new])
    assert order == ["new", "b", "c"]


def test_only_one_computes_at_a_time(jobs: Jobs) -> None:
    computing: list[int] = []
    most: list[int] = []

    def work(job: Job) -> Event:
        for _ in range(20):
            computing.append(1)
            time.sleep(1e-4)
            most.append(len(computing))
            computing.pop()
            job.check()
        return {}

    visits = [Visit(jobs, str(i), "x", work) for i in range(8)]
    for visit in visits[::2]:  # some are stopped while they wait to go on
        visit.job.stop()
    assert all(visit.over.wait(10) for visit in visits)
    assert max(most) == 1


def test_a_slow_job_lets_others_go_first(jobs: Jobs) -> None:
    started = threading.Event()
    other_done = threading.Event()

    def slow(job: Job) -> Event:
        started.set()
        while not other_done.is_set():
            job.check()
        return {"after": True}

    visit = Visit(jobs, "slow", "x", slow)
    assert started.wait(10)
    quick = Visit(jobs, "quick", "x", lambda job: {"set": other_done.set()})
    assert quick.over.wait(10)
    assert visit.over.wait(10)
    assert visit.events == [{"after": True}, None]


def test_a_newer_request_stops_the_older(jobs: Jobs) -> None:
    _, free = held(jobs)
    older = Visit(jobs, "a", "slider", lambda job: {"older": 1})
    newer = Visit(jobs, "a", "slider", lambda job: {"newer": 1})
    free.set()
    assert older.over.wait(10)
    assert newer.over.wait(10)
    assert older.events == [None]
    assert newer.events == [{"newer": 1}, None]


def test_a_job_that_is_stopped_ends(jobs: Jobs) -> None:
    def forever(job: Job) -> Event:
        while True:
            job.send({"more": 1})

    visit = Visit(jobs, "a", "x", forever)
    while not visit.events:
        pass
    visit.job.stop()
    assert visit.over.wait(10)
    assert Visit(jobs, "b", "x", lambda job: {}).over.wait(10)


def test_errors_are_events(jobs: Jobs) -> None:
    def wrong(job: Job) -> Event:
        raise UsageError("temperature must be a number")

    visit = Visit(jobs, "a", "x", wrong)
    assert visit.over.wait(10)
    assert visit.events == [{"error": "temperature must be a number"}, None]


def test_too_many_requests_are_refused(jobs: Jobs) -> None:
    _, free = held(jobs)
    for i in range(Jobs.MOST_EACH):
        Visit(jobs, "a", str(i), lambda job: {})
    with pytest.raises(UsageError, match="too many requests"):
        Visit(jobs, "a", "one more", lambda job: {})
    free.set()


@pytest.mark.demo
def test_a_grid_of_a_pixel_model_ends_between_two_rows(pixelcnn: Models) -> None:
    rows = 0

    def check() -> None:
        nonlocal rows
        rows += 1
        if rows == 3:
            raise Stopped

    job: Any = SimpleNamespace(check=check)
    with pytest.raises(Stopped):
        draw_grid(Ask(pixelcnn, Uploads(), job, {"model": "runs/pixels", "n": 2}))
    assert rows == 3
