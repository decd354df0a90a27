"""scikit-learn, which only some of the evaluation needs, imported when it is asked for."""

import importlib
from types import ModuleType


def module(name: str) -> ModuleType:
    """The module `sklearn.<name>`.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed; says how to install it.
    """
    try:
        importlib.import_module("sklearn")
    except ModuleNotFoundError as error:
        if error.name != "sklearn":
            raise
        raise ModuleNotFoundError(
            'This needs scikit-learn, which is not installed: pip install "keras-vae[evaluation]".', name="sklearn"
        ) from None
    return importlib.import_module(f"sklearn.{name}")
