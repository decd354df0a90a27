"""Options that several verbs share, and the types of their values."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from keras_vae import likelihoods


def _value(convert, accept, words):
    """A function that reads a value, or refuses it in words."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {words}; got {text!r}")
        return value

    return parse


Reader = Callable[[str], Any]  # argparse calls it a type
count: Reader = _value(int, lambda value: value >= 1, "a whole number of at least 1")
seed: Reader = _value(int, lambda value: value >= 0, "a whole number, zero or more")
positive: Reader = _value(float, lambda value: 0 < value < math.inf, "a positive number")
share: Reader = _value(float, lambda value: 0 < value < 1, "a number between 0 and 1")
non_negative: Reader = _value(float, lambda value: 0 <= value < math.inf, "a number, zero or more")
precisions: Reader = _value(
    lambda text: tuple(text.split(",")),
    lambda names: set(names) <= {"float32", "float16", "int8"},
    "float32, float16, int8, or several with commas between them",
)
counts: Reader = _value(
    lambda text: tuple(int(part) for part in text.split(",")),
    lambda values: all(value >= 1 for value in values),
    "whole numbers with commas between them, such as 500 or 32,64",
)


def scale(text: str) -> str | float:
    """A positive number, or the name of a way to find one."""
    return text if text in likelihoods.SCALES else positive(text)


_SHARED: dict[str, dict[str, Any]] = {
    "--backend": {"choices": ("tensorflow", "jax", "torch"), "help": "default: KERAS_BACKEND, or an installed one"},
    "--seed": {"type": seed, "default": 0, "help": "for weights, order and noise (default 0)"},
    "model": {"help": "a .keras file or an output folder"},
    "--binarize": {"choices": ("threshold", "sample"), "help": "make grey values binary"},
    "--overwrite": {"action": "store_true", "help": "replace the folder if it exists"},
}


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds options that mean the same in every verb."""
    for name in names:
        parser.add_argument(name, **_SHARED[name])
