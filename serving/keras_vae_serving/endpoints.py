"""What the server answers for one bundle: its graphs as they are, and the verbs over them.

A graph (`encoder`, `posterior`, `decoder`, `elbo`, `prior`) has the inputs and outputs that it has on Triton, so that a
client moves there without change. A verb (`encode`, `decode`, `reconstruct`, `sample`, `score`, `impute`) is that of
`Pipeline`, but awaited: each run of a graph is shared with other requests.
"""

import difflib
import functools
import itertools
import math
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_vae_serving.batching import Batcher
from keras_vae_serving.drift import Drift
from keras_vae_serving.errors import RequestError, abbreviate
from keras_vae_serving.inputs import all_finite
from keras_vae_serving.manifest import BATCH, MAX_SEED, NUM_SAMPLES, Tensor
from keras_vae_serving.pipeline import Pipeline
from keras_vae_serving.providers import Providers
from keras_vae_serving.session import concatenate, split
from keras_vae_serving.verbs import Arrays, Steps

_SIZES = re.compile(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*){0,7}")
_DRAW_SEED = "Seed for the draw; without one, each draw is different."
_STANDARDIZED = "Whether z is in standard deviations from the mean of all codes (false)."
_BY_NAME = "Whether what is like the data comes part by part (true), and not as the vector x that graphs take."
# Most bytes of the decoder's widest layer for all z of one request, where a model leaves their sizes free: an image of
# 1024 x 1024, or 64 of 128 x 128, through 32 channels, and a quarter. A run took six times as much memory (measured).
_MAX_DECODED = 160 * 2**20
# Bytes of that layer for a number of z of which nothing is known: 8 x 8 places of 32 channels for a place of 4.
_USUAL_GROWTH = 2**11
# Samples of z that an example may be weighted or averaged by, on average over those of a request that is full. They are
# run one part after the other, so that they take time and not memory.
_SAMPLES_OF_EACH = 128
_STEPS_OF_EACH = 16  # runs of a decoder that makes x step by step, for an example of a request that is full
_MOST_DRAWN = 2**18  # numbers of x drawn for one request, if they are those of more than `max_rows` examples
# What is like x, and is called by the names of its parts where it has some.
_LIKE_X = ("x_mean", "x_drawn", "x_filled", "x_draws")
_SHAPED_AS_X = (*_LIKE_X, "x_scale", "surprise")
# A number of samples has two names: `sample` calls it n, `score` num_samples.
_OTHER_NAMES = {"n": "num_samples", "num_samples": "n"}


@dataclass(frozen=True)
class Endpoint:
    """One graph or verb that clients can ask for; the protocol calls it a model.

    Args:
        name: Name as in the URL.
        description: One sentence.
        inputs, outputs: Tensors, whose first size is "batch"; a verb converts inputs of any numeric dtype, and gives
            some outputs only where a parameter asks for them.
        run: Called with inputs and parameters by `Endpoints.run`, after its checks.
        parameters: Meaning of each parameter of a request, by name.
        platform: "onnxruntime_onnx", as Triton calls it, for a graph; "keras_vae" for a verb.
    """

    name: str
    description: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    run: Callable[[Arrays, dict[str, Any]], Awaitable[Arrays]]
    parameters: dict[str, str] = field(default_factory=dict)
    platform: str = "keras_vae"

    @functools.cached_property
    def numbers_per_example(self) -> float:
        """Number of numbers that the inputs have for each example; infinite if a size is free."""
        shapes = [tensor.shape[1:] for tensor in self.inputs]
        free = any(isinstance(size, str) for shape in shapes for size in shape)
        return math.inf if free else sum(math.prod(map(int, shape)) for shape in shapes)


class Endpoints:
    """The endpoints of one bundle, and the threads that run its graphs.

    Args:
        directory: Folder of the bundle.
        max_rows: Number of examples allowed in one request.
        providers, precision, threads: As for `Pipeline.load`.
        max_batch, max_queue: As for `Batcher`.
        on_batch: Called with the name of the graph and the number of examples of each run.

    Attributes:
        by_name: The endpoints by name.
        batchers: The `Batcher` of each graph, by name.
        drift: How far requests lie from the data given at export; None where the bundle does not know these.

    Raises:
        BundleError, ProviderError: If the bundle cannot be run.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        max_rows: int = 1024,
        providers: Providers = "auto",
        precision: str = "float32",
        threads: int = 1,
        max_batch: int = 64,
        max_queue: int = 4096,
        on_batch: Callable[[str, int], None] = lambda graph, rows: None,
    ) -> None:
        self.pipeline: Pipeline = Pipeline.load(directory, providers, precision, threads, batch_size=max_batch)
        self.max_rows: int = max_rows
        reference = self.pipeline.manifest.reference
        self.drift: Drift | None = None if reference is None else Drift(reference)
        self._growth = self._measured_growth()
        self.by_name: dict[str, Endpoint] = {
            endpoint.name: endpoint for endpoint in (*map(self._graph, self.pipeline.sessions), *self._verbs())
        }
        self.batchers: dict[str, Batcher] = {  # last: from here on there are threads to end
            name: Batcher(
                session,
                max_batch,
                max_queue,
                functools.partial(on_batch, name),
                # What is decoded in one run, for all who wait, is no more than one request may ask for.
                functools.partial(_row_cost, self.pipeline.inputs.z, self._growth * max_batch / _MAX_DECODED),
            )
            for name, session in self.pipeline.sessions.items()
        }

    @functools.cached_property
    def latent_activity(self) -> np.ndarray | None:
        """`Pipeline.latent_activity`, which takes a moment, or None without a prior or a size of z."""
        is_known = self.pipeline.verbs.can_sample and None not in self.pipeline.manifest.latent_shape
        return self.pipeline.latent_activity() if is_known else None

    async def run(self, endpoint: Endpoint, inputs: Arrays, parameters: dict[str, Any]) -> Arrays:
        """The outputs of an endpoint, arrays by name.

        Raises:
            RequestError: If it cannot be run on these inputs with these parameters.
        """
        if not parameters.keys() <= endpoint.parameters.keys():
            parameters = _known(endpoint, parameters)
        sampled = {tensor.name for tensor in endpoint.inputs if NUM_SAMPLES in tensor.shape}
        for name, array in inputs.items():
            # Each sample of z of an example is as much work as an example.
            rows = math.prod(array.shape[: 2 if name in sampled else 1]) if array.ndim else 0
            if rows > self.max_rows:
                raise RequestError(
                    f"the input {name!r} holds {rows} examples; this server takes up to {self.max_rows} in one "
                    "request: send them in parts.",
                    status=413,
                )
        return await endpoint.run(inputs, parameters)

    def close(self) -> None:
        """Runs what is waiting, then ends the threads."""
        for batcher in self.batchers.values():
            batcher.close()
        # They hold this object: without them it is freed at once and not, with its weights, at some later collection.
        self.by_name = {}

    def _measured_growth(self):
        """Bytes of the decoder's widest layer for each number of z; 0 where z has one shape, which the bundle chose."""
        inputs, shape = self.pipeline.inputs, self.pipeline.manifest.latent_shape
        if None not in shape:
            return 0
        for free in (16, 1):  # the second for a condition of free sizes, which is 1 long here
            z = np.zeros((1, *(size or free for size in shape)), "float32")
            try:
                widest = self.pipeline.sessions["decoder"].widest_layer({inputs.z: z, **inputs.dummy_inputs(1)})
            except Exception:  # onnxruntime's exceptions have no common base of their own
                continue
            return max(widest, z.nbytes) / z.size
        return _USUAL_GROWTH

    def _check_decoded(self, shape):
        """Refuses z of a shape, `(n, *latent_shape)`, that would take much more memory than their request."""
        if self._growth * math.prod(shape) > _MAX_DECODED:
            raise RequestError(
                f"{shape[0]} z of shape {shape[1:]} need {self._growth * math.prod(shape) / 2**20:,.0f} MiB in the "
                f"decoder's widest layer; this server takes up to {_MAX_DECODED >> 20} MiB in one request: ask for "
                "fewer or smaller ones.",
                status=413,
            )

    def _graph(self, name):
        graph, checks = self.pipeline.sessions[name].graph, self.pipeline.inputs
        scalars = {tensor.name for tensor in graph.inputs if len(tensor.shape) == 1}

        async def run(inputs, parameters):
            for key, array in inputs.items():
                if array.size == 0:
                    raise RequestError(f"the input {key!r} holds no numbers: send an example at least.")
                if not all_finite(array):
                    nan_allowed = checks.allows_nan(key, name)
                    if not nan_allowed or np.isinf(array).any():
                        what = "infinite" if nan_allowed else "NaN or infinite"
                        raise RequestError(f"the input {key!r} holds {what} values: leave out such examples.")
                checks.check_labels(key, array)
            if name == "decoder" and checks.z in inputs:
                self._check_decoded(inputs[checks.z].shape)
            if scalars:
                inputs = {key: _squeezed(array) if key in scalars else array for key, array in inputs.items()}
            outputs = await self.batchers[name].run(inputs)
            return {key: array[:, None] if array.ndim == 1 else array for key, array in outputs.items()}

        return Endpoint(
            name,
            f"The graph {graph.file}, as Triton serves it.",
            tuple(map(_unsqueezed, graph.inputs)),
            tuple(map(_unsqueezed, graph.outputs)),
            run,
            platform="onnxruntime_onnx",
        )

    def _verbs(self):
        verbs = self.pipeline.verbs
        decoder = tuple(t for t in self.pipeline.sessions["decoder"].graph.outputs if t.name in verbs.moments)
        x, is_drawn = decoder[0].shape, {"draw": "Only false: the bundle does not say how x is drawn from p(x|z)."}
        if self.pipeline.manifest.draws is not None:
            is_drawn = {"draw": "Whether x_drawn, a draw from p(x|z), is given in place of its moments (false)."}
            decoder += (Tensor("x_drawn", "float32", x),)
        what = "q(z|x): its mean and log-variance."
        if not verbs.is_normal:
            what = "q(z|x): what the encoder returns, and z, the draw of which all noise is 0."
        # One that this bundle can only refuse is a parameter too: those that are unknown are ignored.
        known = self.pipeline.manifest.latents is not None
        scaled = {"standardized": _STANDARDIZED if known else "Only false: the bundle has no statistics of its codes."}
        yield self._verb("encode", what, verbs.posterior_outputs, verbs.encode, scaled)
        parameters = {**scaled, **is_drawn, "seed": _DRAW_SEED}
        yield self._verb("decode", "The mean of p(x|z).", decoder, verbs.decode, parameters)
        parameters = {"sample": "Whether z is drawn from q(z|x) instead of its mean (false).", "seed": _DRAW_SEED}
        parameters["sample"] = parameters["sample"] if verbs.is_normal else "Whether z is drawn from q(z|x) (false)."
        parameters |= is_drawn
        what = "The mean of p(x|z), with z from q(z|x)."
        yield self._verb("reconstruct", what, decoder, verbs.reconstruct, parameters)
        if verbs.can_sample:
            parameters = {"n": "Number of samples (1).", "seed": _DRAW_SEED, **is_drawn}
            shape = self.pipeline.manifest.latent_shape
            example = ", ".join(str(size or 8) for size in shape)
            parameters["latent_shape"] = f'Sizes of each z: only "{example}".'
            if None in shape:
                parameters["latent_shape"] = f'Sizes of each z, and with them the size of x, such as "{example}".'
            yield self._verb(
                "sample", "The mean of p(x|z), with z drawn from the prior.", decoder, self._sample, parameters
            )
        if "elbo" in self.pipeline.sessions:
            outputs = tuple(Tensor(name, "float32", (BATCH,)) for name in ("negative_elbo", "reconstruction", "kl"))
            what = "The negative ELBO of each example and its two terms, in nats: the anomaly score."
            threshold = verbs.threshold
            if threshold is not None:
                outputs += (Tensor("is_anomaly", "bool", (BATCH,)),)
                what += (
                    f" is_anomaly: whether it is above {threshold.nats:g} nats, as a share of "
                    f"{1 - threshold.quantile:g} of normal data is (fitted on {threshold.examples} examples)."
                )
                if threshold.low is not None:
                    what += f" It is one, too, below {threshold.low:g} nats, as hardly any normal data are."
            num_samples, seed = verbs.score_settings
            parameters = {
                "num_samples": f"Number of samples of z that each score is averaged over ({num_samples}).",
                "seed": f"Seed for the samples ({seed}).",
            }
            parameters["per_dimension"] = (
                "Only false: the bundle was exported before it could say where a score comes from."
            )
            parameters["top_columns"] = "Refused: the columns of the data have no names here."
            if verbs.can_tell_where:
                parameters["per_dimension"] = "Whether the surprise of each dimension of x is given, in nats (false)."
                outputs += (Tensor("surprise", "float32", x),)
            if verbs.can_tell_where and self.pipeline.manifest.table is not None:
                parameters["top_columns"] = "Number of columns to name, the most surprising first (none)."
                top = (BATCH, "columns")
                outputs += (Tensor("top_columns", "str_", top), Tensor("top_surprise", "float32", top))
            yield self._verb("score", what, outputs, self._score, parameters)
        if verbs.can_impute:
            what = (
                "x with its missing values (NaN, in JSON null) filled in, and the others as they came, of their type."
            )
            outputs = (Tensor("x_filled", "float32", x), Tensor("x_draws", "float32", (x[0], "draws", *x[1:])))
            parameters = {
                "draws": "Number of copies in which they are drawn, given as x_draws, whose second axis they are, in "
                "place of x_filled, their mean.",
                "num_samples": "Number of samples of z that are weighted by what is observed (100).",
                "seed": _DRAW_SEED,
            }
            yield self._verb("impute", what, outputs, self._impute, parameters)

    def _verb(self, name, description, outputs, verb: Callable[..., Steps], parameters=None):
        async def run(inputs, parameters):
            arguments = {key: self._argument(key, value) for key, value in parameters.items()}
            by_name = arguments.pop("by_name", True)
            outputs = await self._finish(verb(self.pipeline.inputs.packed(inputs), **arguments))
            if self.drift is not None:
                _note(self.drift, name, parameters, outputs)
            return self._by_name(outputs) if by_name else outputs

        inputs, named = self.pipeline.inputs.of_verb(name), self._named(outputs)
        if named != outputs:
            parameters = {**(parameters or {}), "by_name": _BY_NAME}
        return Endpoint(name, description, inputs, named, run, parameters or {})

    def _by_name(self, outputs):
        """What is shaped like x, of a model with named parts, as the parts."""
        found = {}
        for name, array in outputs.items():
            whole = self.pipeline.inputs.by_name(array) if name in _SHAPED_AS_X else array
            found |= {_part(name, part): a for part, a in whole.items()} if isinstance(whole, dict) else {name: whole}
        return found

    def _named(self, outputs):
        """The same for descriptions of outputs; x_mean and x_drawn, of which a request gets one, become one."""
        shapes, found = (self.pipeline.manifest.parts or {}).get("x"), {}
        for tensor in outputs:
            if not shapes or tensor.name not in _SHAPED_AS_X:
                found[tensor.name] = tensor
                continue
            for part, shape in shapes.items():
                name = _part(tensor.name, part)
                found.setdefault(name, Tensor(name, tensor.dtype, (*tensor.shape[:-1], *shape)))
        return tuple(found.values())

    def _score(self, inputs, num_samples=None, **arguments):
        """`Verbs.score`, of no more samples than a request may ask for."""
        self._check_samples(inputs, num_samples or self.pipeline.verbs.score_settings[0])
        return self.pipeline.verbs.score(inputs, num_samples, **arguments)

    def _impute(self, inputs, draws=None, num_samples=100, **arguments):
        """`Verbs.impute`, of no more samples and copies than a request may ask for."""
        self._check_samples(inputs, num_samples)
        rows, numbers = _rows(inputs), sum(array.size for array in inputs.values())
        if draws is not None and rows * draws > self.max_rows and numbers * draws > _MOST_DRAWN:
            most = max(self.max_rows, _MOST_DRAWN * rows // numbers)
            raise RequestError(
                f"{rows} examples with {draws} draws each are more than {most} at a time: send fewer.", 413
            )
        return self.pipeline.verbs.impute(inputs, draws, num_samples, **arguments)

    def _check_samples(self, inputs, num_samples):
        rows, most = _rows(inputs), self.max_rows * _SAMPLES_OF_EACH
        if rows * num_samples > most:
            raise RequestError(
                f"{rows} examples with {num_samples} samples each are more than {most} at a time: send fewer.", 413
            )

    def _check_steps(self, rows):
        """Of a decoder that runs once for each step, which takes time as rows by steps does."""
        manifest = self.pipeline.manifest
        steps = int(manifest.data_shape[0]) if manifest.autoregressive else 1
        if rows * steps > self.max_rows * _STEPS_OF_EACH:
            most = max(1, self.max_rows * _STEPS_OF_EACH // steps)
            raise RequestError(
                f"{rows} sequences of {steps} steps, made one after the other, are more than {most} at a time: ask for "
                "fewer.",
                413,
            )

    def _sample(self, inputs, n=None, seed=None, latent_shape=None, draw=False):
        """`Verbs.sample`, in which the condition says how many are wanted if nothing else does."""
        names = [tensor.name for tensor in self.pipeline.inputs.of_verb("sample")]
        for name, array in inputs.items():
            if array.ndim == 0:
                raise RequestError(f"the input {name!r} has no shape: its first size is the number of examples.")
        if not set(inputs) <= {*names, "condition"} or (inputs and not names):
            takes = f"{', '.join(names)}, and" if names else "no inputs, but"
            raise RequestError(f'sample takes {takes} the parameters "n" and "seed".')
        n = max(map(len, inputs.values()), default=1) if n is None else n
        if latent_shape is not None:
            self._check_decoded((n, *latent_shape))
        return self.pipeline.verbs.sample(n, seed, inputs.get("condition"), latent_shape, draw)

    async def _finish(self, steps):
        """The result of a verb, whose graphs are run together with those of other requests."""
        outputs = None
        while True:
            try:
                run = steps.send(outputs)
            except StopIteration as done:
                return done.value
            if run.graph == "decoder":
                self._check_decoded(run.inputs[self.pipeline.inputs.z].shape)
                self._check_steps(len(run.inputs[self.pipeline.inputs.z]))
            wanted, every = run.outputs, len(self.batchers[run.graph].session.graph.outputs)
            if wanted is None and run.graph == "decoder":
                wanted = self.pipeline.verbs.moments
            wanted = None if wanted is None or len(wanted) == every else wanted  # as a client of the graph asks
            # In parts, so that noise and samples of z fill the memory of no more than `max_rows` examples at a time.
            batcher, size = self.batchers[run.graph], max(1, self.max_rows // run.num_samples)
            parts = [await batcher.run(run.with_noise(part), wanted) for part in split(run.inputs, size)]
            outputs = concatenate(parts)

    def _argument(self, name, value):
        """The value of a parameter, as `Verbs` takes it."""
        if name in ("sample", "standardized", "draw", "per_dimension", "by_name"):
            if not isinstance(value, bool):
                raise RequestError(f'the parameter "{name}" must be true or false; got {abbreviate(value)}.')
        elif name == "latent_shape":
            if not isinstance(value, str) or not _SIZES.fullmatch(value):
                raise RequestError(
                    f'the parameter "latent_shape" must be sizes with commas between them, such as "8, 8, 4"; got '
                    f"{abbreviate(value)}."
                )
            return tuple(map(int, value.split(",")))
        elif name == "seed":
            if value is not None and (type(value) is not int or not 0 <= value < MAX_SEED):
                raise RequestError(
                    f'the parameter "seed" must be a whole number from 0 to 2**63 - 1; got {abbreviate(value)}.'
                )
        elif type(value) is not int or value < 1:
            raise RequestError(f'the parameter "{name}" must be a whole number of at least 1; got {abbreviate(value)}.')
        elif value > self.max_rows:
            raise RequestError(f'the parameter "{name}" may be up to {self.max_rows} here: ask again for more.', 413)
        return value


def _rows(inputs):
    return max((len(array) for array in inputs.values() if array.ndim), default=0)


def _part(output, part):
    """What a part of an output is called: by its own name alone where it is data."""
    return part if output in _LIKE_X else f"{output}.{part}"


def _note(drift, name, parameters, outputs):
    """Takes note of what was computed as it was at export."""
    if name == "score" and not parameters.keys() & {"num_samples", "seed"}:
        drift.scored(outputs["negative_elbo"])
    if name == "encode" and not parameters.get("standardized"):
        drift.encoded(outputs["z" if "z" in outputs else "z_mean"])


def _known(endpoint, parameters):
    """The parameters that an endpoint has; others, such as `timeout` and `priority`, are ignored, as the protocol says.

    One that is meant for the endpoint (`seeds`, `random_seed`, or `num_samples` where it is called n) is refused: the
    answer would be another than was asked for. Only the first 16 are looked at, as the event loop waits meanwhile.
    """
    own = endpoint.parameters
    meanings = {other: name for name, other in _OTHER_NAMES.items() if name in own} | {name: name for name in own}
    for name in itertools.islice((name for name in parameters if name not in own), 16):
        if len(name) <= 40 and (meant := _closest(name, meanings)):
            raise RequestError(
                f"there is no parameter {name!r}; did you mean {meanings[meant]!r}? {endpoint.name} takes "
                f"{', '.join(own)}, and ignores what it does not know."
            )
    return {name: parameters[name] for name in own if name in parameters}


def _closest(name, names):
    """The one of `names` that a name contains as words (`random_seed`, `randomSeed`), or that is spelt much like it."""
    words = "_".join(re.findall("[A-Z]?[a-z0-9]+|[A-Z]+", name)).lower()
    inside = [known for known in names if f"_{known}_" in f"_{words}_"]
    return next(iter(inside or difflib.get_close_matches(name, names, 1, 0.75)), None)


def _row_cost(z, per_number, inputs):
    """How many examples one z counts as in a batch: more than one if it is large, where z has free sizes."""
    return max(1, math.ceil(per_number * math.prod(inputs[z].shape[1:]))) if z in inputs else 1


def _unsqueezed(tensor):
    """Triton has no tensors of shape `(batch,)`: they are `(batch, 1)` there."""
    return Tensor(tensor.name, tensor.dtype, (*tensor.shape, 1)) if len(tensor.shape) == 1 else tensor


def _squeezed(array):
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
