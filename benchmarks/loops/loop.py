"""What a training loop is to those who measure it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Epoch(NamedTuple):
    loss: float  # mean over the epoch, in nats: everybody's should be about the same
    seconds: float
    cpu_seconds: float  # of all threads of the process


class Loop(NamedTuple):
    epoch: Callable[[], Epoch]
    weights: Callable[[], list]  # arrays with a `device`
    flops: Any = None  # floating-point operations of a step, where they were counted


class Stopwatch:
    def start(self):
        self.started = time.perf_counter(), time.process_time()

    def stop(self):
        """The seconds and the processor seconds since `start`."""
        return time.perf_counter() - self.started[0], time.process_time() - self.started[1]


def timed(epoch):
    """An `epoch` that returns its loss, as one that returns an `Epoch`."""

    def run():
        watch = Stopwatch()
        watch.start()
        return Epoch(epoch(), *watch.stop())

    return run
