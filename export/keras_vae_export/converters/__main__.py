"""One conversion in a process of its own: python -m keras_vae_export.converters ARCHIVE ENGINE FOLDER."""

import importlib
import json
import pathlib
import re
import sys
import traceback

from keras_vae_export import archive, converters, graphs
from keras_vae_export.converters import tidy
from keras_vae_export.errors import ExportError


def main(source, engine, folder):
    """Writes the files, and what happened into the archive: a process may end in ways that no exit code tells."""
    outcome = {"error": None, "stage": "load"}
    try:
        functions = graphs.of(archive.load(source))
        convert = importlib.import_module(f"keras_vae_export.converters.{engine}").convert
        outcome["stage"] = "convert"
        for graph in functions:
            path = pathlib.Path(folder) / graph.name / "1" / "model.onnx"
            path.parent.mkdir(parents=True)
            convert(graph, path)
            tidy.tidy(path, graph)
    except ExportError as error:
        outcome["error"] = str(error)
    except Exception as error:
        outcome["error"] = _explained(error, engine, outcome["stage"])
        traceback.print_exc()
    (pathlib.Path(source) / converters.RESULT).write_text(json.dumps(outcome))


def _explained(error, engine, stage):
    """One sentence with the layer, which Keras names in its message, and where the user's code stood."""
    what = "loaded" if stage == "load" else "traced"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not _is_library(frame.filename)]
    where = f" in {theirs[-1].name}(), line {theirs[-1].lineno}: {theirs[-1].line}" if theirs else ""
    message = " ".join(re.sub("\x1b\\[[0-9;]*m", "", str(error)).split())[:1000]  # Keras writes in bold
    return (
        f"The model cannot be {what} on {engine}{where}: {type(error).__name__}: {message} Write custom layers in "
        "keras.ops, which runs on every backend, or export with the engine of the framework they are written in."
    )


def _is_library(filename):
    return "site-packages" in filename or "keras_vae" in filename or filename.startswith("<frozen")


if __name__ == "__main__":
    main(*sys.argv[1:])
