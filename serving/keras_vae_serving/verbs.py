"""What can be asked of a bundle, each verb once: its checks, its noise and the graphs it runs.

A verb is a generator that yields each `GraphRun` it needs, is sent that run's outputs, and returns its result. It does
not know how graphs are run: `Pipeline` runs them at once, the server together with other requests. The verbs, their
arguments and their numbers are those of `keras_vae.VAE`: all noise comes from NumPy's generator, drawn in the same
order, so that a seed gives the same result here and there.
"""

from collections.abc import Callable, Generator
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keras_vae_serving.errors import RequestError
from keras_vae_serving.inputs import Inputs
from keras_vae_serving.manifest import AnomalyThreshold, BundleError

Arrays: TypeAlias = dict[str, np.ndarray]
Seed: TypeAlias = int | np.random.Generator | None


class GraphRun(NamedTuple):
    """A graph to be run.

    Args:
        graph: Name of the graph.
        inputs: Checked arrays by input name.
        num_samples: Number of samples of z for each example, which count as examples.
        noise: Draws `epsilon` for the next `n` examples, in their order; None if the graph takes no `epsilon`.
    """

    graph: str
    inputs: Arrays
    num_samples: int = 1
    noise: Callable[[int], np.ndarray] | None = None

    def with_noise(self, inputs: Arrays) -> Arrays:
        """The inputs, all or the next part of them, together with their noise."""
        return inputs if self.noise is None else {**inputs, "epsilon": self.noise(len(next(iter(inputs.values()))))}


Steps: TypeAlias = Generator[GraphRun, Any, Any]  # is sent the `Arrays` of each run


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(log_var))): two arrays of shape `(n, latent_dim)`."""

    mean: np.ndarray
    log_var: np.ndarray

    def sample(self, seed: Seed = None) -> np.ndarray:
        """Draws z, `(n, latent_dim)`."""
        epsilon = np.random.default_rng(seed).standard_normal(self.mean.shape, dtype="float32")
        return self.mean + np.exp(0.5 * self.log_var) * epsilon


class Verbs:
    """The verbs of one bundle; each returns a generator, see above.

    Args:
        inputs: `Inputs` of the bundle.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs: Inputs = inputs

    def encode(self, x: Any) -> Steps:
        """Outputs of the encoder: `z_mean` and `z_log_var`."""
        return (yield GraphRun("encoder", self.inputs.check("encoder", x)))

    def decode(self, z: Any) -> Steps:
        """Outputs of the decoder: `x_mean` and, where the likelihood has one, `x_scale`."""
        return (yield GraphRun("decoder", self.inputs.check("decoder", z)))

    def reconstruct(self, x: Any, sample: bool = False, seed: Seed = None) -> Steps:
        """Outputs of the decoder at the posterior mean or, if `sample`, at a draw from the posterior."""
        x, conditioning = self.inputs.split_by_network(x)
        outputs = yield from self.encode(x)
        posterior = Posterior(outputs["z_mean"], outputs["z_log_var"])
        z = posterior.sample(seed) if sample else posterior.mean
        return (yield from self.decode({self.inputs.z: z, **conditioning}))

    def sample(self, n: int = 1, seed: Seed = None, condition: Any = None) -> Steps:
        """Outputs of the decoder at `n` draws from the prior."""
        n = whole_number("n", n)
        conditioning = self.inputs.repeat_condition("decoder", condition, n)
        z = yield from self.draw(n, seed)
        return (yield from self.decode({self.inputs.z: z, **conditioning}))

    def interpolate(self, a: Any, b: Any, steps: int = 10, condition: Any = None) -> Steps:
        """Outputs of the decoder on the straight line between the posterior means of two examples."""
        steps = whole_number("steps, which counts both ends,", steps, least=2)
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise RequestError(f"a and b must be two examples of one shape; got {a.shape} and {b.shape}.")
        x, repeat = self.inputs.names("encoder")[0], self.inputs.repeat_condition
        outputs = yield from self.encode({x: np.stack([a, b]), **repeat("encoder", condition, 2)})
        start, end = outputs["z_mean"]
        t = np.linspace(0.0, 1.0, steps, dtype="float32")[:, None]
        z = (1.0 - t) * start + t * end
        return (yield from self.decode({self.inputs.z: z, **repeat("decoder", condition, steps)}))

    def score(self, x: Any, num_samples: int | None = None, seed: Seed = None) -> Steps:
        """`negative_elbo`, its terms `reconstruction` and `kl` and, where there is a threshold, `is_anomaly`."""
        usual_samples, usual_seed = self.score_settings
        num_samples = whole_number("num_samples", usual_samples if num_samples is None else num_samples)
        if "elbo" not in self.inputs.graphs:
            raise BundleError("This bundle has no elbo graph: it was exported from a pair of networks, not from a VAE.")
        rng = np.random.default_rng(usual_seed if seed is None else seed)
        latent_dim: Any = self.inputs.manifest.latent_dim

        def noise(n):
            return rng.standard_normal((n, num_samples, latent_dim), dtype="float32")

        terms = yield GraphRun("elbo", self.inputs.check("elbo", x), num_samples, noise)
        outputs = {"negative_elbo": terms["reconstruction"] + terms["kl"], **terms}
        if self.threshold is not None:
            outputs["is_anomaly"] = self.threshold.is_anomaly(outputs["negative_elbo"])
        return outputs

    def draw(self, n: int, seed: Seed = None) -> Steps:
        """z, `(n, latent_dim)`, from the prior."""
        if "prior" in self.inputs.graphs:
            noise_dim: Any = self.inputs.graphs["prior"].inputs[0].shape[1]
            noise = np.random.default_rng(seed).standard_normal((whole_number("n", n), noise_dim), dtype="float32")
            return (yield GraphRun("prior", {"noise": noise}))["z"]
        prior = self.inputs.manifest.prior
        if prior is None or prior["name"] != "DiagonalNormal":
            raise BundleError(
                f"This bundle's prior is {prior and prior['name']}, from which nothing can be drawn here."
            )
        mean, log_var = (np.asarray(prior["config"][name], "float32") for name in ("mean", "log_var"))
        shape = (whole_number("n", n), len(mean))
        return Posterior(np.broadcast_to(mean, shape), np.broadcast_to(log_var, shape)).sample(seed)

    def latent_activity(self, draws: int = 16, seed: int = 0) -> Steps:
        """Root mean squared change of the decoded mean when one latent alone is drawn again, `(latent_dim,)`."""
        both = yield from self.draw(2 * whole_number("draws", draws), seed)
        z, redrawn = np.split(both, 2)
        conditioning = self.inputs.dummy_inputs(draws, seed)
        before, activity = (yield from self.decode({self.inputs.z: z, **conditioning}))["x_mean"], []
        for i in range(z.shape[1]):
            moved = z.copy()
            moved[:, i] = redrawn[:, i]
            after = (yield from self.decode({self.inputs.z: moved, **conditioning}))["x_mean"]
            activity.append(np.sqrt(np.mean(np.square(after - before, dtype="float64"))))
        return np.array(activity)

    @property
    def can_sample(self) -> bool:
        """Whether z can be drawn from the prior."""
        prior = self.inputs.manifest.prior
        return "prior" in self.inputs.graphs or (prior is not None and prior["name"] == "DiagonalNormal")

    @property
    def threshold(self) -> AnomalyThreshold | None:
        """Threshold of the score, or None."""
        return self.inputs.manifest.anomaly

    @property
    def score_settings(self) -> tuple[int, int]:
        """Default `num_samples` and `seed` of a score: those of the threshold, or 1 and 0 without one."""
        return (1, 0) if self.threshold is None else (self.threshold.num_samples, self.threshold.seed)


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value as an int; raises a RequestError if it is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:  # pyright: ignore[reportOperatorIssue]
        raise RequestError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return int(value)
