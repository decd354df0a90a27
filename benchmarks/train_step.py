"""A training step of `model.fit` beside hand-written loops, pythae's trainer and the plain Keras example, on the CPU.

    python benchmarks/train_step.py --pythae pythae_venv/bin/python

Everybody trains the same networks on the same data with Adam: `mlp` is 784-500-z20-500-784 with tanh at batch 100, and
`conv` is 28x28x1 through convolutions of 32 and 64 filters with stride 2 to z16, and back, at batch 128. The loops are
in benchmarks/loops. Each lives in a process of its own and is asked for an epoch in turns; the figures are medians over
the rounds, and the ratios of these times: below 1 is faster. `cpu` is processor time over all threads, which other work
on the machine disturbs less. The start of `fit`, once in a training, is left out, and so is what pythae does after
an epoch.

The second part trains `mlp` at batches of 16 to 4096, ours and the fastest hand-written loop of each backend, and fits
`ms = fixed + per_example * batch`, by least squares of the relative error so that small batches count. Reading the
weights and updating them is part of `fixed`, for everybody: what a library adds is the difference.

pythae is best kept in an environment of its own, `pip install torch==2.13.0 pythae==0.1.2`; without `--pythae` it is
left out. Writes benchmarks/train_step.csv and, of the second part, train_step.png.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import shutil

import numpy as np
from loops import round_robin
from loops.problem import CONV, MLP
from loops.round_robin import Subject
from loops.rows import write as write_rows

BACKENDS = ("jax", "tensorflow", "torch")
MODELS = {"mlp": MLP, "conv": CONV}
EXECUTION = 20  # steps_per_execution, which the steps of an epoch are a multiple of

on_cpu = functools.partial(Subject, environment=round_robin.CPU)
HAND_WRITTEN = (
    on_cpu("jax", "hand-written, jitted step", "jax_loops.jitted_step"),
    on_cpu("jax", "hand-written, lax.scan", "jax_loops.scan"),
    on_cpu("tensorflow", "hand-written, tf.function", "tensorflow_loops.function"),
    on_cpu("tensorflow", "hand-written, XLA", "tensorflow_loops.xla"),
    on_cpu("tensorflow", "hand-written, loop in the graph", "tensorflow_loops.in_graph"),
    on_cpu("tensorflow", "hand-written, loop in the graph, XLA", "tensorflow_loops.in_graph_xla"),
    on_cpu("torch", "hand-written, eager", "torch_loops.eager"),
    on_cpu("torch", "hand-written, torch.compile", "torch_loops.compiled"),
)
KERAS_EXAMPLE = tuple(on_cpu(backend, "Keras example", "keras_loops.example") for backend in BACKENDS)
OURS = (
    # A fit of several epochs, as one alone would be too short for many steps to be one program.
    *(on_cpu(backend, "keras_vae, nothing said", "keras_loops.ours", {"epochs": 6}) for backend in BACKENDS),
    *(
        on_cpu(backend, "keras_vae, step by step", "keras_loops.ours", {"steps_per_execution": 1})
        for backend in BACKENDS
    ),
    *(
        on_cpu(
            backend,
            f"keras_vae, steps_per_execution={EXECUTION}",
            "keras_loops.ours",
            {"steps_per_execution": EXECUTION},
        )
        for backend in BACKENDS
    ),
    on_cpu(
        "torch",
        "keras_vae, jit_compile=True, step by step",
        "keras_loops.ours",
        {"jit_compile": True, "steps_per_execution": 1},
    ),
    on_cpu(
        "torch",
        f"keras_vae, jit_compile=True, steps_per_execution={EXECUTION}",
        "keras_loops.ours",
        {"jit_compile": True, "steps_per_execution": EXECUTION},
    ),
)
SLOW = "training transposed convolutions in JAX on a CPU took 824 ms a step where TensorFlow took 49 to 72"


@dataclasses.dataclass
class Row:
    model: str
    batch: int
    backend: str
    name: str
    ms: float | None = None
    cpu_ms: float | None = None
    of_hand_written: float | None = None  # of the fastest hand-written loop of the same backend
    of_pythae: float | None = None
    fixed_ms: float | None = None
    us_per_example: float | None = None
    loss: float | None = None
    failure: str = ""


def main():
    options = _options()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before the run")
    rows, fastest = [], {}
    for model in options.models:
        results = _loops(model, options)
        rows += _rows(model, results)
        if model == "mlp":
            fastest = _fastest(results)
    if fastest and options.batches:
        rows += _batches(fastest, options)
    write_rows(Row, rows, options.output)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="of an epoch of mlp; conv has a tenth, and 20 at least")
    parser.add_argument("--pythae", metavar="PYTHON", help="the Python of an environment that has pythae")
    parser.add_argument(
        "--batches", nargs="*", type=int, default=[16, 64, 256, 1024, 4096], help="of the second part; none: without it"
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    if options.steps % EXECUTION:
        parser.error(f"--steps must be a multiple of {EXECUTION}, the steps_per_execution that is measured.")
    if options.pythae and not shutil.which(options.pythae):
        parser.error(f"--pythae {options.pythae} cannot be run; it is to be a Python that can import pythae.")
    return options


def _loops(model, options):
    """The first part: every loop at the batch of `model`."""
    subjects = [one for one in (*HAND_WRITTEN, *KERAS_EXAMPLE, *OURS) if one.backend in options.backends]
    steps = options.steps
    if model == "conv":
        print(f"conv, what XLA compiles is left out: {SLOW}")
        subjects = [one for one in subjects if one.backend != "jax" and "XLA" not in one.name]
        steps = max(EXECUTION, steps // 10 // EXECUTION * EXECUTION)
    if options.pythae:
        subjects.append(on_cpu("torch", "pythae", "pythae_loop.trainer", python=options.pythae))
    subjects.sort(key=lambda subject: subject.backend)
    print(f"{model}, batch {MODELS[model].batch_size}: medians of {options.rounds} epochs of {steps} steps", flush=True)
    return round_robin.measure(subjects, [(MODELS[model], steps)], options.rounds)


def _fastest(results):
    """By backend, the hand-written loop that took least."""
    measured = [result for result in results if not result.failure and result.subject in HAND_WRITTEN]
    return {result.subject.backend: result for result in sorted(measured, key=lambda result: -result.ms)}


def _rows(model, results):
    fastest, rows = _fastest(results), []
    pythae = next((result for result in results if not result.failure and result.subject.name == "pythae"), None)
    for result in results:
        row = _row(model, result)
        hand_written = fastest.get(result.subject.backend)
        if not result.failure:
            row.of_hand_written = result.ms / hand_written.ms if hand_written else None
            row.of_pythae = result.ms / pythae.ms if pythae else None
        _print(row)
        rows.append(row)
    return rows


def _row(model, result):
    row = Row(model, result.problem.batch_size, result.subject.backend, result.subject.name, failure=result.failure)
    if not result.failure:
        row.ms, row.cpu_ms, row.loss = result.ms, result.cpu_ms, result.answers[-1].loss
    return row


def _print(row):
    who = f"{row.backend:10s} {row.name:36s}"
    if row.failure:
        print(f"{who} failed: {row.failure}")
        return
    times = {"hand-written": row.of_hand_written, "pythae": row.of_pythae}
    times = "".join(f", {ratio:5.2f} x {whose}" for whose, ratio in times.items() if ratio)
    print(f"{who} {row.ms:7.2f} ms, cpu {row.cpu_ms:7.2f} ms, loss {row.loss:.1f}{times}")


def _batches(fastest, options):
    """The second part: milliseconds a step against the batch, and the line through them."""
    subjects = [one for one in OURS if one.backend in options.backends and "jit_compile" not in one.arguments]
    subjects += [result.subject for result in fastest.values()]
    subjects.sort(key=lambda subject: subject.backend)
    problems = []
    for batch in options.batches:
        steps = min(options.steps, max(EXECUTION, 20_480 // batch // EXECUTION * EXECUTION))
        problems.append((dataclasses.replace(MLP, batch_size=batch), steps))
    results = round_robin.measure(subjects, problems, options.rounds)

    rows, lines = [], {}
    print("mlp by batch: fixed overhead of a step, and cost of an example")
    for subject in subjects:
        mine = [_row("mlp", result) for result in results if result.subject == subject]
        rows += mine
        what = f"failed: {mine[0].failure}"
        if not mine[0].failure:
            fixed, us = _line(mine)
            lines[subject], what = mine, f"{fixed:6.2f} ms + {us:6.2f} us an example"
            for row in mine:
                row.fixed_ms, row.us_per_example = fixed, us
        print(f"{subject.backend:10s} {subject.name:36s} {what}")
    if lines:
        _plot(lines, options.output.with_suffix(".png"))
    return rows


def _line(rows):
    """`fixed` in ms and `per_example` in us of `ms = fixed + per_example * batch`, by relative least squares."""
    batches, ms = (np.array([getattr(row, name) for row in rows], "float64") for name in ("batch", "ms"))
    columns = np.stack([1.0 / ms, 1e-3 * batches / ms], axis=1)
    return np.linalg.lstsq(columns, np.ones(len(rows)), rcond=None)[0]


def _plot(lines, path):
    from matplotlib.figure import Figure

    backends = list(dict.fromkeys(subject.backend for subject in lines))
    batches = sorted({row.batch for rows in lines.values() for row in rows})
    figure = Figure(figsize=(4.5 * len(backends), 4), layout="constrained")
    axes = dict(zip(backends, figure.subplots(1, len(backends), sharey=True, squeeze=False)[0], strict=True))
    for subject, rows in lines.items():
        label = f"{subject.name}\n{rows[0].fixed_ms:.2f} ms + {rows[0].us_per_example:.1f} µs an example"
        style = "k--o" if subject in HAND_WRITTEN else "-o"
        axes[subject.backend].loglog([row.batch for row in rows], [row.ms for row in rows], style, label=label)
    for backend, axis in axes.items():
        axis.set(title=backend, xlabel="batch", ylabel="ms a step")
        axis.set_xticks(batches, batches)
        axis.set_xticks([], minor=True)
        axis.label_outer()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
