"""TensorFlow: the loop over the steps is in the graph, and XLA, where it is used, compiles it as a whole."""

import keras
import tensorflow as tf

from keras_vae._backend.fast import many_steps


class ManySteps(many_steps.ManySteps):
    def _is_fused(self, name):
        return (
            self.steps_per_execution > 1
            and not self.run_eagerly
            and self.distribute_strategy.num_replicas_in_sync == 1
            and self._uses_builtin_step(name)
        )

    def _fused(self, step):
        """Takes an iterator, of which it uses `steps_per_execution` batches."""
        stacker = many_steps.Stacker(self.steps_per_execution)

        @tf.function(jit_compile=self.jit_compile, autograph=False)
        def run(batches, count):
            def one(i):
                step(keras.tree.map_structure(lambda stack: None if stack is None else stack[i], batches))
                return (i + 1,)

            tf.while_loop(lambda i: i < count, one, (0,), parallel_iterations=1)
            return self.get_metrics_result()

        def function(iterator):
            logs = {}
            for batches, count in stacker(iterator):
                # Outside the program, which would be compiled anew for each length of the data.
                batches = self._device_data.gather(keras.tree.map_structure(_tensor, batches))
                logs = run(batches, tf.constant(count))
            return logs

        return function

    def _auto_jit(self, steps_per_execution) -> bool | str:
        """Keras's "auto" does without XLA on a CPU, where XLA is best at a loop of dense layers.

        Under XLA, layers that draw noise, such as dropout, draw other numbers: then one step would not be one of many.
        """
        layers = self._flatten_layers(include_self=False)
        can_jit = all(layer.supports_jit and not _draws(layer) for layer in layers)
        can_jit = can_jit and not many_steps.has_convolutions(self)
        return True if steps_per_execution > 1 and can_jit and not tf.distribute.has_strategy() else "auto"


def _draws(layer):
    return any(isinstance(value, keras.random.SeedGenerator) for value in vars(layer).values())


def _tensor(part):
    return None if part is None else tf.constant(part)
