"""A prior that learns, trained alone: on the codes of a model that is trained already."""

from typing import Any

import keras
import numpy as np

from keras_vae import priors, validation
from keras_vae.evaluation import _model
from keras_vae.model import VAE


def fit_prior(
    vae: VAE,
    x: Any,
    prior: priors.Prior,
    epochs: int = 50,
    batch_size: int = 256,
    optimizer: Any = "adam",
    seed: int = 0,
    verbose: int | str = 0,
) -> np.ndarray:
    """Trains a prior on the codes of data, with encoder and decoder held fixed, and gives it to the model.

        loss = -E_q(z|x) log p(z)

    It is the part of the negative ELBO that the prior can change, so the ELBO rises by what the loss falls, up to the
    `marginal_kl` of `elbo_surgery`. Each epoch sees new draws of q(z|x).

    Args:
        vae: A built `VAE`, whose `prior` is afterwards this one; call `compile` before another `fit`.
        x: `(n, ...)` data, those of training.
        prior: A prior that learns, such as `priors.RealNVP()`, `priors.GaussianMixture(50)` or `priors.Conditional`.
        epochs: Number of passes over the codes.
        batch_size: Number of codes in a step.
        optimizer: Name or instance, as Keras takes it.
        seed: Seed for the draws. The order of the codes is Keras's: `keras.utils.set_random_seed`.
        verbose: As in `keras.Model.fit`.

    Returns:
        `(epochs,)` float64, -log p(z) in nats, averaged over the epoch's codes while the prior learned.

    Raises:
        ValueError: If there is no example, the prior has nothing to learn, or it does not fit the model: see `VAE`.

    Example:

    >>> evaluation.fit_prior(vae, x_train, priors.RealNVP(), epochs=100)
    >>> vae.sample(64)

    Reference: Ghosh et al. 2020, arXiv:1903.12436, section 4 (ex-post density estimation).
    """
    epochs = validation.whole_number("epochs", epochs)
    with _model.restoring_prior_on_error(vae):
        vae.prior = prior
        posterior, condition = _model.codes(vae, x, batch_size)
        _model.require_examples(posterior)
        model = _PriorAlone(vae)
        if not model.trainable_variables:
            raise ValueError(f"{prior!r} has no weight that learns: assign it, vae.prior = ..., as it is.")
    # Scalar outputs need no target, and Keras wants one.
    model.compile(optimizer, loss=lambda _, log_prob: -log_prob)
    losses = []
    for epoch in range(epochs):
        z = posterior.sample(seed=np.random.SeedSequence([seed, epoch]))
        inputs = {"z": z} if condition is None else {"z": z, "condition": condition}
        log = model.fit(inputs, np.zeros(len(z), "float32"), batch_size, verbose=verbose).history  # pyright: ignore
        losses.append(log["loss"][0])
    return np.array(losses)


class _PriorAlone(keras.Model):
    """log p(z) of codes, `(batch,)`, with the weights of the prior and no others: the model itself is not tracked."""

    def __init__(self, vae):
        super().__init__(name="prior_alone", dtype="float32")
        self.prior = vae.prior
        self._log_prob = lambda inputs: vae.prior_distribution(inputs.get("condition")).log_prob(inputs["z"])

    def call(self, inputs):
        return self._log_prob(inputs)
