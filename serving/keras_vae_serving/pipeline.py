"""A bundle in Python: NumPy in, NumPy out, no transport and no Keras.

`Pipeline` runs the graphs that a verb of `verbs.py` asks for at once, in this thread, `batch_size` examples at a time.
"""

import dataclasses
import os
from typing import Any

import numpy as np
import onnxruntime

from keras_vae_serving.inputs import Inputs
from keras_vae_serving.manifest import AnomalyThreshold, BundleError, Manifest
from keras_vae_serving.providers import Providers
from keras_vae_serving.session import Session, concatenate, split
from keras_vae_serving.verbs import Posterior, Seed, Steps, Verbs, whole_number


class Pipeline:
    """Runs the graphs of a bundle.

    Args:
        manifest: Manifest of the bundle.
        sessions: Sessions by "encoder", "decoder" and, where they exist, "elbo" and "prior".
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
        if "prior" in manifest.graphs:  # in float32 only: it is small
            graphs.setdefault("prior", manifest.graphs["prior"])
        if "encoder" not in graphs:
            have = ", ".join(sorted({graph.precision for graph in manifest.graphs.values()}))
            raise BundleError(f"{directory} has no {precision} graphs; it has {have}. Export it with that precision.")
        sessions = {name: Session(directory, graph, providers, threads) for name, graph in graphs.items()}
        return cls(manifest, sessions, batch_size)

    def encode(self, x: Any) -> Posterior:
        """q(z|x): `(n, ...)` data, or a dict of arrays by input name, to a `Posterior`."""
        outputs = self.run(self.verbs.encode(x))
        return Posterior(outputs["z_mean"], outputs["z_log_var"])

    def decode(self, z: Any) -> np.ndarray:
        """The mean of p(x|z): `(n, latent_dim)`, or a dict of arrays by input name, to `(n, ...)`."""
        return self.run(self.verbs.decode(z))["x_mean"]

    def reconstruct(self, x: Any, sample: bool = False, seed: Seed = None) -> np.ndarray:
        """The mean of p(x|z) at the posterior mean or, if `sample`, at a z drawn from q(z|x).

        Other inputs of the decoder, such as a label, are taken from the dict `x`.
        """
        return self.run(self.verbs.reconstruct(x, sample, seed))["x_mean"]

    def sample(self, n: int, seed: Seed = None, condition: Any = None) -> np.ndarray:
        """The mean of p(x|z) for `n` draws of z from the prior, `(n, ...)`.

        A conditional model takes a `condition`, `(n, ...)` or one for all.
        """
        return self.run(self.verbs.sample(n, seed, condition))["x_mean"]

    def interpolate(self, a: Any, b: Any, steps: int = 10, condition: Any = None) -> np.ndarray:
        """The decoded straight line between the posterior means of two examples, both ends included: `(steps, ...)`.

        A conditional model takes the `condition` of both, without the batch axis.
        """
        return self.run(self.verbs.interpolate(a, b, steps, condition))["x_mean"]

    @property
    def threshold(self) -> AnomalyThreshold | None:
        """Threshold of the score, or None."""
        return self.verbs.threshold

    def score(self, x: Any, num_samples: int | None = None, seed: Seed = None) -> np.ndarray:
        """The negative ELBO of each example, `(n,)`, in nats: the anomaly score, an upper bound of -log p(x).

        Args:
            x: `(n, ...)` data.
            num_samples: Number of samples of z that each score is averaged over; they count towards `batch_size`. None
                is the number that the bundle's threshold was fitted with, or 1 without a threshold.
            seed: Seed for the samples; the same seed scores the same data the same. None is the seed that the
                threshold was fitted with, or 0 without a threshold.
        """
        return self.run(self.verbs.score(x, num_samples, seed))["negative_elbo"]

    def is_anomaly(self, x: Any) -> np.ndarray:
        """Whether the score of each example is above the bundle's threshold, `(n,)` bool, scored as that was fitted.

        Raises:
            BundleError: If the bundle has no threshold.
        """
        if self.threshold is None:
            raise BundleError(
                "This bundle has no threshold to tell anomalies by: export the model with "
                "threshold=keras_vae.evaluation.fit_threshold(vae, x)."
            )
        return self.run(self.verbs.score(x))["is_anomaly"]

    def draw(self, n: int, seed: Seed = None) -> np.ndarray:
        """Draws z from the prior, `(n, latent_dim)`."""
        return self.run(self.verbs.draw(n, seed))

    def latent_activity(self, draws: int = 16, seed: int = 0) -> np.ndarray:
        """How much each latent changes what is decoded, `(latent_dim,)`: the decoder ignores a latent of 0.

        The root mean squared change of p(x|z)'s mean, over the data's dimensions and `draws` values of z from the
        prior, when that latent alone is drawn again. It needs no data, unlike the count of active units.
        """
        return self.run(self.verbs.latent_activity(draws, seed))

    def describe(self) -> dict[str, Any]:
        """What runs, and where, as a dict that can be written as JSON."""
        return {
            "onnxruntime": onnxruntime.__version__,
            "batch_size": self.batch_size,
            "likelihood": self.manifest.likelihood,
            "latent_dim": self.manifest.latent_dim,
            "data_shape": list(self.manifest.data_shape),
            "graphs": {
                name: {"precision": session.graph.precision, "providers": session.providers, "threads": session.threads}
                for name, session in self.sessions.items()
            },
            **({} if self.threshold is None else {"anomaly": dataclasses.asdict(self.threshold)}),
        }

    def run(self, steps: Steps) -> Any:
        """The result of a verb of `verbs`, whose graphs are run over `batch_size` examples at a time."""
        outputs = None
        while True:
            try:
                run = steps.send(outputs)
            except StopIteration as done:
                return done.value
            session = self.sessions[run.graph]
            wanted = ["x_mean"] if run.graph == "decoder" else None  # no verb of a Pipeline returns more of it
            parts = split(run.inputs, max(1, self.batch_size // run.num_samples))
            outputs = concatenate([session.run(run.with_noise(part), wanted) for part in parts])
