"""A bundle on a Ray cluster: `deploy` serves it from many replicas, `map_batches` runs it over a large dataset.

A replica runs the application of `keras_vae_serving.http`, a worker runs a `Pipeline`. This file handles what a cluster
changes. Workers die and their batches are run again, and the size of a batch depends on how blocks arrive, so the noise
of an example may depend on neither: it comes from the example itself (`example_seed`). A relative path means something
else on another machine, so paths are made absolute. Mistakes are found where the call is made, before a cluster repeats
them in a hundred logs.
"""

import hashlib
import itertools
import os
import pathlib
import secrets
from numbers import Integral
from typing import Any

import numpy as np

from keras_vae_serving.pipeline import Pipeline
from keras_vae_serving.providers import Providers

try:
    import ray.data  # pyright: ignore[reportMissingImports]
    from ray import serve  # pyright: ignore[reportMissingImports]
except ImportError as _error:
    raise ModuleNotFoundError(
        f'keras_vae_serving.on_ray needs Ray with Data and Serve ({_error}): pip install "keras-vae[ray]".', name="ray"
    ) from None

# Arguments of each verb other than its data and seed, and the outputs that become columns.
_ARGUMENTS = {
    "encode": ["standardized"],
    "decode": ["standardized", "draw"],
    "reconstruct": ["sample", "draw"],
    "score": ["num_samples", "per_dimension", "top_columns"],
    "impute": ["num_samples"],
}
# Of "encode" all.
_COLUMNS = ("x_mean", "x_drawn", "x_filled", "negative_elbo", "is_anomaly", "surprise", "top_columns", "top_surprise")


def deploy(
    bundles: str | os.PathLike[str] | list[str],
    *,
    name: str = "keras_vae",
    route_prefix: str = "/",
    num_replicas: int | str | None = None,
    autoscaling_config: dict[str, Any] | None = None,
    ray_actor_options: dict[str, Any] | None = None,
    **server_options: Any,
) -> Any:
    """Serves bundles with Ray Serve: the application of `keras_vae_serving.http`, in as many replicas as wanted.

    The address is Ray Serve's (by default port 8000); `ray.serve.start(http_options={...})` before it chooses another.
    Each replica answers for itself: `/metrics` and the loading of a bundle again reach one of them. To serve new files,
    or others, call it again: Ray Serve replaces the replicas.

    Args:
        bundles: Path, or list of `PATH`, `NAME=PATH` or `NAME:VERSION=PATH`. The folders must have the same paths on
            this machine and on all machines where replicas run.
        name: Name of the Ray Serve application; another name and another `route_prefix` are another service.
        route_prefix: Prefix of its paths.
        num_replicas: Number of replicas; "auto" lets Ray Serve scale.
        autoscaling_config: Limits of scaling instead of a number: `{"min_replicas": 1, "max_replicas": 8}`.
        ray_actor_options: Resources of a replica, by default `{"num_cpus": 1}`. It runs as many threads in an operator
            as it has CPUs, and on a GPU if it is given one (`{"num_gpus": 1}`).
        **server_options: Arguments of `keras_vae_serving.http.create_app`. A token in this process's environment is
            passed on.

    Returns:
        The Ray Serve handle of the application, once it is ready.

    Raises:
        BundleError: If a bundle cannot be served; nothing has been deployed then.
        RuntimeError: If the replicas do not start; says why.

    Example:

    >>> deploy("/shared/bundle", num_replicas=4)  # POST http://localhost:8000/v2/models/score/infer
    """
    from keras_vae_serving import http  # here, so that `map_batches` needs no web framework

    resources = {"num_cpus": 1, **(ray_actor_options or {})}
    options = {
        "token": os.environ.get(http.TOKEN_VARIABLE),  # which replicas on other machines do not see
        "max_batch": 64,
        **_where(resources["num_cpus"], resources.get("num_gpus", 0)),
        **server_options,
    }
    # The same is done by each replica, but a wrong path or option there is an error after several attempts.
    repository = http.create_app(bundles, **{**options, "providers": "cpu"}).state.server.repository
    repository.close()
    paths = [
        f"{bundle.name}:{bundle.version}={bundle.path.absolute()}" if bundle.name else str(bundle.path.absolute())
        for bundle in repository.bundles
    ]

    # A function is called by each replica; an application would be pickled here, which threads and sessions cannot be.
    def application():
        from keras_vae_serving.http import create_app

        return create_app(paths, **options)

    deployment = serve.deployment(
        serve.ingress(application)(),
        name="bundles",
        num_replicas=num_replicas,
        autoscaling_config=autoscaling_config,
        ray_actor_options=resources,
        # Ray Serve's default of 5 would leave the server, which runs together what waits, too little to run together.
        max_ongoing_requests=options["max_batch"],
    )
    try:
        return serve.run(deployment.bind(), name=name, route_prefix=route_prefix)
    except RuntimeError as error:  # which says that replicas failed, and not why
        status = serve.status().applications.get(name)
        reasons = [part.message for part in status.deployments.values()] if status else []
        reason = "".join(reasons).strip().split("\n")[-1] or error
        raise RuntimeError(f"{name} could not be deployed: {reason}") from error


def map_batches(
    dataset: Any,
    bundle: str | os.PathLike[str],
    verb: str,
    *,
    columns: str | dict[str, str] | None = None,
    workers: int = 2,
    batch_size: int = 256,
    num_cpus: float = 1,
    num_gpus: float = 0,
    providers: Providers = "auto",
    precision: str = "float32",
    seed: int | None = 0,
    **arguments: Any,
) -> Any:
    """Runs a verb of a bundle over a Ray Data dataset, and adds its results as columns.

    Nothing runs before the dataset that is returned is read or written. Blocks stream through the workers, each of
    which loads the bundle once; one that dies is replaced, and its blocks are run again. As always in Ray Data, rows
    may come back in another order (unless `DataContext.execution_options.preserve_order` is set): keep a column that
    names them. Drop the column of an input that is not needed later to save space.

    Noise (of `score`, `impute`, and of what is drawn with `sample=True` or `draw=True`) does not follow the order of
    the rows, as it does in `Pipeline`: that of an example comes from `seed` and the example, see `example_seed`. The
    same example gets the same result in any batch, on any worker, as often as it is tried; equal examples get equal
    noise. int8 alone rounds by the batch, and differs between batches by as much as it does from float32.

    Args:
        dataset: `ray.data.Dataset`, whose examples are tensors of the bundle's shape without the batch axis, or lists.
        bundle: Folder of the bundle, with the same path on this machine and on all machines where workers run.
        verb: Verb to run. "encode" adds `z_mean` and `z_log_var`, each `(*latent_shape,)`, or of another posterior what
            the encoder returns, `z` and `codes`; "decode" and "reconstruct" add `x_mean`, or `x_drawn` with `draw`,
            like an example of x; "impute" adds `x_filled`, x with its missing values filled in by their mean; "score"
            adds `negative_elbo`, a number, in nats, where the bundle has a threshold `is_anomaly`, whether it is beyond
            that, and what `per_dimension` and `top_columns` ask for, as over HTTP.
        columns: Column that holds the input, or a dict of columns by input, such as `{"x": "image", "label":
            "digit"}`. By default a column has the name of its input: x, or z for "decode".
        workers: Largest number of processes; Ray starts as many as there is room for next to the tasks that read data.
        batch_size: Number of examples that are run at a time.
        num_cpus: Number of CPUs of each worker, and of its threads in an operator. One CPU of the cluster must be left
            to read the data.
        num_gpus: Number of GPUs of each worker.
        providers: "auto" (CUDA with `num_gpus`, else the CPU) or a value for `Pipeline.load`.
        precision: Precision as for `Pipeline.load`.
        seed: Seed for the noise, a whole number; None takes a new seed in each call.
        **arguments: `sample` and `draw` for "reconstruct"; `num_samples`, `per_dimension` and `top_columns` for
            "score"; `num_samples` for "impute"; `standardized` for "encode" and "decode", which takes `draw` too.

    Returns:
        A `ray.data.Dataset` with the columns of `dataset` and the results, float32 (`is_anomaly`: bool).

    Raises:
        BundleError: If the bundle cannot be run, or lacks what the verb needs.
        ValueError, TypeError: If there is no such verb or argument.
        ray.exceptions.UserCodeException: When the dataset is read, if the data do not fit; its text ends in the error
            of the `Pipeline`.

    Example:

    >>> images = ray.data.read_parquet("s3://bucket/images")
    >>> map_batches(images, "/shared/bundle", "score", columns="image", workers=8).write_parquet("s3://bucket/scores")
    """
    if verb not in _ARGUMENTS:
        raise ValueError(f"There is no verb {verb!r} for a dataset: choose from {', '.join(_ARGUMENTS)}.")
    known = _ARGUMENTS[verb]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(f"There is no argument {unknown[0]!r}: {verb} takes {', '.join(known) or 'none of its own'}.")
    if seed is None:
        seed = secrets.randbits(63)  # here, and not in a worker: a batch that is tried again draws the same
    elif not isinstance(seed, Integral):
        raise ValueError(f"seed must be a whole number or None; got {seed!r}.")
    directory = str(pathlib.Path(bundle).absolute())
    settings = {"precision": precision, "batch_size": batch_size, **_where(num_cpus, num_gpus)}
    if providers != "auto":
        settings["providers"] = providers
    task = (verb, columns, seed, arguments)
    _Worker(directory, {**settings, "providers": "cpu"}, *task)  # raises here what it would raise there
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(directory, settings, *task),
        # From one worker up, and not that many at once: if they took every CPU, none would be left for the tasks that
        # read the data, and each would wait for the other for ever (seen in Ray 2.60).
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        batch_size=batch_size,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        udf_modifying_row_count=False,
    )


def example_seed(seed: int, *example: np.ndarray) -> int:
    """The seed from which `map_batches` draws the noise of an example, for `Pipeline` and the server.

    Args:
        seed: Seed given to `map_batches`.
        *example: Arrays of the example, without the batch axis, in the order and of the dtypes that the graph takes.

    Example:

    >>> pipeline.score(x[None], num_samples=8, seed=example_seed(0, x))  # the score that `map_batches` gave to x
    """
    digest = hashlib.sha256(f"{seed}:".encode())
    for array in example:
        digest.update(np.asarray(array).tobytes())
    return int.from_bytes(digest.digest()[:8], "little") >> 1  # the protocol's seeds end at 2**63 - 1


class _Worker:
    """One process of `map_batches`: a bundle, and how to run a verb on a batch."""

    def __init__(self, directory, settings, verb, columns, seed, arguments):
        self._pipeline = Pipeline.load(directory, **settings)
        self._verb, self._columns, self._seed, self._arguments = verb, columns, seed, arguments
        if verb == "score" and "elbo" not in self._pipeline.sessions:
            self._pipeline.score({})  # raises: says what is missing
        verbs = self._pipeline.verbs
        if arguments.get("standardized"):
            verbs.require_statistics()
        if arguments.get("draw"):
            verbs.require_draws()
        if verb == "impute":
            verbs.require_imputation()
        self._inputs = [tensor.name for tensor in self._pipeline.inputs.of_verb(verb)]

    def __call__(self, batch):
        x, arguments = self._read(batch), self._arguments
        if self._verb in ("score", "impute") or arguments.get("sample") or arguments.get("draw"):
            arguments = {**arguments, "seed": _Noise(self._seeds(x))}
        outputs = self._pipeline.run(getattr(self._pipeline.verbs, self._verb)(x, **arguments))
        results = {name: array for name, array in outputs.items() if self._verb == "encode" or name in _COLUMNS}
        taken = sorted(set(results) & set(batch))
        if taken:
            raise ValueError(f"The dataset has a column {taken[0]!r} already: rename or drop it, {self._verb} adds it.")
        return {**batch, **results}

    def _read(self, batch):
        """The columns that the verb takes, by input."""
        columns = self._columns
        if columns is None:
            columns = {name: name for name in self._inputs}
        elif isinstance(columns, str):
            columns = {self._inputs[0]: columns}
        missing = sorted(set(columns.values()) - set(batch))
        if missing:
            raise ValueError(
                f"The dataset has no column {missing[0]!r}; it has {', '.join(batch)}. Name the input with columns=."
            )
        return self._pipeline.inputs.packed({name: _stacked(column, batch[column]) for name, column in columns.items()})

    def _seeds(self, x):
        inputs = self._pipeline.inputs
        if self._verb in ("score", "impute"):
            examples = inputs.check("elbo", x)
        elif self._verb == "decode":
            examples = inputs.check("decoder", x)
        else:
            examples = inputs.check("encoder", inputs.split_by_network(x)[0])
        rows = list(zip(*examples.values(), strict=True))
        if self._verb == "impute":  # which draws for rows that lack a value, and no others
            rows = [row for row, x in zip(rows, examples["x"], strict=True) if np.isnan(x).any()]
        return [example_seed(self._seed, *row) for row in rows]


class _Noise(np.random.Generator):
    """A generator for `Pipeline` in which each row has a seed of its own, so that it does not depend on other rows."""

    def __init__(self, seeds):
        super().__init__(np.random.PCG64(0))
        self._all, self._seeds = seeds, iter(seeds)

    def spawn(self, n_children):  # pyright: ignore[reportIncompatibleMethodOverride]
        """For each child a list of generators, one for each row, as `draws.draw` takes them."""
        return list(zip(*(np.random.default_rng(seed).spawn(n_children) for seed in self._all), strict=True))

    def standard_normal(self, size, dtype):  # pyright: ignore[reportIncompatibleMethodOverride]
        seeds = itertools.islice(self._seeds, size[0])
        return np.stack([np.random.default_rng(seed).standard_normal(size[1:], dtype) for seed in seeds])


def _stacked(column, values):
    """Lists, and tensors of different shapes, come as an array of arrays."""
    if values.dtype != object:
        return values
    try:
        return np.stack([np.asarray(value) for value in values])
    except ValueError:
        shapes = ", ".join(str(shape) for shape in sorted({np.shape(value) for value in values})[:2])
        raise ValueError(
            f"The examples in the column {column!r} have different shapes, such as {shapes}: they must be of one."
        ) from None


def _where(num_cpus, num_gpus):
    """Threads and providers of a process, from the resources that Ray has reserved for it."""
    # Without a GPU set aside, Ray 2.60 hides none: "auto" would take one that another process was given.
    return {"threads": max(1, int(num_cpus)), "providers": "cuda" if num_gpus else "cpu"}
