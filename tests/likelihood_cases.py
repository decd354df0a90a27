"""Every likelihood with its support, some parameters, and a reference for its density.

`CASES` has one line for each. test_every_likelihood.py holds each to its density, and test_backends_agree.py holds the
backends to each other. Reference densities are SciPy's, in float64.
"""

import numpy as np
from scipy import special, stats

import oracles
from keras_vae import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Multinomial,
    NegativeBinomial,
    Poisson,
    Standardized,
)

UNIT = np.linspace(0.0, 1.0, 4001)[:, None]
REAL = np.linspace(-60.0, 60.0, 120_001)[:, None]
COUNTS = np.arange(4000.0)[:, None]
BITS = np.array([[0.0], [1.0]])
FOUR_OF_THREE = np.array([[i, j, 4.0 - i - j] for i in range(5) for j in range(5 - i)])
LEVELS = np.arange(16.0)[:, None] / 15.0


def soft(raw, least):
    """The scale from the decoder's number, as `min_scale` says: log scale = least + softplus(raw - least)."""
    return np.exp(np.log(least) + np.logaddexp(0.0, raw - np.log(least)))


def discretized(x, location, scale, half):
    cdf = stats.logistic(location, scale).cdf
    upper = np.where(x > 1.0 - half, 1.0, cdf(x + half))
    return np.log(upper - np.where(x < half, 0.0, cdf(x - half)))


def multinomial(x, logits):
    """Shared out over the categories: Poisson counts of rates N p_i, given their sum."""
    n = x.sum(axis=-1, keepdims=True)
    p = special.softmax(logits, axis=-1)
    return stats.poisson(n * p).logpmf(x) - stats.poisson(n).logpmf(n) / x.shape[-1]


# name: likelihood, its support for one dimension, some parameters, and the reference log p(x) for them
CASES = {
    "bernoulli": (Bernoulli(), BITS, [[-3.0], [0.0], [2.0]], lambda x, p: oracles.bernoulli_log_prob(x, p)),
    "bernoulli_p": (
        Bernoulli(from_logits=False),
        BITS,
        [[0.01], [0.5], [0.9]],
        lambda x, p: stats.bernoulli(p).logpmf(x),
    ),
    "continuous_bernoulli": (
        ContinuousBernoulli(),
        UNIT,
        [[-30.0], [-1.01], [-0.99], [0.0], [1e-3], [0.5], [4.0], [30.0]],
        lambda x, p: oracles.continuous_bernoulli_log_prob(x, p),
    ),
    "gaussian": (Gaussian(0.7), REAL, [[-3.0], [0.2]], lambda x, p: stats.norm(p, 0.7).logpdf(x)),
    "gaussian_learned": (
        Gaussian("learned", initial_scale=0.3),
        REAL,
        [[0.0], [2.5]],
        lambda x, p: stats.norm(p, 0.3).logpdf(x),
    ),
    "gaussian_optimal": (
        Gaussian("optimal", initial_scale=2.0),
        REAL,
        [[0.0], [2.5]],
        lambda x, p: stats.norm(p, 2.0).logpdf(x),
    ),
    "gaussian_predicted": (
        Gaussian("predicted", min_scale=0.01),
        REAL,
        [[0.3, -2.0], [-1.0, 1.5]],
        lambda x, p: stats.norm(p[..., :1], soft(p[..., 1:] / 2.0, 0.01)).logpdf(x),
    ),
    "laplace": (Laplace(1.3), REAL, [[-3.0], [0.2]], lambda x, p: stats.laplace(p, 1.3).logpdf(x)),
    "laplace_predicted": (
        Laplace("predicted", min_scale=0.01),
        REAL,
        [[0.3, -1.0], [-1.0, 0.5]],
        lambda x, p: stats.laplace(p[..., :1], soft(p[..., 1:], 0.01)).logpdf(x),
    ),
    "standardized": (
        Standardized(Gaussian(0.7), mean=1.5, stddev=2.0),
        REAL,
        [[-3.0], [0.2]],
        lambda x, p: stats.norm(1.5 + 2.0 * p, 1.4).logpdf(x),
    ),
    "discretized_logistic": (
        DiscretizedLogistic(levels=16),
        LEVELS,
        [[0.3, -3.0], [0.95, -1.0], [-0.2, -2.0], [0.5, 1.0]],
        lambda x, p: discretized(x, p[..., :1], soft(p[..., 1:], 1e-4), 1.0 / 30.0),
    ),
    "categorical": (
        Categorical(),
        np.eye(3),
        [[0.0, 0.0, 0.0], [3.0, -1.0, 0.5]],
        lambda x, p: x * (p - np.logaddexp.reduce(p, axis=-1, keepdims=True)),
    ),
    "multinomial": (Multinomial(4), FOUR_OF_THREE, [[0.0, 0.0, 0.0], [3.0, -1.0, 0.5]], multinomial),
    "poisson": (Poisson(), COUNTS, [[-4.0], [0.0], [5.0]], lambda x, p: stats.poisson(np.exp(p)).logpmf(x)),
    "negative_binomial": (
        NegativeBinomial(),
        COUNTS,
        [[0.0, 0.0], [4.0, 1.0], [3.0, -0.5], [3.0, 12.0]],
        lambda x, p: stats.nbinom(np.exp(p[..., 1:]), 1.0 / (1.0 + np.exp(p[..., :1] - p[..., 1:]))).logpmf(x),
    ),
}
