"""`keras-vae serve`: hands over to `keras_vae_serving`, without importing Keras, which serving does not need."""

import importlib
import pathlib
import shlex
import sys
from collections.abc import Sequence

HELP = "Serves exported bundles over HTTP, with a page to look at them."


def run(arguments: Sequence[str]) -> int:
    """Serves until it is stopped, and returns the exit code."""
    for argument in arguments:
        name = argument if pathlib.Path(argument).exists() else argument.partition("=")[2]
        folder = pathlib.Path(name)
        if name and (folder / "model.keras").is_file() and not (folder / "manifest.json").exists():
            bundle = folder / "bundle"  # which quickstart wrote
            verb = ("serve", bundle) if bundle.is_dir() else ("export", folder, f"{folder}-onnx")
            command = shlex.join(["keras-vae", *map(str, verb)])
            print(f"keras-vae serve: {folder} holds a model and no bundle: {command}", file=sys.stderr)
            return 1
    try:
        serving = importlib.import_module("keras_vae_serving.__main__")
    except ModuleNotFoundError as error:
        print(f"keras-vae: {error}", file=sys.stderr)
        return 2
    return serving.main(arguments, prog="keras-vae serve")
