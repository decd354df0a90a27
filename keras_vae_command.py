"""The `keras-vae` command: chooses Keras's backend, then hands over to `keras_vae.cli`.

It is a module of its own because Keras reads KERAS_BACKEND when it is imported, which `import keras_vae` does: by the
time code inside the package runs, the choice has been made.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import sys
from typing import NoReturn

# In the order of preference where nobody says: TensorFlow last, as it may be there for the exporter only.
BACKENDS = ("jax", "torch", "tensorflow")


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:  # needs no Keras and no backend
        return _serve(arguments[1:])
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = (
        _asked_for(arguments) or os.environ.get("KERAS_BACKEND") or _configured(installed) or (installed or [None])[0]
    )
    if backend is None:
        _fail('no backend is installed: pip install "keras-vae[jax]", or [tensorflow], or [torch].')
    if backend not in BACKENDS:
        _fail(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if backend not in installed:
        have = f"installed: {', '.join(installed)}" if installed else "none is installed"
        _fail(
            f'the backend {backend} is not installed ({have}): pip install "keras-vae[{backend}]", or choose another.'
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets with a page of log lines,
    if arguments[:1] != ["export"]:
        # and with this. But without it TensorFlow's CPU lacks some convolutions that a model to export may have.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

    from keras_vae import cli

    # Imported where it is wanted: the library and the exporter do not know each other, and the exporter may be missing.
    return cli.main(arguments, exporter=lambda: importlib.import_module("keras_vae_export"))


def _serve(arguments):
    try:
        server = importlib.import_module("keras_vae_serving.__main__")
    except ModuleNotFoundError as error:
        _fail(str(error))
    return server.main(arguments, prog="keras-vae serve")


def _asked_for(arguments):
    """The value of --backend, before the real parser, which lives behind the import, has seen it."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--backend="):
            return argument.partition("=")[2]
        if argument == "--backend" and i + 1 < len(arguments):
            return arguments[i + 1]
    return None


def _configured(installed):
    """The backend in Keras's own configuration file, if it names one that is installed."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    try:
        backend = json.loads((home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        return None
    return backend if backend in installed else None


def _fail(message) -> NoReturn:
    print(f"keras-vae: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
