"""Which latents are in use while a VAE trains, and in words when none is."""

import math
from numbers import Real
from typing import Any

import numpy as np

from keras_vae import data, evaluation, validation
from keras_vae.callbacks._on_data import OnData
from keras_vae.distributions import Factorised
from keras_vae.likelihoods import Gaussian
from keras_vae.objectives import ELBO
from keras_vae.schedules import Constant

_COLLAPSED_BELOW = 0.1  # nats per example: with less, z can tell hardly any two examples apart
# Batches. Measured: healthy models whose decoder starts at the data mean dip for up to 100.
_MIN_STEPS_BEFORE_VERDICT = 500


class LatentMonitor(OnData):
    """Logs how many latents are in use, and says in words when the posterior has collapsed and what to try.

    Collapse is reported when no unit is active or the total KL is below 0.1 nats in two consecutive checks, after 500
    training batches or at the end of training: healthy models often drop their latents for the first hundred batches,
    while they learn the mean of the data. It is not reported while beta is 0 or below a tenth of its final value, nor
    from numbers that are not finite.

    It draws no noise, so training goes on as without it. Put it before CSVLogger or TensorBoard in the list of
    callbacks: Keras hands them the logs in turn.

    Args:
        x: `(n, ...)` data to look through, n >= 2, a dict for a conditional model; a thousand held-out examples
            suffice.
        threshold: Smallest variance of an active unit; see `evaluation.active_units`.
        every: Number of epochs between two checks; the logs repeat the last in between.
        log_units: Whether to log `kl_unit_0`, `kl_unit_1`, ... too, in nats.

    Attributes:
        epochs: Epochs that were checked, counting from 1.
        kl_per_unit: `(epochs, latent_dim)` float64, nats, as from `evaluation.kl_per_unit`.
        active_units: `(epochs,)` int, the `active_units` of the logs.

    Example:

    >>> monitor = keras_vae.callbacks.LatentMonitor(data.test)
    >>> history = vae.fit(data.train, epochs=20, callbacks=[monitor])
    >>> history.history["active_units"]

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5.2 (active units); Lucas et al. 2019, arXiv:1911.02469
    (what collapses a linear VAE); Bowman et al. 2016, arXiv:1511.06349 (warm-up).
    """

    def __init__(self, x: Any, threshold: float = 0.01, every: int = 1, log_units: bool = False) -> None:
        super().__init__(x, every)
        if data.count(self.x) < 2:
            raise ValueError(f"x needs two examples or more, whose latents can differ; it has {data.count(self.x)}.")
        if not (isinstance(threshold, Real) and threshold >= 0.0):
            raise ValueError(f"threshold is a variance and must be a number, zero or more; got {threshold!r}.")
        self.threshold: float = threshold
        self.log_units: bool = log_units
        self._reset()

    def _reset(self):
        self._kl, self._active = [], []
        self._steps = 0  # batches trained on before the last check
        self._collapsed_checks = 0  # in a row
        self._reported = False

    @property
    def kl_per_unit(self) -> np.ndarray:
        return np.array(self._kl)

    @property
    def active_units(self) -> np.ndarray:
        return np.array(self._active, int)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs["active_units"] = self._active[-1]
            if self.log_units:
                logs.update({f"kl_unit_{i}": float(kl) for i, kl in enumerate(self._kl[-1])})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._collapsed_checks >= 2:
            self._report()

    def _look(self, epoch):
        posterior = self.model.encode(self.x)  # on JAX this also puts the current state into the model's variables
        self._kl.append(evaluation.kl_per_unit(self.model, posterior))
        self._active.append(int(evaluation.active_units(self.model, posterior, self.threshold).sum()))
        self._steps = int(validation.to_numpy(self.model.training_step.value))
        if not np.isfinite(self._kl[-1]).all() or not self._kl_counts():
            return
        if self._active[-1] > 0 and self._kl[-1].sum() >= _COLLAPSED_BELOW:
            self._collapsed_checks, self._reported = 0, False
            return
        self._collapsed_checks += 1
        if self._collapsed_checks >= 2 and self._steps >= _MIN_STEPS_BEFORE_VERDICT:
            self._report()

    def _kl_counts(self):
        """Whether the loss weighs the KL about as it finally will; before that, unused latents have other causes."""
        objective = self.model.objective
        capacity = getattr(objective, "capacity", None)
        if capacity is not None and float(validation.to_numpy(capacity(self._steps))) < 1.0:
            return False  # the loss holds the KL at that capacity
        beta = getattr(objective, "beta", Constant(1.0))
        now = float(validation.to_numpy(beta(self._steps)))
        return now > 0.0 and (isinstance(beta, Constant) or now >= 0.1 * getattr(beta, "end", 1.0))

    def _report(self):
        if self._reported:
            return
        self._reported = True
        active = f"{self._active[-1]} of {len(self._kl[-1])} latents {'is' if self._active[-1] == 1 else 'are'} active"
        hints = "".join(f"\n  - {hint}" for hint in self._hints())
        print(
            f"\nThe posterior has collapsed: after epoch {self.epochs[-1]}, {active} and the KL is "
            f"{self._kl[-1].sum():.2g} nats per example, so z says next to nothing about x. What to try:{hints}"
        )

    def _hints(self):
        if self._steps < _MIN_STEPS_BEFORE_VERDICT:
            yield f"train for longer: this was after {self._steps} batches, and the KL often falls before it rises;"
        likelihood, objective = self.model.likelihood, self.model.objective
        scale = getattr(likelihood, "scale", None)
        if isinstance(likelihood, Gaussian) and isinstance(scale, float):
            spread = _largest_deviation(data.split_condition(self.x)[0])
            linear = ", and a linear VAE trained on the bound uses no latent then" if spread <= scale else ""
            yield (
                f'let the scale of the Gaussian be learned, Gaussian("learned") or Gaussian("optimal"), or make it '
                f"less than {scale:g}: in the direction in which x varies most, its standard deviation is "
                f"{spread:.3g}{linear};"
            )
        if isinstance(objective, ELBO):
            yield from self._beta_hints(objective)
        yield "if the decoder can model x without z (autoregression, a very flexible likelihood), make it weaker."

    def _beta_hints(self, objective):
        beta = objective.beta
        steps = 10 * (self.params.get("steps") or 100)  # ten epochs, where the length of one is known
        if isinstance(beta, Constant):
            end = f", end={beta.value:g}" if beta.value != 1.0 else ""
            warm_up = f"rise from 0: ELBO(beta=schedules.Linear(steps={steps}{end}))"
            if beta.value > 1.0:
                yield f"lower beta, which weighs the KL {beta.value:g} times what the bound does, or let it {warm_up};"
            else:
                yield f"let beta {warm_up};"
        else:
            yield f"let beta, now {beta!r}, rise for longer or end lower;"
        if not objective.free_bits and isinstance(self.model.numpy_prior(), Factorised):
            yield "leave each latent some nats for free: ELBO(free_bits=...);"


def _largest_deviation(x):
    """The standard deviation of data along the direction in which they vary most, from at most 256 of them."""
    rows = x[:256].reshape(min(len(x), 256), -1).astype("float32")
    rows = np.nan_to_num(rows - np.nanmean(rows, axis=0))  # a missing value at the mean
    # The largest eigenvalue of the covariance is also that of the products of the rows, at most 256 x 256.
    return math.sqrt(max(float(np.linalg.eigvalsh(rows @ rows.T)[-1]), 0.0) / len(rows))
