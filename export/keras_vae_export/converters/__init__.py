"""The other seam: from a Keras model to ONNX files. Each engine is a file with one function,

    def convert(graph, path)    writes the graph, a `graphs.Graph` of a model in this process, to an ONNX file

`tensorflow.py` (the default, through tf2onnx) and `torch.py` (torch.onnx). What they write may have any names, order
and shapes: `tidy.py` gives every file the same form.

An engine runs in a fresh process on its own backend, whichever backend the model was trained on. So there is one way
to convert a model and not three; the exporting process needs no TensorFlow and keeps its memory; and the files are the
same to the last byte each time, which the counters in TensorFlow's names would spoil in a process that has converted
before.
"""

import json
import os
import pathlib
import subprocess
import sys

from keras_vae_export.errors import ConversionError

ENGINES = {
    "tensorflow": {"tensorflow": "export", "tf2onnx": "export"},
    "torch": {"torch": "torch", "onnxscript": "export"},
}
"""Each engine, which is also the name of a Keras backend, with the packages it needs and the extra that brings them."""

RESULT = "result.json"


class LoadError(ConversionError):
    """The model cannot be loaded on the engine's backend: another engine may be able to."""


def run(archive, engine, folder):
    """Converts every graph of the archived model to `folder`/NAME/1/model.onnx, tidied.

    Args:
        archive: A folder written by `archive.save`.
        engine: A key of `ENGINES`.
        folder: Where to write.

    Raises:
        LoadError: If the model cannot be loaded on the engine's backend.
        ConversionError: If a graph cannot be converted.
    """
    result = pathlib.Path(archive) / RESULT
    result.unlink(missing_ok=True)
    # -P: what can be imported there is what can be imported here, without the current folder if it is not on our path.
    command = [sys.executable, "-P", "-m", "keras_vae_export.converters", str(archive), engine, str(folder)]
    done = subprocess.run(command, env=_environment(engine), capture_output=True, text=True, errors="replace")
    outcome = json.loads(result.read_text()) if result.is_file() else None
    if outcome is None:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        killed = " It was killed, most likely for want of memory." if done.returncode == -9 else ""
        raise ConversionError(
            f"The {engine} engine ended with code {done.returncode} and no result.{killed} It said last:\n{last}"
        )
    if outcome["stage"] == "system":
        raise OSError(outcome["errno"], outcome["error"])
    if outcome["error"] is not None:
        raise {"load": LoadError, "convert": ConversionError}[outcome["stage"]](outcome["error"])


def _environment(engine):
    return {
        **os.environ,
        "KERAS_BACKEND": engine,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path if isinstance(entry, str)),
        "PYTHONHASHSEED": "0",
        "CUDA_VISIBLE_DEVICES": "",  # tracing needs no GPU, and must not take the trainer's memory
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
