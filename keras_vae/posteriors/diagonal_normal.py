"""q(z|x) with independent dimensions: the encoder returns a mean and a log variance."""

from typing import Any

import keras
from keras import ops

from keras_vae._numerics import straight_through_clip
from keras_vae.distributions import DiagonalNormal
from keras_vae.posteriors.base import Posterior, one_shape

# log_var is kept in this range. Below, a standard deviation of 3e-7 is float32's resolution of a mean near 1; above,
# a standard deviation of 1800 still leaves z inside float16. No sensible posterior comes near either.
LOG_VAR_RANGE = (-30.0, 15.0)

_KEYS = (("z_mean", "z_log_var"), ("mean", "log_var"))


@keras.saving.register_keras_serializable(package="keras_vae", name="NormalPosterior")
class Normal(Posterior):
    """q(z|x) = N(mean(x), diag(exp(log_var(x)))), the usual posterior.

    The encoder returns the mean and the log variance, both `(batch, latent_dim)`, or `(batch, h, w, channels)` and the
    like for a z of that shape: as a pair, or as a dict with keys "z_mean" and "z_log_var" (or "mean" and "log_var").

    Reference: Kingma & Welling 2014, arXiv:1312.6114, section 3.
    """

    outputs = ("z_mean", "z_log_var")
    distribution_class = DiagonalNormal

    def read(self, outputs: Any) -> tuple[Any, ...]:
        if isinstance(outputs, dict):  # by name, never by position: Keras sorts the keys
            for keys in _KEYS:
                if set(outputs) == set(keys):
                    return outputs[keys[0]], outputs[keys[1]]
            raise ValueError(
                f"The encoder returned a dict with keys {sorted(outputs)}; it must have exactly the keys "
                '"z_mean" and "z_log_var" (or "mean" and "log_var").'
            )
        if not isinstance(outputs, list | tuple) or len(outputs) != 2:
            what = f"{len(outputs)} outputs" if isinstance(outputs, list | tuple) else "one output"
            raise ValueError(
                f"The encoder must return two tensors of shape (batch, latent_dim), the mean and the log variance "
                f"of q(z|x); it returned {what}. End it with two layers: "
                "keras.Model(x, [Dense(latent_dim)(h), Dense(latent_dim)(h)]). It must not sample: the model does."
            )
        return outputs[0], outputs[1]

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        return one_shape(self, self.outputs, self.read(outputs))

    def distribution(self, outputs: Any, training: bool = False) -> DiagonalNormal:
        mean, log_var = (ops.cast(output, "float32") for output in self.read(outputs))
        return DiagonalNormal(mean, bounded_log_var(log_var, training), len(mean.shape) - 1)


def bounded_log_var(log_var: Any, training: bool) -> Any:
    """`log_var` in `LOG_VAR_RANGE`; in training not by a clip, which would strand what wandered out."""
    return (straight_through_clip if training else ops.clip)(log_var, *LOG_VAR_RANGE)
