"""Exports every family of networks from every backend, and writes the table of export/README.md.

    python benchmarks/export_families.py            all families, about ten minutes on two cores
    python benchmarks/export_families.py FAMILY...  only the rows of these

Each backend runs in a process of its own, as Keras has one backend per process.
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "export" / "README.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
HEADER = ["family", *(f"difference, {name}" for name in BACKENDS.values()), "nodes", "Transpose", "kB", "seconds"]


def main():
    options = _options()
    if options.worker:
        _measure(options.families)
        return
    by_backend = {backend: _run(backend, options.families) for backend in BACKENDS}
    before, _, rest = README.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    # In the order of the table; new rows come last.
    table = (
        {line.split("|")[1].strip().removesuffix(" (files differ)"): line for line in old.splitlines()[3:]}
        if options.families
        else {}
    )
    for family in next(iter(by_backend.values())):
        rows = [by_backend[backend][family] for backend in BACKENDS]
        same = len({row["sha256"] for row in rows}) == 1
        name = family.replace("_", " ")
        cells = [name + ("" if same else " (files differ)")]
        cells += [f"{row['difference']:.0e}" for row in rows]
        cells += [str(rows[0]["nodes"]), str(rows[0]["transposes"]), f"{rows[0]['bytes'] / 1e3:.0f}"]
        cells.append(f"{sorted(row['seconds'] for row in rows)[1]:.1f}")
        table[name] = "| " + " | ".join(cells) + " |"
    head = ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
    lines = "\n".join([*head, *table.values()])
    print(lines)
    README.write_text(f"{before}{BEGIN}\n{lines}\n{END}{after}")


def _options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("families", nargs="*", help="only the rows of these")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(backend, families):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--worker", *families]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(names):
    """Prints, as JSON, what the export of each family measured on the backend of this process."""
    sys.path.insert(0, str(ROOT / "tests"))
    import onnx

    import families
    import keras_vae_export
    from keras_vae_export.converters.canonical import nodes

    rows = {}
    for name in names or families.FAMILIES:
        model = families.make(name)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            manifest = keras_vae_export.export(model, folder + "/bundle")
            seconds = time.perf_counter() - started
            paths = [pathlib.Path(folder, "bundle", manifest.graphs[graph].file) for graph in ("encoder", "decoder")]
            operators = [node.op_type for path in paths for node in nodes(onnx.load(path).graph)]
            rows[name] = {
                "difference": max(max(graph.parity["max_scaled_diff"].values()) for graph in manifest.graphs.values()),
                "nodes": len(operators),
                "transposes": operators.count("Transpose"),
                "bytes": sum(path.stat().st_size for path in paths),
                "seconds": seconds,
                "sha256": hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest(),
            }
        print(name, file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
