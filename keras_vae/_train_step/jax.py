"""JAX: state goes in and comes out, because a jitted function may change nothing.

Keras hands the step every variable's value in lists, and every list must come back out; `pure` says how a step becomes
a function of them. With `steps_per_execution` the loop over the steps is inside the jitted function.
"""

import functools

import jax
import keras

from keras_vae._train_step import fused
from keras_vae._train_step.pure import loss_and_state


class BackendTrainer(fused.Trainer):
    def train_step(self, state, data):
        trainable, non_trainable, optimizer_state, metrics = state

        def scaled_loss(trainable):
            loss, _, *others = loss_and_state(self, trainable, non_trainable, metrics, data, True)
            with keras.StatelessScope(zip(self.optimizer.variables, optimizer_state, strict=True)):
                return self.optimizer.scale_loss(loss), others

        gradients, (non_trainable, metrics, logs) = jax.grad(scaled_loss, has_aux=True)(trainable)
        trainable, optimizer_state = self.optimizer.stateless_apply(optimizer_state, gradients, trainable)
        return logs, (trainable, non_trainable, optimizer_state, metrics)

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        results = loss_and_state(self, trainable, non_trainable, metrics, data, training=False)
        _, _, non_trainable, metrics, logs = results
        return logs, (trainable, non_trainable, metrics)

    def is_fused(self, name):
        return (
            self.steps_per_execution > 1
            and self.jit_compile
            and keras.distribution.distribution() is None
            and not (jax.default_backend() == "cpu" and fused.has_convolutions(self))
            and self.is_library_s(name)
        )

    def fused(self, step):
        """Takes the state and an iterator, of which it uses `steps_per_execution` batches."""
        stacker = fused.Stacker(self.steps_per_execution)

        @functools.partial(jax.jit, donate_argnums=0)
        def run(state, batches, count):
            def one(i, state):
                return step(state, jax.tree.map(lambda stack: stack[i], batches))[1]

            state = jax.lax.fori_loop(0, count, one, state)
            with keras.StatelessScope(zip(self.metrics_variables, state[-1], strict=True)):
                return self.get_metrics_result(), state

        def function(state, iterator):
            logs = {}
            for batches, count in stacker(iterator):
                # Outside the program, which would be compiled anew for each length of the data.
                batches = fused.look_up(self.device_data.arrays, batches, axes=2)
                logs, state = run(state, batches, count)
            return logs, state

        return function

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


def tune(optimizer):
    """Nothing: XLA makes one kernel of Keras's update."""


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


def compiled_gradient(model, function):
    """`function(z, *arrays)`, one value per row of z, and the gradient of each with respect to its row, under jit."""

    @jax.jit
    def pure(values, z, *arrays):
        def total(z):
            with keras.StatelessScope(zip(model.variables, values, strict=True)):
                each = function(z, *arrays)
            return each.sum(), each

        gradient, each = jax.grad(total, has_aux=True)(z)
        return each, gradient

    def call(z, *arrays):
        model.jax_state_sync()
        return pure([variable.value for variable in model.variables], z, *arrays)

    return call


def normal(shape, seed):
    """Draws from N(0, I); seed is a Keras `SeedGenerator`."""
    return keras.random.normal(shape, dtype="float32", seed=seed)
