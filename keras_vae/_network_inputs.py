"""How networks take their inputs: x or z, and the condition of a conditional model; or named parts of the data.

An encoder or a decoder takes a condition if it has an input of that name; one whose inputs are not known, a subclassed
model, is handed a dict. An encoder with an input "observed", shaped like x, is shown which values are: 1, and 0 where
one is missing; without it, a missing value and what stands in its place look alike. A decoder with an input "previous",
shaped like x, is given the step before each step (`autoregressive.py`). The network of a conditional prior
takes the condition alone, under whatever name. Where parts have names, a network takes those that its inputs have.
"""

import keras
import numpy as np
from keras import ops

from keras_vae import validation


def run(network, name, tensor, condition=None, training=False, with_holes=None, previous=None):
    """Calls an encoder or a decoder on its input `name`, "x" or "z", and what else it has an input for.

    `with_holes` is x in which NaN is missing, `previous` the steps before.
    """
    inputs = inputs_of(network)
    if not inputs and condition is not None:
        return network({name: tensor, "condition": condition}, training=training)
    if len(inputs) < 2:
        return network(tensor, training=training)
    others = {"condition": condition}
    if previous is not None:
        (own,) = (each for each in inputs if each.name == "previous")
        others["previous"] = ops.cast(previous, own.dtype)
    if any(each.name == "observed" for each in inputs):
        others["observed"] = observed(with_holes)
    tensors = [others.get(each.name, tensor) for each in inputs]
    return network(keras.tree.pack_sequence_as(network.input, tensors), training=training)


def observed(x):
    """1 where a value is there, and 0 where it is NaN."""
    return ops.cast(ops.logical_not(ops.isnan(x)), x.dtype)


def run_by_name(network, tensors, training=False):
    """Calls a network on those of the tensors, by name, that it has inputs for; on all if its inputs are not known."""
    if not inputs_of(network):
        return network(tensors, training=training)
    taken = []
    for each in inputs_of(network):
        if each.name not in tensors:
            raise ValueError(
                f"The {network.name} has an input {each.name!r}, and there is no such tensor: there are "
                f"{', '.join(map(repr, tensors))}. Name inputs as the data, keras.Input(..., name=...)."
            )
        taken.append(ops.cast(tensors[each.name], each.dtype))
    return network(keras.tree.pack_sequence_as(network.input, taken), training=training)


def as_input(x, dtype):
    """x as a tensor; integers become floats, unless the network takes integers."""
    x = ops.convert_to_tensor(x)
    if "int" in dtype or "float" in keras.backend.standardize_dtype(x.dtype):
        return x
    return ops.cast(x, keras.config.floatx())


def takes_condition(network):
    """Whether a network has an input for the condition, or may have, its inputs not being known."""
    return not inputs_of(network) or declares_condition(network)


def declares_condition(network):
    return any(tensor.name == "condition" for tensor in inputs_of(network))


def takes_previous(decoder):
    """Whether a decoder follows the steps before it."""
    return "previous" in _beside(decoder, "previous")


def input_dtype(network, name):
    """The dtype that a network declares for "x" or "condition"; that of floats where it declares none."""
    others = {"condition", *_beside(network, "observed")} - {name}
    declared = (t.dtype for t in inputs_of(network) if t.name not in others and (name == "x" or t.name == name))
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
        inputs = inputs_of(network)
        given = [tuple(tensor.shape) for tensor in inputs if tensor.name == "condition"]
        known = ("condition", *_beside(network, "observed" if name == "encoder" else "previous"))
        beside = [tensor for tensor in inputs if tensor.name in known]
        if inputs and len(inputs) != len(beside) + 1:
            raise ValueError(
                f"The {name} has {len(inputs)} inputs, {[tensor.name for tensor in inputs]}; a VAE gives it one "
                'tensor, and the condition if another input is called "condition"; others are "observed" of an encoder '
                'and "previous" of a decoder.'
            )
        conditions |= dict.fromkeys([name] * len(given), *given)
    for tensor in inputs_of(condition_network(prior)):
        conditions["prior"] = tuple(tensor.shape)
    if len(set(conditions.values())) > 1:
        (first, shape), *others = conditions.items()
        listed = ", ".join(f"the {name} one of {other}" for name, other in others)
        raise ValueError(f"The {first} takes a condition of shape {shape}, {listed}.")
    beside = ("condition", *_beside(encoder, "observed"))
    shapes = [tuple(tensor.shape) for tensor in inputs_of(encoder) if tensor.name not in beside]
    if not shapes or (condition_network(prior) is not None and not conditions):
        return None
    return {"x": shapes[0], "condition": next(iter(conditions.values()))} if conditions else shapes[0]


def _beside(network, name):
    """The name, if a network has such an input beside x or z: a single input is x or z, whatever it is called."""
    names = [tensor.name for tensor in inputs_of(network)]
    return (name,) if len(names) > 1 and name in names else ()


def known_shapes(encoder, decoder, parts, prior=None):
    """What `VAE.build` takes for a model with these named parts, if the networks have an input for each; else None."""
    no_data = {"z", *(f"{part}_observed" for part in parts)}
    networks = (encoder, decoder, condition_network(prior))
    inputs = [tensor for network in networks for tensor in inputs_of(network) if tensor.name not in no_data]
    known = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    return known if inputs_of(encoder) and inputs_of(decoder) and set(parts) <= set(known) else None


def check_condition(condition, shape, count, dtype, sizes, name="condition"):
    """Raises a ValueError if a NumPy array is not the condition of `count` examples; says why.

    `sizes` are the numbers of labels that networks embed.
    """
    if condition.ndim == 0 or not validation.shape_matches(condition.shape[1:], shape) or len(condition) != count:
        raise ValueError(
            f"{name} must have shape {(count, *shape)}, one for each example; got {condition.shape}."
            + (" Labels go in as they are, not one-hot." if not shape and condition.ndim == 2 else "")
        )
    if condition.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers; got {condition.dtype}.")
    if condition.dtype.kind == "f" and not np.isfinite(condition).all():
        raise ValueError(f"{name} contains NaN or infinite values: remove or fill in such examples.")
    if ("int" in dtype or sizes) and condition.dtype.kind == "f" and (condition != np.round(condition)).any():
        raise ValueError(f"{name} must hold whole numbers; got {condition.dtype} with fractions.")
    for size in sizes:
        if count and not 0 <= condition.min() <= condition.max() < size:
            raise ValueError(
                f"{name} must hold labels from 0 to {size - 1}, as the model embeds {size}; it ranges from "
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


def inputs_of(network):
    """The inputs that a network declares; none of one whose code alone knows them."""
    return getattr(network, "inputs", None) or []
