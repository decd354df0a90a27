"""One conversion in a process of its own: python -m keras_vae_export.converters ARCHIVE ENGINE FOLDER."""

import importlib
import json
import pathlib
import sys
import traceback
from typing import Any

import keras

from keras_vae_export import archive, converters, graphs
from keras_vae_export.converters import tidy
from keras_vae_export.errors import ExportError


def main(source: str, engine: str, folder: str) -> None:
    """Writes the files, and the outcome into the archive, because an exit code cannot carry a message."""
    outcome: dict[str, Any] = {"error": None, "stage": "load"}
    try:
        archive.restore_settings(source)
        functions = graphs.from_model(archive.load(source))
        convert = importlib.import_module(f"keras_vae_export.converters.{engine}").convert
        outcome["stage"] = "convert"
        for graph in functions:
            path = pathlib.Path(folder) / graph.name / "1" / "model.onnx"
            path.parent.mkdir(parents=True)
            convert(graph, path)
            tidy.tidy(path, graph)
    except ExportError as error:
        outcome["error"] = str(error)
        outcome["stage"] = "random" if isinstance(error, converters.RandomnessError) else outcome["stage"]
    except OSError as error:
        outcome.update(error=str(error), stage="system", errno=error.errno)
    except Exception as error:
        outcome["error"] = _explained(error, engine, outcome["stage"])
        traceback.print_exc()
    if outcome["error"] is not None:
        for name, reason in archive.lost_attributes(source).items():
            if name in outcome["error"]:
                outcome["error"] += f" The attribute {name!r} of the model could not be sent there: {reason}."
    (pathlib.Path(source) / converters.RESULT).write_text(json.dumps(outcome))


def _explained(error, engine, stage):
    """The message for the user: the line of the user's code, the error, and what to do."""
    what = "loaded" if stage == "load" else "traced"
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    where = f" in {theirs[-1].name}(), line {theirs[-1].lineno}: {theirs[-1].line}" if theirs else ""
    advice = (
        "Write custom layers in keras.ops, which runs on every backend."
        if theirs or stage == "convert"
        else "If the model has custom classes or functions, decorate each with "
        "@keras.saving.register_keras_serializable() and let its get_config() return every argument of its __init__."
    )
    return f"The model cannot be {what} on {engine}{where}: {type(error).__name__}: {_message(error)}. {advice}"


def _message(error):
    """The cause, which Keras prints last, in bold, after a page of configuration."""
    text = " ".join(converters.message(error).split())
    return text.rpartition("Exception encountered: ")[2][:1000].rstrip(".")


def _is_library(filename):
    return filename.startswith((_LIBRARIES, _OURS, "<frozen"))


_LIBRARIES = str(pathlib.Path(str(keras.__file__)).parent.parent)  # site-packages or dist-packages
_OURS = str(pathlib.Path(__file__).parent.parent)


if __name__ == "__main__":
    main(*sys.argv[1:])
