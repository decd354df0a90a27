"""A bundle on a Ray cluster: `deploy` serves it from many replicas, `map` runs it over more data than fits in memory.

Both do elsewhere what this package does here, and nothing else: a replica runs the application of `server`, a worker
runs a `Pipeline`. This file is about what a cluster changes. Workers die and their batches are run again, and batches
are cut as blocks happen to arrive, so that the noise of an example may depend on neither: it comes from the example
itself (`example_seed`). A relative path means something else on another machine: it is made absolute. A mistake is
found where the call is made, before a cluster repeats it in a hundred logs.

`import ray` below is Ray, as imports are absolute; this module is `keras_vae_serving.ray`.
"""

import hashlib
import itertools
import os
import pathlib
import secrets
from numbers import Integral

import numpy as np

from keras_vae_serving.pipeline import Pipeline

try:
    import ray.data  # pyright: ignore[reportMissingImports]
    from ray import serve  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ModuleNotFoundError(
        f'keras_vae_serving.ray needs Ray with Data and Serve ({error}): pip install "keras-vae[ray]".', name="ray"
    ) from None

# By verb: the graphs it runs, what its results are called in a dataset, and what may be said about it.
_VERBS = {
    "encode": (["encoder"], ["z_mean", "z_log_var"], []),
    "decode": (["decoder"], ["x_mean"], []),
    "reconstruct": (["encoder", "decoder"], ["x_mean"], ["sample"]),
    "score": (["elbo"], ["negative_elbo"], ["num_samples"]),
}


def deploy(
    bundles,
    *,
    name="keras_vae",
    route_prefix="/",
    num_replicas=None,
    autoscaling_config=None,
    ray_actor_options=None,
    **server_options,
):
    """Serves bundles with Ray Serve: the application of `keras_vae_serving.server`, in as many replicas as wanted.

    The address is Ray Serve's (by default port 8000); `ray.serve.start(http_options={...})` before it chooses another.
    Each replica answers for itself: `/metrics` and the loading of a bundle again reach one of them. To serve new files,
    or others, call it again: Ray Serve replaces the replicas.

    Args:
        bundles: A path, or a list of `PATH`, `NAME=PATH` or `NAME:VERSION=PATH`. The folders must be found under these
            paths on this machine and on all on which replicas run.
        name: Of the Ray Serve application; another name and another `route_prefix` are another service.
        route_prefix: What its paths begin with.
        num_replicas: How many; "auto" is Ray Serve's own choice of autoscaling.
        autoscaling_config: In its place, as Ray Serve takes it: `{"min_replicas": 1, "max_replicas": 8}`.
        ray_actor_options: What a replica takes of a machine, by default `{"num_cpus": 1}`. It runs as many threads in
            an operator as it has CPUs, and on a GPU if it is given one (`{"num_gpus": 1}`).
        **server_options: For `keras_vae_serving.server.create_app`. A token that is set in this process's environment
            is taken along.

    Returns:
        Ray Serve's handle of the application, when it is ready.

    Raises:
        BundleError: If a bundle cannot be served; nothing has been deployed then.
        RuntimeError: If the replicas do not start; says why.

    Example:

    >>> deploy("/shared/bundle", num_replicas=4)  # POST http://localhost:8000/v2/models/score/infer
    """
    from keras_vae_serving import server  # here, so that `map` needs no web framework

    resources = {"num_cpus": 1, **(ray_actor_options or {})}
    options = {
        "token": os.environ.get(server.TOKEN_VARIABLE),  # which replicas on other machines do not see
        "max_batch": 64,
        **_where(resources["num_cpus"], resources.get("num_gpus", 0)),
        **server_options,
    }
    # The same is done by each replica, but a wrong path or option there is an error after several attempts.
    repository = server.create_app(bundles, **{**options, "providers": "cpu"}).state.server.repository
    repository.close()
    paths = [
        f"{bundle.name}:{bundle.version}={bundle.path.absolute()}" if bundle.name else str(bundle.path.absolute())
        for bundle in repository.bundles
    ]

    # A function is called by each replica; an application would be pickled here, which threads and sessions cannot be.
    def application():
        from keras_vae_serving.server import create_app

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


def map(  # as the method of a dataset is called; the built-in function is not used in this file
    dataset,
    bundle,
    verb,
    *,
    columns=None,
    workers=2,
    batch_size=256,
    num_cpus=1,
    num_gpus=0,
    providers="auto",
    precision="float32",
    seed=0,
    **arguments,
):
    """Runs a verb of a bundle over a Ray Data dataset, and adds its results as columns.

    Nothing runs before the dataset that is returned is read or written. Blocks stream through the workers, each of
    which loads the bundle once; one that dies is replaced, and its blocks are run again. As always in Ray Data, rows
    may come back in another order (unless `DataContext.execution_options.preserve_order` is set): keep a column that
    names them. To save the space of an input that is not needed behind it, drop its column from the result.

    Noise (`score`, and `reconstruct` with `sample=True`) does not follow the order of the rows, as it does in
    `Pipeline`: that of an example comes from `seed` and the example, see `example_seed`. The same example gets the same
    result in any batch, on any worker, as often as it is tried; equal examples get equal noise. int8 alone rounds by
    the batch, and differs between batches by as much as it does from float32.

    Args:
        dataset: A `ray.data.Dataset`. Examples are tensors, of the bundle's shape without the batch, or lists.
        bundle: The folder, under a path that is found on this machine and on all on which workers run.
        verb: "encode", which adds `z_mean` and `z_log_var`, each `(latent_dim,)`; "decode" or "reconstruct": `x_mean`,
            like an example of x; "score": `negative_elbo`, a number, in nats, and where the bundle has a threshold
            `is_anomaly`, whether it is above that.
        columns: Which column is the input: a name, or a dict of names by input, such as `{"x": "image", "label":
            "digit"}`. By default they are called as the inputs are: x, or z for "decode".
        workers: Up to how many processes run it: Ray starts as many as there is room for beside what reads the data.
        batch_size: Examples at a time.
        num_cpus: Of each worker, and its threads in an operator. One CPU of the cluster must be left to read the data.
        num_gpus: Of each worker.
        providers: "auto" (CUDA with `num_gpus`, else the CPU) or as for `Pipeline.load`.
        precision: As for `Pipeline.load`.
        seed: Of the noise, a whole number; None takes another one in each call.
        **arguments: `sample` for "reconstruct", `num_samples` for "score".

    Returns:
        A `ray.data.Dataset` with the columns of `dataset` and the results, float32 (`is_anomaly`: bool).

    Raises:
        BundleError: If the bundle cannot be run, or lacks what the verb needs.
        ValueError, TypeError: If there is no such verb or argument.
        ray.exceptions.UserCodeException: When the dataset is read: if the data do not fit; its text ends in the
            `Pipeline`'s sentence.

    Example:

    >>> images = ray.data.read_parquet("s3://bucket/images")
    >>> map(images, "/shared/bundle", "score", columns="image", workers=8).write_parquet("s3://bucket/scores")
    """
    if verb not in _VERBS:
        raise ValueError(f"There is no verb {verb!r} for a dataset: choose from {', '.join(_VERBS)}.")
    known = _VERBS[verb][2]
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


def example_seed(seed, *example):
    """The seed from which `map` draws the noise of an example: a whole number that `Pipeline` and the server take.

    Args:
        seed: As given to `map`.
        *example: The example's arrays, without the batch, in the order and of the dtypes that the graph takes.

    Example:

    >>> pipeline.score(x[None], num_samples=8, seed=example_seed(0, x))  # what `map` made of this example
    """
    digest = hashlib.sha256(f"{seed}:".encode())
    for array in example:
        digest.update(np.asarray(array).tobytes())
    return int.from_bytes(digest.digest()[:8], "little") >> 1  # the protocol's seeds end at 2**63 - 1


class _Worker:
    """What one process of `map` holds, and does with each batch."""

    def __init__(self, directory, settings, verb, columns, seed, arguments):
        self._pipeline = Pipeline.load(directory, **settings)
        self._verb, self._columns, self._seed, self._arguments = verb, columns, seed, arguments
        sessions = self._pipeline.sessions
        if verb == "score" and "elbo" not in sessions:
            self._pipeline.score({})  # raises: says what is missing
        graphs, self._results, _ = _VERBS[verb]
        names = [tensor.name for graph in graphs for tensor in sessions[graph].graph.inputs]
        drawn = {"epsilon", self._pipeline.z} if verb == "reconstruct" else {"epsilon"}
        self._inputs = [name for name in dict.fromkeys(names) if name not in drawn]

    def __call__(self, batch):
        x, arguments = self._read(batch), self._arguments
        if self._verb == "score" or arguments.get("sample"):
            arguments = {**arguments, "seed": _Noise(self._seeds(x))}
        results = getattr(self._pipeline, self._verb)(x, **arguments)
        results = dict(zip(self._results, results if isinstance(results, tuple) else [results], strict=True))
        if self._verb == "score" and self._pipeline.threshold is not None:
            results["is_anomaly"] = self._pipeline.threshold.is_anomaly(results["negative_elbo"])
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
        return {name: _stacked(column, batch[column]) for name, column in columns.items()}

    def _seeds(self, x):
        if self._verb == "score":
            examples = self._pipeline.check("elbo", x)
        else:
            examples = self._pipeline.check("encoder", self._pipeline.split(x)[0])
        return [example_seed(self._seed, *example) for example in zip(*examples.values(), strict=True)]


class _Noise(np.random.Generator):
    """A generator for `Pipeline` whose rows come from one seed each, and so not from the rows before them."""

    def __init__(self, seeds):
        super().__init__(np.random.PCG64(0))
        self._seeds = iter(seeds)

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
    """How a process runs graphs with the share of a machine that Ray has set aside for it."""
    # Without a GPU set aside, Ray 2.60 hides none: "auto" would take one that another process was given.
    return {"threads": max(1, int(num_cpus)), "providers": "cuda" if num_gpus else "cpu"}
