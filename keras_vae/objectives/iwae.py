"""The importance-weighted bound, and the gradient that keeps its signal."""

import math
from typing import Any

import keras
from keras import ops

from keras_vae import validation
from keras_vae.distributions import Distribution, flatten_event
from keras_vae.objectives.base import LatentBatch, Objective, Terms, one_of, require_density, require_noise


@keras.saving.register_keras_serializable(package="keras_vae")
class IWAE(Objective):
    """The importance-weighted bound, which is tighter the more samples it takes; its negative is minimised.

        log p(x) >= E [log 1/k sum_i w_i] >= ELBO,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)

    With one sample it is the ELBO (with `kl="monte_carlo"`). The logs carry the terms of the ELBO beside it, averaged
    over the same samples: `negative_elbo` is worse than that of a model trained on it, and `loss` better.

    It is for every prior and every posterior that draws z; "dreg" for posteriors with the density of any z, which are
    "normal", `FullNormal` and `LowRankNormal`.

    Args:
        num_samples: Number of samples of z per example, k in the paper.
        gradient: "standard", whose signal in the encoder drowns in noise as k grows, or "dreg", the doubly
            reparameterised gradient, whose signal grows where the importance weights have a finite variance and drowns
            more slowly elsewhere. Both have the same mean and the same loss. "dreg" runs the decoder once, like
            "standard".

    Example:

    >>> IWAE(num_samples=5)
    >>> IWAE(num_samples=64, gradient="dreg")

    Reference: Burda et al. 2016, arXiv:1509.00519, equation 8; Rainforth et al. 2018, arXiv:1802.04537 (the noise);
    Tucker et al. 2019, arXiv:1810.04152, equation 6 (dreg).
    """

    def __init__(self, num_samples: int = 5, gradient: str = "standard"):
        super().__init__()
        self.num_samples = validation.whole_number("num_samples", num_samples)
        self.gradient = one_of("gradient", gradient, ("standard", "dreg"))

    def check(self, posterior: type[Distribution], prior: type[Distribution]) -> None:
        require_noise("IWAE averages over different draws of z", posterior)
        if self.gradient == "dreg":
            require_density('gradient="dreg"', posterior)

    def __call__(self, batch: LatentBatch) -> Terms:
        z, weight_probe, bound_probe = batch.z, 0.0, 0.0
        if self.gradient == "dreg":
            z, weight_probe, bound_probe = _reweight_gradient(z)
            log_posterior = batch.posterior.without_gradient().log_prob(z)
        else:
            log_posterior = batch.log_q()
        log_likelihood = batch.log_likelihood(z)
        log_weights = log_likelihood + batch.prior.log_prob(z) - log_posterior + weight_probe
        bound = ops.logsumexp(log_weights, axis=0) - math.log(self.num_samples) + bound_probe
        return Terms(-bound, -ops.mean(log_likelihood, axis=0), batch.kl())

    def get_config(self) -> dict[str, Any]:
        return {"num_samples": self.num_samples, "gradient": self.gradient}


def _reweight_gradient(z):
    """Identity on z whose backward pass multiplies the gradient by the normalised importance weight once more.

    With v_i = w_i / sum_j w_j the doubly reparameterised gradient of the parameters of q is

        sum_i v_i**2 (d log w_i / d z_i) (d z_i / d parameters)

    The gradient of the bound, with log q(z|x) held fixed, has v_i in place of v_i**2; the decoder keeps v_i. The
    weights are known only after the decoder has run on z, so they are recovered from two zero-valued probes:

        forward                              backward
        z           -> decoder -> log w_i    f v_i (d log w_i / d z_i), multiplied here by f v_i / f = v_i
        weight_probe = 0  added to log w_i   receives f v_i
        bound_probe  = 0  added to the bound receives f

    where f is whatever the loss does with the bound: a mean over the batch, sample weights, a loss scale. The decoder
    runs once.

    Returns:
        z; the weight probe, `(num_samples, batch)`; the bound probe, `(batch,)`.
    """

    @ops.custom_gradient
    def with_probes(z):
        zeros = ops.zeros_like(z[..., :1])

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            of_z, of_weight, of_bound = upstream[..., :-2], upstream[..., -2:-1], upstream[..., -1:]
            weight = of_weight / ops.where(of_bound == 0.0, 1.0, of_bound)  # 0 where the loss ignores the example
            return of_z * weight

        return ops.concatenate([z, zeros, zeros], axis=-1), gradient

    joined: Any = with_probes(flatten_event(z, len(z.shape) - 2))
    return ops.reshape(joined[..., :-2], ops.shape(z)), joined[..., -2], ops.sum(joined[..., -1], axis=0)
