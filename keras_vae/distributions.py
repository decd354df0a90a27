"""The distributions of z: the diagonal normal, which is q(z|x) and the usual p(z), and mixtures of it as other p(z).

One class serves as posterior and prior, because the KL divergence between two diagonal normals is closed form and the
standard normal prior is the case mean = 0, log_var = 0. To a mixture there is none: `kl_divergence` then averages over
samples.

They compute with whatever they hold. Given NumPy arrays they return NumPy arrays and draw from NumPy's generator, so
that a posterior returned by `VAE.encode` gives the same sample for the same seed on every backend. Given backend
tensors they compute with `keras.ops`, inside the training step and under jit.
"""

import math

import keras
import numpy as np
from keras import ops

LOG_2_PI = math.log(2.0 * math.pi)


@keras.saving.register_keras_serializable(package="keras_vae")
class DiagonalNormal:
    """N(mean, diag(exp(log_var))): a normal distribution with independent dimensions.

    Args:
        mean: `(..., latent_dim)`-dim array or tensor.
        log_var: The logarithm of the variance, of the same shape.

    Example:

    >>> prior = DiagonalNormal.standard(2)
    >>> posterior = DiagonalNormal(np.array([[1.0, 0.0]]), np.zeros((1, 2)))
    >>> posterior.kl_divergence(prior)
    array([0.5])
    """

    def __init__(self, mean, log_var):
        if isinstance(mean, list | tuple):
            mean, log_var = np.asarray(mean, "float32"), np.asarray(log_var, "float32")
        if tuple(np.shape(mean)) != tuple(np.shape(log_var)):
            raise ValueError(
                f"mean and log_var must have the same shape; got {tuple(np.shape(mean))} and "
                f"{tuple(np.shape(log_var))}."
            )
        self.mean = mean
        self.log_var = log_var

    has_closed_form_kl = True  # from a `DiagonalNormal` to this

    @property
    def noise_dim(self):
        """How many normal draws `from_noise` makes one z of."""
        return self.mean.shape[-1]

    @classmethod
    def standard(cls, dim):
        """N(0, I) in `dim` dimensions, the usual prior."""
        return cls(np.zeros(dim, "float32"), np.zeros(dim, "float32"))

    def reparameterize(self, epsilon):
        """z = mean + exp(log_var / 2) * epsilon, differentiable in mean and log_var.

        Args:
            epsilon: Draws from N(0, I), of a shape that broadcasts with the mean, such as
                `(num_samples, batch, latent_dim)`.

        Returns:
            Draws from this distribution, of epsilon's shape.

        Reference: Kingma & Welling 2014, arXiv:1312.6114, section 2.4.
        """
        xp = _namespace(self.mean, epsilon)
        scale = xp.exp(xp.multiply(self.log_var, 0.5))
        return xp.add(self.mean, xp.multiply(scale, epsilon))

    def sample(self, num_samples=None, seed=None):
        """Draws from the distribution.

        Args:
            num_samples: If given, the result has a leading axis of this length.
            seed: An integer, or None for fresh randomness; where the distribution holds backend tensors, also a
                `keras.random.SeedGenerator`, which is what code under jit must use.

        Returns:
            `(..., latent_dim)` or `(num_samples, ..., latent_dim)`; a NumPy array if the distribution holds those.
        """
        leading = () if num_samples is None else (num_samples,)
        if isinstance(self.mean, np.ndarray):
            shape = leading + self.mean.shape
            epsilon = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
        else:
            shape = leading + tuple(ops.shape(self.mean))
            epsilon = keras.random.normal(shape, dtype="float32", seed=seed)
        return self.reparameterize(epsilon)

    def from_noise(self, noise):
        """`reparameterize`, under the name that it has for every prior."""
        return self.reparameterize(noise)

    def log_prob(self, z, per_dimension=False):
        """log N(z; mean, diag(exp(log_var))) in nats, summed over the last axis: `(..., latent_dim)` to `(...)`.

        With `per_dimension` the latent axis is kept instead.
        """
        xp = _namespace(self.mean, z)
        squared_error = xp.square(xp.subtract(z, self.mean))
        precision = xp.exp(xp.negative(self.log_var))
        log_density = -0.5 * (xp.multiply(squared_error, precision) + _as(xp, self.log_var) + LOG_2_PI)
        return log_density if per_dimension else xp.sum(log_density, axis=-1)

    def score(self, z):
        """The gradient of log_prob with respect to z, of its shape."""
        xp = _namespace(self.mean, z)
        return xp.multiply(xp.subtract(self.mean, z), xp.exp(xp.negative(self.log_var)))

    def without_gradient(self):
        """The same distribution of tensors, through whose parameters no gradient passes."""
        return DiagonalNormal(ops.stop_gradient(self.mean), ops.stop_gradient(self.log_var))

    def moment_matched(self):
        """The `DiagonalNormal` of the same means and variances: itself."""
        return self

    def as_float32(self):
        """The same distribution, in float32."""
        return DiagonalNormal(*(_as_float32(part) for part in (self.mean, self.log_var)))

    def to_numpy(self):
        """The same distribution, of NumPy arrays."""
        return DiagonalNormal(ops.convert_to_numpy(self.mean), ops.convert_to_numpy(self.log_var))

    def kl_divergence(self, other, per_dimension=False):
        """KL(self || other) in nats, in closed form.

        With d = log_var - other.log_var it is, per dimension,

            0.5 * ((mean - other.mean)**2 * exp(-other.log_var) + expm1(d) - d),

        the textbook's 0.5 * (mean**2 + var - 1 - log_var) when `other` is N(0, I). `expm1` because the textbook form
        subtracts 1 from a variance that is nearly 1: for a nearly collapsed unit, say log_var = 1e-4, float32
        returns 0 where the KL is 2.5e-9, and the gradient goes the same way.

        Args:
            other: A `DiagonalNormal` over the same dimensions.
            per_dimension: If True, the latent axis is kept instead of summed.

        Returns:
            `(...)`, or `(..., latent_dim)` with `per_dimension`.

        Raises:
            TypeError: If `other` is a distribution to which there is no closed form.

        Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
        """
        if not isinstance(other, DiagonalNormal):
            raise TypeError(
                f"The KL divergence of a normal to a {type(other).__name__} has no closed form; "
                "distributions.kl_divergence(posterior, prior, z) estimates it from samples."
            )
        xp = _namespace(self.mean, other.mean)
        squared_distance = xp.square(xp.subtract(self.mean, other.mean))
        precision = xp.exp(xp.negative(other.log_var))
        difference = xp.subtract(self.log_var, other.log_var)
        kl = 0.5 * (xp.multiply(squared_distance, precision) + xp.expm1(difference) - difference)
        return kl if per_dimension else xp.sum(kl, axis=-1)

    def get_config(self):
        return {
            "mean": ops.convert_to_numpy(self.mean).tolist(),
            "log_var": ops.convert_to_numpy(self.log_var).tolist(),
        }

    @classmethod
    def from_config(cls, config):
        return cls(np.asarray(config["mean"], "float32"), np.asarray(config["log_var"], "float32"))


@keras.saving.register_keras_serializable(package="keras_vae")
class Mixture:
    """sum_k w_k N(mean_k, diag(exp(log_var_k))): a mixture of normals with independent dimensions.

    Args:
        components: A `DiagonalNormal` whose mean has shape `(components, latent_dim)`.
        logits: `(components,)`: the logarithms of the weights, up to a constant; None weighs all the same.

    Example:

    >>> two = Mixture(DiagonalNormal(np.array([[-2.0], [2.0]]), np.zeros((2, 1))))
    >>> two.sample(100, seed=0).shape
    (100, 1)
    """

    has_closed_form_kl = False

    def __init__(self, components, logits=None):
        shape = tuple(np.shape(components.mean))
        if len(shape) != 2 or shape[0] == 0:
            raise ValueError(f"The components' mean must have shape (components, latent_dim); got {shape}.")
        logits = np.zeros(shape[0], "float32") if logits is None else logits
        logits = np.asarray(logits, "float32") if isinstance(logits, list | tuple) else logits
        if tuple(np.shape(logits)) != shape[:1]:
            raise ValueError(f"logits must have shape {shape[:1]}, one per component; got {tuple(np.shape(logits))}.")
        if isinstance(logits, np.ndarray) and not np.isfinite(logits).all():
            raise ValueError("logits must be finite: leave out a component that has no weight.")
        self.components = components
        self.logits = logits

    @property
    def noise_dim(self):
        """How many normal draws `from_noise` makes one z of: the first chooses the component."""
        return self.components.mean.shape[-1] + 1

    def from_noise(self, noise):
        """z as a function of noise: differentiable in the components' parameters, not in their weights.

        Args:
            noise: `(..., noise_dim)` draws from N(0, I).

        Returns:
            `(..., latent_dim)` draws from the mixture.
        """
        xp = _namespace(self.components.mean, self.logits, noise)
        uniform = 0.5 * (1.0 + _erf(xp, noise[..., :1] * math.sqrt(0.5)))
        # The last component takes what is left, whatever the rounding of the sum.
        below = _as(xp, self._cumulative_weights())
        index = xp.sum(xp.cast(uniform > below, "int32") if xp is ops else uniform > below, axis=-1)
        parts = (self.components.mean, self.components.log_var)
        mean, log_var = (xp.take(_as(xp, part), index, axis=0) for part in parts)
        return mean + xp.exp(0.5 * log_var) * noise[..., 1:]

    def sample(self, num_samples=None, seed=None):
        """Draws `(latent_dim,)`, or `(num_samples, latent_dim)`; as `DiagonalNormal.sample`."""
        shape = (*(() if num_samples is None else (num_samples,)), self.noise_dim)
        if isinstance(self.components.mean, np.ndarray):
            return self.from_noise(np.random.default_rng(seed).standard_normal(shape, dtype="float32"))
        return self.from_noise(keras.random.normal(shape, dtype="float32", seed=seed))

    def log_prob(self, z, per_dimension=False):
        """The log density in nats, `(..., latent_dim)` to `(...)`; `per_dimension` gives that of each marginal."""
        xp = _namespace(self.components.mean, self.logits, z)
        log_prob = self.components.log_prob(z[..., None, :], per_dimension)  # (..., components[, latent_dim])
        log_weights = self._log_weights(xp)
        if per_dimension:
            return _log_sum_exp(xp, log_prob + log_weights[:, None], axis=-2)
        return _log_sum_exp(xp, log_prob + log_weights, axis=-1)

    def score(self, z):
        """The gradient of log_prob with respect to z, of its shape."""
        xp = _namespace(self.components.mean, self.logits, z)
        log_prob = self.components.log_prob(z[..., None, :]) + self._log_weights(xp)
        share = xp.exp(log_prob - xp.expand_dims(_log_sum_exp(xp, log_prob, axis=-1), -1))  # p(component|z)
        precision = xp.exp(xp.negative(self.components.log_var))
        return xp.matmul(share, xp.multiply(self.components.mean, precision)) - z * xp.matmul(share, precision)

    def moment_matched(self):
        """The `DiagonalNormal` of the same means and variances."""
        xp = _namespace(self.components.mean, self.logits)
        weights = xp.exp(self._log_weights(xp))[:, None]
        mean = xp.sum(xp.multiply(weights, self.components.mean), axis=0)
        variance = xp.exp(self.components.log_var) + xp.square(xp.subtract(self.components.mean, mean))
        return DiagonalNormal(mean, xp.log(xp.sum(xp.multiply(weights, variance), axis=0)))

    def to_numpy(self):
        """The same distribution, of NumPy arrays."""
        return Mixture(self.components.to_numpy(), ops.convert_to_numpy(self.logits))

    def as_float32(self):
        """The same distribution, in float32."""
        return Mixture(self.components.as_float32(), _as_float32(self.logits))

    def _log_weights(self, xp):
        logits = _as(xp, self.logits)
        return logits - _log_sum_exp(xp, logits, axis=0)

    def _cumulative_weights(self):
        # In NumPy if the weights are: at a tie, such as noise of 0 and equal weights, rounding must not decide.
        xp = _namespace(self.logits)
        return xp.cumsum(xp.exp(self._log_weights(xp)))[:-1]

    def get_config(self):
        return {"components": self.components.get_config(), "logits": ops.convert_to_numpy(self.logits).tolist()}

    @classmethod
    def from_config(cls, config):
        return cls(DiagonalNormal.from_config(config["components"]), np.asarray(config["logits"], "float32"))


def kl_divergence(posterior, prior, z):
    """KL(posterior || prior) in nats: in closed form where there is one, else the average over samples.

        KL = E_q [log q(z|x) - log p(z)]

    Args:
        posterior: A `DiagonalNormal` of shape `(batch, latent_dim)`.
        prior: A `DiagonalNormal` or a `Mixture` over the same dimensions.
        z: `(num_samples, batch, latent_dim)` draws from the posterior.

    Returns:
        `(batch,)`.
    """
    return posterior.kl_divergence(prior) if prior.has_closed_form_kl else monte_carlo_kl(posterior, prior, z)


def monte_carlo_kl(posterior, prior, z):
    """`kl_divergence` averaged over samples, whether there is a closed form or not."""
    difference = posterior.log_prob(z) - prior.log_prob(z)
    return _namespace(difference).mean(difference, axis=0)


def _log_sum_exp(xp, values, axis):
    if xp is ops:
        return ops.logsumexp(values, axis=axis)
    largest = values.max(axis=axis, keepdims=True)
    return np.squeeze(largest, axis) + np.log(np.exp(values - largest).sum(axis=axis))


def _erf(xp, values):
    """NumPy has no error function."""
    return ops.erf(values) if xp is ops else np.vectorize(math.erf, otypes=["float32"])(values)


def _as_float32(value):
    return np.asarray(value, "float32") if isinstance(value, np.ndarray) else ops.cast(value, "float32")


def _as(xp, value):
    return value if xp is np else ops.convert_to_tensor(value)


def _namespace(*arrays):
    """NumPy if everything is NumPy, else `keras.ops`: the functions used here have the same names in both."""
    return np if all(isinstance(array, np.ndarray | np.generic | float) for array in arrays) else ops
