"""q(z|x) that is no normal: draws of one, moved by maps that learn, of which no inverse is needed."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae.distributions import DiagonalNormal, Distribution, Transformed, flatten_event
from keras_vae.posteriors.base import Posterior, check_output_shapes, one_shape
from keras_vae.posteriors.diagonal_normal import bounded_log_var

_GATE_BIAS = 2.0  # the paper's, which has "1 or 2"


@keras.saving.register_keras_serializable(package="keras_vae", name="FlowPosterior")
class Flow(Posterior):
    """Inverse autoregressive flow: z of a diagonal normal, to which every step does

        z <- s * z + (1 - s) * m,   s = sigmoid(2 + a),   (m, a) = MADE(z, context)

    where element i of m and a is a function of the elements of z before i alone, in an order that is reversed from step
    to step; so log q(z|x) falls by the sum of log s. The density of z that was not drawn from it would take an
    inverse, element by element: there is none, and what needs one says so.

    A new flow has m = a = 0, and each step shrinks z to sigmoid(2) = 0.88 of it. With `depth=0` it is its base.

    The encoder returns "z_mean" and "z_log_var", `(batch, *latent_shape)`, and "context", `(batch, context)`, on which
    all elements of m and a may depend. z of several axes is flat inside.

    Args:
        depth: Number of steps; 0 or more.
        hidden: Numbers of units of each step's hidden layers.
        context: Number of elements of "context"; 0: the encoder returns none, and all x have the same steps.

    Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, arXiv:1606.04934,
    equations 10 to 15 and algorithm 1; Germain et al. 2015, MADE, arXiv:1502.03509, section 4 (the masks).
    """

    distribution_class = Transformed

    def __init__(self, depth: int = 2, hidden: Sequence[int] = (64,), context: int = 32):
        super().__init__()
        self.depth = validation.whole_number("depth", depth, least=0)
        self.hidden = tuple(validation.whole_number("Each of hidden", units) for units in hidden)
        self.context = validation.whole_number("context", context, least=0)
        if not self.hidden:
            raise ValueError("hidden must name at least one layer, such as (64,).")
        self.outputs = ("z_mean", "z_log_var", "context") if context else ("z_mean", "z_log_var")
        self.steps: list[Any] = []

    def latent_shape(self, outputs: Any) -> tuple[int | None, ...]:
        mean, log_var, *context = self.read(outputs)
        shape = validation.fixed_shape(self, one_shape(self, ("z_mean", "z_log_var"), (mean, log_var)))
        check_output_shapes(self, shape, dict(zip(self.outputs[2:], context, strict=True)))
        return shape

    def output_shapes(self, latent_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        shapes = {"z_mean": latent_shape, "z_log_var": latent_shape}
        return {**shapes, "context": (self.context,)} if self.context else shapes

    def make_weights(self, latent_shape: tuple[Any, ...], shapes: tuple[Any, ...]) -> None:
        size = math.prod(latent_shape)
        widths = (size, *self.hidden, 2 * size)
        pairs = [*enumerate(itertools.pairwise(widths))]
        self.steps = [[self._layer(f"step_{step}", i, *pair) for i, pair in pairs] for step in range(self.depth)]

    def _layer(self, step, i, inputs, units):
        """Kernel, bias, and the kernel of the context, of which only the first layer has one."""
        start = "zeros" if i == len(self.hidden) else "glorot_uniform"
        layer = [
            self.add_weight(shape=(inputs, units), initializer=start, name=f"{step}_kernel_{i}"),
            self.add_weight(shape=(units,), initializer="zeros", name=f"{step}_bias_{i}"),
        ]
        if self.context and i == 0:
            layer.append(self.add_weight(shape=(self.context, units), initializer=start, name=f"{step}_context"))
        return layer

    def distribution(self, outputs: Any, training: bool = False) -> Distribution:
        mean, log_var, *context = (ops.cast(output, "float32") for output in self.read(outputs))
        base = DiagonalNormal(mean, bounded_log_var(log_var, training), len(mean.shape) - 1)
        return Transformed(base, [self._transform(i, base.event_shape, *context) for i in range(self.depth)])

    def _transform(self, i, shape, context=None):
        """Step i, as a function of z."""
        masks, layers = _masks(math.prod(shape), self.hidden, self.context > 0, is_reversed=i % 2 == 1), self.steps[i]
        shift = layers[0][1] if context is None else layers[0][1] + ops.matmul(context, layers[0][2])

        def transform(z):
            flat = flatten_event(z, len(shape))
            h = ops.matmul(flat, ops.multiply(layers[0][0], masks[0])) + shift
            for (kernel, bias, *_), mask in zip(layers[1:], masks[1:], strict=True):
                h = ops.matmul(ops.elu(h), ops.multiply(kernel, mask)) + bias
            m, gate = h[..., : math.prod(shape)], h[..., math.prod(shape) :] + _GATE_BIAS
            s = ops.sigmoid(gate)
            flat = s * flat + (1.0 - s) * m
            moved = flat if len(shape) == 1 else ops.reshape(flat, (*ops.shape(flat)[:-1], *shape))
            return moved, -ops.sum(ops.softplus(-gate), axis=-1)

        return transform

    def get_config(self) -> dict[str, Any]:
        return {"depth": self.depth, "hidden": list(self.hidden), "context": self.context}


def _masks(size, hidden, has_context, is_reversed):
    """Masks of the kernels, by which output i of m and a depends on the inputs before i and on no other.

    A unit of degree k sees the first k elements of z; one of degree 0 sees the context alone.
    """
    order = np.arange(size, 0, -1) if is_reversed else np.arange(1, size + 1)
    degrees = [order]
    for units in hidden:
        index = np.arange(units)
        degrees.append(index % size if has_context or size == 1 else 1 + index % (size - 1))
    masks = [after >= before[:, None] for before, after in itertools.pairwise(degrees)]
    masks.append(np.tile(order, 2) > degrees[-1][:, None])
    return [mask.astype("float32") for mask in masks]
