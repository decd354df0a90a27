"""Which functions of a model are exported, and what their inputs and outputs are called.

A graph is a function of named tensors to named tensors, without randomness, written once in the model's own terms.
The same function is converted in the engine's process and evaluated, as the reference, in the exporting one. Names
and order are stated here and never read off a framework, which sorts, renames and numbers them as it likes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import VAE, DiagonalNormal, _checks, likelihoods
from keras_vae._conditions import embedded_inputs, input_dtype, takes_condition
from keras_vae_export.errors import ExportError
from keras_vae_serving.manifest import BATCH, Tensor


@dataclasses.dataclass(frozen=True)
class Graph:
    """A function to export.

    Args:
        name: "encoder", "decoder", "elbo" or "prior".
        function: From tensors, in the order of `inputs`, to a dict of tensors by output name.
        inputs, outputs: Names, dtypes and shapes, in the order that the file will have.
        network: The Keras model whose weights it reads.
        ranges: The least and the greatest value of those inputs for which they are known, either end open: two
            numbers, or two arrays that broadcast with the input.
        latents: The name of the input that holds the latents, or None.
        missing: The name of the input in which NaN stands for a missing value, or None.
        labels: Of inputs beside the data or the latents that hold labels, by name, how many there are.
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
    """An encoder and a decoder that belong to no `VAE`: their two graphs can be exported, a bound cannot.

    Args:
        encoder: A functional Keras model from x, and whatever else it takes, to the mean and log variance of q(z|x).
        decoder: A functional Keras model from z, and whatever else it takes, to one tensor.
        likelihood: A name or a `Likelihood` of whose parameters the decoder's output is; None if it is the mean of x.
    """

    def __init__(self, encoder, decoder, likelihood=None):
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not getattr(network, "inputs", None):
                raise ExportError(
                    f"The {name} is a {type(network).__name__}, whose inputs are not known: make it functional, with "
                    f"inputs = keras.Input(...) and keras.Model(inputs, {name}(inputs)), or put the two into a VAE."
                )
        if not isinstance(decoder.output, keras.KerasTensor):
            kind = type(decoder.output).__name__
            raise ExportError(f"The decoder must return one tensor; it returns a {kind} of {len(decoder.outputs)}.")
        self.encoder, self.decoder = encoder, decoder
        self.likelihood = None if likelihood is None else likelihoods.get(likelihood)


def of(model):
    """The graphs of a `VAE` or a `Pair`, in the order in which they are converted."""
    return _of_vae(model) if isinstance(model, VAE) else _of_pair(model)


def _of_vae(vae):
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
    prior = vae.numpy_prior()  # of constants: its weights are in the graphs, and not the network that made them

    def encoder(x, *condition):
        posterior = vae.posterior(x, False, *condition)
        return {"z_mean": posterior.mean, "z_log_var": posterior.log_var}

    def decoder(z, *condition):
        return _described(vae.likelihood, vae.decoder_parameters(z, False, *condition))

    def elbo(x, *others):
        *condition, epsilon = others
        terms = vae.elbo_terms(x, ops.transpose(epsilon, (1, 0, 2)), *condition or (None,), prior)
        return {"reconstruction": terms.reconstruction, "kl": terms.kl}

    given = (x, *(condition if takes_condition(vae.encoder) else ()))
    taken = (latents, *(condition if takes_condition(vae.decoder) else ()))
    scored, terms = (x, *condition, epsilon), _per_example("reconstruction", "kl")
    graphs = (
        Graph("encoder", encoder, given, _like(latents, "z_mean", "z_log_var"), vae, ranges, missing=missing),
        Graph("decoder", decoder, taken, _described_as(vae.likelihood, x_mean), vae, labels, latents="z"),
        Graph("elbo", elbo, scored, terms, vae, ranges, missing=missing, labels=counts),
    )
    if isinstance(prior, DiagonalNormal):  # which the manifest holds
        return graphs
    noise = Tensor("noise", "float32", (BATCH, prior.noise_dim))
    return (*graphs, Graph("prior", lambda noise: {"z": prior.from_noise(noise)}, (noise,), (latents,), vae))


def _of_pair(pair):
    mean, log_var = _checks.encoder_outputs(pair.encoder.output)

    def encoder(*tensors):
        z_mean, z_log_var = _checks.encoder_outputs(_call(pair.encoder, tensors))
        return {"z_mean": ops.cast(z_mean, "float32"), "z_log_var": ops.cast(z_log_var, "float32")}

    def decoder(*tensors):
        return _described(pair.likelihood, ops.cast(_call(pair.decoder, tensors), "float32"))

    *sizes, channels = pair.decoder.output.shape
    if channels is not None and pair.likelihood is not None:
        channels = pair.likelihood.data_channels(channels)
    x_mean = Tensor("x_mean", "float32", _shape((*sizes, channels), "x_mean"))
    z_mean = Tensor("z_mean", "float32", _shape(mean.shape, "z_mean"))
    z_log_var = Tensor("z_log_var", "float32", _shape(log_var.shape, "z_log_var"))
    given, taken = _inputs_of(pair.encoder, "x"), _inputs_of(pair.decoder, "z")
    described = _described_as(pair.likelihood, x_mean)
    of_encoder, of_decoder = _ranges(pair.encoder, given), _ranges(pair.decoder, taken)
    if pair.likelihood is not None and len(given) == 1:
        of_encoder |= _data_ranges(pair.likelihood, x_mean)
    latents = _latents(given, taken, z_mean)
    # What both take is no data; of what the encoder alone takes nobody can tell.
    beside = {tensor.name for tensor in taken} - {latents}
    labels = {name: count for name, count in embedded_inputs(pair.decoder).items() if name in beside}
    return (
        Graph("encoder", encoder, given, (z_mean, z_log_var), pair.encoder, of_encoder),
        Graph("decoder", decoder, taken, described, pair.decoder, of_decoder, latents, labels=labels),
    )


def _latents(given, taken, z_mean):
    """The decoder's input that holds what the encoder makes: of its shape, and none of the encoder's own inputs."""
    names = {tensor.name for tensor in given}
    found = [t.name for t in taken if t.name not in names and "float" in t.dtype and len(t.shape) == len(z_mean.shape)]
    same = [t.name for t in taken if t.name in found and t.shape[1:] == z_mean.shape[1:]]
    if len(same or found) != 1:
        inputs = ", ".join(f"{tensor.name} {tensor.shape_text}" for tensor in taken)
        raise ExportError(
            f"Which of the decoder's inputs ({inputs}) holds the latents, of shape {z_mean.shape_text}, cannot be "
            "told: give the others the names that they have in the encoder."
        )
    return (same or found)[0]


def _ranges(network, tensors):
    """What an integer input may hold where it goes into an embedding."""
    sizes = embedded_inputs(network)
    inputs = getattr(network, "inputs", None) or ()
    named = zip((tensor.name for tensor in tensors), (tensor.name for tensor in inputs), strict=False)
    return {name: (0, sizes[own] - 1) for name, own in named if own in sizes}


def _data_ranges(likelihood, x_mean):
    """What each channel of the data may hold, where the likelihood says so."""
    channels = x_mean.shape[-1]
    if isinstance(channels, str):
        return {}
    low, high = likelihood.ranges(channels)
    return {"x": (low, high)} if np.isfinite(low).any() or np.isfinite(high).any() else {}


def _described(likelihood, parameters):
    """What is said of p(x|z): its mean, and its standard deviation where the likelihood has one to tell."""
    if likelihood is None:
        return {"x_mean": parameters}
    outputs = {"x_mean": likelihood.mean(parameters)}
    if likelihood.has_stddev:
        outputs["x_scale"] = likelihood.stddev(parameters)
    return outputs


def _described_as(likelihood, x_mean):
    return _like(x_mean, *(("x_mean", "x_scale") if likelihood is not None and likelihood.has_stddev else ("x_mean",)))


def _inputs_of(network, only):
    """The inputs of a functional network: under its own names, or under `only` if there is but one."""
    names = [tensor.name for tensor in network.inputs] if len(network.inputs) > 1 else [only]
    reserved = {"z_mean", "z_log_var", "x_mean", "x_scale"} & set(names)
    if reserved or len(set(names)) < len(names):
        raise ExportError(f"The inputs {names} need names of their own, other than those of the outputs.")
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
