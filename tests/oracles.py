"""The formulas once more, in float64 NumPy, written as the textbooks write them and not as the library does."""

import numpy as np


def standard_normal_kl(mean, log_var):
    """KL(N(mean, exp(log_var)) || N(0, 1)) per dimension; Kingma & Welling 2014, appendix B."""
    mean, log_var = np.asarray(mean, "float64"), np.asarray(log_var, "float64")
    return -0.5 * (1.0 + log_var - mean**2 - np.exp(log_var))


def normal_log_prob(x, mean, scale):
    """log N(x; mean, scale**2) per dimension."""
    x, mean, scale = (np.asarray(value, "float64") for value in (x, mean, scale))
    return -0.5 * np.log(2.0 * np.pi * scale**2) - 0.5 * (x - mean) ** 2 / scale**2


def bernoulli_log_prob(x, logits):
    """x log p + (1 - x) log(1 - p) per dimension, by logaddexp."""
    x, logits = np.asarray(x, "float64"), np.asarray(logits, "float64")
    return x * -np.logaddexp(0.0, -logits) + (1.0 - x) * -np.logaddexp(0.0, logits)


def continuous_bernoulli_log_prob(x, logits):
    """log p(x) per dimension as an exponential family: x l - log((exp(l) - 1) / l), which is 0 at l = 0."""
    x, logits = np.broadcast_arrays(np.asarray(x, "float64"), np.asarray(logits, "float64"))
    other = np.where(logits == 0.0, 1.0, logits)
    return np.where(logits == 0.0, 0.0, x * logits - np.log(np.expm1(other) / other))


def finite_difference(function, point, step=1e-6):
    """The gradient of a float64 scalar function by central differences."""
    point = np.asarray(point, "float64")
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        moved = point.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2.0 * step
        gradient[index] = (above - function(moved)) / (2.0 * step)
    return gradient


def ppca(x, k):
    """Maximum likelihood probabilistic PCA with k components.

    Returns:
        The mean log-likelihood per example in nats, sigma**2, and the weights `(dimensions, k)`.

    Reference: Tipping & Bishop 1999, Probabilistic Principal Component Analysis, equations 7, 8 and 12.
    """
    x = np.asarray(x, "float64")
    centred = x - x.mean(axis=0)
    eigenvalues, eigenvectors = np.linalg.eigh(centred.T @ centred / len(x))
    eigenvalues, eigenvectors = eigenvalues[::-1], eigenvectors[:, ::-1]
    dimensions = x.shape[1]
    sigma2 = eigenvalues[k:].mean()
    log_likelihood = -0.5 * (
        dimensions * np.log(2.0 * np.pi)
        + np.log(eigenvalues[:k]).sum()
        + (dimensions - k) * np.log(sigma2)
        + dimensions
    )
    weights = eigenvectors[:, :k] * np.sqrt(eigenvalues[:k] - sigma2)
    return log_likelihood, sigma2, weights


def linear_gaussian_log_prob(x, weights, mean, sigma2):
    """log p(x) per example of x = weights z + mean + N(0, sigma2), z ~ N(0, I): the exact marginal."""
    x = np.asarray(x, "float64") - mean
    covariance = weights @ weights.T + sigma2 * np.eye(len(weights))
    _, log_determinant = np.linalg.slogdet(covariance)
    mahalanobis = np.einsum("ni,ni->n", x, np.linalg.solve(covariance, x.T).T)
    return -0.5 * (mahalanobis + log_determinant + x.shape[1] * np.log(2.0 * np.pi))
