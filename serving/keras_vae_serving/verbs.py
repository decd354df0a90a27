"""What can be asked of a bundle, each verb once: its checks, its noise and the graphs it runs.

A verb is a generator that yields each `GraphRun` it needs, is sent that run's outputs, and returns its result. It does
not know how graphs are run: `Pipeline` runs them at once, the server together with other requests. The verbs, their
arguments and their numbers are those of `keras_vae.VAE`: all noise comes from NumPy's generator, drawn in the same
order, so that a seed gives the same result here and there.
"""

from collections.abc import Callable, Generator, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keras_vae_serving import draws
from keras_vae_serving.errors import RequestError
from keras_vae_serving.inputs import Inputs
from keras_vae_serving.manifest import (
    LOG_PROB,
    AnomalyThreshold,
    BundleError,
    Tensor,
    free_sizes,
    noise_input,
    sized,
)

_KEPT = 8192  # samples of z that are kept at a time

Arrays: TypeAlias = dict[str, np.ndarray]
Seed: TypeAlias = int | np.random.Generator | None


class GraphRun(NamedTuple):
    """A graph to be run.

    Args:
        graph: Name of the graph.
        inputs: Checked arrays by input name.
        num_samples: Number of samples of z for each example, which count as examples.
        noise: Draws the noise of the next `n` examples, in their order, as an array by its name; None if there is none.
        outputs: Names of the outputs wanted; None is what whoever runs it gives to the caller.
    """

    graph: str
    inputs: Arrays
    num_samples: int = 1
    noise: Callable[[int], Arrays] | None = None
    outputs: Sequence[str] | None = None

    def with_noise(self, inputs: Arrays) -> Arrays:
        """The inputs, all or the next part of them, together with their noise."""
        return inputs if self.noise is None else {**inputs, **self.noise(len(next(iter(inputs.values()))))}


Steps: TypeAlias = Generator[GraphRun, Any, Any]  # is sent the `Arrays` of each run


class Posterior(NamedTuple):
    """q(z|x) = N(mean, diag(exp(log_var))): two arrays of shape `(n, *latent_shape)`."""

    mean: np.ndarray
    log_var: np.ndarray

    @property
    def location(self) -> np.ndarray:
        """The mean, under the name that every posterior has."""
        return self.mean

    def sample(self, seed: Seed = None) -> np.ndarray:
        """Draws z, `(n, *latent_shape)`."""
        epsilon = np.random.default_rng(seed).standard_normal(self.mean.shape, dtype="float32")
        return self.mean + np.exp(0.5 * self.log_var) * epsilon


class Verbs:
    """The verbs of one bundle; each returns a generator, see above.

    Args:
        inputs: `Inputs` of the bundle.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs: Inputs = inputs

    def encode(self, x: Any, standardized: bool = False) -> Steps:
        """Outputs of the encoder; of a posterior that is no diagonal normal also `z`, its location, and its `codes`.

        If `standardized`, z and its moments are in standard deviations from the mean of all codes.
        """
        if standardized:
            self.require_statistics()
        outputs = yield from self.outputs(x)
        if self.is_normal:
            return self.standardize(outputs) if standardized else outputs
        place = yield from self.draw_posterior(outputs)
        return {**outputs, **(self.standardize(place) if standardized else place)}

    def outputs(self, x: Any) -> Steps:
        """Outputs of the encoder."""
        return (yield GraphRun("encoder", self.inputs.check("encoder", x)))

    def draw_posterior(self, outputs: Arrays, sample: bool = False, seed: Seed = None) -> Steps:
        """`z`, and `codes` where it has them, of what the encoder gave: a draw, or that of which all noise is 0."""
        if self.is_normal:
            posterior = Posterior(*outputs.values())
            return {"z": posterior.sample(seed) if sample else posterior.location}
        graph = self.inputs.graphs["posterior"]
        noise, n = noise_input(graph), len(next(iter(outputs.values())))
        if noise is None:
            return (yield GraphRun("posterior", outputs))
        shape = (n, *sized(noise.shape[1:], free_sizes(graph.inputs, outputs)))
        drawn = _standard_normal(shape, seed) if sample else np.zeros(shape, "float32")
        return (yield GraphRun("posterior", {**outputs, noise.name: drawn}))

    def decode(self, z: Any, standardized: bool = False, draw: bool = False, seed: Seed = None) -> Steps:
        """`x_mean` and, where the likelihood has one, `x_scale`; if `draw`, instead of both `x_drawn` from p(x|z)."""
        if standardized:
            self.require_statistics()
        if draw:
            self.require_draws()
        inputs = self.inputs.check("decoder", z)
        if standardized:
            mean, std = self._statistics()
            inputs[self.inputs.z] = inputs[self.inputs.z] * std + mean
        if not draw:
            if self.inputs.manifest.autoregressive:
                return (yield from self._step_by_step(inputs))
            return (yield GraphRun("decoder", inputs))
        # Another noise than that of z, which may have been drawn from the same seed.
        (rng,) = np.random.default_rng(seed).spawn(1)
        return {"x_drawn": (yield from self._drawn(inputs, rng))}

    def _drawn(self, inputs, rng, x=None):
        """Draws from p(x|z), from the inputs of the decoder; `x` as in `_step_by_step`."""
        if self.inputs.manifest.autoregressive:
            return (yield from self._step_by_step(inputs, rng, x))["x_mean"]
        outputs = yield GraphRun("decoder", inputs, outputs=self._drawn_of)
        return draws.draw(self.require_draws(), self._parameters(outputs), rng)

    def _step_by_step(self, inputs, rng=None, x=None):
        """What `decode` gives, of a decoder that follows the steps before, as `keras_vae`'s `VAE` does.

        Each step is the mean or, with a generator, a draw, given the steps before it. `x` are steps that are known,
        with NaN where they are not.
        """
        n, shape = len(inputs[self.inputs.z]), tuple(map(int, self.inputs.manifest.data_shape))
        x = np.full((n, *shape), np.nan, "float32") if x is None else x.copy()
        outputs, wanted = {}, None if rng is None else self._drawn_of
        for step in range(shape[0]):
            missing = np.isnan(x[:, step])
            if not missing.any():
                continue
            outputs = yield GraphRun("decoder", {**inputs, "x": x.copy()}, outputs=wanted)
            if rng is None:
                made = outputs["x_mean"][:, step]
            else:
                made = draws.draw(self.require_draws(), self._parameters(outputs)[:, step : step + 1], rng)[:, 0]
            x[:, step] = np.where(missing, made, x[:, step])
        return {**outputs, "x_mean": x}

    @property
    def _drawn_of(self):
        """Names of the decoder's outputs that x is drawn of."""
        return ("x_parameters",) if draws.needs_parameters(self.require_draws()) else self.moments

    def _parameters(self, outputs):
        return np.concatenate([outputs[name] for name in self._drawn_of], axis=-1)

    def standardize(self, arrays: Arrays) -> Arrays:
        """The arrays, with z, or the mean and log variance of a normal, in standard deviations from the mean."""
        mean, std = self._statistics()
        found = dict(arrays)
        for name in {"z", "z_mean"} & set(found):
            found[name] = (found[name] - mean) / std
        if self.is_normal and "z_log_var" in found:
            found["z_log_var"] = found["z_log_var"] - 2.0 * np.log(std)
        return found

    def reconstruct(self, x: Any, sample: bool = False, seed: Seed = None, draw: bool = False) -> Steps:
        """What `decode` gives at the posterior's location or, if `sample`, at a draw from the posterior."""
        seed = np.random.default_rng(seed)
        x, conditioning = self.inputs.split_by_network(x)
        outputs = yield from self.outputs(x)
        drawn = yield from self.draw_posterior(outputs, sample, seed)
        return (yield from self.decode({self.inputs.z: drawn["z"], **conditioning}, draw=draw, seed=seed))

    def sample(
        self, n: int = 1, seed: Seed = None, condition: Any = None, latent_shape: Any = None, draw: bool = False
    ) -> Steps:
        """What `decode` gives at `n` draws from the prior."""
        n, seed = whole_number("n", n), np.random.default_rng(seed)
        conditioning = self.inputs.repeat_condition("decoder", condition, n)
        z = yield from self.draw(n, seed, condition, latent_shape)
        return (yield from self.decode({self.inputs.z: z, **conditioning}, draw=draw, seed=seed))

    def interpolate(self, a: Any, b: Any, steps: int = 10, condition: Any = None) -> Steps:
        """Outputs of the decoder on the straight line between the posterior's locations of two examples."""
        steps = whole_number("steps, which counts both ends,", steps, least=2)
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise RequestError(f"a and b must be two examples of one shape; got {a.shape} and {b.shape}.")
        x, repeat = self.inputs.names("encoder")[0], self.inputs.repeat_condition
        outputs = yield from self.outputs({x: np.stack([a, b]), **repeat("encoder", condition, 2)})
        start, end = (yield from self.draw_posterior(outputs))["z"]
        t = np.linspace(0.0, 1.0, steps, dtype="float32").reshape(-1, *[1] * start.ndim)
        z = (1.0 - t) * start + t * end
        return (yield from self.decode({self.inputs.z: z, **repeat("decoder", condition, steps)}))

    def score(
        self,
        x: Any,
        num_samples: int | None = None,
        seed: Seed = None,
        per_dimension: bool = False,
        top_columns: int | None = None,
    ) -> Steps:
        """`negative_elbo`, its terms `reconstruction` and `kl` and, where there is a threshold, `is_anomaly`.

        If `per_dimension` also the `surprise` of each dimension of x: its -E_q log p(x_d|z), less what is usual where
        the threshold says that; 0 where a value is missing. With a number of `top_columns` these columns of the table,
        the most surprising first and those that are missing last, and their `top_surprise`, in which all numbers of a
        category are one.
        """
        usual_samples, usual_seed = self.score_settings
        num_samples = whole_number("num_samples", usual_samples if num_samples is None else num_samples)
        if "elbo" not in self.inputs.graphs:
            raise BundleError("This bundle has no elbo graph: it was exported from a pair of networks, not from a VAE.")
        if top_columns:
            top_columns = min(whole_number("top_columns", top_columns), len(self.columns))
        if (per_dimension or top_columns) and not self.can_tell_where:
            raise RequestError("This bundle does not say where a score comes from: export the model again.")
        wanted = ("reconstruction", "kl", *((LOG_PROB,) if per_dimension or top_columns else ()))
        inputs = self.inputs.check("elbo", x)
        rng = np.random.default_rng(usual_seed if seed is None else seed)
        terms = yield from self._run_elbo(inputs, num_samples, rng, wanted)
        log_prob = terms.pop(LOG_PROB, None)
        outputs = {"negative_elbo": terms["reconstruction"] + terms["kl"], **terms}
        if self.threshold is not None:
            outputs["is_anomaly"] = self.threshold.is_anomaly(outputs["negative_elbo"])
        if log_prob is not None:
            surprise = self._surprise(inputs["x"], log_prob)
            outputs |= {"surprise": surprise} if per_dimension else {}
            outputs |= self._top_columns(inputs["x"], surprise, top_columns) if top_columns else {}
        return outputs

    def _run_elbo(self, inputs, num_samples, rng, outputs):
        """Outputs of the graph "elbo" for noise from a generator, which is drawn as it is needed."""
        epsilon: Any = noise_input(self.inputs.graphs["elbo"])
        shape: Any = epsilon.shape[2:]
        if not all(isinstance(size, int) for size in shape):  # the sizes of z follow from those of x
            first = yield from self.outputs({name: inputs[name][:1] for name in self.inputs.names("encoder")})
            shape = sized(shape, free_sizes(self.inputs.graphs["encoder"].outputs, first))

        def noise(n):
            return {epsilon.name: rng.standard_normal((n, num_samples, *shape), dtype="float32")}

        return (yield GraphRun("elbo", inputs, num_samples, noise, outputs))

    def _surprise(self, x, log_prob):
        usual = 0.0 if self.threshold is None or self.threshold.usual is None else self.threshold.usual
        surprise = -log_prob - np.asarray(usual, "float32")
        return np.where(np.isnan(x), np.float32(0.0), surprise) if x.dtype.kind == "f" else surprise

    def _top_columns(self, x, surprise, n):
        starts = np.cumsum([0, *self.columns.values()][:-1])
        of_columns = np.add.reduceat(surprise, starts, axis=-1)
        observed_first = np.where(np.isnan(x[:, starts]), np.inf, -of_columns)
        order = np.argsort(observed_first, axis=-1, kind="stable")[:, :n]
        names = np.array(list(self.columns))
        return {"top_columns": names[order], "top_surprise": np.take_along_axis(of_columns, order, axis=-1)}

    def impute(self, x: Any, draws: int | None = None, num_samples: int = 100, seed: Seed = None) -> Steps:
        """`x_filled`: x with the mean of its missing values given the observed ones, which stay bit for bit.

        With a number of `draws`, `x_draws`, `(n, draws, ...)`, in which they are drawn. The numbers are those of
        `VAE.impute`: importance sampling, Mattei & Frellsen 2019, arXiv:1812.02633, section 3.3.
        """
        num_samples = whole_number("num_samples", num_samples)
        self.require_imputation()
        if draws is not None:
            draws = whole_number("draws", draws)
            self.require_draws()
        elif self.inputs.manifest.autoregressive:
            raise RequestError(
                "This decoder follows the steps before, and the mean of later ones is known by draws only: ask for "
                "draws, 100 for instance, and average them."
            )
        rng, inputs = np.random.default_rng(seed), self.inputs.check("elbo", x)
        drawer, chooser = rng.spawn(2)
        given = np.asarray(x["x"] if isinstance(x, dict) else x)
        given = given if given.dtype.kind == "f" else inputs["x"]  # as precise as it came
        holes = np.flatnonzero(np.isnan(given).reshape(len(given), -1).any(axis=1))
        name, filled = "x_filled", given.copy()
        if draws is not None:
            name, filled = "x_draws", np.repeat(given[:, None], draws, axis=1)
        if len(holes):
            few = {name: array[holes] for name, array in inputs.items()}
            if draws is None:
                found = yield from self._run_elbo(few, num_samples, rng, ("x_mean",))
                values, observed = found["x_mean"], given[holes]
            else:
                values = yield from self._drawn_values(few, draws, num_samples, rng, chooser, drawer)
                observed = given[holes, None]
            filled[holes] = np.where(np.isnan(observed), values, observed)
        return {name: filled}

    def _drawn_values(self, inputs, count, num_samples, rng, chooser, drawer):
        """Draws from p(x|what is observed), `(n, count, ...)`."""
        chosen, size = [], max(1, _KEPT // num_samples)
        for start in range(0, len(inputs["x"]), size):
            part = {name: array[start : start + size] for name, array in inputs.items()}
            found = yield from self._run_elbo(part, num_samples, rng, ("z", "log_weight"))
            for z, log_weight in zip(found["z"], found["log_weight"], strict=True):
                # The largest of log weights and Gumbel noise is a draw of z by its weight.
                chosen.append(z[np.argmax(log_weight + chooser.gumbel(size=(count, num_samples)), axis=-1)])
        z, n = np.concatenate(chosen), len(inputs["x"])
        beside = {
            tensor.name: np.repeat(inputs[tensor.name], count, axis=0) for tensor in self.inputs.conditioning_inputs()
        }
        drawn = yield from self._drawn({self.inputs.z: z, **beside}, drawer, np.repeat(inputs["x"], count, axis=0))
        return drawn.reshape(n, count, *drawn.shape[1:])

    def draw(self, n: int, seed: Seed = None, condition: Any = None, latent_shape: Any = None) -> Steps:
        """z, `(n, *latent_shape)`, from the prior."""
        n, z_shape = whole_number("n", n), self.inputs.latent_shape(latent_shape)
        if "prior" in self.inputs.graphs:
            graph, given = self.inputs.graphs["prior"], {}
            if self.inputs.names("prior"):
                given = self.inputs.check("prior", self.inputs.repeat_condition("prior", condition, n))
            noise: Any = noise_input(graph)
            sizes = dict(zip(graph.outputs[0].shape[1:], z_shape, strict=True))
            shape = (n, *sized(noise.shape[1:], sizes))
            return (yield GraphRun("prior", {noise.name: _standard_normal(shape, seed), **given}))["z"]
        prior = self.inputs.manifest.prior
        if prior is None or prior["name"] != "DiagonalNormal":
            raise BundleError(
                f"This bundle's prior is {prior and prior['name']}, from which nothing can be drawn here."
            )
        mean, log_var = (np.asarray(prior["config"][name], "float32") for name in ("mean", "log_var"))
        return mean + np.exp(0.5 * log_var) * _standard_normal((n, *z_shape), seed)

    def latent_activity(self, draws: int = 16, seed: int = 0) -> Steps:
        """Root mean squared change of the decoded mean when one element of z's last axis is drawn again, `(size,)`."""
        draws = whole_number("draws", draws)
        conditioning = self.inputs.dummy_inputs(draws, seed)
        condition = conditioning.get("condition", self.inputs.dummy_inputs(draws, seed, "prior").get("condition"))
        twice = condition if condition is None else np.concatenate([condition, condition])
        z, redrawn = np.split((yield from self.draw(2 * draws, seed, twice)), 2)
        before, activity = (yield from self.decode({self.inputs.z: z, **conditioning}))["x_mean"], []
        # Of a decoder that follows the steps before, what it does to each step when the others stay as they are.
        steps = {"x": before} if self.inputs.manifest.autoregressive else {}
        for i in range(z.shape[-1]):
            moved = z.copy()
            moved[..., i] = redrawn[..., i]
            inputs = self.inputs.check("decoder", {self.inputs.z: moved, **conditioning})
            after = (yield GraphRun("decoder", {**inputs, **steps}))["x_mean"]
            activity.append(np.sqrt(np.mean(np.square(after - before, dtype="float64"))))
        return np.array(activity)

    @property
    def is_normal(self) -> bool:
        """Whether q(z|x) is a diagonal normal, which needs no graph to draw from."""
        return "posterior" not in self.inputs.graphs

    @property
    def posterior_outputs(self) -> tuple[Tensor, ...]:
        """What `encode` gives: the outputs of the encoder, and of the graph "posterior" where there is one."""
        graphs = self.inputs.graphs
        return graphs["encoder"].outputs + (() if self.is_normal else graphs["posterior"].outputs)

    def _statistics(self):
        statistics = self.require_statistics()
        return (np.asarray(statistics[name], "float32") for name in ("mean", "std"))

    def require_statistics(self) -> dict[str, Any]:
        """Mean and standard deviation of the codes; raises a RequestError if the bundle has none."""
        statistics = self.inputs.manifest.latents
        if statistics is None:
            raise RequestError(
                "This bundle does not know the scale of its codes: set vae.latent_statistics = "
                "keras_vae.evaluation.latent_statistics(vae, x), with x of training, and export the model again."
            )
        return statistics

    def require_draws(self) -> dict[str, Any]:
        """How x is drawn from p(x|z); raises a RequestError if the bundle does not say."""
        spec, likelihood = self.inputs.manifest.draws, self.inputs.manifest.likelihood
        if spec is None:
            raise RequestError(
                f"This bundle gives the mean of p(x|z), and cannot draw from it: the likelihood, "
                f"{likelihood and likelihood['name']}, did not say how (its drawn_as()) when it was exported."
            )
        return spec

    def require_imputation(self) -> None:
        """Raises a BundleError if the bundle cannot fill in missing values."""
        if not self.inputs.manifest.missing:
            raise BundleError(
                "This bundle knows no missing values: its model was not made with VAE(..., allow_missing=True)."
            )
        if not self.can_impute:
            raise BundleError("This bundle has no weights to fill in missing values with: export the model again.")

    @property
    def can_tell_where(self) -> bool:
        """Whether a score can be told apart by the dimensions of x."""
        return self._elbo_gives(LOG_PROB)

    @property
    def can_impute(self) -> bool:
        """Whether missing values can be filled in."""
        return self.inputs.manifest.missing and self._elbo_gives("log_weight")

    def _elbo_gives(self, output):
        graphs = self.inputs.graphs
        return "elbo" in graphs and output in {tensor.name for tensor in graphs["elbo"].outputs}

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of the decoder's outputs that are moments of p(x|z): `x_mean` and, where there is one, `x_scale`."""
        return tuple(t.name for t in self.inputs.graphs["decoder"].outputs if t.name != "x_parameters")

    @property
    def columns(self) -> dict[str, int]:
        """How many numbers each column of the table has in x, by name; raises a RequestError if it is no table."""
        if self.inputs.table is None:
            raise RequestError(
                "The columns of this bundle's data have no names, as those of a keras_vae.tables.Table have: "
                "per_dimension gives the surprise of each number."
            )
        return {column.name: column.width for column in self.inputs.table.in_array}

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


def _standard_normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """The value as an int; raises a RequestError if it is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:  # pyright: ignore[reportOperatorIssue]
        raise RequestError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return int(value)
