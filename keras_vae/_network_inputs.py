"""How networks take their inputs: x or z, and the condition of a conditional model; or named parts of the data.

An encoder or a decoder takes a condition if it has an input of that name; one whose inputs are not known, a subclassed
model, is handed a dict. An encoder with an input "observed", shaped like x, is shown which values are: 1, and 0 where
one is missing; without it, a missing value and what stands in its place look alike. The network of a conditional prior
takes the condition alone, under whatever name. Where parts have names, a network takes those that its inputs have.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae.data import Fields, split_condition, with_condition


def run(network, name, tensor, condition=None, training=False, observed=None):
    """Calls an encoder or a decoder on its input `name`, "x" or "z", and what else it has an input for."""
    inputs = _inputs(network)
    if not inputs and condition is not None:
        return network({name: tensor, "condition": condition}, training=training)
    if len(inputs) < 2:
        return network(tensor, training=training)
    others = {"condition": condition, "observed": observed}
    tensors = [others.get(each.name, tensor) for each in inputs]
    return network(keras.tree.pack_sequence_as(network.input, tensors), training=training)


def run_by_name(network, tensors, training=False):
    """Calls a network on those of the tensors, by name, that it has inputs for; on all if its inputs are not known."""
    if not _inputs(network):
        return network(tensors, training=training)
    taken = []
    for each in _inputs(network):
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
    return not _inputs(network) or declares_condition(network)


def declares_condition(network):
    return any(tensor.name == "condition" for tensor in _inputs(network))


def input_dtype(network, name):
    """The dtype that a network declares for "x" or "condition"; that of floats where it declares none."""
    others = {"condition", "observed"} - {name}
    declared = (t.dtype for t in _inputs(network) if t.name not in others and (name == "x" or t.name == name))
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
        known = ("condition", "observed") if network is encoder else ("condition",)
        beside = [tensor for tensor in inputs if tensor.name in known]
        if inputs and len(inputs) != len(beside) + 1:
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
    shapes = [tuple(tensor.shape) for tensor in _inputs(encoder) if tensor.name not in ("condition", "observed")]
    if not shapes or (condition_network(prior) is not None and not conditions):
        return None
    return {"x": shapes[0], "condition": next(iter(conditions.values()))} if conditions else shapes[0]


def known_shapes(encoder, decoder, parts):
    """What `VAE.build` takes for a model with these named parts, if the networks have an input for each; else None."""
    no_data = {"z", *(f"{part}_observed" for part in parts)}
    inputs = [tensor for tensor in (*_inputs(encoder), *_inputs(decoder)) if tensor.name not in no_data]
    known = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    return known if _inputs(encoder) and _inputs(decoder) and set(parts) <= set(known) else None


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


def _inputs(network):
    return getattr(network, "inputs", None) or []


class Conditional:
    """Mixed into `VAE`: how its networks are run, and what it does with the condition.

    Of named parts x and the condition are the vectors that `Fields` makes of them.
    """

    @property
    def has_conditional_prior(self) -> bool:
        """Whether the prior is p(z|c): `numpy_prior` then needs the condition."""
        return condition_network(self.prior) is not None

    @property
    def condition_dtype(self) -> str:
        """Type of the condition: what the networks declare, else that of floats."""
        if self._fields is not None:
            return keras.config.floatx()
        networks = [network for network in (self.encoder, self.decoder) if declares_condition(network)]
        if networks:
            return input_dtype(networks[0], "condition")
        return next((tensor.dtype for tensor in _inputs(condition_network(self.prior))), keras.config.floatx())

    @property
    def x_dtype(self) -> str:
        """Type of x that the encoder takes."""
        return keras.config.floatx() if self._fields is not None else input_dtype(self.encoder, "x")

    def _encoder_outputs(self, x, condition=None, training=False, observed=None):
        observed = ops.ones_like(x) if observed is None else observed
        if self._fields is None:
            return run(self.encoder, "x", x, condition, training, observed)
        tensors = self._fields.parts_of(x) | self._fields.given_of(condition)
        masks, declared = self._fields.parts_of(observed), {tensor.name for tensor in _inputs(self.encoder)}
        tensors |= {f"{name}_observed": mask for name, mask in masks.items() if f"{name}_observed" in declared}
        return run_by_name(self.encoder, tensors, training)

    def _decoder_outputs(self, z, condition=None, training=False):
        """The parameters of p(x|z): one tensor, of named parts their parameters as one vector."""
        if self._fields is None:
            return run(self.decoder, "z", z, condition, training)
        found = run_by_name(self.decoder, {"z": z} | self._fields.given_of(condition), training)
        return _packed_parameters(found, self.likelihood.parameter_shapes())

    def _takes_condition(self, network):
        if self._fields is None or network is condition_network(self.prior):
            return takes_condition(network)
        return not _inputs(network) or any(tensor.name in self._fields.given for tensor in _inputs(network))

    def _as_condition(self, condition, network):
        """A tensor of the dtype that the network takes; None if it takes none."""
        is_taken = network is condition_network(self.prior) or self._takes_condition(network)
        if not is_taken or (condition is None and self.condition_shape is None):
            return None
        self._require_condition(condition)
        return ops.cast(ops.convert_to_tensor(condition), self.condition_dtype)

    def _for_prior(self, condition):
        """The condition as the network of a conditional prior takes it: of named tensors the one that it names."""
        network = condition_network(self.prior)
        condition = self._as_condition(condition, network)
        if self._fields is None:
            return condition
        given, names = self._fields.given_of(condition), [tensor.name for tensor in _inputs(network)]
        if len(names) != 1 or names[0] not in given:
            raise ValueError(
                f"The network of the prior takes {names}; it must take one of what is given, "
                f"{', '.join(map(repr, given)) or 'of which there is nothing'}: name its input so."
            )
        return ops.cast(given[names[0]], _inputs(network)[0].dtype)

    def _checked_condition(self, condition, count):
        """The condition of `count` examples as a NumPy array of the networks' dtype; None if they take none."""
        self._require_condition(condition)
        if condition is None:
            return None
        if self._fields is not None:
            return self._checked_given(condition, count)
        condition = validation.to_numpy(condition)
        check_condition(condition, self.condition_shape, count, self.condition_dtype, self._numbers_of_labels())
        return condition.astype(self.condition_dtype, copy=False)

    def _checked_given(self, given, count):
        """The vector of what is given, by name, to `count` examples."""
        if not isinstance(given, dict) or set(given) != set(self._fields.given):
            got = sorted(given) if isinstance(given, dict) else f"a {type(given).__name__}"
            raise ValueError(f"This model is given {sorted(self._fields.given)}: pass a dict of these; got {got}.")
        given = {name: validation.to_numpy(array) for name, array in given.items()}
        for name, array in given.items():
            networks = (self.encoder, self.decoder, condition_network(self.prior))
            declared = [t.dtype for network in networks for t in _inputs(network) if t.name == name]
            dtype = declared[0] if declared else keras.config.floatx()
            check_condition(array, self._fields.given[name], count, dtype, self._numbers_of_labels(name), name)
        return self._fields.pack_given(given).astype(self.condition_dtype)

    def _numbers_of_labels(self, name="condition"):
        known = [embedded_inputs(network) for network in (self.encoder, self.decoder)]
        sizes = [size for inputs in known for own, size in inputs.items() if own == name]
        of_prior = embedded_inputs(condition_network(self.prior))
        return [*sizes, *(size for own, size in of_prior.items() if self._fields is None or own == name)]

    def _require_condition(self, condition):
        if condition is None and self.condition_shape is not None:
            if self._fields is not None:
                given = ", ".join(f'"{name}": ...' for name in self._fields.given)
                raise ValueError(f"This model is conditional: pass condition={{{given}}}.")
            raise ValueError('This model is conditional: pass {"x": x, "condition": c}, or condition=c.')
        if condition is not None and self.condition_shape is None:
            raise ValueError(
                'This model takes no condition: give one of its networks an input called "condition", as '
                "keras_vae.networks.mlp(..., condition=...) does, or the model a keras_vae.priors.Conditional."
            )

    def _split(self, x):
        """x and the condition of data as a user has them; of named parts x is their vector, the condition a dict."""
        if not self.likelihood.part_names:
            return split_condition(x)
        if not self.built and isinstance(x, dict):
            self.build({name: (None, *np.shape(part)[1:]) for name, part in x.items()})
        fields = self._fields or Fields.of(x, self.likelihood.part_names)  # which refuses what is no dict
        parts, given = fields.split(x)
        return fields.pack_parts(parts), given

    def _vectors(self, x):
        """x and, if there is one, the condition of data as a user has them, checked; of named parts the vectors."""
        x, condition = self._split(x)
        condition = self._checked_condition(condition, len(x))
        return (x,) if condition is None else (x, condition)

    def _joined_with_condition(self, x, condition=None):
        """The inverse of `_split`, of a condition as an array."""
        if self._fields is None:
            return with_condition(x, condition)
        return self._fields.parts_of(x) | self._fields.given_of(condition)

    def _by_name(self, x):
        """What is shaped like x: of named parts a dict of them."""
        return x if self._fields is None else self._fields.parts_of(x)


def _packed_parameters(found: Any, shapes: dict[str, Any]):
    if not isinstance(found, dict) and len(shapes) == 1 and not isinstance(found, list | tuple):
        found = dict.fromkeys(shapes, found)
    if not isinstance(found, dict) or set(found) != set(shapes):
        got = sorted(found) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise ValueError(
            f"The decoder must return the parameters of each part, a dict with the keys {sorted(shapes)}; it returned "
            f"{got}."
        )
    flat = []
    for name, shape in shapes.items():
        size = math.prod(shape)
        if math.prod(found[name].shape[1:]) != size:
            raise ValueError(
                f"The decoder returns shape {tuple(found[name].shape)} for {name!r}, whose likelihood needs "
                f"{('batch', *shape)}."
            )
        flat.append(ops.reshape(ops.cast(found[name], "float32"), (-1, size)))
    return ops.concatenate(flat, axis=1)
