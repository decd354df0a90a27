"""The ELBO with its KL in three parts, of which the total correlation is weighted."""

import math
from typing import Any

import keras
from keras import ops

from keras_vae import schedules, validation
from keras_vae.distributions import ConditionalNormal, Distribution, Factorised, flatten_event
from keras_vae.objectives.base import LatentBatch, Objective, Terms, diagonal, one_of, require_noise


@keras.saving.register_keras_serializable(package="keras_vae")
class BetaTC(Objective):
    """The ELBO with its KL taken into three parts, each with a weight of its own, for latents that are independent.

        loss = reconstruction + alpha * I(x; z) + beta * KL(q(z) || prod_j q(z_j)) + gamma * sum_j KL(q(z_j) || p(z_j))

    with q(z) the average of q(z|x) over the data set: the mutual information, the total correlation, and the distance
    of each latent's codes from the prior. At alpha = beta = gamma = 1 it is the ELBO (with `kl="monte_carlo"`). q(z) is
    estimated from the batch, in one of two ways:

        "weighted"    1 / (N B) sum_m q(z | x_m): biased low, as the batch was picked to hold the x that z belongs to.
        "stratified"  1 / N q(z | x_n) + (N - 1) / (N (B - 1)) sum_{m != n} q(z | x_m), with x_n the example that z
                      belongs to: unbiased. Of the N terms of the true average one is known, and B - 1 stand for the
                      others. The paper weighs the B - 1 unevenly, by their place in the batch; this is its average
                      over places.

    Posterior and prior must have independent dimensions.

    The logarithm makes all three parts biased in any case; large batches help. The logs carry them:
    `mutual_information`, `total_correlation` and `dimension_wise_kl`.

    Args:
        dataset_size: Number of training examples, N.
        alpha, beta, gamma: Weights of the three parts; beta may be a schedule.
        estimator: Estimator of q(z), "weighted" or "stratified".
        num_samples: Number of samples of z per example.

    Example:

    >>> BetaTC(dataset_size=len(x_train), beta=6.0)

    Reference: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, arXiv:1802.04942, equations 2 and 5,
    appendix C (the estimators).
    """

    _scheduled = ("beta",)
    log_names: tuple[str, ...] = ("mutual_information", "total_correlation", "dimension_wise_kl")

    def __init__(
        self,
        dataset_size: int,
        alpha: float = 1.0,
        beta: float | schedules.Schedule = 6.0,
        gamma: float = 1.0,
        estimator: str = "stratified",
        num_samples: int = 1,
    ):
        super().__init__()
        self.dataset_size = validation.whole_number("dataset_size", dataset_size, least=2)
        self.alpha, self.gamma = validation.non_negative("alpha", alpha), validation.non_negative("gamma", gamma)
        self.beta: Any = beta
        self.estimator = one_of("estimator", estimator, ("weighted", "stratified"))
        self.num_samples = validation.whole_number("num_samples", num_samples)

    def check(self, posterior: type[Distribution], prior: type[Distribution]) -> None:
        require_noise("BetaTC compares the densities of z under the posteriors of a batch", posterior)
        for distribution in (posterior, prior):
            if not issubclass(distribution, Factorised):
                raise ValueError(
                    f"BetaTC compares each latent with its own prior, and the dimensions of a {distribution.__name__} "
                    'depend on each other. Leave the posterior at "normal" and the prior at N(0, I).'
                )
        if issubclass(prior, ConditionalNormal):
            raise ValueError(
                "BetaTC compares the codes of all data with one prior, and this one is another for each condition: "
                "leave the prior at N(0, I)."
            )

    def __call__(self, batch: LatentBatch) -> Terms:
        posterior = batch.posterior.flat()
        z = flatten_event(batch.z, len(batch.z.shape) - 2)
        log_prob = posterior.log_prob(z[:, :, None, :], per_dimension=True)  # (num_samples, z of, under, latent_dim)
        log_shares = self._log_shares(ops.shape(z)[1])
        log_aggregate = ops.logsumexp(ops.sum(log_prob, axis=-1) + log_shares, axis=2)
        log_marginals = ops.sum(ops.logsumexp(log_prob + log_shares[..., None], axis=2), axis=-1)
        parts = (
            posterior.log_prob(z) - log_aggregate,
            log_aggregate - log_marginals,
            log_marginals - batch.prior.log_prob(batch.z),
        )
        information, correlation, distance = (ops.mean(part, axis=0) for part in parts)
        reconstruction = batch.reconstruction()
        weighted = self.alpha * information + self.beta(batch.step) * correlation + self.gamma * distance
        logs = dict(zip(self.log_names, (information, correlation, distance), strict=True))
        return Terms(reconstruction + weighted, reconstruction, batch.kl(), logs)

    def _log_shares(self, batch):
        """The logarithm of the weight of q(z|x_m) in q(z) for a z of x_n: `(n, m)`, a square of the batch."""
        others = ops.cast(ops.maximum(batch - 1, 1), "float32")
        own = diagonal(batch)
        if self.estimator == "weighted":
            even = -math.log(self.dataset_size) - ops.log(ops.cast(batch, "float32"))
            return even + ops.zeros_like(ops.cast(own, "float32"))
        share_of_others = math.log1p(-1.0 / self.dataset_size) - ops.log(others)
        return ops.where(own, -math.log(self.dataset_size), share_of_others)

    def get_config(self) -> dict[str, Any]:
        return {
            "dataset_size": self.dataset_size,
            "alpha": self.alpha,
            "beta": keras.saving.serialize_keras_object(self.beta),
            "gamma": self.gamma,
            "estimator": self.estimator,
            "num_samples": self.num_samples,
        }
