"""Hand-written TensorFlow: variables, a `tf.function`, and the one-kernel Adam."""

import tensorflow as tf
from loop import Loop, timed
from problem import LEARNING_RATE


class VAE:
    def __init__(self, problem):
        self.problem = problem
        self.layers = {name: [tf.Variable(part) for part in pair] for name, pair in problem.weights().items()}
        self.weights = [part for pair in self.layers.values() for part in pair]
        self.m = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.v = [tf.Variable(tf.zeros_like(weight)) for weight in self.weights]
        self.powers = [tf.Variable(0.9), tf.Variable(0.999)]

    def dense(self, name, x):
        kernel, bias = self.layers[name]
        return tf.matmul(x, kernel) + bias

    def convolution(self, name, x, stride=1):
        kernel, bias = self.layers[name]
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), bias)

    def transposed(self, name, x):
        kernel, bias = self.layers[name]
        batch, height, width, _ = tf.unstack(tf.shape(x))
        shape = (batch, 2 * height, 2 * width, kernel.shape[-1])
        # TensorFlow wants the kernel of the convolution that is transposed, whose outputs are the inputs here.
        kernel = tf.transpose(kernel, (0, 1, 3, 2))
        return tf.nn.bias_add(tf.nn.conv2d_transpose(x, kernel, shape, 2, "SAME"), bias)

    def encode(self, x):
        if self.problem.filters:
            for i in range(len(self.problem.filters)):
                x = tf.nn.relu(self.convolution(f"down{i}", x, stride=2))
            hidden = tf.reshape(x, (-1, self.layers["mean"][0].shape[0]))
        else:
            hidden = tf.tanh(self.dense("hidden", x))
        return self.dense("mean", hidden), self.dense("log_var", hidden)

    def decode(self, z):
        hidden = self.dense("decoder", z)
        if not self.problem.filters:
            return self.dense("logits", tf.tanh(hidden))
        x = tf.reshape(tf.nn.relu(hidden), (-1, *self.problem.smallest))
        for i in range(len(self.problem.filters)):
            x = tf.nn.relu(self.transposed(f"up{i}", x))
        return self.convolution("logits", x)

    def negative_elbo(self, x):
        mean, log_var = self.encode(x)
        z = mean + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mean))
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=self.decode(z))
        reconstruction = tf.reduce_sum(losses, axis=list(range(1, len(x.shape))))
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
                lr=LEARNING_RATE,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=gradient,
            )
        self.powers[0].assign(self.powers[0] * 0.9)
        self.powers[1].assign(self.powers[1] * 0.999)
        return loss


def _loop(problem, x, jit_compile):
    model, dataset = VAE(problem), tf.data.Dataset.from_tensor_slices(x).shuffle(len(x))
    dataset = dataset.batch(problem.batch_size, drop_remainder=True).prefetch(2)
    step = tf.function(model.step, jit_compile=jit_compile)
    return Loop(timed(lambda: float(tf.reduce_mean([step(batch) for batch in dataset]))), lambda: model.weights)


def function(problem, x):
    """One call of a `tf.function` for each batch of a shuffled tf.data."""
    return _loop(problem, x, jit_compile=False)


def xla(problem, x):
    """The same, compiled by XLA."""
    return _loop(problem, x, jit_compile=True)


def _loop_in_graph(problem, x, jit_compile):
    model, data = VAE(problem), tf.constant(x)
    steps = len(x) // problem.batch_size

    @tf.function(jit_compile=jit_compile)
    def run(order):
        total = tf.constant(0.0)
        for i in tf.range(steps):
            total += model.step(tf.gather(data, order[i]))
        return total / steps

    def epoch():
        order = tf.random.shuffle(tf.range(len(x)))[: steps * problem.batch_size]
        return float(run(tf.reshape(order, (steps, problem.batch_size))))

    return Loop(timed(epoch), lambda: model.weights)


def in_graph(problem, x):
    """The whole epoch in one call: a loop in the graph over batches gathered from a tensor."""
    return _loop_in_graph(problem, x, jit_compile=False)


def in_graph_xla(problem, x):
    """The whole epoch in one call, compiled by XLA."""
    return _loop_in_graph(problem, x, jit_compile=True)
