"""Which examples are unlike those that the model was trained on: a threshold on the negative ELBO."""

import dataclasses
import math
from numbers import Real
from typing import Any

import numpy as np

from keras_vae import validation
from keras_vae.model import VAE


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The score above which an example is called anomalous; `fit_threshold` makes one.

    Args:
        nats: A negative ELBO, nats per example.
        quantile: Share of normal data meant to lie at or below it.
        num_samples: Number of draws of z behind each score; scores to be compared with it take as many.
        seed: Seed for these draws; scores to be compared with it take the same.
        examples: Number of examples that it was fitted on.
    """

    nats: float
    quantile: float
    num_samples: int
    seed: int
    examples: int

    @property
    def standard_error(self) -> float:
        """Standard error of the share of normal data that is called anomalous, as an estimate of 1 - quantile.

        Whatever the distribution of the scores, the share of it above a quantile of n of them is Beta distributed; its
        standard deviation is near sqrt(quantile * (1 - quantile) / n).
        """
        return math.sqrt(self.quantile * (1.0 - self.quantile) / self.examples)

    def is_anomaly(self, scores: Any) -> np.ndarray:
        """Whether negative ELBOs, an array in nats, lie above the threshold; a score of NaN does, too."""
        return ~(np.asarray(scores) <= self.nats)


def fit_threshold(
    vae: VAE, x: Any, quantile: float = 0.99, num_samples: int = 16, seed: int = 0, batch_size: int = 256
) -> Threshold:
    """The negative ELBO that a share `quantile` of normal data does not exceed.

    At most a fraction 1 - quantile of x exceeds the threshold, and about as much of new normal data (see
    `Threshold.standard_error`). A low score does not prove that an example is normal: the bound can be high for data
    that are simpler than those of training (Nalisnick et al.).

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data known to be normal and held out: those of training score lower than new ones do.
        quantile: Share of normal data at or below the threshold; 0.99 calls 1% of normal data anomalous.
        num_samples: Number of samples of z that each score is averaged over.
        seed: Seed for these samples.
        batch_size: Number of decoded examples at a time, counting samples.

    Returns:
        A `Threshold`. Give it to `keras_vae_export.export`, and the bundle's scores come with a verdict.

    Raises:
        ValueError: If x holds at most 1 / (1 - quantile) examples, so that none would lie above the threshold, or if
            a score is not finite.

    Example:

    >>> threshold = fit_threshold(vae, held_out, quantile=0.99)
    >>> anomalies(vae, x, threshold)  # (n,) bool

    Reference: An & Cho 2015, Variational Autoencoder based Anomaly Detection using Reconstruction Probability,
    SNUDM-TR-2015-03 (a threshold on a score of the VAE, there without the KL term). Nalisnick et al. 2019, Do Deep
    Generative Models Know What They Don't Know?, arXiv:1810.09136.
    """
    if isinstance(quantile, bool) or not isinstance(quantile, Real) or not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must be a number between 0 and 1, such as 0.99; got {quantile!r}.")
    seed = validation.whole_number("seed", seed, least=0)
    # (1 - quantile) * (n - 1) of n scores lie above. Without the rounding, 12 for 0.9.
    needed = 1 + math.ceil(round(1.0 / (1.0 - quantile), 6))
    scores = -vae.elbo(x, num_samples, seed, batch_size)
    if len(scores) < needed:
        raise ValueError(
            f"The quantile {quantile:g} needs at least {needed} examples, or none of them lies beyond it; x has "
            f"{len(scores)}. Give more, or a smaller quantile."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"The ELBO of {np.sum(~np.isfinite(scores))} of {len(scores)} examples is not finite: look for NaN in the "
            "model's weights, or for data that it was not made for."
        )
    # "higher" takes a score that occurs: one interpolated below it could call more of x anomalous than was promised.
    nats = float(np.quantile(scores, quantile, method="higher"))
    return Threshold(nats, float(quantile), int(num_samples), seed, len(scores))


def anomalies(vae: VAE, x: Any, threshold: Threshold, batch_size: int = 256) -> np.ndarray:
    """Whether each example of x is anomalous, scored as the threshold was fitted.

    Args:
        vae: The `VAE` that the threshold was fitted with.
        x: `(n, ...)` data.
        threshold: A `Threshold`.
        batch_size: Number of decoded examples at a time, counting samples.

    Returns:
        `(n,)` bool, NumPy.
    """
    return threshold.is_anomaly(-vae.elbo(x, threshold.num_samples, threshold.seed, batch_size))
