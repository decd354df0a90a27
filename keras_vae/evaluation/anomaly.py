"""Which examples are unlike those that the model was trained on, and where: thresholds on the negative ELBO.

What is too simple has a low score: a sensor that is stuck at its mean is likelier than any that works. So a threshold
may have a lower side, too. And the score is a sum over dimensions, each of which costs what it costs in normal data:
what it costs beyond that says where an example is strange.
"""

import dataclasses
import math
from numbers import Real
from typing import Any

import numpy as np

from keras_vae import validation
from keras_vae.evaluation import _model
from keras_vae.model import VAE


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The score above which an example is called anomalous, or below which, too; `fit_threshold` makes one.

    Two are equal if their verdicts are, whether or not they know what is usual.

    Args:
        nats: A negative ELBO, nats per example.
        quantile: Share of normal data meant to lie at or below it, or from `low` to it.
        num_samples: Number of draws of z behind each score; scores to be compared with it take as many.
        seed: Seed for these draws; scores to be compared with it take the same.
        examples: Number of examples that it was fitted on.
        low: A negative ELBO below which an example is anomalous, too; None: however low it is, it is not.
        usual: Mean over these examples of -E_q log p(x_d|z), nats, for each dimension d of x, an array of the shape of
            one example. A missing value does not count in it; a dimension that was always missing has 0. None if
            examples differ in shape, or the likelihood, of one's own, does not factorise.
    """

    nats: float
    quantile: float
    num_samples: int
    seed: int
    examples: int
    low: float | None = None
    usual: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def standard_error(self) -> float:
        """Standard error of the share of normal data that is called anomalous, as an estimate of 1 - quantile.

        Whatever the distribution of the scores, the share of it above a quantile of n of them, or outside two, is Beta
        distributed; its standard deviation is near sqrt(quantile * (1 - quantile) / n).
        """
        return math.sqrt(self.quantile * (1.0 - self.quantile) / self.examples)

    def is_anomaly(self, scores: Any) -> np.ndarray:
        """Whether negative ELBOs, an array in nats, lie above the threshold or below `low`; NaN does, too."""
        scores = np.asarray(scores)
        return ~((scores <= self.nats) & (scores >= (-math.inf if self.low is None else self.low)))


def fit_threshold(
    vae: VAE,
    x: Any,
    quantile: float = 0.99,
    num_samples: int = 16,
    seed: int = 0,
    batch_size: int = 256,
    two_sided: bool = False,
) -> Threshold:
    """The negative ELBO that a share `quantile` of normal data does not exceed.

    At most a fraction 1 - quantile of x is called anomalous, and about as much of new normal data (see
    `Threshold.standard_error`). A low score does not prove that an example is normal: the bound can be high for data
    that are simpler than those of training, such as a constant. `two_sided` calls those anomalous, too: it asks whether
    the score is typical.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data known to be normal and held out: those of training score lower than new ones do.
        quantile: Share of normal data within the threshold; 0.99 calls 1% of normal data anomalous.
        num_samples: Number of samples of z that each score is averaged over.
        seed: Seed for these samples.
        batch_size: Number of decoded examples at a time, counting samples.
        two_sided: Whether scores may also be too low: (1 - quantile) / 2 of normal data lie on each side.

    Returns:
        A `Threshold`. Give it to `keras_vae_export.export`, and the bundle's scores come with a verdict.

    Raises:
        ValueError: If x holds so few examples that none would lie beyond the threshold, at most 1 / (1 - quantile), or
            twice as many if `two_sided`, or if a score is not finite.

    Example:

    >>> threshold = fit_threshold(vae, held_out, quantile=0.99)
    >>> anomalies(vae, x, threshold)  # (n,) bool

    Reference: An & Cho 2015, Variational Autoencoder based Anomaly Detection using Reconstruction Probability,
    SNUDM-TR-2015-03 (a threshold on a score of the VAE, there without the KL term). Nalisnick et al. 2019, Do Deep
    Generative Models Know What They Don't Know?, arXiv:1810.09136. Nalisnick et al. 2019, Detecting Out-of-Distribution
    Inputs to Deep Generative Models Using Typicality, arXiv:1906.02994 (there the distance of the score from its mean).
    """
    if isinstance(quantile, bool) or not isinstance(quantile, Real) or not 0.0 < quantile < 1.0:
        raise ValueError(f"quantile must be a number between 0 and 1, such as 0.99; got {quantile!r}.")
    seed = validation.whole_number("seed", seed, least=0)
    scores, usual = _scores(vae, x, num_samples, seed, batch_size)
    # Of n scores `beyond` lie beyond each side. Without the rounding, 12 are needed for 0.9.
    share = (1.0 - quantile) / (2.0 if two_sided else 1.0)
    needed = 1 + math.ceil(round(1.0 / share, 6))
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
    # Scores that occur: interpolated ones could call more of x anomalous than was promised.
    ordered, beyond = np.sort(scores), math.floor(round(share * (len(scores) - 1), 6))
    low = float(ordered[beyond]) if two_sided else None
    return Threshold(float(ordered[-1 - beyond]), float(quantile), int(num_samples), seed, len(scores), low, usual)


def _scores(vae, x, num_samples, seed, batch_size):
    """Negative ELBOs `(n,)`, and what is usual of each dimension, None if sizes are free or there are no terms."""
    if not vae.likelihood.is_factorised:
        return -vae.elbo(x, num_samples, seed, batch_size), None
    scores, total, count = [], 0.0, 0
    for data, score, terms in _model.scored_pieces(vae, x, num_samples, seed, batch_size):
        scores.append(score)
        if None not in vae.data_shape:
            total = total - np.sum(terms, axis=0, dtype="float64")
            count = count + np.sum(~np.isnan(data), axis=0)
    usual = None if None in vae.data_shape else np.asarray(total / np.maximum(count, 1), "float32")
    return np.concatenate(scores), usual


def anomalies(vae: VAE, x: Any, threshold: Threshold, batch_size: int = 256) -> np.ndarray:
    """Whether each example of x is anomalous, scored as the threshold was fitted.

    Args:
        vae: The `VAE` that the threshold was fitted with.
        x: `(n, ...)` data.
        threshold: A `Threshold`.
        batch_size: Number of decoded examples at a time, counting samples.

    Returns:
        `(n,)` bool, NumPy.

    Raises:
        ValueError: If the threshold is none of `fit_threshold`.
    """
    _check_threshold(threshold)
    return threshold.is_anomaly(-vae.elbo(x, threshold.num_samples, threshold.seed, batch_size))


def _check_threshold(threshold):
    if not isinstance(threshold, Threshold):
        raise ValueError(f"threshold must be a Threshold, as fit_threshold returns it; got {threshold!r}.")


def surprise(vae: VAE, x: Any, threshold: Threshold, batch_size: int = 256) -> Any:
    """Where each example of x is strange: what each of its dimensions costs beyond what it usually costs.

        surprise_d = -E_q log p(x_d|z) - usual_d

    The terms themselves would not tell: a column of many categories, or one in large units, costs many nats in every
    example. The columns of a table by their names: `vae.likelihood.table.by_column(surprise(...))`.

    Args:
        vae: The `VAE` that the threshold was fitted with.
        x: `(n, ...)` data.
        threshold: A `Threshold`, which knows what is usual.
        batch_size: Number of decoded examples at a time, counting samples.

    Returns:
        `(n, ...)` float32, nats, NumPy, a dict for named parts: high where x is strange, below 0 where it is plainer
        than usual, 0 where it is missing.

    Raises:
        ValueError: If the threshold is none of `fit_threshold`, or does not know what is usual of such data.

    Example:

    >>> threshold = fit_threshold(vae, held_out)
    >>> nats = vae.likelihood.table.by_column(surprise(vae, x, threshold))
    >>> pandas.DataFrame(nats).idxmax(axis=1)  # the strangest column of each row
    """
    _check_threshold(threshold)
    usual, found = threshold.usual, []
    if usual is None:
        raise ValueError(
            "This threshold does not know what each dimension usually costs: fit it anew, on data of one shape, with "
            "keras_vae.evaluation.fit_threshold."
        )
    for (data, *_), terms in _model.pieces_with_terms(vae, x, threshold.num_samples, threshold.seed, batch_size):
        if usual.shape != data.shape[1:]:
            raise ValueError(
                f"The threshold was fitted on examples of shape {usual.shape}, and those of x have {data.shape[1:]}."
            )
        found.append(np.where(np.isnan(data), np.float32(0.0), -terms - usual))
    return _model.by_name(vae, np.concatenate(found))
