"""Hand-written JAX: what somebody who knows JAX and no library would write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from loop import Loop, timed
from problem import LEARNING_RATE

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def dense(layer, x):
    kernel, bias = layer
    return x @ kernel + bias


def convolution(layer, x, stride=1):
    kernel, bias = layer
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=DIMENSIONS) + bias


def transposed(layer, x):
    kernel, bias = layer
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS) + bias


def encode(problem, weights, x):
    if problem.filters:
        for i in range(len(problem.filters)):
            x = jax.nn.relu(convolution(weights[f"down{i}"], x, stride=2))
        hidden = x.reshape(len(x), -1)
    else:
        hidden = jnp.tanh(dense(weights["hidden"], x))
    return dense(weights["mean"], hidden), dense(weights["log_var"], hidden)


def decode(problem, weights, z):
    hidden = dense(weights["decoder"], z)
    if not problem.filters:
        return dense(weights["logits"], jnp.tanh(hidden))
    x = jax.nn.relu(hidden).reshape(-1, *problem.smallest)
    for i in range(len(problem.filters)):
        x = jax.nn.relu(transposed(weights[f"up{i}"], x))
    return convolution(weights["logits"], x)


def negative_elbo(problem, weights, x, key):
    weights = jax.tree.map(lambda weight: weight.astype(problem.dtype), weights)
    mean, log_var = (part.astype("float32") for part in encode(problem, weights, x.astype(problem.dtype)))
    z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
    logits = decode(problem, weights, z.astype(problem.dtype)).astype("float32")
    reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=tuple(range(1, x.ndim)))
    kl = 0.5 * jnp.sum(mean**2 + jnp.expm1(log_var) - log_var, axis=-1)
    return jnp.mean(reconstruction + kl)


def adam(weights, gradients, m, v, t):
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
    alpha = LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    weights = jax.tree.map(lambda w, m, v: w - alpha * m / (jnp.sqrt(v) + 1e-7), weights, m, v)
    return weights, m, v


def step(problem, state, x):
    weights, m, v, t, key = state
    key, use = jax.random.split(key)
    loss, gradients = jax.value_and_grad(negative_elbo, argnums=1)(problem, weights, x, use)
    weights, m, v = adam(weights, gradients, m, v, t + 1)
    return (weights, m, v, t + 1, key), loss


def start(problem):
    weights = jax.tree.map(jnp.asarray, problem.weights())
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return weights, zeros, jax.tree.map(jnp.copy, zeros), jnp.asarray(0.0), jax.random.key(0)


def jitted_step(problem, x):
    """One call of a jitted function for each batch, taken from NumPy."""
    state, size = start(problem), problem.batch_size
    one, rng = jax.jit(functools.partial(step, problem), donate_argnums=0), np.random.default_rng(0)

    def epoch():
        nonlocal state
        order, losses = rng.permutation(len(x)), []
        for first in range(0, len(x) - size + 1, size):
            state, loss = one(state, x[order[first : first + size]])
            losses.append(loss)
        return float(jnp.mean(jnp.stack(losses)))

    return Loop(timed(epoch), lambda: jax.tree.leaves(state[0]))


def scan(problem, x, count_flops=False):
    """The whole epoch in one `lax.scan`, its data on the device."""
    state, data = start(problem), jax.device_put(x)
    steps, rng = len(x) // problem.batch_size, np.random.default_rng(0)

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, data, order):
        return jax.lax.scan(lambda state, rows: step(problem, state, data[rows]), state, order)

    def epoch():
        nonlocal state
        order = rng.permutation(len(x))[: steps * problem.batch_size].reshape(steps, -1)
        state, losses = run(state, data, order)
        return float(jnp.mean(losses))

    flops = _flops(problem, state, data[: problem.batch_size]) if count_flops else None
    return Loop(timed(epoch), lambda: jax.tree.leaves(state[0]), flops)


def _flops(problem, state, x):
    # Of the program as written: what XLA hands to cuDNN it may not count after compiling.
    return jax.jit(functools.partial(step, problem)).lower(state, x).cost_analysis()["flops"]
