"""The estimate of log p(x) from importance weights, and the progress bar, which both estimators share."""

import sys

import keras
import numpy as np


def importance_estimate(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log of the mean weight, its standard error and the effective sample size: `(n, k)` to three of `(n,)`."""
    k = log_weights.shape[1]
    largest = log_weights.max(axis=1)
    weights = np.exp(log_weights - largest[:, None])  # the largest is 1, whatever the scale
    total = weights.sum(axis=1)
    effective = np.square(total) / np.square(weights).sum(axis=1)
    # The relative error of the mean weight, which is the error of its logarithm (delta method).
    variance = np.maximum(1.0 / effective - 1.0 / k, 0.0) * (k / (k - 1.0) if k > 1 else np.nan)
    return largest + np.log(total / k), np.sqrt(variance), effective


def progress_bar(examples: int | None, verbose: int | str) -> keras.utils.Progbar:
    """A bar over examples; see the argument `verbose` of `log_likelihood`."""
    return keras.utils.Progbar(
        examples, verbose=sys.stdout.isatty() if verbose == "auto" else verbose, unit_name="example"
    )
