"""TensorFlow: the tape records the step; variables are updated in place, in graph mode as in eager mode."""

import tensorflow as tf

from keras_vae.data import Batch


class Steps:
    _updates_subsets = True  # whether the optimizer takes some of the variables that it was built for

    def train_step(self, data):
        batch = Batch.read(data, self._fields)
        with tf.GradientTape() as tape:
            loss = self.step_loss(batch, self.noise(batch.size), training=True) * _share(batch.size)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled_loss, variables), variables)
        return self.get_metrics_result()

    def test_step(self, data):
        batch = Batch.read(data, self._fields)
        self.step_loss(batch, self.noise(batch.size), training=False)
        return self.get_metrics_result()


def _share(size):
    """Weight of this replica's mean over its examples: tf.distribute sums the gradients over the replicas."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return 1.0
    count = tf.cast(size, "float32")
    return count / tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, count)


def compile(model, function):
    """`function(*arrays)` as a graph; the weights of `model` are read at each call."""
    return tf.function(function, reduce_retracing=True, autograph=False)


def value_and_grad(model, function):
    """`function(z, *arrays)`, one value per row of z, and the gradient of each with respect to its row, as a graph."""

    def both(z, *arrays):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            each = function(z, *arrays)
        return each, tape.gradient(each, z, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return compile(model, both)


def random_normal(shape, seed):
    """Draws from N(0, I), others on each replica; seed is a Keras `SeedGenerator`."""
    seed = tf.cast(tf.math.floormod(seed.next(), tf.int32.max - 1), "int32")
    if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
    # By Box and Muller from Philox's whole numbers, which XLA draws too; TensorFlow's own normals differ under XLA.
    whole = tf.random.stateless_uniform((2, *shape), seed, 0, tf.int32.max, "int32", alg="philox")
    uniform = (tf.cast(whole, "float32") + 1.0) * 2.0**-31
    return tf.sqrt(-2.0 * tf.math.log(uniform[0])) * tf.cos(6.283185307179586 * uniform[1])
