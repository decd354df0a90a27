"""JAX: state goes in and comes out, because a jitted function may change nothing.

Keras hands the step every variable's value in lists. A `StatelessScope` lets the backend-neutral code assign to
variables as usual and collects what they became. Every list must come back out, the non-trainable one too: it holds
the seed generator's state (lose it and each step draws the same noise) and the step counter of the schedules.
"""

import jax
import keras


class BackendTrainer:
    def train_step(self, state, data):
        trainable, non_trainable, optimizer_state, metrics = state

        def scaled_loss(trainable):
            loss, new_non_trainable, new_metrics, logs = self._stateless_loss(
                trainable, non_trainable, metrics, data, training=True
            )
            with keras.StatelessScope(zip(self.optimizer.variables, optimizer_state, strict=True)):
                return self.optimizer.scale_loss(loss), (new_non_trainable, new_metrics, logs)

        gradients, (non_trainable, metrics, logs) = jax.grad(scaled_loss, has_aux=True)(trainable)
        trainable, optimizer_state = self.optimizer.stateless_apply(optimizer_state, gradients, trainable)
        return logs, (trainable, non_trainable, optimizer_state, metrics)

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        _, non_trainable, metrics, logs = self._stateless_loss(trainable, non_trainable, metrics, data, training=False)
        return logs, (trainable, non_trainable, metrics)

    def put_back(self, state):
        """Returns values to the variables after a first step that failed.

        Keras takes them out of the variables when `fit` starts, to donate them, and forgets them if the step raises:
        a wrong batch would leave a model without weights.
        """
        optimizer = [self.optimizer.variables] if len(state) == 4 else []
        groups = [self.trainable_variables, self.non_trainable_variables, *optimizer, self.metrics_variables]
        for variables, values in zip(groups, state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                if not value.is_deleted():
                    variable.assign(value)

    def _stateless_loss(self, trainable, non_trainable, metrics, data, training):
        mapping = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, non_trainable, strict=True),
            *zip(self.metrics_variables, metrics, strict=True),
        ]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            loss = self.step_loss(data, training=training)
            logs = self.get_metrics_result()
        non_trainable = [scope.get_current_value(variable) for variable in self.non_trainable_variables]
        metrics = [scope.get_current_value(variable) for variable in self.metrics_variables]
        return loss, non_trainable, metrics, logs


def compiled(model, function):
    """`function(*arrays)` under jit; the weights of `model` are an argument, not constants of the program."""

    @jax.jit
    def pure(values, *arrays):
        with keras.StatelessScope(zip(model.variables, values, strict=True)):
            return function(*arrays)

    def call(*arrays):
        model.jax_state_sync()  # inside `fit` the values live in Keras's state until somebody asks for them
        return pure([variable.value for variable in model.variables], *arrays)

    return call
