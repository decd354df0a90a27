"""What is served of a bundle: its graphs as they are, and the pipeline's verbs over them.

A graph (`encoder`, `decoder`, `elbo`) takes and gives what it takes and gives on Triton, so that a client moves there
without change. A verb (`encode`, `decode`, `reconstruct`, `sample`, `score`) is the `Pipeline`'s method of that name:
the same checks, the same noise, the same numbers, but awaited, as it shares each run of a graph with other callers.
"""

import functools
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from keras_vae_serving.batching import Batcher
from keras_vae_serving.manifest import MAX_SEED, Tensor
from keras_vae_serving.pipeline import Pipeline, Posterior
from keras_vae_serving.protocol import ProtocolError, all_finite, shown
from keras_vae_serving.session import examples


@dataclass(frozen=True)
class Model:
    """One thing that can be asked for.

    Args:
        name: As in the URL.
        description: A sentence.
        inputs, outputs: With "batch" first; for a verb, inputs of any numeric dtype are converted.
        run: What `Models.run` awaits when it has looked at inputs and parameters.
        parameters: What each parameter of a request means, by name.
    """

    name: str
    description: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    run: Callable[..., Awaitable[dict[str, np.ndarray]]]
    parameters: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def numbers(self):
        """How many numbers an input has for each example, at most; infinite if a size is free."""
        sizes = [tensor.shape[1:] for tensor in self.inputs]
        free = any(isinstance(size, str) for shape in sizes for size in shape)
        return math.inf if free else max((math.prod(shape) for shape in sizes), default=0)


class Models:
    """The models of one bundle, and the threads that run them.

    Args:
        directory: The bundle.
        max_rows: Examples in one request.
        providers, precision, threads: As for `Pipeline.load`.
        max_batch, max_queue: As for `Batcher`.
        on_batch: Called with the name of the graph and the number of examples of each run.

    Raises:
        BundleError, ProviderError: If the bundle cannot be run.
    """

    def __init__(
        self,
        directory,
        max_rows=1024,
        providers="auto",
        precision="float32",
        threads=1,
        max_batch=64,
        max_queue=4096,
        on_batch=lambda graph, rows: None,
    ):
        self.pipeline = Pipeline.load(directory, providers, precision, threads, batch_size=max_batch)
        self.max_rows = max_rows
        sessions = self.pipeline.sessions
        encoder, decoder = sessions["encoder"].graph, sessions["decoder"].graph
        shared = {tensor.name for tensor in encoder.inputs}
        beside = tuple(tensor for tensor in self._beside_z() if tensor.name not in shared)
        models = [self._graph(name) for name in sessions]
        models += [
            Model("encode", "q(z|x): its mean and log-variance.", encoder.inputs, encoder.outputs, self._encode),
            Model("decode", "The mean of p(x|z).", decoder.inputs, decoder.outputs, self._decode),
            Model(
                "reconstruct",
                "The mean of p(x|z), with z from q(z|x).",
                encoder.inputs + beside,
                decoder.outputs,
                self._reconstruct,
                {
                    "sample": "Draw z from q(z|x), in place of its mean (false).",
                    "seed": "Of the draw; without one, it differs each time.",
                },
            ),
        ]
        if self._can_draw():
            models.append(
                Model(
                    "sample",
                    "The mean of p(x|z), with z drawn from the prior.",
                    self._beside_z(),
                    decoder.outputs,
                    self._sample,
                    {"n": "How many (1).", "seed": "Of the draw; without one, it differs each time."},
                )
            )
        if "elbo" in sessions:
            models.append(self._score_model())
        self.by_name = {model.name: model for model in models}
        self.batchers = {  # last: from here on there are threads to end
            name: Batcher(session, max_batch, max_queue, lambda rows, name=name: on_batch(name, rows))
            for name, session in sessions.items()
        }

    @functools.cached_property
    def latent_activity(self):
        """The pipeline's, or None where there is no prior; it takes a moment."""
        return self.pipeline.latent_activity() if "sample" in self.by_name else None

    async def run(self, model, inputs, parameters):
        """The outputs of a model, arrays by name.

        Raises:
            ProtocolError: If it cannot be run on these inputs with these parameters; says why.
        """
        unknown = sorted(set(parameters) - set(model.parameters))
        if unknown:
            takes = f"takes {', '.join(model.parameters)}" if model.parameters else "takes none"
            raise ProtocolError(f"there is no parameter {shown(unknown[0])}: {model.name} {takes}.")
        for name, array in inputs.items():
            # Each sample of z that a row brings is as much work as an example.
            rows = math.prod(array.shape[: 2 if name == "epsilon" else 1]) if array.ndim else 0
            if rows > self.max_rows:
                raise ProtocolError(
                    f"the input {name!r} holds {rows} examples; this server takes up to {self.max_rows} in one "
                    "request: send them in parts.",
                    status=413,
                )
        return await model.run(inputs, parameters)

    def close(self):
        """Runs what is waiting, then ends the threads."""
        for batcher in self.batchers.values():
            batcher.close()

    def _graph(self, name):
        graph = self.pipeline.sessions[name].graph
        scalars = {tensor.name for tensor in graph.inputs if len(tensor.shape) == 1}

        async def run(inputs, parameters):
            for key, array in inputs.items():
                if array.size == 0:
                    raise ProtocolError(f"the input {key!r} holds no numbers.")
                if not all_finite(array):
                    missing = self.pipeline.may_miss(key)
                    if not missing or np.isinf(array).any():
                        what = "infinite" if missing else "NaN or infinite"
                        raise ProtocolError(f"the input {key!r} holds {what} values.")
                try:
                    self.pipeline.check_labels(key, array)
                except ValueError as error:
                    raise ProtocolError(str(error)) from None
            if scalars:
                inputs = {key: _squeezed(array) if key in scalars else array for key, array in inputs.items()}
            outputs = await self.batchers[name].run(inputs)
            return {key: array[:, None] if array.ndim == 1 else array for key, array in outputs.items()}

        return Model(
            name,
            f"The graph {graph.file}, as Triton serves it.",
            tuple(_unsqueezed(tensor) for tensor in graph.inputs),
            tuple(_unsqueezed(tensor) for tensor in graph.outputs),
            run,
        )

    def _score_model(self):
        x = tuple(tensor for tensor in self.pipeline.sessions["elbo"].graph.inputs if tensor.name != "epsilon")
        outputs = tuple(Tensor(name, "float32", ("batch",)) for name in ("negative_elbo", "reconstruction", "kl"))
        description = "The negative ELBO of each example and its two terms, in nats: the anomaly score."
        threshold = self.pipeline.threshold
        if threshold is not None:
            outputs += (Tensor("is_anomaly", "bool", ("batch",)),)
            description += (
                f" is_anomaly: whether it is above {threshold.nats:g} nats, as a share of {1 - threshold.quantile:g} "
                f"of normal data is (fitted on {threshold.examples} examples)."
            )
        num_samples, seed = self.pipeline.score_settings
        parameters = {
            "num_samples": f"Draws of z that it is averaged over ({num_samples}).",
            "seed": f"Of the draws ({seed}).",
        }
        return Model("score", description, x, outputs, self._score, parameters)

    async def _encode(self, inputs, parameters):
        return await self._run("encoder", inputs)

    async def _decode(self, inputs, parameters):
        return await self._run("decoder", inputs)

    async def _reconstruct(self, inputs, parameters):
        sample, seed = parameters.get("sample", False), _seed(parameters)
        if not isinstance(sample, bool):
            raise ProtocolError(f'the parameter "sample" must be true or false; got {shown(sample)}.')
        inputs, beside = self.pipeline.split(inputs)
        posterior = Posterior(*(await self._run("encoder", inputs)).values())
        return await self._run(
            "decoder", {self.pipeline.z: posterior.sample(seed) if sample else posterior.mean, **beside}
        )

    async def _sample(self, inputs, parameters):
        for name, array in inputs.items():
            if array.ndim == 0:
                raise ProtocolError(f"the input {name!r} has no shape: its first size is the number of examples.")
        names = [tensor.name for tensor in self._beside_z()]
        if not set(inputs) <= set(names):
            takes = f"{', '.join(names)}, and" if names else "no inputs, but"
            raise ProtocolError(f'sample takes {takes} the parameters "n" and "seed".')
        n = self._count("n", parameters, max(map(len, inputs.values()), default=1))
        try:
            given = self.pipeline.repeated("decoder", inputs.get("condition"), n)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        return await self._run("decoder", {self.pipeline.z: await self._draw(n, _seed(parameters)), **given})

    async def _draw(self, n, seed):
        if "prior" not in self.batchers:
            return self.pipeline.draw(n, seed)
        return (await self.batchers["prior"].run({"noise": self.pipeline.prior_noise(n, seed)}))["z"]

    async def _score(self, inputs, parameters):
        num_samples, seed = self.pipeline.score_settings
        num_samples, seed = self._count("num_samples", parameters, num_samples), _seed(parameters, seed)
        arrays = self._checked("elbo", inputs)
        rows = examples(arrays)
        if rows * num_samples > self.max_rows:
            raise ProtocolError(
                f"{rows} examples with {num_samples} samples each are more than {self.max_rows} at a time: send fewer.",
                status=413,
            )
        terms = await self.batchers["elbo"].run({**arrays, "epsilon": self.pipeline.noise(rows, num_samples, seed)})
        outputs = {"negative_elbo": terms["reconstruction"] + terms["kl"], **terms}
        if self.pipeline.threshold is not None:
            outputs["is_anomaly"] = self.pipeline.threshold.is_anomaly(outputs["negative_elbo"])
        return outputs

    async def _run(self, graph, inputs):
        return await self.batchers[graph].run(self._checked(graph, inputs))

    def _checked(self, graph, inputs):
        try:
            return self.pipeline.check(graph, inputs)
        except ValueError as error:
            raise ProtocolError(str(error)) from None

    def _count(self, name, parameters, default=1):
        value = parameters.get(name, default)
        if type(value) is not int or value < 1:
            raise ProtocolError(f'the parameter "{name}" must be a whole number of at least 1; got {shown(value)}.')
        if value > self.max_rows:
            raise ProtocolError(f'the parameter "{name}" may be up to {self.max_rows} here: ask again for more.', 413)
        return value

    def _can_draw(self):
        try:
            self.pipeline.draw(1)
        except ValueError:
            return False
        return True

    def _beside_z(self):
        """What the decoder takes beside the latents."""
        inputs = self.pipeline.sessions["decoder"].graph.inputs
        return tuple(tensor for tensor in inputs if tensor.name != self.pipeline.z)


def _seed(parameters, default=None):
    seed = parameters.get("seed", default)
    if seed is None:
        return None
    if type(seed) is not int or not 0 <= seed < MAX_SEED:
        raise ProtocolError(f'the parameter "seed" must be a whole number from 0 to 2**63 - 1; got {shown(seed)}.')
    return seed


def _unsqueezed(tensor):
    """Triton has no tensors of shape `(batch,)`: they are `(batch, 1)` there."""
    return Tensor(tensor.name, tensor.dtype, (*tensor.shape, 1)) if len(tensor.shape) == 1 else tensor


def _squeezed(array):
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
