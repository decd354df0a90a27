"""Exports every model and layer of the tests' zoo, and writes the tables of export/README.md.

    python benchmarks/export_zoo.py           everything: models from each backend, layers from TensorFlow and PyTorch
    python benchmarks/export_zoo.py TEXT...   only the rows whose name contains one of these

Each backend runs in a process of its own, as Keras has one backend per process. What is refused has the error in its
row, and the benchmark ends with an error.
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
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "export" / "README.md"
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
DIFFERENCES = [f"difference, {name}" for name in BACKENDS.values()]
TABLES = {
    "models": ["model", "engine", *DIFFERENCES, "nodes", "Transpose", "kB", "seconds"],
    "layers": ["of `x`", "engine", *DIFFERENCES[1:]],
}


def main():
    options = _options()
    if options.worker:
        _measure(options.text)
        return
    by_backend = {backend: _run(backend, options.text) for backend in BACKENDS}
    text = README.read_text()
    for name in TABLES:
        text = _with_table(text, name, {backend: rows[name] for backend, rows in by_backend.items()}, options.text)
    README.write_text(text)
    refused = [
        row for tables in by_backend.values() for rows in tables.values() for row in rows.values() if "error" in row
    ]
    if refused:
        sys.exit("\n".join(row["error"] for row in refused))


def _options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="*", help="only the rows whose name contains one of these")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(backend, text):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--worker", *text]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _with_table(text, table, by_backend, partly):
    """The README with new rows; those of other names stay if only some were measured."""
    begin, end = f"<!-- {table}: begin -->", f"<!-- {table}: end -->"
    before, _, rest = text.partition(begin)
    old, _, after = rest.partition(end)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines()[3:] if partly}
    for name in dict.fromkeys(name for rows in by_backend.values() for name in rows):
        rows = [by_backend[backend].get(name) for backend in BACKENDS]
        found = [row for row in rows if row and "error" not in row]
        same = len({row["sha256"] for row in found}) <= 1
        label = f"`{name}`" if table == "layers" else name.replace("_", " ")
        cells = [label, ", ".join(dict.fromkeys(row["engine"] for row in found)) + ("" if same else " (files differ)")]
        cells += ["" if not row else f"{row['difference']:.0e}" if "error" not in row else "refused" for row in rows]
        if table == "layers":
            del cells[2]
        elif found:
            cells += [str(found[0]["nodes"]), str(found[0]["transposes"]), f"{found[0]['bytes'] / 1e3:.0f}"]
            cells.append(f"{sorted(row['seconds'] for row in found)[len(found) // 2]:.1f}")
        lines[label] = "| " + " | ".join(cells) + " |"
    head = ["| " + " | ".join(TABLES[table]) + " |", "|---|---|" + "---:|" * (len(TABLES[table]) - 2)]
    return f"{before}{begin}\n" + "\n".join([*head, *lines.values()]) + f"\n{end}{after}"


def _measure(text):
    """Prints, as JSON, what each export measured on the backend of this process."""
    sys.path.insert(0, str(ROOT / "tests"))
    import keras

    import families
    import warm_converter
    import zoo

    def chosen(name):
        return not text or any(part in name for part in text)

    tables = {"models": {}, "layers": {}}
    for name in filter(chosen, families.FAMILIES):
        tables["models"][name] = _export(name, lambda name=name: (families.make(name), None))
    if keras.backend.backend() != "jax":
        with warm_converter.use():
            for kind, expression in zoo.entries(keras.backend.backend()):
                if chosen(expression):
                    tables["layers"][expression] = _export(
                        expression, lambda kind=kind, e=expression: (zoo.make(kind, e), zoo.data(kind))
                    )
    print(json.dumps(tables))


def _export(name, make):
    import keras
    import onnx

    import keras_vae_export
    from keras_vae_export.converters.canonical import nodes

    print(name, file=sys.stderr)
    keras.backend.clear_session(free_memory=False)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, data = make()
        try:
            manifest = keras_vae_export.export(model, folder + "/bundle", data=data)
        except keras_vae_export.ExportError as error:
            return {"error": f"{name}: {error}"}
        paths = [pathlib.Path(folder, "bundle", manifest.graphs[graph].file) for graph in ("encoder", "decoder")]
        operators = [node.op_type for path in paths for node in nodes(onnx.load(path).graph)]
        return {
            "engine": manifest.export["engine"],
            "difference": max(max(graph.parity["max_scaled_diff"].values()) for graph in manifest.graphs.values()),
            "nodes": len(operators),
            "transposes": operators.count("Transpose"),
            "bytes": sum(path.stat().st_size for path in paths),
            "seconds": time.perf_counter() - started,
            "sha256": hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest(),
        }


if __name__ == "__main__":
    main()
