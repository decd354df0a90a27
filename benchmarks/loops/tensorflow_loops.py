"""Hand-written TensorFlow: variables, a `tf.function`, and the one-kernel Adam."""

import problem
import tensorflow as tf


class VAE:
    def __init__(self):
        self.layers = {name: [tf.Variable(part) for part in pair] for name, pair in problem.weights().items()}
        self.weights = [part for pair in self.layers.values() for part in pair]
        self.m = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.v = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.powers = [tf.Variable(0.9), tf.Variable(0.999)]

    def dense(self, name, inputs):
        kernel, bias = self.layers[name]
        return tf.matmul(inputs, kernel) + bias

    def negative_elbo(self, x):
        hidden = tf.tanh(self.dense("hidden", x))
        mean, log_var = self.dense("mean", hidden), self.dense("log_var", hidden)
        z = mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
        logits = self.dense("logits", tf.tanh(self.dense("decoder", z)))
        reconstruction = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=logits), axis=-1)
        kl = 0.5 * tf.reduce_sum(mean**2 + tf.math.expm1(log_var) - log_var, axis=-1)
        return tf.reduce_mean(reconstruction + kl)

    def step(self, x):
        with tf.GradientTape() as tape:
            loss = self.negative_elbo(x)
        for weight, m, v, gradient in zip(self.weights, self.m, self.v, tape.gradient(loss, self.weights), strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=self.powers[0],
                beta2_power=self.powers[1],
                lr=problem.LEARNING_RATE,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=gradient,
            )
        self.powers[0].assign(self.powers[0] * 0.9)
        self.powers[1].assign(self.powers[1] * 0.999)
        return loss


def _dataset(x, batch_size):
    return tf.data.Dataset.from_tensor_slices(x).shuffle(len(x)).batch(batch_size, drop_remainder=True).prefetch(2)


def _loop(x, batch_size, jit_compile):
    model, dataset = VAE(), _dataset(x, batch_size)
    step = tf.function(model.step, jit_compile=jit_compile)
    return lambda: float(tf.reduce_mean([step(batch) for batch in dataset]))


def function(x, batch_size):
    """One call of a `tf.function` for each batch of a shuffled tf.data."""
    return _loop(x, batch_size, jit_compile=False)


def xla(x, batch_size):
    """The same, compiled by XLA."""
    return _loop(x, batch_size, jit_compile=True)


def in_graph(x, batch_size):
    """The whole epoch in one call: a loop in the graph over batches gathered from a tensor."""
    model, data, steps = VAE(), tf.constant(x), len(x) // batch_size

    @tf.function
    def run():
        order = tf.reshape(tf.random.shuffle(tf.range(len(x)))[: steps * batch_size], (steps, batch_size))
        total = tf.constant(0.0)
        for i in tf.range(steps):
            total += model.step(tf.gather(data, order[i]))
        return total / steps

    return lambda: float(run())


def in_graph_xla(x, batch_size):
    """The whole epoch in one call, compiled by XLA."""
    model, data, steps = VAE(), tf.constant(x), len(x) // batch_size

    @tf.function(jit_compile=True)
    def run(order):
        total = tf.constant(0.0)
        for i in tf.range(steps):
            total += model.step(tf.gather(data, order[i]))
        return total / steps

    def epoch():
        order = tf.reshape(tf.random.shuffle(tf.range(len(x)))[: steps * batch_size], (steps, batch_size))
        return float(run(order))

    return epoch
