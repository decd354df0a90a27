"""What a model takes, from the shapes that it is built for to the arrays of a verb, and how its networks are run.

x is one tensor, with a condition or without; of named parts x and the condition are the vectors that `Fields` makes of
them, so that steps, verbs and evaluation see no difference. The networks see the parts, by the names of their inputs.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae._network_inputs import (
    check_condition,
    condition_network,
    declares_condition,
    embedded_inputs,
    input_dtype,
    inputs_of,
    known_input_shape,
    known_shapes,
    observed,
    run,
    run_by_name,
    takes_condition,
)
from keras_vae.data import Fields, input_shapes, split_condition, with_condition


class ModelInputs:
    """Mixed into `VAE`, which has the networks, the likelihood and the prior."""

    _fields: Any = None  # `Fields` of named parts, once built

    @property
    def has_conditional_prior(self) -> bool:
        """Whether the prior is p(z|c): `numpy_prior` then needs the condition."""
        return condition_network(self.prior) is not None

    @property
    def condition_dtype(self) -> str:
        """Type of the condition: what the networks declare, else that of floats."""
        if self._fields is not None:
            return "float32"
        networks = [network for network in (self.encoder, self.decoder) if declares_condition(network)]
        if networks:
            return input_dtype(networks[0], "condition")
        return next((tensor.dtype for tensor in inputs_of(condition_network(self.prior))), keras.config.floatx())

    @property
    def x_dtype(self) -> str:
        """Type of x that the encoder takes."""
        return "float32" if self._fields is not None else input_dtype(self.encoder, "x")

    def _encoder_outputs(self, x, condition=None, training=False, with_holes=None):
        """What the encoder returns; `with_holes` is x in which NaN is missing, for one that is shown what is."""
        with_holes = x if with_holes is None else with_holes
        if self._fields is None:
            return run(self.encoder, "x", x, condition, training, with_holes)
        tensors, holes = self._fields.parts_of(x), self._fields.parts_of(with_holes)
        names = {tensor.name for tensor in inputs_of(self.encoder)}
        masks = {f"{name}_observed": observed(holes[name]) for name in holes if f"{name}_observed" in names}
        tensors |= masks | self._fields.given_of(condition)
        return run_by_name(self.encoder, tensors, training)

    def _decoder_outputs(self, z, condition=None, training=False, x=None):
        """The parameters of p(x|z): one tensor, of named parts their parameters as one vector."""
        if self._fields is None:
            parameters = run(self.decoder, "z", z, condition, training, previous=self._previous(x))
            return self._without_holes(parameters, x) if self.is_autoregressive and self.allow_missing else parameters
        found = run_by_name(self.decoder, {"z": z} | self._fields.given_of(condition), training)
        return _packed_parameters(found, self.likelihood.parameter_shapes())

    def _takes_condition(self, network):
        if self._fields is None or network is condition_network(self.prior):
            return takes_condition(network)
        return not inputs_of(network) or any(tensor.name in self._fields.given for tensor in inputs_of(network))

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
        given, names = self._fields.given_of(condition), [tensor.name for tensor in inputs_of(network)]
        if len(names) != 1 or names[0] not in given:
            raise ValueError(
                f"The network of the prior takes {names}; it must take one of what is given, "
                f"{', '.join(map(repr, given)) or 'of which there is nothing'}: name its input so."
            )
        return ops.cast(given[names[0]], inputs_of(network)[0].dtype)

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
            declared = [t.dtype for network in networks for t in inputs_of(network) if t.name == name]
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

    def _known_input_shape(self):
        """What `build` takes, if the networks know it."""
        names = self.likelihood.part_names
        if names:
            return known_shapes(self.encoder, self.decoder, names, self.prior)
        return known_input_shape(self.encoder, self.decoder, self.prior)

    def _built_input_shape(self):
        """What `build` was given."""
        if self._fields is not None and self.likelihood.part_names:
            shapes = self._fields.parts | self._fields.given
            return {name: (None, *shape) for name, shape in shapes.items()}
        shape, condition_shape, _ = self._shapes
        return with_condition((None, *shape), None if condition_shape is None else (None, *condition_shape))

    def _input_shapes(self, input_shape):
        """The shapes of x and of the condition, None without one, with the batch, from what `build` is given."""
        names = self.likelihood.part_names
        self._fields = Fields.of(input_shape, names) if names else None
        if self._fields is None:
            return input_shapes(input_shape)
        self.likelihood.bind_shapes(self._fields.parts)
        size, of_given = self._fields.sizes
        return (None, size), (None, of_given) if self._fields.given else None

    def _build_for(self, x, condition=None):
        """Builds for data like an array x and its condition, if that has not been done."""
        if not self.built:
            shape = None if condition is None else (None, *np.shape(condition)[1:])
            self.build(with_condition((None, *x.shape[1:]), shape))

    def _split(self, x):
        """x and the condition of data as a user has them; of named parts x is their vector, the condition a dict.

        The model is built for them, if it is not yet.
        """
        if not self.likelihood.part_names:
            x, condition = split_condition(x)
            self._build_for(x, condition)
            return x, condition
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
