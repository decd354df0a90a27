"""Every option of every verb.

This file imports neither Keras nor the other packages, whose import takes seconds: --help is there at once, and a wrong
command line is refused at once. What it repeats of them, such as the names of likelihoods, a test compares.
"""

import argparse
import importlib.metadata
import math
import re
from collections.abc import Callable
from typing import Any

from keras_vae_cli import serve

# Those of `keras_vae.likelihoods` that fit data of any shape; a categorical one needs the number of classes.
LIKELIHOODS = (
    "bce",
    "bernoulli",
    "mse",
    "gaussian",
    "continuous_bernoulli",
    "laplace",
    "discretized_logistic",
    "poisson",
    "negative_binomial",
)
SCALES = ("learned", "optimal", "predicted")
LEVELS = 256  # those of an 8-bit image

# Chosen so that the pictures show digits and the whole takes well under two minutes on two cores.
QUICKSTART = "--data digits --binarize threshold --hidden 256 --latent-dim 2 --batch-size 50 --learning-rate 2e-3"


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
epochs: Reader = _value(int, lambda value: value >= 0, "a whole number of epochs, zero or more")
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
sizes: Reader = _value(
    lambda text: tuple(int(part) for part in text.split(",")) * (2 - text.count(",")),
    lambda values: len(values) == 2 and min(values) >= 1,
    "a number of pixels, or height,width",
)


def kinds(text: str) -> dict[str, str | None]:
    """Kinds of columns by their names, in which there may be commas; None of a column that is left out."""
    found = re.findall(r"([^=]*)=(real|log|integer|category|none)(?:,|$)", text)
    if not found or ",".join(f"{name}={kind}" for name, kind in found) != text:
        words = "NAME=KIND, with commas between several, and each KIND real, log, integer, category or none"
        raise argparse.ArgumentTypeError(f"must be {words}; got {text!r}")
    return {name: None if kind == "none" else kind for name, kind in found}


def scale(text: str) -> str | float:
    """A positive number, or the name of a way to find one."""
    return text if text in SCALES else positive(text)


_SHARED: dict[str, dict[str, Any]] = {
    "--backend": {
        "choices": ("tensorflow", "jax", "torch"),
        "help": "default: KERAS_BACKEND, or that of the model, or an installed one",
    },
    "--seed": {"type": seed, "default": 0, "help": "for weights, order and noise (default 0)"},
    "model": {"help": "a .keras file or an output folder"},
    "--import": {
        "action": "append",
        "default": [],
        "dest": "modules",
        "metavar": "MODULE",
        "help": "module, or .py file, that registers the custom classes of the model; may be repeated",
    },
    "--binarize": {"choices": ("threshold", "sample"), "help": "make grey values binary"},
    "--overwrite": {"action": "store_true", "help": "replace the output if it exists"},
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    # Without abbreviations: an option that is added must not change what a shorter word means.
    whole = argparse.ArgumentParser(
        prog="keras-vae",
        description="Train, evaluate, sample and export variational autoencoders. All losses are in nats per example.",
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"keras-vae {_version()}")
    commands = whole.add_subparsers(dest="command", required=True)
    for name, (add_options, words) in VERBS.items():
        command = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        _add_shared(command, "--backend", "--seed")
        add_options(command)
    # Only for the list of commands: `__main__` has handed it to keras_vae_serving.
    commands.add_parser("serve", help=serve.HELP)
    return whole


def _version():
    try:
        return importlib.metadata.version("keras-vae")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _add_shared(parser, *names):
    """Adds options that mean the same in every verb."""
    for name in names:
        parser.add_argument(name, **_SHARED[name])


def _quickstart(parser):
    fixed = argparse.ArgumentParser()
    _train(fixed)
    parser.set_defaults(**vars(fixed.parse_args(QUICKSTART.split())))
    parser.add_argument("--epochs", type=count, default=60, help="passes over the data (default 60)")
    parser.add_argument("--output", default="quickstart", help="folder to write (default quickstart)")
    _add_shared(parser, "--overwrite")


def _train(parser):
    add = parser.add_argument
    words = (
        "digits, mnist, fashion_mnist, cifar10, a file (.npy, .npz, idx, .csv, .tsv, .parquet), or a folder of images"
    )
    add("--data", default="digits", help=words)
    words = "what columns of a table are, if it is not found: real, log (of positive numbers over decades), integer, "
    words += "category, or none to leave one out"
    add("--kinds", type=kinds, metavar="NAME=KIND,...", help=words)
    _add_shared(parser, "--binarize")
    add("--resize", type=sizes, metavar="H,W", help="resize the images of a folder to this height and width")
    names = f"{', '.join(LIKELIHOODS)} (default bce; for a table that of each column's kind)"
    add("--likelihood", choices=LIKELIHOODS, metavar="NAME", help=names)
    add("--scale", type=scale, help="for gaussian and its like: a number, learned, optimal or predicted")
    words = (
        "reckon with each column or channel at mean 0 and deviation 1; all output is in its own units (always: tables)"
    )
    add("--standardize", action=argparse.BooleanOptionalAction, help=words)
    add("--levels", type=count, help="for discretized_logistic (default 256; the digits have 17)")
    add("--network", choices=("mlp", "conv"), default="mlp")
    words = "units (mlp, default 500, for a table 128,128) or filters (conv, default 32,64), by commas"
    add("--hidden", type=counts, help=words)
    add("--latent-dim", type=count, default=8)
    add("--epochs", type=count, help="(default 20, for a table up to 200, until 3,000 steps)")
    add("--batch-size", type=count, default=100)
    add("--learning-rate", type=positive, default=1e-3, help="of Adam (default 0.001)")
    add("--objective", choices=("elbo", "iwae"), default="elbo", help="(default elbo)")
    add("--num-samples", type=count, help="samples of z per example (default 1; with iwae 5)")
    add("--beta", type=non_negative, default=1.0, help="weight of the KL term (default 1, the ELBO)")
    words = "epochs in which that weight rises from 0 (default: none)"
    add("--warm-up", type=count, metavar="EPOCHS", help=words)
    words = "stop after this number of epochs without a better bound of the held-out data, and keep the weights of the "
    words += "best epoch behind the warm-up, which these data then have chosen; 0: train all epochs and keep the last "
    words += "(default 0, for a table 20)"
    add("--patience", type=epochs, metavar="EPOCHS", help=words)
    add("--free-bits", type=non_negative, default=0.0, help="nats of each latent without a penalty (default 0)")
    add("--prior", choices=("normal", "mixture", "vamp"), default="normal", help="p(z): N(0, I), or a learned one")
    add("--components", type=count, help="components of the prior (default: mixture 10, vamp 500)")
    words = "NaN in the data is a missing value (default: for a table in which some are missing)"
    add("--allow-missing", action="store_true", help=words)
    add("--output", default="runs/vae", help="folder to write (default runs/vae)")
    _add_shared(parser, "--overwrite")


def _evaluate(parser):
    _add_shared(parser, "model", "--import", "--binarize")
    add = parser.add_argument
    add("--data", help="as for train (default: what the model was trained on)")
    add("--split", choices=("test", "train"), default="test")
    add("--num-samples", type=count, default=16, help="samples of z per example (default 16)")
    words = "also estimate log p(x), with this number of samples (papers: 5000)"
    add("--log-likelihood", type=count, metavar="SAMPLES", help=words)
    add("--json", action="store_true", help="print JSON")


def _sample(parser):
    _add_shared(parser, "model", "--import", "--overwrite")
    parser.add_argument("--num", type=count, default=100, help="number of samples (default 100)")
    words = (
        "a .png picture or a .npy array of means of p(x|z) (default samples.png), or a table of draws: .csv, .tsv or "
    )
    words += ".parquet (default for a table: samples.csv)"
    parser.add_argument("--output", help=words)


def _impute(parser):
    _add_shared(parser, "model", "--import", "--overwrite")
    add = parser.add_argument
    add("--data", required=True, help="a table (.csv, .tsv, .parquet) or an array (.npy) with missing values")
    add("--output", required=True, help="the same, filled in; what is there stays as it is")
    words = "complete the data N times by draws instead of once by their mean, for the spread: a table has them below "
    words += "each other, with columns row and draw, an array along a new first axis"
    add("--draws", type=count, metavar="N", help=words)
    words = "of a table: add columns NAME_low and NAME_high, between which this share of N draws of a missing number "
    words += "lies, and NAME_probability, the share of them that are the category filled in; N is that of --draws, "
    words += "which writes no further rows then (default 100, or what the share needs)"
    add("--interval", type=share, metavar="SHARE", help=words)
    add("--num-samples", type=count, default=100, help="samples of z per example (default 100)")


def _score(parser):
    _add_shared(parser, "model", "--import", "--binarize", "--overwrite")
    add = parser.add_argument
    add("--data", required=True, help="as for train")
    add("--output", required=True, help="table (.csv, .tsv, .parquet) to write: the data and their scores")
    words = "call anomalous what scores above this quantile of the rows held out in training (default 0.99)"
    add("--threshold", type=share, metavar="QUANTILE", default=0.99, help=words)
    add("--num-samples", type=count, default=16, help="samples of z per example (default 16)")


def _export(parser):
    _add_shared(parser, "model", "--import", "--binarize", "--overwrite")
    add = parser.add_argument
    add("bundle", nargs="?", help="the folder to write")
    add("--check", action="store_true", help="verify the bundle that is named instead of a model")
    add("--providers", choices=("auto", "cpu", "cuda"), help="where --check runs (default cpu)")
    add("--data", help="held-out data, as for train (default: what the model was trained on)")
    words = "float16, int8 or float16,int8: smaller variants, written beside float32"
    add("--precision", type=precisions, default=("float32",), help=words)
    add("--engine", default="auto", choices=("auto", "tensorflow", "torch"), help="(default auto)")
    add("--tolerance", type=positive, help="difference allowed (default 1e-4)")
    words = "nats that a smaller variant may lose (default 0.5, or 0.5%% of the nats at stake)"
    add("--max-elbo-loss", type=positive, help=words)
    words = "call anomalous what scores above this quantile of the held-out data, such as 0.99"
    add("--threshold", type=share, metavar="QUANTILE", help=words)
    add("--max-batch-size", type=count, default=64, help="for Triton (default 64)")
    add("--simplify", action="store_true", help="run onnxslim over the graphs")


def _card(parser):
    _add_shared(parser, "--binarize", "--overwrite")
    add = parser.add_argument
    add("bundle", help="the folder of an exported bundle")
    words = "as for train: measure these, held-out ones where there is a test set (default: what is known of the data "
    add("--data", help=f"{words}given at export)")
    add("--name", help="name of the model (default: that of the folder)")
    add("--output", help="file to write (default: README.md in the bundle)")


VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], str]] = {
    "quickstart": (_quickstart, "Trains on the embedded digits with settings known to work."),
    "train": (_train, "Trains on any data."),
    "evaluate": (_evaluate, "Prints the held-out terms of a trained model."),
    "sample": (_sample, "Writes samples of a trained model as a picture, an array or a table."),
    "impute": (_impute, "Writes a table or an array with its missing values filled in."),
    "score": (_score, "Writes how unlike the training data each row is, and which of its columns say so."),
    "export": (_export, "Writes a trained model as a bundle of ONNX files that were compared with it, or checks one."),
    "card": (_card, "Writes a model card of a bundle, with measured nats."),
}
