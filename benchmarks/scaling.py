"""How time and memory of `fit` grow with the data, the image and the latents, and that they do not with data on disk.

    python benchmarks/scaling.py

Each measurement is a process of its own. Its time is the median of three epochs after a first one that compiles; its
memory is the peak of the process (`ru_maxrss`) less the peak before `fit`, when Keras, the model and the data were
there already. Ratios are to the smallest size on the same backend: time per example should not grow with the number of
examples, should grow as the number of pixels for images, and hardly with the latents. Dense networks,
784-500-z20-500-784 with batch 100, but for images: convolutions of 8 and 16 filters, batch 32.

The rest, see loops/virtual_data.py, trains for a fixed number of steps on data of a nominal 0.2, 2 and 20 GB that are
drawn when they are asked for, or lie in a sparse file that is mapped into memory. Memory is called constant if the
peaks are within 64 MB of each other, and the output says so where it is not, and how much of that is pages of files,
which the system takes back when it needs them. A process may allocate 8 GB in `fit`, so that an attempt to read 20 GB
into memory ends with an error and not the machine (on Linux).

Writes benchmarks/scaling.csv and scaling.png.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile

from loops import round_robin
from loops.rows import write as write_rows

BACKENDS = ("jax", "tensorflow", "torch")
SIZES = {"examples": (1_000, 10_000, 100_000), "image": (16, 32, 64, 128), "latents": (2, 20, 200)}
VIRTUAL = {"py_dataset": "Drawn", "tf_data": "pipeline", "mapped_file": "mapped_file"}
BYTES = 784 * 4  # of an image of the virtual data
TOLERANCE_MB, LIMIT_GB = 64, 8


@dataclasses.dataclass
class Row:
    axis: str
    backend: str
    size: float  # examples, pixels along a side, latents or GB
    us_per_example: float | None = None
    ms_per_step: float | None = None
    peak_mb: float | None = None
    file_mb: float | None = None  # pages of files that `fit` left mapped; part of the peak
    time_ratio: float | None = None  # of the time per example, to the smallest size
    memory_ratio: float | None = None
    failure: str = ""


def main():
    options = _options()
    if options.worker:
        print(json.dumps(_measure(options)))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before the run")
    rows = []
    for axis in options.axes:
        sizes = SIZES.get(axis) or [options.virtual_gb * part for part in (0.01, 0.1, 1.0)]
        for backend in options.backends:
            rows += _series(axis, backend, sizes, options)
    write_rows(Row, rows, options.output)
    _plot(rows, options.output.with_suffix(".png"))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--axes", nargs="+", default=[*SIZES, *VIRTUAL], choices=[*SIZES, *VIRTUAL])
    parser.add_argument("--virtual-gb", type=float, default=20.0, help="the largest nominal size; also 1 %% and 10 %%")
    parser.add_argument("--steps", type=int, default=100, help="of an epoch; of images a tenth")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    parser.add_argument("--worker", nargs=2, metavar=("AXIS", "SIZE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _series(axis, backend, sizes, options):
    """One axis on one backend: measured, printed with its ratios, and for virtual data judged."""
    rows = []
    for size in sizes:
        row = Row(axis, backend, size, **_run(axis, backend, size, options))
        rows.append(row)
        what = f"{axis:11s} {backend:10s} {size:9g}"
        if row.failure:
            print(f"{what}: failed: {row.failure}", flush=True)
        else:
            row.time_ratio = row.us_per_example / rows[0].us_per_example if not rows[0].failure else None
            row.memory_ratio = row.peak_mb / rows[0].peak_mb if not rows[0].failure else None
            ratios = f" (x {row.time_ratio:.2f}, x {row.memory_ratio:.2f})" if row.time_ratio else ""
            print(
                f"{what}: {row.ms_per_step:8.2f} ms a step, {row.us_per_example:8.1f} us an example, "
                f"peak +{row.peak_mb:5.0f} MB{ratios}",
                flush=True,
            )
    if axis in VIRTUAL:
        print(f"{axis:11s} {backend:10s} {_verdict(rows)}", flush=True)
    return rows


def _verdict(rows):
    failed = next((row for row in rows if row.failure), None)
    if failed:
        return f"memory is NOT constant: {failed.size:g} GB failed"
    peaks, files = [row.peak_mb for row in rows], [row.file_mb for row in rows]
    growth, until = max(peaks) - min(peaks), f"from {rows[0].size:g} to {rows[-1].size:g} GB"
    if growth <= TOLERANCE_MB:
        return f"memory is constant: peaks are within {growth:.0f} MB {until}"
    mapped = max(files) - min(files)
    return f"memory is NOT constant: + {growth:.0f} MB {until}, of which {mapped:.0f} MB are pages of files"


def _run(axis, backend, size, options):
    command = [sys.executable, __file__, "--worker", axis, str(size), f"--steps={options.steps}"]
    environment = {**os.environ, **round_robin.CPU, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().split("\n")[-1]
        return {"failure": said if done.returncode > 0 else f"ended by signal {-done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


# The worker.


def _measure(options):
    sys.path.insert(0, str(pathlib.Path(__file__).with_name("loops")))
    import keras_loops

    import keras_vae

    axis, size = options.worker[0], float(options.worker[1])
    problem = _problem(axis, size)
    steps = options.steps // 10 if axis == "image" else options.steps
    with tempfile.TemporaryDirectory() as folder:
        data, how = _data(axis, size, problem, steps, pathlib.Path(folder))
        vae = keras_vae.VAE(*keras_loops.networks(problem), seed=0)
        vae.compile(keras_vae.FusedAdam(1e-3))
        clock = keras_loops.Clock()
        _limit_memory()
        before = _memory_mb()
        vae.fit(data, epochs=4, verbose=0, callbacks=[clock], **how)
        memory = {name: value - before[name] for name, value in _memory_mb().items()}
    steps = how.get("steps_per_epoch") or len(data) // problem.batch_size
    seconds = statistics.median(seconds for seconds, _ in clock.epochs[1:]) / steps
    return {"us_per_example": 1e6 * seconds / problem.batch_size, "ms_per_step": 1e3 * seconds, **memory}


def _problem(axis, size):
    from problem import MLP, Problem

    if axis == "image":
        return Problem(data_shape=(int(size), int(size), 1), latents=16, batch_size=32, filters=(8, 16))
    return dataclasses.replace(MLP, latents=int(size)) if axis == "latents" else MLP


def _data(axis, size, problem, steps, folder):
    """The data, and the arguments of `fit` that go with them."""
    import virtual_data

    if axis not in VIRTUAL:
        n = int(size) if axis == "examples" else steps * problem.batch_size
        return _images(problem, n), {"batch_size": problem.batch_size}
    batches = int(1e9 * size / BYTES / problem.batch_size)
    data = getattr(virtual_data, VIRTUAL[axis])(batches, problem.batch_size, problem.data_shape, folder)
    return data, {"batch_size": problem.batch_size if axis == "mapped_file" else None, "steps_per_epoch": steps}


def _images(problem, n):
    """As `problem.images`, in pieces: what were needed to draw them at once would hide what `fit` needs."""
    import numpy as np

    images = np.empty((n, *problem.data_shape), "float32")
    for piece in np.array_split(images, -(-n // 1000)):
        piece[:] = problem.images(len(piece))
    return images


def _memory_mb():
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return {"peak_mb": peak, "file_mb": _status("RssFile") / 1e6}


def _limit_memory():
    """Lets this process allocate `LIMIT_GB` more than it has; mapping a file to read it does not count."""
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + int(LIMIT_GB * 1e9), hard))


def _status(name):
    """Bytes, as Linux tells a process of itself; 0 elsewhere."""
    status = pathlib.Path("/proc/self/status")
    return 1024 * int(status.read_text().partition(f"{name}:")[2].split()[0]) if status.exists() else 0


def _plot(rows, path):
    from matplotlib.figure import Figure

    panels = {axis: f"{axis}: µs an example" for axis in SIZES} | {axis: f"{axis}: peak MB by GB" for axis in VIRTUAL}
    panels = {axis: title for axis, title in panels.items() if any(row.axis == axis for row in rows)}
    figure = Figure(figsize=(3.5 * len(panels), 3.5), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for backend in BACKENDS:
            mine = [row for row in rows if row.axis == name and row.backend == backend and not row.failure]
            if mine:
                heights = [row.peak_mb if name in VIRTUAL else row.us_per_example for row in mine]
                axis.plot([row.size for row in mine], heights, "-o", label=backend)
        sizes = sorted({row.size for row in rows if row.axis == name})
        axis.set(title=title, xscale="log", ylim=(0, 1.1 * axis.get_ylim()[1]))
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axis.set_xticks([], minor=True)
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
