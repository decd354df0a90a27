"""A bundle in Python: NumPy in, NumPy out, no transport and no Keras.

`Pipeline` runs the graphs that a verb of `verbs.py` asks for at once, in this thread, `batch_size` examples at a time.
"""

import dataclasses
import os
from typing import Any

import numpy as np
import onnxruntime

from keras_vae_serving.errors import RequestError
from keras_vae_serving.inputs import Inputs
from keras_vae_serving.manifest import AnomalyThreshold, BundleError, Manifest
from keras_vae_serving.providers import Providers
from keras_vae_serving.session import Session, concatenate, split
from keras_vae_serving.verbs import Posterior, Seed, Steps, Verbs, whole_number


class GraphPosterior:
    """q(z|x) of n examples, of which the bundle's graph "posterior" makes z; as `keras_vae`'s `NumpyPosterior`.

    Args:
        pipeline: Pipeline whose graph runs.
        outputs: What the encoder returned, arrays `(n, ...)` by name.
        standardized: Whether z is standardized.
    """

    def __init__(self, pipeline: "Pipeline", outputs: dict[str, np.ndarray], standardized: bool = False) -> None:
        self.outputs: dict[str, np.ndarray] = outputs
        self._pipeline, self._standardized = pipeline, standardized

    def __len__(self) -> int:
        return len(next(iter(self.outputs.values())))

    @property
    def location(self) -> np.ndarray:
        """The draw of which all noise is 0, `(n, *latent_shape)`."""
        return self._draw()["z"]

    def sample(self, seed: Seed = None) -> np.ndarray:
        """Draws z, `(n, *latent_shape)`."""
        return self._draw(True, seed)["z"]

    @property
    def codes(self) -> np.ndarray:
        """The whole numbers that a discrete z stands for, int32.

        Raises:
            TypeError: If the posterior has none.
        """
        found = self._draw()
        if "codes" not in found:
            name = self._pipeline.manifest.posterior.name
            raise TypeError(f"The z of the posterior {name} are no codes: .location and .sample(seed=...) give them.")
        return found["codes"]

    def _draw(self, sample=False, seed=None):
        verbs = self._pipeline.verbs
        drawn = self._pipeline.run(verbs.draw_posterior(self.outputs, sample, seed))
        return verbs.standardize(drawn) if self._standardized else drawn


class Pipeline:
    """Runs the graphs of a bundle.

    Args:
        manifest: Manifest of the bundle.
        sessions: Sessions by "encoder", "decoder" and, where they exist, "posterior", "elbo" and "prior".
        batch_size: Number of examples that are run at a time; any number may be passed to the verbs.

    Example:

    >>> pipeline = Pipeline.load("bundle")
    >>> pipeline.reconstruct(x)  # like x
    >>> pipeline.score(x)  # nats per example: higher is stranger
    >>> pipeline.is_anomaly(x)  # whether they are above the bundle's threshold, where it has one
    >>> pipeline.sample(16, seed=0)
    """

    def __init__(self, manifest: Manifest, sessions: dict[str, Session], batch_size: int = 256) -> None:
        self.manifest: Manifest = manifest
        self.batch_size: int = whole_number("batch_size", batch_size)
        self.sessions: dict[str, Session] = sessions
        self.inputs: Inputs = Inputs(manifest, {name: session.graph for name, session in sessions.items()})
        self.verbs: Verbs = Verbs(self.inputs)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        providers: Providers = "auto",
        precision: str = "float32",
        threads: int = 0,
        batch_size: int = 256,
        verify: bool = True,
    ) -> "Pipeline":
        """Opens a bundle.

        Args:
            directory: Folder of the bundle.
            providers: "auto", "cpu", "cuda" or a sequence; see `providers.resolve`.
            precision: "float32", or "float16" or "int8" where the bundle has those variants.
            threads: Number of threads inside an operator; 0 lets onnxruntime choose.
            batch_size: Number of examples that are run at a time.
            verify: Whether the files' hashes are compared with the manifest's.

        Raises:
            BundleError: If it is not a whole, unchanged bundle, or has no such variant.
            ProviderError: If a provider that was asked for cannot be used.
        """
        manifest = Manifest.load(directory, verify)
        graphs = {
            graph.name.removesuffix(f"_{precision}"): graph
            for graph in manifest.graphs.values()
            if graph.precision == precision
        }
        for name in ("posterior", "prior"):
            if name in manifest.graphs:  # in float32 only: they are small
                graphs.setdefault(name, manifest.graphs[name])
        if "encoder" not in graphs:
            have = ", ".join(sorted({graph.precision for graph in manifest.graphs.values()}))
            raise BundleError(f"{directory} has no {precision} graphs; it has {have}. Export it with that precision.")
        sessions = {name: Session(directory, graph, providers, threads) for name, graph in graphs.items()}
        return cls(manifest, sessions, batch_size)

    def encode(self, x: Any, standardized: bool = False) -> "Posterior | GraphPosterior":
        """q(z|x) of `(n, ...)` data, or of a dict of arrays by input name.

        Args:
            x: Data. Of a model with named parts, here and below, a dict of them and of what is given; what is like x
                is then a dict of the parts. Of a table, here and below, rows by the names of its columns may be given,
                a list of dicts or a DataFrame, in which None, NaN or an absent name is a missing value; what is like x
                is then such a list, see `to_rows`.
            standardized: Whether z is in standard deviations from the mean of all codes, as the bundle's statistics
                have them; `decode(z, standardized=True)` undoes it.

        Returns:
            A `Posterior`, with `mean` and `log_var`, of a diagonal normal, else a `GraphPosterior`, with the encoder's
            `outputs`. Both have `location` and `sample(seed)`.

        Raises:
            RequestError: If the data do not fit, or the bundle has no statistics.
        """
        x = self.inputs.packed(x)
        if self.verbs.is_normal:
            return Posterior(*self.run(self.verbs.encode(x, standardized)).values())
        if standardized:
            self.verbs.require_statistics()
        return GraphPosterior(self, self.run(self.verbs.outputs(x)), standardized)

    def decode(self, z: Any, standardized: bool = False, draw: bool = False, seed: Seed = None) -> np.ndarray:
        """The mean of p(x|z): `(n, *latent_shape)`, or a dict of arrays by input name, to `(n, ...)`.

        With `standardized`, z is as `encode(x, standardized=True)` gives it. With `draw`, here and below, x is drawn
        from p(x|z) instead: a count is then a whole number, and a category is one.

        Raises:
            RequestError: If x shall be drawn, and the bundle does not say how, as of a likelihood of one's own.
        """
        return self._x(self.verbs.decode(self.inputs.packed(z), standardized, draw, seed))

    def reconstruct(self, x: Any, sample: bool = False, seed: Seed = None, draw: bool = False) -> Any:
        """The mean of p(x|z) at the posterior's location or, if `sample`, at a z drawn from q(z|x).

        Other inputs of the decoder, such as a label, are taken from the dict `x`.
        """
        found = self._x(self.verbs.reconstruct(self.inputs.packed(x), sample, seed, draw))
        return found if self.inputs.rows(x) is None else self.to_rows(found)

    def sample(
        self, n: int, seed: Seed = None, condition: Any = None, latent_shape: Any = None, draw: bool = False
    ) -> np.ndarray:
        """The mean of p(x|z) for `n` draws of z from the prior, `(n, ...)`.

        A conditional model takes a `condition`, `(n, ...)` or one for all; z is drawn from p(z|condition) where the
        prior is one for each condition. A model whose z has free sizes takes the `latent_shape` of each z.
        """
        return self._x(self.verbs.sample(n, seed, condition, latent_shape, draw))

    def to_rows(self, x: np.ndarray) -> list[dict[str, Any]]:
        """Of a table, rows by the names of its columns, in their original types, of an array such as `sample` gives.

        Numbers are within the bounds that the table was fitted to, integers rounded, and a category is the one of the
        largest probability.

        Raises:
            RequestError: If the model is not one of a `keras_vae.tables.Table`, or x has another width.
        """
        width = sum(self.verbs.columns.values())
        x = np.asarray(x)
        if self.inputs.table is None or x.ndim != 2 or x.shape[1] != width:
            raise RequestError(f"x must have shape (n, {width}); got {x.shape}. Of several draws make each rows: x[0].")
        return self.inputs.table.to_rows(x)

    def impute(self, x: Any, draws: int | None = None, num_samples: int = 100, seed: Seed = None) -> Any:
        """x with its missing values, NaN, filled in, as `VAE.impute`; what is observed stays bit for bit.

        Args:
            x: `(n, ...)` data.
            draws: Number of completed copies of x, each with missing values drawn from p(x_missing|x_observed). None:
                one, with their mean; the most likely code where the data are codes, and the probabilities of one-hot
                categories.
            num_samples: Number of z per example that are weighted; they count towards `batch_size`.
            seed: Seed for the samples.

        Returns:
            `(n, ...)`, or `(draws, n, ...)`. Of rows a list of rows, or a list of such lists, one for each draw.

        Raises:
            BundleError: If the model knows no missing values.
        """
        found = self.run(self.verbs.impute(self.inputs.packed(x), draws, num_samples, seed))
        filled = found["x_filled"] if draws is None else np.moveaxis(found["x_draws"], 1, 0)
        table, rows = self.inputs.table, self.inputs.rows(x)
        if table is None or rows is None:
            return self.inputs.by_name(filled)
        rows = table.rows(rows)
        return table.to_rows(filled, rows) if draws is None else [table.to_rows(each, rows) for each in filled]

    def interpolate(self, a: Any, b: Any, steps: int = 10, condition: Any = None) -> np.ndarray:
        """The decoded straight line between the locations of two q(z|x), both ends included: `(steps, ...)`.

        A conditional model takes the `condition` of both, without the batch axis.
        """
        if self.manifest.parts is not None:
            a, b = (_each_as_batch(self.inputs, example) for example in (a, b))
        return self._x(self.verbs.interpolate(a, b, steps, condition))

    @property
    def threshold(self) -> AnomalyThreshold | None:
        """Threshold of the score, or None."""
        return self.verbs.threshold

    def score(self, x: Any, num_samples: int | None = None, seed: Seed = None, per_dimension: bool = False) -> Any:
        """The negative ELBO of each example, `(n,)`, in nats: the anomaly score, an upper bound of -log p(x).

        Args:
            x: `(n, ...)` data.
            num_samples: Number of samples of z that each score is averaged over; they count towards `batch_size`. None
                is the number that the bundle's threshold was fitted with, or 1 without a threshold.
            seed: Seed for the samples; the same seed scores the same data the same. None is the seed that the
                threshold was fitted with, or 0 without a threshold.
            per_dimension: Whether the result is a pair, of the scores and of the surprise of each dimension d, like x:
                its -E_q log p(x_d|z), which add up to the score less its KL term. Where the bundle's threshold knows
                what is usual, this is subtracted: 0 is as of normal data. Of a missing value it is 0.
        """
        found = self.run(self.verbs.score(self.inputs.packed(x), num_samples, seed, per_dimension))
        scores = found["negative_elbo"]
        return (scores, self.inputs.by_name(found["surprise"])) if per_dimension else scores

    def top_columns(
        self, x: Any, n: int = 3, num_samples: int | None = None, seed: Seed = None
    ) -> list[list[tuple[str, float]]]:
        """Of a table, the `n` most surprising columns of each row, by name, each with its nats; see `score`.

        Columns that are missing in a row come last.

        Raises:
            RequestError: If the model is not one of a `keras_vae.tables.Table`.
        """
        found = self.run(self.verbs.score(self.inputs.packed(x), num_samples, seed, top_columns=n))
        rows = zip(found["top_columns"].tolist(), found["top_surprise"].tolist(), strict=True)
        return [list(zip(names, nats, strict=True)) for names, nats in rows]

    def is_anomaly(self, x: Any) -> np.ndarray:
        """Whether the score of each example is beyond the bundle's threshold, `(n,)` bool, scored as that was fitted.

        Raises:
            BundleError: If the bundle has no threshold.
        """
        if self.threshold is None:
            raise BundleError(
                "This bundle has no threshold to tell anomalies by: export the model with "
                "threshold=keras_vae.evaluation.fit_threshold(vae, x)."
            )
        return self.run(self.verbs.score(self.inputs.packed(x)))["is_anomaly"]

    def draw(self, n: int, seed: Seed = None, condition: Any = None, latent_shape: Any = None) -> np.ndarray:
        """Draws z from the prior, `(n, *latent_shape)`; `condition` and `latent_shape` as in `sample`."""
        return self.run(self.verbs.draw(n, seed, condition, latent_shape))

    def latent_activity(self, draws: int = 16, seed: int = 0) -> np.ndarray:
        """How much each latent changes what is decoded, `(latent_shape[-1],)`: the decoder ignores a latent of 0.

        The root mean squared change of p(x|z)'s mean, over the data's dimensions and `draws` values of z from the
        prior, when that latent alone is drawn again: an element of a vector, or a channel of a z that has places, at
        all of them. It needs no data, unlike the count of active units.
        """
        return self.run(self.verbs.latent_activity(draws, seed))

    def describe(self) -> dict[str, Any]:
        """What runs, and where, as a dict that can be written as JSON."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "batch_size": self.batch_size,
            "likelihood": self.manifest.likelihood,
            "latent_dim": self.manifest.latent_dim,
            "latent_shape": list(self.manifest.latent_shape),
            "posterior": dataclasses.asdict(self.manifest.posterior),
            "latents": self.manifest.latents,
            "data_shape": list(self.manifest.data_shape),
            "graphs": {
                name: {"precision": session.graph.precision, "providers": session.providers, "threads": session.threads}
                for name, session in self.sessions.items()
            },
            **({} if self.threshold is None else {"anomaly": _described(self.threshold)}),
        }

    def _x(self, steps):
        outputs = self.run(steps)
        return self.inputs.by_name(outputs["x_drawn"] if "x_drawn" in outputs else outputs["x_mean"])

    def run(self, steps: Steps) -> Any:
        """The result of a verb of `verbs`, whose graphs are run over `batch_size` examples at a time."""
        outputs = None
        while True:
            try:
                run = steps.send(outputs)
            except StopIteration as done:
                return done.value
            session = self.sessions[run.graph]
            wanted = run.outputs
            if wanted is None and run.graph == "decoder":
                wanted = ["x_mean"]  # no verb of a Pipeline returns more of it
            parts = split(run.inputs, max(1, self.batch_size // run.num_samples))
            outputs = concatenate([session.run(run.with_noise(part), wanted) for part in parts])


def _each_as_batch(inputs, example):
    """The vector of one example of named parts."""
    return inputs.packed({name: np.asarray(part)[None] for name, part in example.items()})["x"][0]


def _described(threshold):
    """Its numbers, and in place of what is usual, which may be as large as the data, whether it is known."""
    fields = dataclasses.asdict(threshold)
    fields["knows_usual"] = fields.pop("usual") is not None or None
    return {name: value for name, value in fields.items() if value is not None}
