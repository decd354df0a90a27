"""Missing values filled in, by importance sampling of z given the observed ones.

`reconstruct` fills a hole with the decoder's mean at one z, which q(z|x) chose although it has never seen that pattern
of holes. Here many z are drawn, each counts as the observed values say, and the spread that is left is told by draws.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_vae import validation


class Imputation:
    """Mixed into `VAE`, which has the verbs of inference and the importance weights."""

    def impute(
        self, x: Any, draws: int | None = None, num_samples: int = 100, seed: int | None = None, batch_size: int = 256
    ) -> np.ndarray:
        """x with its missing values filled in; what is observed stays bit for bit.

            E[x_missing|x_observed] ~ sum_i w_i E[x_missing|z_i] / sum_i w_i
            w_i = p(x_observed|z_i) p(z_i) / q(z_i|x_observed)

        A decoder that follows the steps before goes on from what is observed: of a series, a forecast.

        Args:
            x: `(n, ...)` data, in any form, with NaN where a value is missing. The model has `allow_missing=True`.
            draws: Number of completed copies of x, each with missing values drawn from p(x_missing|x_observed), for
                their spread (multiple imputation). None: one, with their mean; the most likely code where the data are
                codes, and the probabilities of one-hot categories.
            num_samples: Number of z per example that the weights are made of.
            seed: Seed, an integer; it draws the same on every backend.
            batch_size: Number of decoded examples at a time, counting samples.

        Returns:
            `(n, ...)`, or `(draws, n, ...)`, NumPy.

        Raises:
            ValueError: If the model was not told that values may be missing, or `draws` is None and its decoder follows
                the steps before.

        Reference: Mattei & Frellsen 2019, MIWAE, arXiv:1812.02633, section 3.3.
        """
        if not self.allow_missing:
            raise ValueError("This model knows no missing values: make and train it with VAE(..., allow_missing=True).")
        if draws is None and self.is_autoregressive:
            raise ValueError(
                "This decoder follows the steps before, and the mean of later ones is known by draws only: pass "
                "impute(x, draws=100), and average them."
            )
        validation.whole_number("num_samples", num_samples)
        if draws is not None:
            validation.whole_number("draws", draws)
        rows = max(1, validation.whole_number("batch_size", batch_size) // num_samples)
        generator = np.random.default_rng(seed)
        # Each noise has a generator of its own, and x is drawn for all rows at once: the batches change no number.
        drawer, chooser = generator.spawn(2)
        pieces, found, conditions = [], [], []
        for part in self._pieces(x, batch_size):
            self._validate(part[0])
            pieces.append(part[0])
            holes = _with_holes(part[0])
            for start in range(0, len(holes), rows):
                few, *condition = (array[holes[start : start + rows]] for array in part)
                shape = (len(few), num_samples, *self.noise_shape(few.shape[1:]))
                noise = generator.standard_normal(shape, dtype="float32")
                if draws is None:
                    found.append(self._batched(self._weighted_mean, few, noise, *condition, batch_size=len(few)))
                else:
                    found.append(self._latents_of_draws(few, noise, condition, draws, chooser))
                    conditions.append([np.repeat(each, draws, axis=0) for each in condition])
        x = np.concatenate(pieces)
        holes, filled = _with_holes(x), x if draws is None else np.repeat(x[None], draws, axis=0)
        if len(holes):
            values = np.concatenate(found)
            if draws is not None:
                condition = [np.concatenate(parts) for parts in zip(*conditions, strict=True)]
                values = self._drawn(
                    values, *condition, noise=drawer, batch_size=batch_size, x=np.repeat(x[holes], draws, axis=0)
                )
                values = np.moveaxis(values.reshape(len(holes), draws, *x.shape[1:]), 1, 0)
            places = holes if draws is None else (slice(None), holes)
            filled[places] = np.where(np.isnan(x[holes]), values, x[holes])
        return self._by_name(filled)

    def _latents_of_draws(self, x, noise, condition, draws, chooser):
        """z drawn by their weights, `(rows * draws, *latent_shape)`."""
        z, log_weights = self._batched(self._weighted_latents, x, noise, *condition, batch_size=len(x))
        # The largest of log weights and Gumbel noise is a draw of z by its weight.
        gumbel = chooser.gumbel(size=(len(x), draws, log_weights.shape[1]))
        chosen = np.argmax(log_weights[:, None] + gumbel, axis=-1)
        return z[np.arange(len(x))[:, None], chosen].reshape(-1, *z.shape[2:])

    # Functions of tensors, with the examples on the first axis.

    def _weighted_mean(self, x, noise, condition=None):
        _, parameters, log_weights = self._weighted(x, ops.swapaxes(noise, 0, 1), condition)
        return self.likelihood.mixture_mean(parameters, ops.softmax(log_weights, axis=0))

    def _weighted_latents(self, x, noise, condition=None):
        z, _, log_weights = self._weighted(x, ops.swapaxes(noise, 0, 1), condition)
        return ops.swapaxes(z, 0, 1), ops.transpose(log_weights)


def _with_holes(x):
    """The places of the examples that lack a value."""
    return np.flatnonzero(np.isnan(x).reshape(len(x), -1).any(axis=1))
