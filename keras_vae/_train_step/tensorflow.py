"""TensorFlow: the tape records the step; variables are updated in place, in graph mode as in eager mode."""

import tensorflow as tf


class BackendTrainer:
    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.step_loss(data, training=True)
            # tf.distribute sums gradients over replicas; the mean over the global batch is wanted.
            loss = loss / tf.distribute.get_strategy().num_replicas_in_sync
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        self.optimizer.apply(gradients, variables)
        return self.get_metrics_result()

    def test_step(self, data):
        self.step_loss(data, training=False)
        return self.get_metrics_result()


def compiled(model, function):
    """`function(*arrays)` as a graph; the weights of `model` are read at each call."""
    return tf.function(function, reduce_retracing=True, autograph=False)
