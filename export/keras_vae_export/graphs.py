"""Which functions of a model are exported, and what their inputs and outputs are called.

Each is a function of named tensors to named tensors, without randomness, written once in the model's own terms.
The same function is converted in the engine's process and evaluated, as the reference, in the exporting one. Names
and order are stated here and never read off a framework, which sorts, renames and numbers them as it likes.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import VAE, DiagonalNormal, Mixture, likelihoods, objectives, posteriors
from keras_vae_export._internals import Batch, embedded_inputs, encoder_outputs
from keras_vae_export.errors import ExportError
from keras_vae_serving import draws
from keras_vae_serving.manifest import BATCH, LOG_PROB, NORMAL_OUTPUTS, NUM_SAMPLES, PosteriorSpec, Tensor, unnamed

# What Keras calls an input without a name, and calls otherwise in a model that it has loaded.
_AUTOMATIC = re.compile(r"(keras_tensor|input_layer)(_\d+)?")

# Two sets of sizes, to put in the place of free ones and to find again in shapes that follow from them.
_TRIALS = ((101, 103, 107, 109), (211, 223, 227, 229))


@dataclasses.dataclass(frozen=True)
class GraphFunction:
    """A function of a model that becomes one graph of the bundle.

    Args:
        name: "encoder", "posterior", "decoder", "elbo" or "prior".
        function: Function of tensors, in the order of `inputs`, that returns a dict of tensors by output name.
        inputs, outputs: Names, dtypes and shapes, in the order that the file will have.
        network: Keras model whose weights the function reads.
        ranges: Smallest and largest value of the inputs for which they are known: two numbers, or two arrays that
            broadcast with the input. Either end may be infinite.
        latents: Name of the input that holds the latents, or None.
        missing: Name of the input in which NaN stands for a missing value, or None.
        labels: Number of classes of each categorical input other than x and z, by input name.
        gives: Names of the outputs that are the only sensible inputs, of these names, of the graphs after it.
        exponentials: Names of the outputs that are made of exponentials of another, by the name of that: where it is
            large, float32 does not determine them.
        is_sequence: Whether of the input `missing` only the end may be missing.
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
    gives: tuple[str, ...] = ()
    exponentials: dict[str, str] = dataclasses.field(default_factory=dict)
    is_sequence: bool = False


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


def describe_posterior(model: VAE | Pair, functions: tuple[GraphFunction, ...]) -> PosteriorSpec:
    """What the manifest says of q(z|x)."""
    family = model.posterior_family if isinstance(model, VAE) else posteriors.Normal()
    outputs = {tensor.name: unnamed(tensor.shape[1:]) for tensor in functions[0].outputs}
    noise = unnamed(_shapes_of(model)[2]) if isinstance(model, VAE) else outputs[NORMAL_OUTPUTS[0]]
    return PosteriorSpec(type(family).__name__, family.get_config(), outputs, noise, _is_discrete(family))


def latent_shape(functions: tuple[GraphFunction, ...]) -> tuple[int | None, ...]:
    """Shape of one z, in which None is free, from the functions of a model."""
    made = next((graph.outputs[0] for graph in functions if graph.name == "posterior"), functions[0].outputs[0])
    return unnamed(made.shape[1:])


def _from_vae(vae):
    vae._refresh()  # networks may have been assigned since the last call
    family, is_normal = vae.posterior_family, _is_normal(vae)
    reserved = {"x", "condition", "noise", "z", "codes"} & set(family.outputs)
    if reserved:
        raise ExportError(
            f"{type(family).__name__} calls an output of the encoder {min(reserved)!r}, as the graphs of a bundle call "
            "something else: give it another name in `outputs`, such as z_mean."
        )
    # A prior p(z|c) is another for each example: its graph takes the condition.
    prior = None if vae.has_conditional_prior else vae.numpy_prior()
    # Of constants, so that the graphs hold its numbers and not the network that made them; None where it is a network.
    constant = prior if type(prior) in (DiagonalNormal, Mixture) else None
    z_shape, output_shapes, noise_shape = _shapes_of(vae)
    latents = Tensor("z", "float32", (BATCH, *z_shape))
    named = (Tensor(name, "float32", (BATCH, *shape)) for name, shape in output_shapes.items())
    outputs = _like(latents, *NORMAL_OUTPUTS) if is_normal else tuple(named)
    noise_name = "epsilon" if is_normal else "noise"  # the first is what clients of schema 1 send
    epsilon = Tensor(noise_name, "float32", (BATCH, NUM_SAMPLES, *noise_shape))
    x = Tensor("x", _standard_dtype(vae.x_dtype), _shape((None, *vae.data_shape), "x"))
    x_mean = dataclasses.replace(x, name="x_mean", dtype="float32")
    condition, labels, counts = (), {}, {}
    if vae.condition_shape is not None:
        shape = _shape((None, *vae.condition_shape), "condition")
        condition = (Tensor("condition", _standard_dtype(vae.condition_dtype), shape),)
        known = embedded_inputs(vae.encoder) | embedded_inputs(vae.decoder)
        if vae.has_conditional_prior:  # its network takes nothing else, under whatever name
            known |= dict(zip(["condition"], embedded_inputs(vae.prior.condition_network).values(), strict=False))
        counts = {name: count for name, count in known.items() if name == "condition"}
        labels = {name: (0, count - 1) for name, count in counts.items()}
        if vae._fields is not None and vae._fields.given:
            counts = {name: known[name] for name in vae._fields.given if name in known}
            labels = {"condition": _ranges_of_given(vae._fields.given, known)}
    ranges = (
        ({} if vae._fields is not None else _ranges(vae.encoder, (x,))) | _data_ranges(vae.likelihood, x_mean) | labels
    )
    missing = "x" if vae.allow_missing else None

    def encoder(x, *condition):
        if not is_normal:
            found = vae.posterior_outputs(x, False, *condition)
            return {name: ops.cast(output, "float32") for name, output in zip(family.outputs, found, strict=True)}
        posterior = posteriors.checked(vae.posterior(x, False, *condition), family, type(vae))
        return {"z_mean": posterior.mean, "z_log_var": posterior.log_var}

    def posterior(*tensors):
        found, noise = tensors[: len(outputs)], tensors[len(outputs) :]
        distribution = posteriors.checked(family.distribution(found), family, type(vae))
        # One draw for each example; a family that draws nothing learns from the noise how many there are.
        draws = noise[0][None] if noise else ops.zeros((1, ops.shape(found[0])[0]))
        z = distribution.from_noise(draws)[0]
        return {"z": z, **({"codes": ops.cast(family.codes(z), "int32")} if codes else {})}

    def decoder(*tensors):
        named = {tensor.name: value for tensor, value in zip(taken, tensors, strict=True)}
        parameters = vae._parameters_of(named["z"], named.get("x"), named.get("condition"))
        return _decoder_outputs(vae.likelihood, parameters)

    def elbo(x, *others):
        *condition, epsilon = others
        if not has_details:
            terms = vae.elbo_terms(x, ops.swapaxes(epsilon, 0, 1), next(iter(condition), None), constant)
            return {"reconstruction": terms.reconstruction, "kl": terms.kl}
        bound, batch = _Bound(vae), Batch(x, next(iter(condition), None), x)
        terms = vae._terms(bound, batch, ops.swapaxes(epsilon, 0, 1), prior=constant)
        return {"reconstruction": terms.reconstruction, "kl": terms.kl, **bound.details}

    def drawn(noise, *condition):
        return {"z": (constant or vae.prior_distribution(*condition)).from_noise(noise)}

    given = (x, *(condition if vae._takes_condition(vae.encoder) else ()))
    # A decoder that follows the steps before takes x as far as it is known, and NaN after that.
    steps = (dataclasses.replace(x, dtype="float32"),) if vae.is_autoregressive else ()
    taken = (latents, *steps, *(condition if vae._takes_condition(vae.decoder) else ()))
    scored, terms = (x, *condition, epsilon), _per_example("reconstruction", "kl")
    # A bound that a class of the user's own has changed is exported as it is, and says nothing besides.
    has_details = vae.likelihood.is_factorised and type(vae).elbo_terms is VAE.elbo_terms
    is_weighted = bool(missing) and has_details
    weighted = {"x_mean": "log_weight"} if is_weighted and not steps else {}
    if has_details:
        terms += _like(x_mean, LOG_PROB)
    if is_weighted:
        of_each = (BATCH, NUM_SAMPLES)
        means = () if steps else (x_mean,)
        terms += (*means, Tensor("z", "float32", (*of_each, *z_shape)), Tensor("log_weight", "float32", of_each))
    encoded = () if is_normal else tuple(tensor.name for tensor in outputs)
    graphs = [
        GraphFunction("encoder", encoder, given, outputs, vae, ranges, missing=missing, gives=encoded),
        GraphFunction(
            "decoder",
            decoder,
            taken,
            _decoder_signature(vae.likelihood, x_mean),
            vae,
            ranges if steps else labels,
            latents="z",
            missing="x" if steps else None,
        ),
        GraphFunction("elbo", elbo, scored, terms, vae, ranges, None, missing, counts, exponentials=weighted),
    ]
    graphs = [dataclasses.replace(graph, is_sequence=vae.is_autoregressive) for graph in graphs]
    if not is_normal:
        codes = _codes(family, latents)
        made = (Tensor("noise", "float32", (BATCH, *noise_shape)),) if noise_shape else ()
        # A decoder need not know what to do with a z between two codes.
        gives = ("z",) if _is_discrete(family) else ()
        graphs.insert(1, GraphFunction("posterior", posterior, (*outputs, *made), (latents, *codes), vae, gives=gives))
    if isinstance(prior, DiagonalNormal):  # the manifest holds its numbers
        return tuple(graphs)
    noise = Tensor("noise", "float32", (BATCH, *_prior_noise_shape(vae, prior, condition, latents)))
    given = condition if vae.has_conditional_prior else ()
    return (*graphs, GraphFunction("prior", drawn, (noise, *given), (latents,), vae, labels, labels=counts))


def _ranges_of_given(shapes, sizes):
    """The smallest and the largest value of each number of what is given, by the labels that networks embed."""
    high = [np.full(math.prod(shape), sizes.get(name, np.inf) - 1.0) for name, shape in shapes.items()]
    low = [np.where(np.isinf(each), -np.inf, 0.0) for each in high]
    return np.concatenate(low), np.concatenate(high)


class _Bound:
    """The plain ELBO, as an objective that keeps what a run of the networks knows besides.

    E_q log p(x_d|z) of each dimension and, where values may be missing, what `VAE.impute` is made of.
    """

    log_names: tuple[str, ...] = ()

    def __init__(self, vae: VAE) -> None:
        self.details: dict[str, Any] = {}
        self._vae = vae

    def __call__(self, batch: objectives.LatentBatch) -> objectives.Terms:
        parameters, likelihood = batch.decode(batch.z), batch.likelihood
        log_prob = likelihood.log_prob_terms(batch.target, parameters, self._vae._observed(batch.target))
        log_likelihood = ops.sum(log_prob, axis=tuple(range(2, len(log_prob.shape))))
        self.details[LOG_PROB] = ops.mean(log_prob, axis=0)
        if self._vae.allow_missing:
            log_weight = log_likelihood + batch.prior.log_prob(batch.z) - batch.log_q()
            if not self._vae.is_autoregressive:  # whose mean is known by draws only
                self.details["x_mean"] = likelihood.mixture_mean(parameters, ops.softmax(log_weight, axis=0))
            self.details["z"] = ops.swapaxes(batch.z, 0, 1)
            self.details["log_weight"] = ops.transpose(log_weight)
        reconstruction, kl = -ops.mean(log_likelihood, axis=0), batch.kl()
        return objectives.Terms(reconstruction + kl, reconstruction, kl)


def _is_normal(vae):
    return issubclass(vae.posterior_family.distribution_class, DiagonalNormal)


def _is_discrete(family):
    return any(getattr(each, "is_discrete", False) for each in (family, family.distribution_class))


def _codes(family, latents):
    """The output "codes", if a family has whole numbers for its z."""
    if not callable(getattr(family, "codes", None)):
        return ()
    trace: Any = keras.Operation(name="codes")
    trace.call = family.codes
    symbol = keras.KerasTensor((None, *unnamed(latents.shape[1:])))
    return (Tensor("codes", "int32", _shape(trace.compute_output_spec(symbol).shape, "z")),)


def _prior_noise_shape(vae, prior, condition, latents):
    if None in vae.latent_shape:
        return latents.shape[1:]
    if prior is None:
        of_one = [ops.zeros((1, *_known(tensor.shape[1:])), tensor.dtype) for tensor in condition]
        prior = vae.prior_distribution(*of_one)
    return tuple(prior.noise_shape)


def _shapes_of(vae) -> tuple[Any, dict[str, Any], Any]:
    """Shapes of one z, of the encoder's outputs by name, and of the noise of a draw; sizes that are free have names.

    The sizes of z are called z_1, z_2, ...; those of the others that follow from them have these names too, so that a
    client who has run the encoder knows how large the noise is.
    """
    family, z_shape = vae.posterior_family, vae.latent_shape
    bound = dict(zip(family.outputs, family.bound_to[1], strict=True))
    names = {axis: f"z_{axis + 1}" for axis, size in enumerate(z_shape) if size is None}
    if not names:
        return z_shape, bound, tuple(family.noise_shape(z_shape))
    named = tuple(names.get(axis, size) for axis, size in enumerate(z_shape))
    outputs = {name: _following(family, names, lambda z, name=name: family.output_shapes(z)[name]) for name in bound}
    for name, shape in bound.items():
        if unnamed(outputs[name]) != tuple(shape):
            raise ExportError(
                f"The encoder's {name} has shape {shape} for one example, and {family!r}.output_shapes says "
                f"{outputs[name]}: where z has free sizes, export reads there how the outputs follow from z."
            )
    return named, outputs, _following(family, names, family.noise_shape)


def _following(family, names, shape_of):
    """A shape that follows from that of z, with the names of the free sizes of z where it has them."""
    found = []
    for sizes in _TRIALS:
        sized = tuple(sizes[axis] if axis in names else size for axis, size in enumerate(family.bound_to[0]))
        by_size = {sizes[axis]: name for axis, name in names.items()}
        found.append(tuple(by_size.get(size, size) for size in shape_of(sized)))
    if found[0] != found[1]:
        raise ExportError(
            f"{family!r} makes sizes that follow from those of z and are none of them, such as {found[0]}: a bundle "
            "cannot say so. Give the networks' inputs their sizes, or make a shape of the sizes of z."
        )
    return found[0]


def _known(shape):
    return tuple(size if isinstance(size, int) else 1 for size in shape)


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
    """The mean of p(x|z), its standard deviation if the likelihood has one, and what else x is drawn of."""
    if likelihood is None:
        return {"x_mean": parameters}
    outputs = {"x_mean": likelihood.mean(parameters)}
    if likelihood.has_stddev:
        outputs["x_scale"] = likelihood.stddev(parameters)
    if _needs_parameters(likelihood):
        outputs["x_parameters"] = likelihood.draw_parameters(parameters)
    return outputs


def _decoder_signature(likelihood, x_mean):
    if likelihood is None:
        return (x_mean,)
    found = _like(x_mean, *(("x_mean", "x_scale") if likelihood.has_stddev else ("x_mean",)))
    if not _needs_parameters(likelihood):
        return found
    shape = draws.parameter_shape(likelihood.drawn_as(), x_mean.shape)
    return (*found, Tensor("x_parameters", "float32", shape))


def _needs_parameters(likelihood):
    spec = likelihood.drawn_as()
    return spec is not None and draws.needs_parameters(spec)


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
    reserved = {*NORMAL_OUTPUTS, "x_mean", "x_scale", "x_parameters"} & set(names)
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
