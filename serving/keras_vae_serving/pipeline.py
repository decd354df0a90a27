"""A bundle as five verbs: NumPy in, NumPy out, no transport and no Keras.

The verbs and their arguments are those of `keras_vae.VAE`, and so are the numbers: all noise comes from NumPy's
generator, drawn in the same order, so that a seed gives here what it gives there.
"""

import dataclasses
from numbers import Integral
from typing import NamedTuple

import numpy as np
import onnxruntime

from keras_vae_serving.manifest import BundleError, Manifest
from keras_vae_serving.session import Session, examples, joined, parts


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(log_var))): two arrays of shape `(n, latent_dim)`."""

    mean: np.ndarray
    log_var: np.ndarray

    def sample(self, seed=None):
        """Draws z, `(n, latent_dim)`."""
        epsilon = np.random.default_rng(seed).standard_normal(self.mean.shape, dtype="float32")
        return self.mean + np.exp(0.5 * self.log_var) * epsilon


class Pipeline:
    """Runs the graphs of a bundle.

    Args:
        manifest: What is in the bundle.
        sessions: Its graphs by "encoder", "decoder" and, where there is one, "elbo".
        batch_size: Examples at a time; any number may be passed to the verbs.

    Example:

    >>> pipeline = Pipeline.load("bundle")
    >>> pipeline.reconstruct(x)  # like x
    >>> pipeline.score(x)  # nats per example: higher is stranger
    >>> pipeline.is_anomaly(x)  # whether they are above the bundle's threshold, where it has one
    >>> pipeline.sample(16, seed=0)
    """

    def __init__(self, manifest, sessions, batch_size=256):
        self.manifest = manifest
        self.batch_size = _whole_number("batch_size", batch_size)
        self.sessions = sessions
        lacking = {"encoder", "decoder"} - set(sessions)
        if lacking:
            raise BundleError(f"The bundle has no {sorted(lacking)[0]}: export the model again.")
        names = self._input_names("decoder")
        self.z = "z" if "z" in names else names[0]  # what the decoder calls the latents

    @classmethod
    def load(cls, directory, providers="auto", precision="float32", threads=0, batch_size=256, verify=True):
        """Opens a bundle.

        Args:
            directory: The folder.
            providers: "auto", "cpu", "cuda" or a sequence; see `providers.resolve`.
            precision: "float32", or "float16" or "int8" where the bundle has those variants.
            threads: Threads inside an operator; 0 lets onnxruntime choose.
            batch_size: Examples at a time.
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

    def encode(self, x):
        """q(z|x): `(n, ...)` data, or a dict of arrays by input name, to a `Posterior`."""
        outputs = self._run("encoder", self.check("encoder", x))
        return Posterior(outputs["z_mean"], outputs["z_log_var"])

    def decode(self, z):
        """The mean of p(x|z): `(n, latent_dim)`, or a dict of arrays by input name, to `(n, ...)`."""
        return self._run("decoder", self.check("decoder", z), ["x_mean"])["x_mean"]

    def reconstruct(self, x, sample=False, seed=None):
        """The mean of p(x|z) at the posterior mean or, if `sample`, at a z drawn from q(z|x).

        What else the decoder takes beside z, such as a label, is taken from the dict `x`.
        """
        encoder, decoder = self.split(x)
        posterior = self.encode(encoder)
        return self.decode({self.z: posterior.sample(seed) if sample else posterior.mean, **decoder})

    def sample(self, n, seed=None, condition=None):
        """The mean of p(x|z) for `n` draws of z from the prior, `(n, ...)`.

        A conditional model takes a `condition`, `(n, ...)` or one for all.
        """
        z = self.draw(n, seed)
        return self.decode({self.z: z, **self.repeated("decoder", condition, len(z))})

    def interpolate(self, a, b, steps=10, condition=None):
        """The decoded straight line between the posterior means of two examples, both ends included: `(steps, ...)`.

        A conditional model takes the `condition` of both, without the batch axis.
        """
        steps = _whole_number("steps, which counts both ends,", steps, least=2)
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise ValueError(f"a and b must be two examples of one shape; got {a.shape} and {b.shape}.")
        x, given = self._input_names("encoder")[0], self.repeated("encoder", condition, 2)
        start, end = self.encode({x: np.stack([a, b]), **given}).mean
        t = np.linspace(0.0, 1.0, steps, dtype="float32")[:, None]
        return self.decode({self.z: (1.0 - t) * start + t * end, **self.repeated("decoder", condition, steps)})

    @property
    def threshold(self):
        """The bundle's `manifest.Threshold` for the score, or None."""
        return self.manifest.anomaly

    @property
    def score_settings(self):
        """`num_samples` and `seed` of a score where nothing is said: those of the threshold, else 1 and 0."""
        return (1, 0) if self.threshold is None else (self.threshold.num_samples, self.threshold.seed)

    def score(self, x, num_samples=None, seed=None):
        """The negative ELBO of each example, `(n,)`, in nats: the anomaly score, an upper bound of -log p(x).

        Args:
            x: `(n, ...)` data.
            num_samples: Draws of z that it is averaged over; they count towards `batch_size`. None is what the
                bundle's threshold was fitted with, or 1 without one.
            seed: Of the draws; the same seed scores the same data the same. None is that of the threshold, or 0.
        """
        usual_samples, usual_seed = self.score_settings
        num_samples = _whole_number("num_samples", usual_samples if num_samples is None else num_samples)
        if "elbo" not in self.sessions:
            raise BundleError("This bundle has no elbo graph: it was exported from a pair of networks, not from a VAE.")
        inputs = self.check("elbo", x)
        rng, scores = np.random.default_rng(usual_seed if seed is None else seed), []
        for part in parts(inputs, max(1, self.batch_size // num_samples)):
            part["epsilon"] = self.noise(examples(part), num_samples, rng)
            outputs = self.sessions["elbo"].run(part)
            scores.append(outputs["reconstruction"] + outputs["kl"])
        return np.concatenate(scores)

    def is_anomaly(self, x):
        """Whether the score of each example is above the bundle's threshold, `(n,)` bool, scored as that was fitted.

        Raises:
            BundleError: If the bundle has no threshold.
        """
        if self.threshold is None:
            raise BundleError(
                "This bundle has no threshold to tell anomalies by: export the model with "
                "threshold=keras_vae.evaluation.fit_threshold(vae, x)."
            )
        return self.threshold.is_anomaly(self.score(x))

    def describe(self):
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

    def check(self, name, value):
        """The array, or dict of arrays, as what a graph takes: of its dtypes, and found to fit it.

        Raises:
            ValueError: If it does not; says what is wrong and what to do.
        """
        expected = [tensor for tensor in self.sessions[name].graph.inputs if tensor.name != "epsilon"]
        value = value if isinstance(value, dict) else {expected[0].name: value}
        names = [tensor.name for tensor in expected]
        if "condition" not in names and self.is_conditional:  # of the other network
            value = {key: part for key, part in value.items() if key != "condition"}
        if set(value) != set(names):
            raise ValueError(f"The {name} takes {names}; got {sorted(value)}. Pass a dict of arrays by these names.")
        return {tensor.name: self._checked(tensor, value[tensor.name]) for tensor in expected}

    def split(self, x):
        """What `reconstruct` is given, as what the encoder takes and what the decoder takes beside z."""
        if not isinstance(x, dict):
            return x, {}
        beside = set(self._input_names("decoder")) - {self.z}
        decoder_only = beside - set(self._input_names("encoder"))
        encoder = {name: value for name, value in x.items() if name not in decoder_only}
        return encoder, {name: value for name, value in x.items() if name in beside}

    def draw(self, n, seed=None):
        """Draws z from the prior, `(n, latent_dim)`."""
        n = _whole_number("n", n)
        if "prior" in self.sessions:
            return self._run("prior", {"noise": self.prior_noise(n, seed)})["z"]
        prior = self.manifest.prior
        if prior is None or prior["name"] != "DiagonalNormal":
            raise BundleError(
                f"This bundle's prior is {prior and prior['name']}, from which nothing can be drawn here."
            )
        mean, log_var = (np.asarray(prior["config"][name], "float32") for name in ("mean", "log_var"))
        return Posterior(*(np.broadcast_to(part, (n, len(part))) for part in (mean, log_var))).sample(seed)

    def prior_noise(self, n, seed):
        """Draws what the prior graph takes, `(n, noise_dim)`."""
        shape = (n, self.sessions["prior"].graph.inputs[0].shape[1])
        return np.random.default_rng(seed).standard_normal(shape, dtype="float32")

    def repeated(self, graph, condition, n):
        """The condition of `n` examples as the input of a graph, `{}` if that takes none; one stands for all.

        Raises:
            ValueError: If the graph takes one and there is none, no graph of the bundle takes one, or there are neither
                one nor `n`.
        """
        tensor = self._condition_of(graph)
        if condition is None and tensor is not None:
            raise ValueError(f"This model is conditional: pass a condition {tensor.shape_text}, or one for all.")
        if condition is not None and not self.is_conditional:
            raise ValueError("This model takes no condition.")
        if tensor is None:
            return {}
        condition = np.asarray(condition)
        condition = condition[None] if condition.ndim == len(tensor.shape) - 1 else condition
        if condition.ndim and len(condition) not in (1, n):
            raise ValueError(f"The condition {tensor.shape_text} must be one for each of {n} examples, or one for all.")
        return {"condition": np.broadcast_to(condition, (n, *condition.shape[1:]))}

    @property
    def is_conditional(self):
        return any(self._condition_of(name) is not None for name in ("encoder", "decoder"))

    def _condition_of(self, graph):
        """The input for the condition; None if the graph has none."""
        return next((each for each in self.sessions[graph].graph.inputs if each.name == "condition"), None)

    def noise(self, n, num_samples, seed):
        """Draws what the elbo graph calls epsilon, `(n, num_samples, latent_dim)`."""
        shape = (n, num_samples, self.manifest.latent_dim)
        return np.random.default_rng(seed).standard_normal(shape, dtype="float32")

    def latent_activity(self, draws=16, seed=0):
        """How much each latent moves what is decoded, `(latent_dim,)`: 0 is a latent that the decoder ignores.

        The root of the mean squared change of p(x|z)'s mean, over the data's dimensions and `draws` values of z from
        the prior, when that latent alone is drawn anew. It needs no data, unlike the count of active units.
        """
        z, anew = np.split(self.draw(2 * _whole_number("draws", draws), seed), 2)
        given = self.made_up(draws, seed)
        before, activity = self.decode({self.z: z, **given}), []
        for i in range(z.shape[1]):
            moved = z.copy()
            moved[:, i] = anew[:, i]
            change = self.decode({self.z: moved, **given}) - before
            activity.append(np.sqrt(np.mean(np.square(change, dtype="float64"))))
        return np.array(activity)

    def made_up(self, n, seed=0):
        """What the decoder takes beside z, to try it: labels drawn at random, and zeros of anything else."""
        rng, made = np.random.default_rng(seed), {}
        for tensor in self.sessions["decoder"].graph.inputs:
            if tensor.name != self.z:
                shape = (n, *(size if isinstance(size, int) else 1 for size in tensor.shape[1:]))
                labels = self.manifest.labels.get(tensor.name, 1)
                made[tensor.name] = rng.integers(labels, size=shape).astype(tensor.dtype)
        return made

    def _run(self, name, inputs, outputs=None):
        """Runs a graph over any number of examples."""
        session = self.sessions[name]
        return joined([session.run(part, outputs) for part in parts(inputs, self.batch_size)])

    def _input_names(self, name):
        return [tensor.name for tensor in self.sessions[name].graph.inputs]

    def _checked(self, tensor, value):
        array = np.asarray(value)
        if array.dtype.kind not in ("biuf" if "float" in tensor.dtype else "biu"):
            raise ValueError(f"{tensor.name} must hold {tensor.dtype}; got {array.dtype}.")
        if array.size == 0:
            raise ValueError(f"{tensor.name} holds no examples: its shape is {array.shape}.")
        dtype = np.dtype(tensor.dtype)
        if dtype.kind in "iu" and array.dtype != dtype:
            limits = np.iinfo(dtype)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise ValueError(f"{tensor.name} must lie in [{limits.min}, {limits.max}], as it is {tensor.dtype}.")
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            array = array.astype(dtype, copy=False)
        if array.ndim == len(tensor.shape) - 1 and _fits(array.shape, tensor.shape[1:]):
            raise ValueError(
                f"{tensor.name} must have shape {tensor.shape_text}; got {array.shape}, which looks like one example: "
                f"add the batch axis with {tensor.name}[None]."
            )
        tensor.check(array)
        if array.dtype.kind == "f":
            self._check_values(tensor.name, array)
        self.check_labels(tensor.name, array)
        return array

    def check_labels(self, name, array):
        """Raises a ValueError if the input of this name holds labels, and the array others than those."""
        count = self.manifest.labels.get(name)
        if count is not None and not 0 <= array.min() <= array.max() < count:
            raise ValueError(
                f"{name} must hold labels from 0 to {count - 1}; it ranges from {array.min()} to {array.max()}."
            )

    def may_miss(self, name):
        """Whether a NaN in the input of this name is a missing number, and no mistake."""
        return name == "x" and self.manifest.missing

    def _check_values(self, name, array):
        what = "NaN or infinite"
        if self.may_miss(name):
            what, array = "infinite", array[~np.isnan(array)]
            if array.size == 0:
                return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{name} contains {what} values: remove or fill in such examples.")
        limits = self.manifest.data_range if name == "x" else None
        if limits is not None and not (limits[0] <= low and high <= limits[1]):
            fix = " Divide it by 255." if limits == (0.0, 1.0) and low >= 0.0 and 1.0 < high <= 255.0 else ""
            raise ValueError(
                f"{name} must lie in [{limits[0]:g}, {limits[1]:g}], as the model's likelihood says; it ranges from "
                f"{low:g} to {high:g}.{fix}"
            )


def _whole_number(name, value, least=1):
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return int(value)


def _fits(shape, expected):
    return all(isinstance(e, str) or e == got for e, got in zip(expected, shape, strict=True))
