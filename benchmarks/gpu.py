"""Training on one GPU: how near `fit` comes to a loop that is all on the device, and to what the device can do.

    python benchmarks/gpu.py [--peak-tflops 989]

On JAX and PyTorch, each loop in a process of its own, asked for an epoch in turns: ours with `steps_per_execution=50`;
the hand-written loop of benchmarks/loops, JAX's `lax.scan` or a CUDA graph, its data on the device; and a plain
`keras.Model` with a `train_step`. Medians over the rounds and their ratios, for three models:

    mlp     784-500-z20-500-784, batch 100, float32: all overhead. Wanted are 80 % of the hand-written loop's speed and
            10 times the plain model's.
    conv    64x64x3 through 32 to 256 filters to z64, batch 128, bfloat16 with float32 weights.
    large   64x64x3 through 128 to 1024 filters to z128, batch 512, likewise: its share of the device's peak.

The floating-point operations of a step are those of the hand-written loop: of the program that JAX is given, or by
PyTorch's counter, which counts products with padding and so 7 % more for `large`. The peak, `--peak-tflops`, is by
default that of an H100 or H200 in dense bfloat16. Memory is the most that the framework's allocator had in use. Data
start on the host for Keras, as users have them. Weights that are not on the GPU end the run with an error. Without a
GPU nothing is measured; `--cpu` runs tiny models, to test this script.

Writes benchmarks/gpu.csv and gpu.png.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys

from loops import round_robin
from loops.problem import MLP, Problem
from loops.round_robin import Subject
from loops.rows import write as write_rows

EXECUTION = 50  # steps_per_execution, of which each number of steps is a multiple
# The model and the steps of an epoch.
CASES = {
    "mlp": (MLP, 1000),
    "conv": (Problem((64, 64, 3), 64, batch_size=128, filters=(32, 64, 128, 256), dtype="bfloat16"), 100),
    "large": (Problem((64, 64, 3), 128, batch_size=512, filters=(128, 256, 512, 1024), dtype="bfloat16"), 50),
}
TINY = {
    "mlp": (Problem((784,), 4, batch_size=8, hidden=16), EXECUTION),
    "conv": (Problem((16, 16, 3), 4, batch_size=2, filters=(4, 8), dtype="bfloat16"), EXECUTION),
    "large": (Problem((16, 16, 3), 4, batch_size=4, filters=(8, 16), dtype="bfloat16"), EXECUTION),
}
HAND_WRITTEN = {"jax": ("lax.scan", "jax_loops.scan"), "torch": ("CUDA graph", "torch_loops.graph")}
HAS_GPU = {
    "jax": "import jax; print(jax.default_backend() == 'gpu')",
    "torch": "import torch; print(torch.cuda.is_available())",
}


@dataclasses.dataclass
class Row:
    case: str
    backend: str
    name: str
    steps_per_second: float | None = None
    of_hand_written: float | None = None  # of its speed
    of_plain_keras: float | None = None
    tflops: float | None = None
    of_peak: float | None = None
    memory_mb: float | None = None
    loss: float | None = None
    failure: str = ""


def main():
    options = _options()
    backends = [backend for backend in options.backends if options.cpu or _has_gpu(backend)]
    if not backends:
        print(f"There is no GPU that {' or '.join(options.backends)} can use, so nothing was measured (see --cpu).")
        return
    if not options.cpu and len(backends) < len(options.backends):
        print(f"Only {backends[0]} can use a GPU here.")
    rows = []
    for case in options.cases:
        for backend in backends:
            rows += _case(case, backend, options)
    write_rows(Row, rows, options.output)
    _plot(rows, options.output.with_suffix(".png"))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=list(HAND_WRITTEN), choices=HAND_WRITTEN)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--cpu", action="store_true", help="tiny models on the CPU; its figures mean nothing")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    return parser.parse_args()


def _has_gpu(backend):
    # Asked in a process of its own: the frameworks would take memory of the GPU in this one.
    done = subprocess.run([sys.executable, "-c", HAS_GPU[backend]], capture_output=True, text=True)
    return done.stdout.strip() == "True"


def _case(case, backend, options):
    problem, steps = (TINY if options.cpu else CASES)[case]
    # JAX would take three quarters of the GPU for the first of its processes.
    environment = round_robin.CPU if options.cpu else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    name, loop = HAND_WRITTEN[backend]
    subjects = [
        Subject(backend, "keras_vae", "keras_loops.ours", {"steps_per_execution": EXECUTION}, environment=environment),
        Subject(backend, f"hand-written, {name}", loop, {"count_flops": True}, environment=environment),
        Subject(backend, "plain Keras", "keras_loops.example", environment=environment),
    ]
    results = round_robin.measure(subjects, [(problem, steps)], options.rounds)
    if not options.cpu:
        _assert_on_gpu(results)
    print(f"{case}, {backend}: medians of {options.rounds} epochs of {steps} steps of {problem.batch_size} examples")
    rows = _rows(case, results, options)
    for row in rows:
        _print(row)
    return rows


def _assert_on_gpu(results):
    for result in results:
        elsewhere = {device for answer in result.answers for device in answer.devices if "cpu" in device.lower()}
        if elsewhere:
            sys.exit(f"{result.subject.backend}, {result.subject.name}: weights are on {elsewhere}, not on the GPU.")


def _rows(case, results, options):
    _, hand_written, plain = results
    flops = hand_written.answers[-1].flops if not hand_written.failure else None
    rows = []
    for result in results:
        row = Row(case, result.subject.backend, result.subject.name, failure=result.failure)
        rows.append(row)
        if result.failure:
            continue
        last = result.answers[-1]
        row.steps_per_second, row.loss, row.memory_mb = 1e3 / result.ms, last.loss, last.device_bytes / 1e6
        row.of_hand_written = hand_written.ms / result.ms if not hand_written.failure else None
        row.of_plain_keras = plain.ms / result.ms if not plain.failure else None
        row.tflops = flops / result.ms / 1e9 if flops else None
        if flops and result.problem.dtype == "bfloat16":
            row.of_peak = row.tflops / options.peak_tflops
    return rows


def _print(row):
    if row.failure:
        print(f"  {row.name:24s} failed: {row.failure}")
        return
    parts = [f"{row.steps_per_second:9.1f} steps/s"]
    parts += [f"{100 * row.of_hand_written:6.1f} % of hand-written"] if row.of_hand_written else []
    parts += [f"{row.of_plain_keras:6.2f} x plain Keras"] if row.of_plain_keras else []
    parts += [f"{row.tflops:7.2f} TFLOP/s"] if row.tflops else []
    parts += [f"{100 * row.of_peak:5.1f} % of the peak"] if row.of_peak else []
    print(f"  {row.name:24s} {', '.join(parts)}, {row.memory_mb:.0f} MB, loss {row.loss:.1f}", flush=True)


def _plot(rows, path):
    from matplotlib.figure import Figure

    bars = [row for row in rows if row.of_hand_written and not row.name.startswith("hand-written")]
    figure = Figure(figsize=(7, 1 + 0.3 * len(bars)), layout="constrained")
    axis = figure.subplots()
    colours = ["tab:blue" if row.name == "keras_vae" else "tab:grey" for row in bars]
    labels = [f"{row.case}, {row.backend}: {row.name}" for row in bars]
    axis.barh(labels, [100 * row.of_hand_written for row in bars], color=colours)
    axis.axvline(100, color="black", linestyle="--")
    axis.invert_yaxis()
    axis.set_xlabel("% of the hand-written loop's steps per second")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
