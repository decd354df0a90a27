"""Hand-written JAX: what somebody who knows JAX and no library would write."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problem


def negative_elbo(weights, x, epsilon):
    def dense(name, inputs):
        kernel, bias = weights[name]
        return inputs @ kernel + bias

    hidden = jnp.tanh(dense("hidden", x))
    mean, log_var = dense("mean", hidden), dense("log_var", hidden)
    z = mean + jnp.exp(0.5 * log_var) * epsilon
    logits = dense("logits", jnp.tanh(dense("decoder", z)))
    reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=-1)
    kl = 0.5 * jnp.sum(mean**2 + jnp.expm1(log_var) - log_var, axis=-1)
    return jnp.mean(reconstruction + kl)


def adam(weights, gradients, m, v, t):
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
    alpha = problem.LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    weights = jax.tree.map(lambda w, m, v: w - alpha * m / (jnp.sqrt(v) + 1e-7), weights, m, v)
    return weights, m, v


def step(state, x):
    weights, m, v, t, key = state
    key, use = jax.random.split(key)
    epsilon = jax.random.normal(use, (x.shape[0], problem.LATENTS))
    loss, gradients = jax.value_and_grad(negative_elbo)(weights, x, epsilon)
    weights, m, v = adam(weights, gradients, m, v, t + 1)
    return (weights, m, v, t + 1, key), loss


def start():
    weights = jax.tree.map(jnp.asarray, problem.weights())
    zeros = jax.tree.map(jnp.zeros_like, weights)
    return weights, zeros, jax.tree.map(jnp.copy, zeros), jnp.asarray(0.0), jax.random.key(0)


def jitted_step(x, batch_size):
    """One call of a jitted function for each batch, taken from NumPy."""
    state, one = start(), jax.jit(step, donate_argnums=0)

    def epoch():
        nonlocal state
        order, losses = np.random.permutation(len(x)), []
        for first in range(0, len(x) - batch_size + 1, batch_size):
            state, loss = one(state, x[order[first : first + batch_size]])
            losses.append(loss)
        return float(jnp.mean(jnp.stack(losses)))

    return epoch


def scan(x, batch_size):
    """The whole epoch in one `lax.scan`, its data on the device."""
    state, data, steps = start(), jax.device_put(x), len(x) // batch_size

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, data, order):
        return jax.lax.scan(lambda state, rows: step(state, data[rows]), state, order)

    def epoch():
        nonlocal state
        order = np.random.permutation(len(x))[: steps * batch_size].reshape(steps, batch_size)
        state, losses = run(state, data, order)
        return float(jnp.mean(losses))

    return epoch
