"""`keras-vae serve`: hands over to `keras_vae_serving`, without importing Keras, which serving does not need."""

import importlib
import sys
from collections.abc import Sequence

HELP = "Serves exported bundles over HTTP, with a page to look at them."


def run(arguments: Sequence[str]) -> int:
    """Serves until it is stopped, and returns the exit code."""
    try:
        serving = importlib.import_module("keras_vae_serving.__main__")
    except ModuleNotFoundError as error:
        print(f"keras-vae: {error}", file=sys.stderr)
        return 2
    return serving.main(arguments, prog="keras-vae serve")
