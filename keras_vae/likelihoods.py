"""Likelihoods p(x|z): this is where "BCE" and "MSE" live, and nowhere else.

A likelihood reads the decoder's output as the parameters of a distribution over x. It knows the log-probability, the
mean, how to draw, and which data are allowed; it knows neither latents nor the KL term. The two losses everybody
starts with are likelihoods under other names:

    BCE:  log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i) = -BCE, summed over dimensions: `Bernoulli`
    MSE:  log p(x|z) = -1/2 sum_i (x_i - mean_i)**2 / scale**2 + constant:                         `Gaussian`

Every log-probability keeps its normalising constant, is in nats, and is summed over the data's dimensions. Add a
likelihood by subclassing `Likelihood` and, if it deserves a short name, naming it in `_BY_NAME`.
"""

import math
from numbers import Real

import keras
import numpy as np
from keras import ops


class Likelihood:
    """What the model asks of p(x|z).

    `parameters` are the decoder's output in float32, shaped like the data but with `num_parameters` times the
    channels on the last axis, and possibly with a leading axis of samples of z.
    """

    num_parameters = 1  # decoder channels for each channel of the data
    is_discrete = False  # whether log_prob is a probability, so that bits per dimension count real bits
    has_stddev = False  # whether `stddev` is defined
    data_range: tuple[float, float] | None = None  # the least and the greatest value that x may have

    def log_prob(self, x, parameters):
        """log p(x|z) in nats, summed over the data's dimensions.

        Args:
            x: `(batch, ...)` data.
            parameters: `(batch, ...)` or `(num_samples, batch, ...)`.

        Returns:
            `(batch,)` or `(num_samples, batch)`.
        """
        x, parameters = ops.convert_to_tensor(x, "float32"), ops.convert_to_tensor(parameters, "float32")
        dimensions = tuple(range(1 - len(x.shape), 0))
        return ops.sum(self.log_prob_per_dimension(x, parameters), axis=dimensions)

    def log_prob_per_dimension(self, x, parameters):
        """The terms that `log_prob` sums, shaped like `parameters`."""
        raise NotImplementedError

    def mean(self, parameters):
        """E[x|z], shaped like the data."""
        raise NotImplementedError

    def stddev(self, parameters):
        """The standard deviation of x given z, shaped like the data; only where `has_stddev` says so."""
        raise NotImplementedError

    def sample(self, parameters, seed=None):
        """Draws x from p(x|z), shaped like the data. `seed`: an integer, a `SeedGenerator` or None."""
        raise NotImplementedError

    def parameters_at_mean(self, mean):
        """Parameters (NumPy) whose mean is `mean`: the start for a decoder's output bias."""
        raise NotImplementedError

    def validate(self, x, name="x"):
        """Raises a ValueError that says what is wrong with the data and what to do.

        Args:
            x: A NumPy batch of data.
            name: What to call it in the message.
        """
        if x.size == 0:
            raise ValueError(f"{name} is empty: its shape is {x.shape}.")
        if not np.isfinite(x).all():
            bad = "NaN" if np.isnan(x).any() else "infinite values"
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise ValueError(
                f"{name} contains {bad}, first at index {where} of the batch. Remove or fill in such examples."
            )

    def validate_activation(self, activation):
        """Raises a ValueError if the decoder's last activation, a name or None if unknown, contradicts us."""

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


@keras.saving.register_keras_serializable(package="keras_vae")
class Bernoulli(Likelihood):
    """Binary data: p(x|z) = prod_i p_i**x_i (1 - p_i)**(1 - x_i). Its -log p is the binary cross-entropy, "BCE".

    Data must lie in [0, 1]. For grey values strictly between 0 and 1 the sum is still the cross-entropy, but no
    longer a log-probability: its minimum is the entropy of the pixels (45.5 nats per MNIST digit), not 0.

    Args:
        from_logits: If True (default) the decoder's output is log(p / (1 - p)) and its last layer is linear. If
            False it is p itself, from a sigmoid; p is then clipped to [1e-7, 1 - 1e-7], which caps the loss at 16.1
            nats per pixel and stops its gradient there. Prefer logits.

    Example:

    >>> Bernoulli().log_prob(ops.ones((1, 784)), ops.zeros((1, 784)))  # 784 fair coins: -784 log 2 = -543.4 nats

    Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix C.1, equation 11.
    """

    is_discrete = True
    data_range = (0.0, 1.0)

    def __init__(self, from_logits=True):
        self.from_logits = bool(from_logits)

    def log_prob_per_dimension(self, x, parameters):
        if self.from_logits:
            # log p = -softplus(-logit) and log(1 - p) = -softplus(logit). Both are exact at any logit, and their
            # gradient at logit 0 is right, which relu(l) - l * x + softplus(-|l|) loses to the corner of |l|.
            return -(x * ops.softplus(-parameters) + (1.0 - x) * ops.softplus(parameters))
        p = ops.clip(parameters, 1e-7, 1.0 - 1e-7)
        return x * ops.log(p) + (1.0 - x) * ops.log1p(-p)

    def mean(self, parameters):
        return ops.sigmoid(parameters) if self.from_logits else parameters

    def sample(self, parameters, seed=None):
        uniform = keras.random.uniform(ops.shape(parameters), dtype="float32", seed=seed)
        return ops.cast(uniform < self.mean(parameters), "float32")

    def parameters_at_mean(self, mean):
        # Clipped as in Burda et al. 2016: a pixel that is never on would start at minus infinity.
        p = np.clip(mean, 0.001, 0.999)
        return np.log(p / (1.0 - p)) if self.from_logits else p

    def validate(self, x, name="x"):
        super().validate(x, name)
        low, high = float(np.min(x)), float(np.max(x))
        if low >= 0.0 and high <= 1.0:
            return
        if low >= 0.0 and high <= 255.0:
            fix = f"divide {name} by {16 if high <= 16 else 255}"
        elif low >= -1.0 and high <= 1.0:
            fix = f"map {name} from [-1, 1] to [0, 1] with ({name} + 1) / 2"
        else:
            fix = f"scale {name} to [0, 1]"
        raise ValueError(
            f'The Bernoulli likelihood ("bce") needs [0, 1], but {name} ranges from {low:g} to {high:g}: {fix}, '
            'or use likelihood="mse" for real-valued data.'
        )

    def validate_activation(self, activation):
        if self.from_logits and activation in ("sigmoid", "hard_sigmoid"):
            raise ValueError(
                f"The decoder ends in a {activation}, but the Bernoulli likelihood expects logits and would apply "
                "another: the loss could never get near its minimum. Either remove the last activation (recommended: "
                "more accurate), or pass likelihood=keras_vae.Bernoulli(from_logits=False)."
            )
        if self.from_logits and activation in ("relu", "tanh", "softplus", "softmax"):
            raise ValueError(
                f"The decoder ends in a {activation}, but logits must be able to take any value: some probabilities "
                'could never be reached. Remove the last activation (activation="linear").'
            )
        if not self.from_logits and activation in ("linear", "relu", "tanh", "softplus", "elu", "gelu", "leaky_relu"):
            raise ValueError(
                f"The decoder ends in a {activation} activation, which leaves [0, 1], but Bernoulli(from_logits=False) "
                'reads its output as probabilities. Either end the decoder in a sigmoid, or use likelihood="bce", '
                "which takes logits."
            )

    def get_config(self):
        return {"from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="keras_vae")
class Gaussian(Likelihood):
    """Real-valued data: p(x|z) = N(x; decoder(z), scale**2 I). Its -log p is the squared error, "MSE".

        -log p(x|z) = sum_i (x_i - mean_i)**2 / (2 scale**2)  +  D/2 log(2 pi scale**2)

    so the weight between reconstruction and KL is not free: it is 1 / (2 scale**2). Half the summed squared error is
    scale = 1. A mean over pixels instead of a sum would be scale**2 = D/2, which is why such models collapse.

    Args:
        scale: The standard deviation, in the units of the data.

    Example:

    >>> Gaussian().log_prob(ops.zeros((1, 2)), ops.zeros((1, 2)))  # -log(2 pi) = -1.838 nats

    Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix C.2; Rybkin et al. 2021, arXiv:2006.13202.
    """

    has_stddev = True

    def __init__(self, scale=1.0):
        if not (isinstance(scale, Real) and math.isfinite(scale) and scale > 0):
            raise ValueError(f"Gaussian scale is a standard deviation and must be a positive number; got {scale!r}.")
        self.scale = float(scale)

    def log_prob_per_dimension(self, x, parameters):
        constant = -math.log(self.scale) - 0.5 * math.log(2.0 * math.pi)
        return constant - 0.5 * ops.square((x - parameters) / self.scale)

    def mean(self, parameters):
        return parameters

    def stddev(self, parameters):
        return ops.full_like(parameters, self.scale)

    def sample(self, parameters, seed=None):
        noise = keras.random.normal(ops.shape(parameters), dtype="float32", seed=seed)
        return parameters + self.scale * noise

    def parameters_at_mean(self, mean):
        return np.asarray(mean)

    def get_config(self):
        return {"scale": self.scale}


_BY_NAME = {"bce": Bernoulli, "bernoulli": Bernoulli, "mse": Gaussian, "gaussian": Gaussian}


def get(likelihood) -> Likelihood:
    """A likelihood from its name ("bce" = "bernoulli", "mse" = "gaussian"), its config, or itself."""
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, dict):
        return keras.saving.deserialize_keras_object(likelihood)
    if isinstance(likelihood, str) and likelihood.lower() in _BY_NAME:
        return _BY_NAME[likelihood.lower()]()
    names = ", ".join(f'"{name}"' for name in _BY_NAME)
    raise ValueError(f"likelihood must be one of {names}, or a Likelihood object; got {likelihood!r}.")
