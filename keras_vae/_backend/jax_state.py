"""Keras's JAX trainer holds the values of the variables in lists while it runs: back into the variables, and out again.

A state is `(trainable, non_trainable, optimizer, metrics)` in training, `(trainable, non_trainable, metrics)` in a test
and `(trainable, non_trainable)` in a prediction. Keras returns its values to the variables that the model has at that
moment; a layer that was frozen meanwhile would get those of another. So they go back to where they came from.
"""

_GROUPS = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


class KerasState:
    _updates_subsets = False  # whether the optimizer can update some of the variables that it was built for

    def _get_jax_state(self, **wanted):
        names = [name for name in _GROUPS if wanted.get(name)]
        self._version.owners = {
            name: self.optimizer.variables if name == "optimizer_variables" else getattr(self, name) for name in names
        }
        return super()._get_jax_state(**wanted)

    def jax_state_sync(self):
        if getattr(self, "_jax_state", None) and not self._jax_state_synced:
            self._attach_state(self._jax_state.values())

    def _attach_state(self, state):
        """Returns the values to the variables: Keras takes them out when `fit` starts, to donate them."""
        for variables, values in zip(self._version.owners.values(), state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                if not value.is_deleted():
                    variable.assign(value)
        self._jax_state_synced = True

    def _detach_state(self):
        """The values of the same groups of variables anew, as the model is now."""
        state = self._get_jax_state(**dict.fromkeys(self._version.owners, True))
        self._jax_state_synced = False
        return state
