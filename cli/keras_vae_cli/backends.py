"""Chooses Keras's backend for a command.

Keras reads KERAS_BACKEND when it is imported, so this file imports neither Keras nor anything that needs it.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys

# In order of preference. TensorFlow is last, as it may be installed for the exporter only.
BACKENDS = ("jax", "torch", "tensorflow")

# What Keras writes into its configuration file when it is imported for the first time: nobody's choice.
UNTOUCHED = {"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}


def prepare(given: argparse.Namespace) -> None:
    """Sets the environment in which Keras and the backend are imported.

    Raises:
        ValueError: If the backend is unknown or not installed, or Keras already runs on another one.
    """
    if "keras" in sys.modules:
        running = sys.modules["keras"].backend.backend()
        if given.backend not in (None, running):
            raise ValueError(f"Keras runs on {running} already; set KERAS_BACKEND={given.backend} before it starts.")
        return
    os.environ["KERAS_BACKEND"] = choose(given.backend)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's page of log lines
    if given.command != "export":
        # Hides one more. But without oneDNN TensorFlow lacks some convolutions on the CPU that export may need.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def choose(asked: str | None) -> str:
    """The backend that the command line, the environment or Keras's configuration asks for, or the first installed."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = asked or os.environ.get("KERAS_BACKEND") or _configured(installed) or (installed or [None])[0]
    if backend is None:
        raise ValueError('no backend is installed: pip install "keras-vae[jax]", or [tensorflow], or [torch].')
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if backend not in installed:
        has = f"installed: {', '.join(installed)}" if installed else "none is installed"
        raise ValueError(
            f'the backend {backend} is not installed ({has}): pip install "keras-vae[{backend}]", or choose another.'
        )
    return backend


def _configured(installed):
    """The backend in Keras's own configuration file, if it names one that is installed."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    try:
        settings = json.loads((home / "keras.json").read_text())
    except (OSError, ValueError):
        return None
    backend = settings.get("backend") if isinstance(settings, dict) and settings != UNTOUCHED else None
    return backend if backend in installed else None
