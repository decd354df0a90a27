"""Requests that arrive while a graph is busy are run together, next.

A dense decoder runs 64 examples in little more than the time of one, so that requests which wait for each other anyway
should not be run one by one. There is no window: what the event loop reads at once is run at once, and whatever came
meanwhile is the next batch. Measured: a window of 2 ms made a single client ten times slower and did not help many.

A graph that takes long has a thread of its own, so that the event loop goes on accepting requests while onnxruntime
computes. One that takes less than `INLINE_SECONDS` is run in the event loop: the way to the thread and back would take
longer.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_vae_serving.errors import Overloaded, RequestError
from keras_vae_serving.manifest import NUM_SAMPLES
from keras_vae_serving.session import Session, batch_size_of, concatenate, split

INLINE_SECONDS = 0.0002  # that a run may keep the event loop busy

_logger = logging.getLogger("keras_vae_serving")


@dataclass(slots=True, eq=False)
class _Job:
    key: Any
    inputs: dict[str, np.ndarray]
    outputs: Sequence[str] | None
    rows: int
    cost: int  # of one row, in examples
    future: asyncio.Future


class Batcher:
    """Runs a graph for many callers, which await it.

    Args:
        session: Session of the graph.
        max_batch: Number of examples run at once; a request of more is run in parts. Each sample of z counts.
        max_queue: Number of examples that may wait or run; a larger request is accepted when nothing else is there.
        on_batch: Called, in the thread that runs the graph, with the number of examples of each run.
        row_cost: As how many examples each example of some inputs, or each of its samples of z, counts.

    Attributes:
        waiting: Number of examples that wait or run.
    """

    def __init__(
        self,
        session: Session,
        max_batch: int = 64,
        max_queue: int = 4096,
        on_batch: Callable[[int], None] = lambda rows: None,
        row_cost: Callable[[dict[str, np.ndarray]], int] = lambda inputs: 1,
    ) -> None:
        self.session: Session = session
        self.max_batch: int = max_batch
        self.max_queue: int = max_queue
        self.waiting: int = 0  # changed by the event loop only
        self._on_batch, self._row_cost = on_batch, row_cost
        # The input that has several samples of z for each example, each as much work as an example.
        sampled = (tensor.name for tensor in session.graph.inputs if NUM_SAMPLES in tensor.shape)
        self._sampled = next(sampled, None)
        # Dynamic int8 takes one scale over the whole batch: an answer would depend on who else asked.
        self._merge = session.graph.precision != "int8"
        self._arrived: list[_Job] = []  # since the event loop last looked
        self._busy = False  # whether the thread runs the graph, for callers that may have gone
        self._last: tuple[Any, float, int] = (None, 0.0, 1)  # key, seconds and cost of the last run
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"run {session.graph.name}", daemon=True)
        self._thread.start()

    async def run(self, inputs: dict[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """As `Session.run`; examples of other callers may be run with these.

        Raises:
            Overloaded: If too many examples wait.
            RequestError: If the graph cannot run on these inputs; other requests are not affected.
        """
        rows = self.session.check(inputs)  # now: two wrong requests might fit together
        cost = self._row_cost(inputs) * (1 if self._sampled is None else max(1, inputs[self._sampled].shape[1]))
        if self.waiting and self.waiting + rows * cost > self.max_queue:
            raise Overloaded(f"{self.waiting} examples are waiting already: try again in a second.")
        key = (*((name, array.shape[1:], array.dtype.char) for name, array in inputs.items()), *(outputs or ()))
        job = _Job(key, inputs, outputs, rows, cost, asyncio.get_running_loop().create_future())
        self.waiting += rows * cost
        try:
            if not self._arrived:
                job.future.get_loop().call_soon(self._dispatch)  # after the requests that were read with this one
            self._arrived.append(job)
            return await job.future
        finally:
            self.waiting -= rows * cost

    def close(self) -> None:
        """Runs what is waiting, then ends the thread."""
        self._enqueue()
        self._queue.put(None)
        self._thread.join()

    def _enqueue(self):
        jobs, self._arrived = self._arrived, []
        for job in jobs:
            self._queue.put(job)

    def _dispatch(self):
        """Runs what has arrived, here if that is quick and the thread is not at it."""
        cost = sum(job.rows * job.cost for job in self._arrived)
        key, seconds, last_cost = self._last
        seconds *= max(1.0, cost / last_cost)
        busy = self._busy or cost < self.waiting
        if busy or seconds > INLINE_SECONDS or any(job.key != key for job in self._arrived):
            self._enqueue()
            return
        jobs, self._arrived = self._arrived, []
        for group in self._groups(jobs):
            _deliver(group, self._run(group))

    def _groups(self, jobs):
        """The jobs that can be run together."""
        groups = {}
        for i, job in enumerate(jobs):
            if not job.future.done():  # a caller that has gone needs no run
                groups.setdefault(job.key if self._merge else i, []).append(job)
        return groups.values()

    def _work(self):
        while True:
            jobs, cost = [self._queue.get()], 0
            with contextlib.suppress(queue.Empty):
                while jobs[-1] is not None and (cost := cost + jobs[-1].rows * jobs[-1].cost) < self.max_batch:
                    jobs.append(self._queue.get_nowait())
            for group in self._groups(job for job in jobs if job is not None):
                self._busy = True
                results = self._run(group)
                self._busy = False
                # Nobody waits in a loop that has been closed.
                with contextlib.suppress(RuntimeError):
                    group[0].future.get_loop().call_soon_threadsafe(_deliver, group, results)
            if jobs[-1] is None:
                return

    def _run(self, group):
        """The results of jobs of one key, or the exceptions, in their order."""
        try:
            return self._run_together(group)
        except Exception as error:
            if len(group) == 1:
                return [_explained(self.session.graph.name, error)]
        return [result for job in group for result in self._run([job])]

    def _run_together(self, group):
        inputs, size, parts = concatenate([job.inputs for job in group]), max(1, self.max_batch // group[0].cost), []
        for part in [inputs] if sum(job.rows for job in group) <= size else split(inputs, size):
            rows = batch_size_of(part)
            self._on_batch(rows)
            started = time.perf_counter()
            parts.append(self.session.run(part, group[0].outputs, check=False))
            self._last = group[0].key, time.perf_counter() - started, rows * group[0].cost
        outputs = concatenate(parts)
        if len(group) == 1:
            return [outputs]
        results, start = [], 0
        for job in group:
            results.append({name: array[start : start + job.rows] for name, array in outputs.items()})
            start += job.rows
        return results


def _deliver(group, results):
    for job, result in zip(group, results, strict=True):
        if job.future.done():  # its caller has gone
            continue
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)


def _explained(graph, error):
    """What onnxruntime raised, without its source paths and addresses, which are in the log."""
    _logger.warning("the graph %s failed: %s", graph, str(error).strip().split("\n")[0])
    if "alloc" in str(error):
        return Overloaded(f"the graph {graph} did not get the memory that it needs for these inputs: send fewer.")
    return RequestError(f"the graph {graph} cannot run on inputs of these sizes or values.")
