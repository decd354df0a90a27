"""The `keras-vae` command, also `python -m keras_vae_cli`: chooses Keras's backend, then hands over to `commands`.

Keras reads KERAS_BACKEND when it is imported, so this file imports neither Keras nor anything that needs it.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import sys
from typing import NoReturn

from keras_vae_cli import serve
from keras_vae_cli.quiet import without_native_log

# In order of preference. TensorFlow is last, as it may be installed for the exporter only.
BACKENDS = ("jax", "torch", "tensorflow")

# What Keras writes into its configuration file when it is imported for the first time: nobody's choice.
UNTOUCHED = {"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:  # needs no Keras and no backend
        return serve.run(arguments[1:])
    os.environ["KERAS_BACKEND"] = _backend(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's page of log lines
    if arguments[:1] != ["export"]:
        # Hides one more. But without oneDNN TensorFlow lacks some convolutions on the CPU that export may need.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        with without_native_log():
            commands = importlib.import_module("keras_vae_cli.commands")
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    return commands.main(arguments)


def _backend(arguments):
    """The backend that the command line, the environment or Keras's configuration asks for, or the first installed."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--backend", nargs="?")  # the real parser says what is wrong, but importing it imports Keras
    asked = first.parse_known_args(arguments)[0].backend
    backend = asked or os.environ.get("KERAS_BACKEND") or _configured(installed) or (installed or [None])[0]
    if backend is None:
        _fail('no backend is installed: pip install "keras-vae[jax]", or [tensorflow], or [torch].')
    if backend not in BACKENDS:
        _fail(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if backend not in installed:
        has = f"installed: {', '.join(installed)}" if installed else "none is installed"
        _fail(f'the backend {backend} is not installed ({has}): pip install "keras-vae[{backend}]", or choose another.')
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


def _fail(message) -> NoReturn:
    print(f"keras-vae: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
