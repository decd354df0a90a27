"""TensorFlow: the tape records the step; variables are updated in place, in graph mode as in eager mode.

With `steps_per_execution` the loop over the steps is in the graph, and XLA, where it is used, compiles it as a whole.
"""

import keras
import tensorflow as tf

from keras_vae._conditions import split_condition
from keras_vae._train_step import fused
from keras_vae._train_step.adam import replace_adam_s


class BackendTrainer(fused.Trainer):
    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.step_loss(data, training=True) * _share_of_the_batch(data)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        self.optimizer.apply(gradients, variables)
        return self.get_metrics_result()

    def test_step(self, data):
        self.step_loss(data, training=False)
        return self.get_metrics_result()

    def make_train_function(self, force=False):
        if self.is_fused("train_step"):
            self.optimizer.build(self.trainable_variables)  # a loop may not make variables
        super().make_train_function(force)

    def is_fused(self, name):
        return (
            self.steps_per_execution > 1
            and not self.run_eagerly
            and self.distribute_strategy.num_replicas_in_sync == 1
            and self.is_library_s(name)
        )

    def fused(self, step):
        """Takes an iterator, of which it uses `steps_per_execution` batches."""
        stacker = fused.Stacker(self.steps_per_execution)

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
                batches = fused.look_up(self.device_data.arrays, keras.tree.map_structure(_tensor, batches), axes=2)
                logs = run(batches, tf.constant(count))
            return logs

        return function

    def auto_jit(self, steps_per_execution) -> bool | str:
        """Keras's "auto" is without XLA on a CPU, where XLA is best at a loop of dense layers."""
        fits = all(layer.supports_jit for layer in self._flatten_layers()) and not fused.has_convolutions(self)
        return True if steps_per_execution > 1 and fits and not tf.distribute.has_strategy() else "auto"


def _share_of_the_batch(data):
    """By which the mean over this replica's examples is weighted: tf.distribute sums gradients over the replicas."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return 1.0
    x, _ = split_condition(keras.utils.unpack_x_y_sample_weight(data)[0])
    count = tf.cast(tf.shape(x)[0], "float32")
    return count / tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, count)


def _tensor(part):
    return None if part is None else tf.constant(part)


def compiled(model, function):
    """`function(*arrays)` as a graph; the weights of `model` are read at each call."""
    return tf.function(function, reduce_retracing=True, autograph=False)


def compiled_gradient(model, function):
    """`function(z, *arrays)`, one value per row of z, and the gradient of each with respect to its row, as a graph."""

    @tf.function(reduce_retracing=True, autograph=False)
    def call(z, *arrays):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            each = function(z, *arrays)
        return each, tape.gradient(each, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return call


def normal(shape, seed):
    """Draws from N(0, I); seed is a Keras `SeedGenerator`. Replicas that train together draw different noise.

    As `keras.random.normal`, but that the generator is named: the one that XLA picks by itself on a CPU takes eight
    times as long. (XLA's numbers are others than those of the plain graph, with any.)
    """
    seed = tf.cast(tf.math.floormod(seed.next(), tf.int32.max - 1), "int32")
    if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
    return tf.random.stateless_normal(shape, seed, alg="philox")


def tune(optimizer):
    """Gives Keras's Adam the one kernel that TensorFlow has for it, where Keras passes over the weights many times."""
    replace_adam_s(optimizer, "update_step", _adam)


def _adam(self, gradient, variable, learning_rate):
    if variable.dtype != tf.float32 or not tf.is_tensor(gradient) or tf.distribute.has_strategy():
        return type(self).update_step(self, gradient, variable, learning_rate)
    i, t = self._get_variable_index(variable), keras.ops.cast(self.iterations + 1, "float32")
    return tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=self._momentums[i].value.handle,
        v=self._velocities[i].value.handle,
        beta1_power=self.beta_1**t,
        beta2_power=self.beta_2**t,
        lr=tf.cast(learning_rate, "float32"),
        beta1=self.beta_1,
        beta2=self.beta_2,
        epsilon=self.epsilon,
        grad=gradient,
    )
