"""The ELBO with part of its KL replaced by the distance between the aggregate posterior and the prior."""

import math
from numbers import Real
from typing import Any

import keras
from keras import ops

from keras_vae import validation
from keras_vae.distributions import DiagonalNormal, Distribution, flatten_event
from keras_vae.objectives.base import LatentBatch, Objective, Terms, diagonal, one_of, require_noise


@keras.saving.register_keras_serializable(package="keras_vae")
class InfoVAE(Objective):
    """The ELBO with part of its KL given to a distance between the codes of all data and the prior.

        loss = reconstruction + (1 - alpha) * KL(q(z|x) || p(z)) + (alpha + lambda_ - 1) * MMD(q(z), p(z))

    The KL pushes every q(z|x) to the prior and so discourages information; the maximum mean discrepancy constrains only
    their average q(z). At alpha = 1 the KL is gone ("MMD-VAE"); alpha = 0 and lambda_ = 1 is the ELBO. Otherwise the
    loss is no bound.

    It is for posteriors that draw z of as many variates as it has elements, or more, and a diagonal normal prior.

    The MMD is the unbiased estimate over the batch, of z against the noise that it was made of: it compares an example
    only with the others, of whose noise its own is independent. It is logged as `mmd`, and is below 0 as often as not
    where the codes match the prior. Distances are in standard deviations of the prior.

    Args:
        alpha: Part of the KL that is taken away; up to 1.
        lambda_: Weight of the discrepancy; at least 1 - alpha. The MMD is below 2, so beside a loss of a hundred nats
            it needs a large weight.
        kernel: Kernel, "imq", c / (c + d**2), or "rbf", exp(-d**2 / c), for a distance d.
        scale: Squared distance c; None is 2 * latent_dim, which two draws of the prior have on average.
        num_samples: Number of samples of z per example.

    Example:

    >>> InfoVAE(alpha=0.0, lambda_=1000.0)

    Reference: Zhao et al. 2019, InfoVAE, arXiv:1706.02262, equation 6; Gretton et al. 2012, A Kernel Two-Sample Test,
    lemma 6 (the estimate); Tolstikhin et al. 2018, arXiv:1711.01558, section 4 ("imq" and its c).
    """

    log_names: tuple[str, ...] = ("mmd",)

    def __init__(
        self,
        alpha: float = 0.0,
        lambda_: float = 1000.0,
        kernel: str = "imq",
        scale: float | None = None,
        num_samples: int = 1,
    ):
        super().__init__()
        numbers = [value for value in (alpha, lambda_) if not isinstance(value, bool) and isinstance(value, Real)]
        if len(numbers) < 2 or not all(math.isfinite(value) for value in numbers):
            raise ValueError(f"alpha and lambda_ must be finite numbers; got {alpha!r} and {lambda_!r}.")
        if alpha > 1.0:
            raise ValueError(f"alpha={alpha:g} is above 1, which would reward a large KL without end.")
        if alpha + lambda_ < 1.0:
            raise ValueError(
                f"alpha + lambda_ = {alpha + lambda_:g} is below 1, which would reward codes that are unlike the prior."
            )
        if scale is not None and not (isinstance(scale, Real) and 0.0 < float(scale) < math.inf):
            raise ValueError(f"scale must be a positive number, a squared distance, or None; got {scale!r}.")
        self.alpha, self.lambda_ = float(alpha), float(lambda_)
        self.kernel = one_of("kernel", kernel, ("imq", "rbf"))
        self.scale = None if scale is None else float(scale)
        self.num_samples = validation.whole_number("num_samples", num_samples)

    def check(self, posterior: type[Distribution], prior: type[Distribution]) -> None:
        require_noise("InfoVAE compares z with the noise that it was made of", posterior)
        if not issubclass(prior, DiagonalNormal):
            raise ValueError(
                "InfoVAE compares z, whitened by the prior, with the noise that it was made of, and a "
                f"{prior.__name__} cannot whiten it. Leave the prior at N(0, I)."
            )

    def __call__(self, batch: LatentBatch) -> Terms:
        reconstruction = batch.reconstruction()
        kl = batch.kl()
        prior = batch.prior
        mean, log_var = ops.convert_to_tensor(prior.mean), ops.convert_to_tensor(prior.log_var)
        whitened = (batch.z - mean) * ops.exp(-0.5 * log_var)
        z, noise = (flatten_event(each, len(each.shape) - 2) for each in (whitened, batch.noise))
        if noise.shape[-1] < z.shape[-1]:
            raise ValueError(
                f"InfoVAE compares z with the noise that it was made of, and this posterior makes {z.shape[-1]} "
                f"elements of z of {noise.shape[-1]} variates: choose another objective."
            )
        mmd = self._mmd(z, noise[..., : z.shape[-1]])
        loss = reconstruction + (1.0 - self.alpha) * kl + (self.alpha + self.lambda_ - 1.0) * mmd
        return Terms(loss, reconstruction, kl, {"mmd": mmd})

    def _mmd(self, a, b):
        """The squared discrepancy of two samples `(num_samples, batch, dim)`, of which rows of one index are a pair."""
        pairs = self._kernel(a, a) + self._kernel(b, b) - 2.0 * self._kernel(a, b)
        others = ops.where(diagonal(ops.shape(a)[1]), 0.0, pairs)
        batch = ops.cast(ops.shape(a)[1], "float32")
        return ops.mean(ops.sum(others, axis=(1, 2))) / (batch * ops.maximum(batch - 1.0, 1.0))

    def _kernel(self, a, b):
        squares = ops.sum(ops.square(a[:, :, None, :] - b[:, None, :, :]), axis=-1)
        scale = 2.0 * a.shape[-1] if self.scale is None else self.scale
        return scale / (scale + squares) if self.kernel == "imq" else ops.exp(-squares / scale)

    def get_config(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "lambda_": self.lambda_,
            "kernel": self.kernel,
            "scale": self.scale,
            "num_samples": self.num_samples,
        }
