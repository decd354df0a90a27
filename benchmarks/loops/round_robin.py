"""Training loops in processes of their own, measured in turns.

Each loop lives in a worker that waits, idle, to be asked for an epoch. In a round every worker is asked once, one after
the other, so that a minute in which the machine is slow is slow for all. What is compared are medians over the rounds.

A worker reads lines of JSON, `{"problem": {...}, "steps": 200}`, makes the loop for a problem that it has not seen
before, runs an epoch and answers with a line, the fields of `Answer` or `{"failure": why}`.

Run as a program this file is the worker. It needs NumPy and what its loop needs: the Python of another environment may
run it.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile

CPU = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
WARM_UP = 2  # epochs: a second signature is compiled in the second, as where JAX's first state is weakly typed


@dataclasses.dataclass(frozen=True)
class Subject:
    """A loop to measure: `loop` is "module.function" in this folder, called with a problem, images and `arguments`."""

    backend: str
    name: str
    loop: str
    arguments: dict = dataclasses.field(default_factory=dict, hash=False)
    python: str = sys.executable
    environment: dict = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass
class Answer:
    loss: float
    seconds: float
    cpu_seconds: float
    devices: list  # where the weights are
    device_bytes: int  # the most that was in use on the accelerator, 0 on a CPU
    flops: float | None


@dataclasses.dataclass
class Result:
    """What one subject did with one problem."""

    subject: Subject
    problem: object
    steps: int
    answers: list = dataclasses.field(default_factory=list)
    failure: str = ""  # why it has no answers

    @property
    def ms(self):
        """The median of the rounds, of a step."""
        return 1e3 * statistics.median(answer.seconds for answer in self.answers) / self.steps

    @property
    def cpu_ms(self):
        return 1e3 * statistics.median(answer.cpu_seconds for answer in self.answers) / self.steps

    @property
    def last(self):
        return self.answers[-1]


def measure(subjects, problems, rounds):
    """A `Result` for each subject and each pair `(problem, steps)`; a subject that fails once is not asked again."""
    with contextlib.ExitStack() as stack:
        workers = {subject: stack.enter_context(_Worker(subject)) for subject in subjects}
        results = [Result(subject, *problem) for problem in problems for subject in subjects]
        for number in range(1 - WARM_UP, rounds + 1):
            for result in results:
                worker = workers[result.subject]
                answer = None if worker.failure else worker.ask(result.problem, result.steps)
                if answer and number > 0:
                    result.answers.append(answer)
            print(f"round {number} of {rounds}" if number > 0 else "warm-up", file=sys.stderr, flush=True)
        for result in results:
            result.failure = workers[result.subject].failure
    return results


class _Worker:
    def __init__(self, subject):
        self.failure, self.errors = "", tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `__exit__`
        environment = {**os.environ, "KERAS_BACKEND": subject.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self.process = subprocess.Popen(
            [subject.python, __file__, subject.loop, json.dumps(subject.arguments)],
            env={**environment, **subject.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, problem, steps):
        """The answer; None, and `failure` says why, if there is none."""
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(
                json.dumps({"problem": dataclasses.asdict(problem), "steps": steps}),
                file=self.process.stdin,
                flush=True,
            )
            line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().strip().split("\n")[-1]
            line = json.dumps({"failure": f"the process ended with code {self.process.wait()}: {said}"})
        answer = json.loads(line)
        self.failure = answer.pop("failure", "")
        return None if self.failure else Answer(**answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def _work(name, arguments):
    # What libraries print goes to the standard error: it must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.suppress(Exception):  # while others are asked; what fails fails again below
        _function(name)
    loops = {}
    for line in sys.stdin:
        try:
            answer = dataclasses.asdict(_answer(loops, name, arguments, **json.loads(line)))
        except Exception as error:  # of whatever kind: the others are measured without it
            answer = {"failure": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


def _function(name):
    module, function = name.split(".")
    return getattr(importlib.import_module(module), function)


def _answer(loops, name, arguments, problem, steps):
    from problem import Problem

    problem = Problem(**{key: tuple(value) if isinstance(value, list) else value for key, value in problem.items()})
    if (problem, steps) not in loops:
        images = problem.images(steps * problem.batch_size)
        loops[problem, steps] = _function(name)(problem, images, **arguments)
    loop = loops[problem, steps]
    epoch = loop.epoch()
    devices = sorted({str(weight.device) for weight in loop.weights()})
    return Answer(*epoch, devices, _device_bytes(), loop.flops)


def _device_bytes():
    if "jax" in sys.modules:
        return (sys.modules["jax"].local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return sys.modules["torch"].cuda.max_memory_allocated()
    return 0


if __name__ == "__main__":
    _work(sys.argv[1], json.loads(sys.argv[2]))
