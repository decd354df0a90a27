"""JAX: the loop over the steps is inside one jitted function, whose state is donated."""

import functools

import jax
import keras

from keras_vae._backend.fast import many_steps


class ManySteps(many_steps.ManySteps):
    def _sync_variables(self):
        self.jax_state_sync()

    def _is_fused(self, name):
        return (
            self.steps_per_execution > 1
            and self.jit_compile
            and keras.distribution.distribution() is None
            and not (jax.default_backend() == "cpu" and many_steps.has_convolutions(self))
            and self._uses_builtin_step(name)
        )

    def _fused(self, step):
        """Takes the state and an iterator, of which it uses `steps_per_execution` batches."""
        stacker = many_steps.Stacker(self.steps_per_execution)

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
                logs, state = run(state, self._device_data.gather(batches), count)
            return logs, state

        return function
