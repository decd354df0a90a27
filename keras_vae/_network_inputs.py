"""How networks take their inputs: x or z, and the condition of a conditional model.

An encoder or a decoder takes a condition if it has an input of that name; one whose inputs are not known, a subclassed
model, is handed a dict. The network of a conditional prior takes nothing else, under whatever name.
"""

import keras
import numpy as np
from keras import ops

from keras_vae import validation


def run(network, name, tensor, condition=None, training=False):
    """Calls an encoder or a decoder on its input `name`, "x" or "z", and the condition if it takes one."""
    if condition is None or not takes_condition(network):
        return network(tensor, training=training)
    if not _inputs(network):
        return network({name: tensor, "condition": condition}, training=training)
    tensors = [condition if each.name == "condition" else tensor for each in _inputs(network)]
    return network(keras.tree.pack_sequence_as(network.input, tensors), training=training)


def as_input(x, network):
    """x as a tensor; integers become floats, unless the network declares an integer input."""
    x = ops.convert_to_tensor(x)
    if "int" in input_dtype(network, "x") or "float" in keras.backend.standardize_dtype(x.dtype):
        return x
    return ops.cast(x, keras.config.floatx())


def takes_condition(network):
    """Whether a network has an input for the condition, or may have, its inputs not being known."""
    return not _inputs(network) or declares_condition(network)


def declares_condition(network):
    return any(tensor.name == "condition" for tensor in _inputs(network))


def input_dtype(network, name):
    """The dtype that a network declares for "x" or "condition"; that of floats where it declares none."""
    declared = (t.dtype for t in _inputs(network) if (t.name == "condition") == (name == "condition"))
    return next(declared, keras.config.floatx())


def condition_network(prior):
    """The network of a prior p(z|c), from the condition; None of a prior that takes none."""
    return getattr(prior, "condition_network", None)


def known_input_shape(encoder, decoder, prior=None):
    """What `VAE.build` takes, if the networks know it, as Functional or built Sequential models do; else None.

    Raises:
        ValueError: If they have other inputs than a VAE gives them.
    """
    conditions = {}
    for name, network in (("encoder", encoder), ("decoder", decoder)):
        inputs = _inputs(network)
        given = [tuple(tensor.shape) for tensor in inputs if tensor.name == "condition"]
        if inputs and len(inputs) != len(given) + 1:
            raise ValueError(
                f"The {name} has {len(inputs)} inputs, {[tensor.name for tensor in inputs]}; a VAE gives it one "
                'tensor, and the condition if another input is called "condition".'
            )
        conditions |= dict.fromkeys([name] * len(given), *given)
    for tensor in _inputs(condition_network(prior)):
        conditions["prior"] = tuple(tensor.shape)
    if len(set(conditions.values())) > 1:
        (first, shape), *others = conditions.items()
        listed = ", ".join(f"the {name} one of {other}" for name, other in others)
        raise ValueError(f"The {first} takes a condition of shape {shape}, {listed}.")
    shapes = [tuple(tensor.shape) for tensor in _inputs(encoder) if tensor.name != "condition"]
    if not shapes or (condition_network(prior) is not None and not conditions):
        return None
    return {"x": shapes[0], "condition": next(iter(conditions.values()))} if conditions else shapes[0]


def check_condition(condition, shape, count, dtype, sizes):
    """Raises a ValueError if a NumPy array is not the condition of `count` examples; says why.

    `sizes` are the numbers of labels that networks embed.
    """
    if condition.ndim == 0 or not validation.shape_matches(condition.shape[1:], shape) or len(condition) != count:
        raise ValueError(
            f"condition must have shape {(count, *shape)}, one for each example; got {condition.shape}."
            + (" Labels go in as they are, not one-hot." if not shape and condition.ndim == 2 else "")
        )
    if condition.dtype.kind not in "biuf":
        raise ValueError(f"condition must hold numbers; got {condition.dtype}.")
    if condition.dtype.kind == "f" and not np.isfinite(condition).all():
        raise ValueError("condition contains NaN or infinite values: remove or fill in such examples.")
    if ("int" in dtype or sizes) and condition.dtype.kind == "f" and (condition != np.round(condition)).any():
        raise ValueError(f"condition must hold whole numbers; got {condition.dtype} with fractions.")
    for size in sizes:
        if count and not 0 <= condition.min() <= condition.max() < size:
            raise ValueError(
                f"condition must hold labels from 0 to {size - 1}, as the model embeds {size}; it ranges from "
                f"{condition.min()} to {condition.max()}."
            )


def embedded_inputs(network):
    """The inputs that go into an embedding, by name, with the number of values that it knows."""
    sizes = {}
    for operation in getattr(network, "operations", None) or ():
        if isinstance(operation, keras.layers.Embedding):
            read = {id(tensor) for node in operation._inbound_nodes for tensor in node.input_tensors}
            sizes |= {tensor.name: operation.input_dim for tensor in network.inputs if id(tensor) in read}
    return sizes


def _inputs(network):
    return getattr(network, "inputs", None) or []


class Conditional:
    """Mixed into `VAE`: what it does with the condition, of which it knows the shape and the networks."""

    @property
    def has_conditional_prior(self) -> bool:
        """Whether the prior is p(z|c): `numpy_prior` then needs the condition."""
        return condition_network(self.prior) is not None

    @property
    def condition_dtype(self) -> str:
        """Type of the condition: what the networks declare, else that of floats."""
        networks = [network for network in (self.encoder, self.decoder) if declares_condition(network)]
        if networks:
            return input_dtype(networks[0], "condition")
        return next((tensor.dtype for tensor in _inputs(condition_network(self.prior))), keras.config.floatx())

    def _as_condition(self, condition, network):
        """A tensor of the dtype that the network takes; None if it takes none."""
        is_taken = network is condition_network(self.prior) or takes_condition(network)
        if not is_taken or (condition is None and self.condition_shape is None):
            return None
        self._require_condition(condition)
        return ops.cast(ops.convert_to_tensor(condition), self.condition_dtype)

    def _checked_condition(self, condition, count):
        """The condition of `count` examples as a NumPy array of the networks' dtype; None if they take none."""
        self._require_condition(condition)
        if condition is None:
            return None
        condition = validation.to_numpy(condition)
        check_condition(condition, self.condition_shape, count, self.condition_dtype, self._numbers_of_labels())
        return condition.astype(self.condition_dtype, copy=False)

    def _numbers_of_labels(self):
        known = [embedded_inputs(network) for network in (self.encoder, self.decoder)]
        sizes = [size for inputs in known for name, size in inputs.items() if name == "condition"]
        return [*sizes, *embedded_inputs(condition_network(self.prior)).values()]

    def _require_condition(self, condition):
        if condition is None and self.condition_shape is not None:
            raise ValueError('This model is conditional: pass {"x": x, "condition": c}, or condition=c.')
        if condition is not None and self.condition_shape is None:
            raise ValueError(
                'This model takes no condition: give one of its networks an input called "condition", as '
                "keras_vae.networks.mlp(..., condition=...) does, or the model a keras_vae.priors.Conditional."
            )
