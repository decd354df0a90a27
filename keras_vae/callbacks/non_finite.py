"""Stops at the first number that is not finite: Keras would train on, and save a model of NaN."""

from typing import Any

import keras
import numpy as np

from keras_vae import validation


class NonFiniteGuard(keras.callbacks.Callback):
    """Stops at the first batch whose loss is NaN or infinite, and says what it was and what usually causes it.

    Keras goes on training: every weight is NaN one step later, and so is the saved model. Where many steps are one
    program, the batch that is named is the last of theirs.

    Args:
        action: What to do: "raise" a FloatingPointError, or "stop" training and print the same words.

    Example:

    >>> vae.fit(x, callbacks=[keras_vae.callbacks.NonFiniteGuard()])
    """

    needs_each_batch: bool = False  # the logs stay NaN from the first bad batch on

    def __init__(self, action: str = "raise") -> None:
        super().__init__()
        if action not in ("raise", "stop"):
            raise ValueError(f'action must be "raise" or "stop"; got {action!r}.')
        self.action: str = action
        self.epoch: int = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # The logs are means over the epoch so far: NaN from the first bad batch on.
        values = {name: float(value) for name, value in (logs or {}).items()}
        if np.isfinite(values.get("loss", 0.0)):
            return
        message = self._describe(batch, values)
        if self.action == "raise":
            raise FloatingPointError(message)
        print(f"\n{message}")
        self.model.stop_training = True

    def _describe(self, batch, values):
        bad = [name for name in ("reconstruction", "kl") if not np.isfinite(values.get(name, 0.0))]
        if bad == ["reconstruction"]:
            cause = "the decoder's output has overflowed, or the data hold NaN or values far outside their usual range"
        elif bad == ["kl"]:
            cause = "the encoder's mean or log_var has overflowed"
        else:
            cause = "the weights have diverged, or the data hold NaN"
        weights = self._non_finite_weights()
        where = f" Weights that are no longer finite: {', '.join(weights)}." if weights else ""
        what = " and ".join(bad) + (" are" if len(bad) > 1 else " is") if bad else "a regularisation loss is"
        steps = (self.params or {}).get("steps")
        batch = batch if steps is None else min(batch, steps - 1)  # the last group of steps may be a short one
        return (
            f"The loss is {values['loss']} after batch {batch} of epoch {self.epoch} (counting from 0): {what} not "
            f"finite. Most likely {cause}.{where} Try a smaller learning rate, or clip gradients with "
            "keras.optimizers.Adam(clipnorm=1.0); check the data with np.isfinite(x).all()."
        )

    def _non_finite_weights(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        bad = [w.path for w in self.model.trainable_variables if not np.isfinite(validation.to_numpy(w.value)).all()]
        return bad[:3] + ([f"and {len(bad) - 3} more"] if len(bad) > 3 else [])
