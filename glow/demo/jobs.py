"""Jobs of many visitors on one machine: one computes at a time, and the turn goes round the visitors."""

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from glow.errors import UsageError

Event = dict[str, Any]
"""What a job tells its visitor: plain values, which become a line of JSON."""


class Stopped(Exception):
    """The job's visitor left, or asked for something else."""


class Job:
    """One request of a visitor.

    Args:
        jobs: where it waits for its turn.
        visitor: whose it is.
        control: which part of the page it answers; another request of it replaces this one.
        receive: called with every event, from the job's thread; None is the end.
    """

    def __init__(
        self, jobs: "Jobs", visitor: str, control: str, receive: Callable[[Event | None], None]
    ) -> None:
        self.jobs, self.visitor, self.control, self.receive = jobs, visitor, control, receive
        self.stopped = False

    def stop(self) -> None:
        """Have it end where it next calls ``check``, or before it starts."""
        self.jobs.stop(self)

    def check(self) -> None:
        """Let others have their turn. Slow jobs call it about ten times a second.

        Raises:
            Stopped: the visitor left.
        """
        self.jobs.pass_on(self)

    def send(self, event: Event) -> None:
        """Tell the visitor what there is so far, and ``check``."""
        self.receive(event)
        self.check()


class Jobs:
    """A queue that is fair to visitors, however much each of them asks for.

    Only one job computes at a time, since torch uses all cores; each has a thread of its own, so that a slow one can pass the
    turn on in the middle.
    """

    MOST, MOST_EACH = 64, 16
    """Jobs of all visitors together, and of one."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.MOST, thread_name_prefix="job")
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._jobs: dict[tuple[str, str], Job] = {}
        self._waiting: dict[str, list[Job]] = {}  # by visitor; the first visitor is next

    def start(
        self,
        visitor: str,
        control: str,
        work: Callable[[Job], Event],
        receive: Callable[[Event | None], None],
    ) -> Job:
        """Have ``work`` done; what it returns is the last event before None.

        An earlier request of the same visitor and control is stopped: its answer would be out of date.

        Raises:
            UsageError: too many jobs wait.
        """
        job = Job(self, visitor, control, receive)
        with self._changed:
            before = self._jobs.get((visitor, control))
            mine = sum(key[0] == visitor for key in self._jobs)
            if before is None and (len(self._jobs) >= self.MOST or mine >= self.MOST_EACH):
                raise UsageError("too many requests wait already: try again in a moment")
            self._jobs[visitor, control] = job
            self._join(job)  # before the older one leaves: the visitor keeps his place
        if before is not None:
            before.stop()
        self._threads.submit(self._run, job, work)
        return job

    def stop(self, job: Job) -> None:
        """Have a job end soon."""
        with self._changed:
            job.stopped = True
            self._changed.notify_all()

    def pass_on(self, job: Job) -> None:
        """Let the jobs of others run before this one goes on."""
        if job.stopped:
            raise Stopped
        if self._waiting:
            self._give_up(job)
            self._wait(job)

    def close(self) -> None:
        """Stop all jobs."""
        for job in list(self._jobs.values()):
            job.stop()
        self._threads.shutdown(cancel_futures=True)

    def _run(self, job: Job, work: Callable[[Job], Event]) -> None:
        try:
            self._wait(job)
            try:
                job.receive(work(job))
            finally:
                self._give_up(job)
        except Stopped:
            pass
        except UsageError as error:
            job.receive({"error": str(error)})
        except Exception as error:
            job.receive({"error": f"this is a fault of the program ({type(error).__name__}: {error})"})
            traceback.print_exc()
        finally:
            with self._changed:
                if self._jobs.get((job.visitor, job.control)) is job:
                    del self._jobs[job.visitor, job.control]
            job.receive(None)

    def _wait(self, job: Job) -> None:
        with self._changed:
            self._join(job)
            self._changed.wait_for(lambda: job.stopped or (self._running is None and self._next() is job))
            mine = self._waiting[job.visitor]
            mine.remove(job)
            if not mine or not job.stopped:
                del self._waiting[job.visitor]
            if mine and not job.stopped:
                self._waiting[job.visitor] = mine  # at the end
            self._changed.notify_all()
            if job.stopped:
                raise Stopped
            self._running = job

    def _join(self, job: Job) -> None:
        mine = self._waiting.setdefault(job.visitor, [])
        if job not in mine:
            mine.append(job)

    def _give_up(self, job: Job) -> None:
        with self._changed:
            if self._running is job:  # not if it was stopped while it waited to go on
                self._running = None
            self._changed.notify_all()

    def _next(self) -> Job:
        return next(iter(self._waiting.values()))[0]
