"""Converts a Keras model to ONNX files. Each engine is a file with one function,

    def convert(graph, path)    writes the graph, a `GraphFunction` of a model in this process, to an ONNX file

`tensorflow.py` (the default, with tf2onnx) and `torch.py` (torch.onnx). Their files may have any names, order and
shapes: `tidy.py` gives every file the same form.

An engine runs in a fresh process on its own backend, whichever backend the model was trained on. So there is one way
to convert a model instead of three; the exporting process needs no TensorFlow and keeps its memory; and the files are
the same to the last byte each time, whereas the counters in TensorFlow's names differ in a process that has converted
before.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

from keras_vae_export.errors import ConversionError

ENGINES: dict[str, dict[str, str]] = {
    "tensorflow": {"tensorflow": "export", "tf2onnx": "export"},
    "torch": {"torch": "torch", "onnxscript": "export"},
}
"""The packages that each engine needs, with the extra that installs them; an engine is named after its backend."""

RESULT = "result.json"

Path = str | os.PathLike[str]


class LoadError(ConversionError):
    """A model that cannot be loaded on the engine's backend; another engine may be able to load it."""


class RandomnessError(ConversionError):
    """A graph that draws random numbers, which no engine may convert."""


# By the stage at which an engine failed; `__main__` says which.
_ERRORS = {"load": LoadError, "convert": ConversionError, "random": RandomnessError}


def run(archive: Path, engine: str, folder: Path) -> None:
    """Converts every graph of the archived model to `folder`/NAME/1/model.onnx, tidied.

    Args:
        archive: Folder written by `archive.save`.
        engine: Key of `ENGINES`.
        folder: Folder to write to.

    Raises:
        LoadError: If the model cannot be loaded on the engine's backend.
        RandomnessError: If a graph draws random numbers.
        ConversionError: If a graph cannot be converted.
    """
    result = pathlib.Path(archive) / RESULT
    result.unlink(missing_ok=True)
    done = start_process(archive, engine, folder)
    outcome = json.loads(result.read_text()) if result.is_file() else None
    if outcome is None:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        killed = " It was killed, most likely because memory ran out." if done.returncode == -9 else ""
        raise ConversionError(
            f"The {engine} engine ended with code {done.returncode} and no result.{killed} Its last lines were:\n{last}"
        )
    if outcome["stage"] == "system":
        raise OSError(outcome["errno"], outcome["error"])
    if outcome["error"] is not None:
        raise _ERRORS[outcome["stage"]](outcome["error"])


def start_process(archive: Path, engine: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `__main__.py` in a fresh process until it ends; the tests replace this by one that is already warm."""
    # -P: what can be imported there is what can be imported here, without the current folder if it is not on our path.
    command = [sys.executable, "-P", "-m", "keras_vae_export.converters", str(archive), engine, str(folder)]
    return subprocess.run(command, env=environment(engine), capture_output=True, text=True, errors="replace")


def message(error: Exception) -> str:
    """The words of an error, without the codes for bold and colours that Keras and PyTorch put in."""
    return re.sub("\x1b\\[[0-9;]*m", "", str(error))


def environment(engine: str) -> dict[str, str]:
    """The environment variables of an engine's process."""
    return {
        **os.environ,
        "KERAS_BACKEND": engine,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str)),
        "PYTHONHASHSEED": "0",
        "CUDA_VISIBLE_DEVICES": "",  # tracing needs no GPU, and must not take the trainer's memory
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
