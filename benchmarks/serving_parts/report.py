"""What `benchmarks/serving.py` writes: the tables of serving/README.md, and serving.csv.

`samples` are lists of values, one of each repeat, by (network, subject, condition, quantity).
"""

import csv
import datetime
import os
import pathlib
import platform
import statistics

BEGIN, END = "<!-- load table -->", "<!-- end of load table -->"
NETWORKS = {"dense": "dense decoder, 8-256-512-784", "conv": "convolutional decoder"}
ENCODINGS, CONNECTIONS = ("JSON", "binary"), (1, 16, 64)
ERRORS = ("non-2xx", "socket errors")


def tables(samples, subjects, versions, what):
    """Markdown.

    Args:
        samples: What was measured.
        subjects: The name of the environment of each server.
        versions: Of the packages, by environment.
        what: How often and how long it was measured.
    """
    columns = [(encoding, connections) for encoding in ENCODINGS for connections in CONNECTIONS]
    subjects = {name: where for name, where in subjects.items() if any(key[1] == name for key in samples)}
    lines = [f"{what}, {_machine()}, which the load shares. {_software(versions)}.", ""]
    lines += ["Requests/s (and p50 / p99 in ms), by encoding and number of connections:", ""]
    for network, text in NETWORKS.items():
        lines += _header([text, *(f"{encoding}, {connections}" for encoding, connections in columns)])
        lines += [_row(name, *(_load(samples, network, name, *column) for column in columns)) for name in subjects]
        lines.append("")
    lines += _header(["onnxruntime in a loop, without a server", *(f"rows/s in batches of {b}" for b in (1, 16, 64))])
    for network in NETWORKS:
        rates = (_median(samples, network, "session.run", f"decoder, batch {b}", "rows/s") for b in (1, 16, 64))
        lines.append(_row(f"decoder, {network}", *(f"{rate:,.0f}" for rate in rates)))
    named = ("server", "s to ready", "MB resident", "after load", "CPU us a request: JSON", "binary", "packages")
    lines += ["", *_header([*named, "MB on disk: onnxruntime", "the rest"])]
    for name, where in subjects.items():
        packages, disk, runtime = (
            _median(samples, "", where, "installed", quantity) for quantity in ("packages", "MB", "MB of onnxruntime")
        )
        figures = [_figure(_median(samples, "dense", name, "", "s to ready"))]
        figures += [_figure(_median(samples, "dense", name, when, "resident MB")) for when in ("idle", "after load")]
        figures += [_figure(_median(samples, "dense", name, f"{e}, 16", "CPU us a request")) for e in ENCODINGS]
        lines.append(_row(name, *figures, *map(_figure, (packages, runtime, disk - runtime))))
    lines += ["", *_header(["microseconds", "batch", "`session.run`", "`Pipeline`", "difference", "ratio"])]
    for network, graph, batch in ((n, g, b) for n in NETWORKS for g in ("encoder", "decoder") for b in (1, 64)):
        bare, ours = (
            _median(samples, network, who, f"{graph}, batch {batch}", "us in turns")
            for who in ("session.run", "Pipeline")
        )
        figures = f"{bare:,.0f}", f"{ours:,.0f}", f"{ours - bare:,.0f}", f"{ours / bare:.2f}"
        lines.append(_row(f"{graph}, {network}", str(batch), *figures))
    return "\n".join(lines)


def write(table, samples, readme, table_csv):
    """Puts the tables between their markers, and all quantities into the CSV file."""
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    with open(table_csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "subject", "condition", "quantity", "median", "lowest", "highest"])
        for key, values in samples.items():
            if key[-1] == "refused":
                writer.writerow([*key, values[0], "", ""])
            else:
                writer.writerow([*key, *(f"{of(values):.6g}" for of in (statistics.median, min, max))])


def _load(samples, network, subject, encoding, connections):
    condition = f"{encoding}, {connections}"
    refused = samples.get((network, subject, encoding, "refused"))
    errors = sum(sum(samples.get((network, subject, condition, name), ())) for name in ERRORS)
    if refused or errors:
        return refused[0] if refused else f"{errors:.0f} errors"
    rate, *times = (_median(samples, network, subject, condition, q) for q in ("requests/s", "p50 ms", "p99 ms"))
    return "not measured" if rate != rate else f"{rate:,.0f} ({' / '.join(map(_figure, times))})"


def _median(samples, *key):
    return statistics.median(samples[key]) if key in samples else float("nan")


def _figure(value):
    """Two digits of it at least."""
    return "" if value != value else f"{value:.{2 if value < 1 else 1 if value < 10 else 0}f}"


def _header(names):
    return [_row(*names), "|---|" + "---:|" * (len(names) - 1)]


def _row(*cells):
    return "| " + " | ".join(cells) + " |"


def _machine():
    info = pathlib.Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.open() if "model name" in line] if info.exists() else []
    model = models[0] if models else platform.machine()
    return f"{datetime.date.today()}, {os.cpu_count()} CPU cores ({model}, {platform.system()})"


def _software(versions):
    found = [f"Python {platform.python_version()}"]
    for environment, installed in versions.items():
        ours = ("onnxruntime-gpu", "onnxruntime", "numpy", "starlette", "uvicorn", "uvloop")
        wanted = ours if environment == "serving" else (environment,)
        found += [f"{name} {installed[name]}" for name in wanted if name in installed]
    return ", ".join(found)
