"""Which functions of a model are exported, and what their inputs and outputs are called.

Each is a function of named tensors to named tensors, without randomness, written once in the model's own terms.
The same function is converted in the engine's process and evaluated, as the reference, in the exporting one. Names
and order are stated here and never read off a framework, which sorts, renames and numbers them as it likes.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import VAE, DiagonalNormal, Mixture, likelihoods, posteriors
from keras_vae_export._internals import embedded_inputs, encoder_outputs, input_dtype, takes_condition
from keras_vae_export.errors import ExportError
from keras_vae_serving.manifest import BATCH, Tensor

# What Keras calls an input without a name, and calls otherwise in a model that it has loaded.
_AUTOMATIC = re.compile(r"(keras_tensor|input_layer)(_\d+)?")


@dataclasses.dataclass(frozen=True)
class GraphFunction:
    """A function of a model that becomes one graph of the bundle.

    Args:
        name: "encoder", "decoder", "elbo" or "prior".
        function: Function of tensors, in the order of `inputs`, that returns a dict of tensors by output name.
        inputs, outputs: Names, dtypes and shapes, in the order that the file will have.
        network: Keras model whose weights the function reads.
        ranges: Smallest and largest value of the inputs for which they are known: two numbers, or two arrays that
            broadcast with the input. Either end may be infinite.
        latents: Name of the input that holds the latents, or None.
        missing: Name of the input in which NaN stands for a missing value, or None.
        labels: Number of classes of each categorical input other than x and z, by input name.
    """

    name: str
    function: Callable[..., dict[str, Any]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    network: keras.Model
    ranges: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    latents: str | None = None
    missing: str | None = None
    labels: dict[str, int] = dataclasses.field(default_factory=dict)


class Pair:
    """An encoder and a decoder without a `VAE`: their two graphs can be exported, a bound cannot.

    Args:
        encoder: Functional Keras model of x, and any other inputs, that returns the mean and log variance of q(z|x).
        decoder: Functional Keras model of z, and any other inputs, that returns one tensor.
        likelihood: Name or `Likelihood` whose parameters the decoder returns; None if it returns the mean of x.
    """

    encoder: keras.Model
    decoder: keras.Model
    likelihood: likelihoods.Likelihood | None

    def __init__(
        self, encoder: keras.Model, decoder: keras.Model, likelihood: str | likelihoods.Likelihood | None = None
    ) -> None:
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not getattr(network, "inputs", None):
                raise ExportError(
                    f"The {name} is a {type(network).__name__}, whose inputs are not known: make it functional, with "
                    f"inputs = keras.Input(...) and keras.Model(inputs, {name}(inputs)), or put both into a VAE."
                )
        if not isinstance(decoder.output, keras.KerasTensor):
            kind = type(decoder.output).__name__
            raise ExportError(f"The decoder must return one tensor; it returns a {kind} of {len(decoder.outputs)}.")
        self.encoder, self.decoder = encoder, decoder
        self.likelihood = None if likelihood is None else likelihoods.get(likelihood)


def from_model(model: VAE | Pair) -> tuple[GraphFunction, ...]:
    """The functions of a model that are exported, in the order in which they are converted."""
    return _from_vae(model) if isinstance(model, VAE) else _from_pair(model)


def _from_vae(vae):
    prior = vae.numpy_prior()
    # Of constants, so that the graphs hold its numbers and not the network that made them; None where it is a network.
    constant = prior if type(prior) in (DiagonalNormal, Mixture) else None
    latents = Tensor("z", "float32", (BATCH, vae.latent_dim))
    epsilon = Tensor("epsilon", "float32", (BATCH, "num_samples", vae.latent_dim))
    x = Tensor("x", _standard_dtype(input_dtype(vae.encoder, "x")), _shape((None, *vae.data_shape), "x"))
    x_mean = dataclasses.replace(x, name="x_mean", dtype="float32")
    condition, labels, counts = (), {}, {}
    if vae.condition_shape is not None:
        shape = _shape((None, *vae.condition_shape), "condition")
        condition = (Tensor("condition", _standard_dtype(vae.condition_dtype), shape),)
        known = embedded_inputs(vae.encoder) | embedded_inputs(vae.decoder)
        counts = {name: count for name, count in known.items() if name == "condition"}
        labels = {name: (0, count - 1) for name, count in counts.items()}
    ranges = _ranges(vae.encoder, (x,)) | _data_ranges(vae.likelihood, x_mean) | labels
    missing = "x" if vae.allow_missing else None

    def encoder(x, *condition):
        posterior = posteriors.checked(vae.posterior(x, False, *condition), vae.posterior_family, type(vae))
        return {"z_mean": posterior.mean, "z_log_var": posterior.log_var}

    def decoder(z, *condition):
        return _decoder_outputs(vae.likelihood, vae.decoder_parameters(z, False, *condition))

    def elbo(x, *others):
        *condition, epsilon = others
        terms = vae.elbo_terms(x, ops.transpose(epsilon, (1, 0, 2)), *condition or (None,), constant)
        return {"reconstruction": terms.reconstruction, "kl": terms.kl}

    given = (x, *(condition if takes_condition(vae.encoder) else ()))
    taken = (latents, *(condition if takes_condition(vae.decoder) else ()))
    scored, terms = (x, *condition, epsilon), _per_example("reconstruction", "kl")

    def drawn(noise):
        return {"z": (constant or vae.prior_distribution()).from_noise(noise)}

    graphs = (
        GraphFunction("encoder", encoder, given, _like(latents, "z_mean", "z_log_var"), vae, ranges, missing=missing),
        GraphFunction("decoder", decoder, taken, _decoder_signature(vae.likelihood, x_mean), vae, labels, latents="z"),
        GraphFunction("elbo", elbo, scored, terms, vae, ranges, missing=missing, labels=counts),
    )
    if isinstance(prior, DiagonalNormal):  # the manifest holds its numbers
        return graphs
    noise = Tensor("noise", "float32", (BATCH, *prior.noise_shape))
    return (*graphs, GraphFunction("prior", drawn, (noise,), (latents,), vae))


def _from_pair(pair):
    mean, log_var = encoder_outputs(pair.encoder.output)

    def encoder(*tensors):
        z_mean, z_log_var = encoder_outputs(_call(pair.encoder, tensors))
        return {"z_mean": ops.cast(z_mean, "float32"), "z_log_var": ops.cast(z_log_var, "float32")}

    def decoder(*tensors):
        return _decoder_outputs(pair.likelihood, ops.cast(_call(pair.decoder, tensors), "float32"))

    shape = pair.decoder.output.shape
    if pair.likelihood is not None:
        shape = pair.likelihood.data_shape(shape)
    x_mean = Tensor("x_mean", "float32", _shape(shape, "x_mean"))
    z_mean = Tensor("z_mean", "float32", _shape(mean.shape, "z_mean"))
    z_log_var = Tensor("z_log_var", "float32", _shape(log_var.shape, "z_log_var"))
    given, taken = _inputs_of(pair.encoder, "x", x_mean), _inputs_of(pair.decoder, "z", z_mean)
    described = _decoder_signature(pair.likelihood, x_mean)
    of_encoder, of_decoder = _ranges(pair.encoder, given), _ranges(pair.decoder, taken)
    if pair.likelihood is not None and len(given) == 1:
        of_encoder |= _data_ranges(pair.likelihood, x_mean)
    latents = _latents(given, taken, z_mean)
    # An input of both networks is not data; for an input of the encoder alone we cannot know.
    beside = {tensor.name for tensor in taken} - {latents}
    sizes = embedded_inputs(pair.decoder)
    named = zip((tensor.name for tensor in taken), (tensor.name for tensor in pair.decoder.inputs), strict=True)
    labels = {name: sizes[own] for name, own in named if name in beside and own in sizes}
    return (
        GraphFunction("encoder", encoder, given, (z_mean, z_log_var), pair.encoder, of_encoder),
        GraphFunction("decoder", decoder, taken, described, pair.decoder, of_decoder, latents, labels=labels),
    )


def _latents(given, taken, z_mean):
    """Name of the decoder's input that has the shape of the latents and is not an input of the encoder too."""
    names = {tensor.name for tensor in given}
    found = [t.name for t in taken if t.name not in names and "float" in t.dtype and len(t.shape) == len(z_mean.shape)]
    same = [t.name for t in taken if t.name in found and t.shape[1:] == z_mean.shape[1:]]
    if len(same or found) != 1:
        inputs = ", ".join(f"{tensor.name} {tensor.shape_text}" for tensor in taken)
        raise ExportError(
            f"We cannot tell which of the decoder's inputs ({inputs}) holds the latents, of shape {z_mean.shape_text}: "
            "give the others the names that they have in the encoder."
        )
    return (same or found)[0]


def _ranges(network, tensors):
    """The range of each integer input that goes into an embedding."""
    sizes = embedded_inputs(network)
    inputs = getattr(network, "inputs", None) or ()
    named = zip((tensor.name for tensor in tensors), (tensor.name for tensor in inputs), strict=False)
    return {name: (0, sizes[own] - 1) for name, own in named if own in sizes}


def _data_ranges(likelihood, x_mean):
    """The range of each channel of the data, if the likelihood states one."""
    channels = x_mean.shape[-1]
    if isinstance(channels, str):
        return {}
    low, high = likelihood.ranges(channels)
    return {"x": (low, high)} if np.isfinite(low).any() or np.isfinite(high).any() else {}


def _decoder_outputs(likelihood, parameters):
    """The mean of p(x|z), and its standard deviation if the likelihood has one."""
    if likelihood is None:
        return {"x_mean": parameters}
    outputs = {"x_mean": likelihood.mean(parameters)}
    if likelihood.has_stddev:
        outputs["x_scale"] = likelihood.stddev(parameters)
    return outputs


def _decoder_signature(likelihood, x_mean):
    return _like(x_mean, *(("x_mean", "x_scale") if likelihood is not None and likelihood.has_stddev else ("x_mean",)))


def _inputs_of(network, main, like):
    """The inputs of a functional network, under its own names, or under the name `main` if it has one input.

    An input that was given no name is called `main` if it alone has the shape of `like`, and else "condition".
    """
    shapes = [_shape(tensor.shape, like.name) for tensor in network.inputs]
    names = [tensor.name for tensor in network.inputs] if len(network.inputs) > 1 else [main]
    if any(_AUTOMATIC.fullmatch(name) for name in names):
        if main not in names and shapes.count(like.shape) != 1:
            listed = ", ".join(str(tensor.shape) for tensor in network.inputs)
            raise ExportError(
                f"The inputs, of shapes {listed}, have no names, and we cannot tell which of them is {main}: give each "
                f'a name, keras.Input(..., name="{main}").'
            )
        role = [main if main not in names and shape == like.shape else "condition" for shape in shapes]
        names = [new if _AUTOMATIC.fullmatch(name) else name for name, new in zip(names, role, strict=True)]
    reserved = {"z_mean", "z_log_var", "x_mean", "x_scale"} & set(names)
    if reserved or len(set(names)) < len(names):
        raise ExportError(
            f"The inputs are called {names}: give each a name of its own that is not the name of an output, "
            "keras.Input(..., name=...)."
        )
    return tuple(
        Tensor(name, _standard_dtype(tensor.dtype), _shape(tensor.shape, name))
        for name, tensor in zip(names, network.inputs, strict=True)
    )


def _call(network, tensors):
    """Calls a functional network with the tensors in the order of its `inputs`, in the structure that it was given."""
    return network(keras.tree.pack_sequence_as(network.input, list(tensors)), training=False)


def _like(tensor, *names):
    return tuple(dataclasses.replace(tensor, name=name) for name in names)


def _per_example(*names):
    return tuple(Tensor(name, "float32", (BATCH,)) for name in names)


def _shape(shape, name):
    """A Keras shape with its free sizes named: the first is the batch."""
    return (BATCH, *(f"{name}_{axis}" if size is None else int(size) for axis, size in enumerate(shape) if axis))


def _standard_dtype(dtype):
    # Half-precision inputs belong to a policy; the files take and give float32.
    return "float32" if "float" in str(dtype) else str(dtype)
