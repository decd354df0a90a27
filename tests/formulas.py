"""The mathematics as functions of one array, by name: what must have the same value and gradient on every backend.

The tests of the mathematics run on one backend; `backend_worker.py` tabulates these functions on each, and
test_backends_agree.py compares the tables. A class that is saved with a model must stand in `PARTS`.
"""

import keras
import numpy as np
from keras import layers, ops

import gradients
from keras_vae import (
    ELBO,
    IWAE,
    VAE,
    Bernoulli,
    BetaTC,
    Categorical,
    DiagonalNormal,
    Gaussian,
    InfoVAE,
    Laplace,
    Mixed,
    Mixture,
    distributions,
    likelihoods,
    networks,
    posteriors,
    priors,
    schedules,
)
from keras_vae.distributions import FullMixture
from likelihood_cases import CASES

BATCH, LATENTS = 4, 3

LIKELIHOODS = {name: likelihood for name, (likelihood, *_) in CASES.items()}
MIXED = Mixed([("gaussian", 2), ("categorical", 3), ("negative_binomial", 1)])
JOINT = likelihoods.Joint({"image": "bce", "label": Categorical(3), "size": Gaussian("predicted")})
SCHEDULES = {
    "constant": schedules.Constant(0.3),
    "linear": schedules.Linear(7, 0.1, 2.0),
    "cyclical": schedules.Cyclical(9, 0.25, 3, 0.0, 2.0),
}
OBJECTIVES = {
    "elbo": ELBO(),
    "beta": ELBO(beta=schedules.Linear(10), num_samples=2),
    "monte_carlo": ELBO(num_samples=2, kl="monte_carlo"),
    "stl": ELBO(num_samples=2, kl="monte_carlo", gradient="stl"),
    "free_bits": ELBO(free_bits=0.4),
    "free_bits_of_all": ELBO(free_bits=50.0, groups=1),
    "capacity_above": ELBO(beta=7.0, capacity=1000.0),
    "capacity_below": ELBO(beta=7.0, capacity=schedules.Linear(10, end=0.1)),
    "iwae": IWAE(3),
    "dreg": IWAE(3, "dreg"),
    "beta_tc_weighted": BetaTC(50, 0.5, 6.0, 2.0, "weighted", 2),
    "beta_tc_stratified": BetaTC(50, 0.5, schedules.Linear(10, end=6.0), 2.0, "stratified", 2),
    "info_vae_imq": InfoVAE(0.25, 100.0),
    "info_vae_rbf": InfoVAE(0.25, 100.0, "rbf", 1.5, 2),
}
WITHOUT_A_CLOSED_FORM = ("elbo", "stl", "capacity_below", "dreg")  # of the KL: with a mixture as the prior


def normal(*shape, seed=0, scale=1.0):
    return np.random.default_rng([seed, *shape]).normal(scale=scale, size=shape).astype("float32")


def mixture(seed=0):
    components = DiagonalNormal(normal(5, LATENTS, seed=seed), normal(5, LATENTS, seed=seed + 1))
    return Mixture(components, normal(5, seed=seed))


DISTRIBUTIONS = {
    "normal": DiagonalNormal(normal(LATENTS, seed=1), normal(LATENTS, seed=2)),
    "mixture": mixture(),
    "full_mixture": FullMixture(
        normal(3, LATENTS), np.tril(normal(3, LATENTS, LATENTS, scale=0.3)) + np.eye(LATENTS, dtype="float32") * 1.5
    ),
}
PRIORS = {
    "standard": priors.StandardNormal,
    "gaussian_mixture": lambda: priors.GaussianMixture(4, seed=0),
    "vamp": lambda: priors.VampPrior(4, pseudo_inputs=np.abs(normal(4, 6)) % 1.0),
    "real_nvp": lambda: priors.RealNVP(2, (4,), seed=0),
    "conditional": lambda: priors.Conditional(networks.normal_mlp(3, LATENTS)),
    "hierarchical": lambda: priors.Hierarchical([networks.normal_mlp((1,), LATENTS - 1, (2,), "tanh")]),
}
POSTERIOR = posteriors.Normal()
POSTERIORS = {
    "full": posteriors.FullNormal(),
    "low_rank": posteriors.LowRankNormal(2),
    "flow": posteriors.Flow(hidden=(5, 4), context=2),
    "fsq": posteriors.FSQ((2, 4, 5)),
    "hierarchical": posteriors.Hierarchical([networks.normal_mlp((2,), LATENTS - 2, (2,), "tanh")]),
}
PARTS = [
    *(part for group in (LIKELIHOODS, SCHEDULES, OBJECTIVES, DISTRIBUTIONS) for part in group.values()),
    *(make() for make in PRIORS.values()),
    POSTERIOR,
    *POSTERIORS.values(),
    distributions.UniformCodes((2, 4, 5)),
    MIXED,
    JOINT,
]


def table():
    """`name/value` and `name/gradient` of every function below, NumPy."""
    found = {}
    functions = {**of_likelihoods(), **of_distributions(), **of_posteriors(), **of_models()}
    for name, (function, point) in functions.items():

        def total_and_values(x, function=function):
            values = function(x)
            # Weights that differ, as the sum of a softmax has no gradient; and x itself, of which a mean may be free.
            weights = ops.reshape(ops.cos(ops.arange(np.prod(values.shape), dtype="float32")), values.shape)
            return ops.sum(values * weights) + 0.0 * ops.sum(x), values

        found[f"{name}/value"], found[f"{name}/gradient"] = gradients.with_values(total_and_values, point)
    for name, schedule in SCHEDULES.items():
        steps = [schedule(ops.convert_to_tensor(step, "int32")) for step in (*range(32), 2**28 + 3)]
        found[f"schedule {name}/value"] = np.array([float(ops.convert_to_numpy(value)) for value in steps])
    return found


def fresh(likelihood):
    """A copy: what a likelihood learns from a batch must not reach the next function."""
    return likelihoods.get(keras.saving.serialize_keras_object(likelihood))


def of_likelihoods():
    found = {}
    for name, (likelihood, support, parameters, _) in CASES.items():
        x = support[np.linspace(0, len(support) - 1, 7).astype(int)]
        points = [*parameters]
        if not (isinstance(likelihood, Bernoulli) and not likelihood.from_logits):
            points += [np.full_like(parameters[0], extreme) for extreme in (-1e4, -37.0, 37.0, 1e4)]
        x, point = np.tile(x, (len(points), 1)), np.repeat(np.array(points), 7, axis=0)
        found |= of_likelihood(name, likelihood, x.astype("float32"), point.astype("float32"))
    for likelihood in (Gaussian("optimal"), Laplace("optimal")):
        x, observed = normal(BATCH, 6), ops.convert_to_tensor(normal(BATCH, 6, seed=1) > -0.5)
        weight = ops.convert_to_tensor(np.arange(BATCH, dtype="float32"))

        def in_training(p, likelihood=likelihood, x=x, observed=observed, weight=weight):
            copy = fresh(likelihood)
            return copy.log_prob(x, p, observed, copy.update(x, p, observed, weight))

        found[f"{type(likelihood).__name__} optimal in training"] = in_training, normal(2, BATCH, 6)
    x = np.concatenate([normal(3, 2), np.eye(3), [[0.0], [3.0], [400.0]]], axis=1).astype("float32")
    found |= of_likelihood("mixed", MIXED, x, normal(3, MIXED.parameter_channels(6)))
    x = np.concatenate([np.eye(4)[:3], [[0.0], [2.0], [1.0]], normal(3, 2)], axis=1).astype("float32")
    return found | {
        "joint: log_prob": (lambda p: joint().log_prob_per_dimension(ops.convert_to_tensor(x), p), normal(3, 11)),
        "joint: mean": (lambda p: joint().mean(p), normal(3, 11)),
    }


def joint():
    likelihood = fresh(JOINT)
    likelihood.bind_shapes({"image": (2, 2), "label": (), "size": (2,)})
    return likelihood


def of_likelihood(name, likelihood, x, point):
    found = {
        f"{name}: log_prob": (lambda p: fresh(likelihood).log_prob_per_dimension(ops.convert_to_tensor(x), p), point),
        f"{name}: mean": (lambda p: fresh(likelihood).mean(p), point),
    }
    if likelihood.has_stddev:
        found[f"{name}: stddev"] = (lambda p: fresh(likelihood).stddev(p), point)
    return found


def of_distributions():
    q = normal(2, BATCH, LATENTS)
    z = ops.convert_to_tensor(normal(2, BATCH, LATENTS, seed=3))
    p = normal(2, 5, LATENTS)

    def mixed(p):
        return Mixture(DiagonalNormal(p[0], p[1]), ops.convert_to_tensor(normal(5)))

    def moments(p):
        matched = mixed(p).moment_matched()
        return ops.stack([matched.mean, matched.log_var])

    other = DISTRIBUTIONS["normal"]
    noise = ops.convert_to_tensor(normal(BATCH, LATENTS + 1))
    return {
        "normal: log_prob": (lambda q: DiagonalNormal(q[0], q[1]).log_prob(z), q),
        "normal: log_prob per dimension": (lambda q: DiagonalNormal(q[0], q[1]).log_prob(z, per_dimension=True), q),
        "normal: kl": (lambda q: DiagonalNormal(q[0], q[1]).kl_divergence(other), q),
        "normal: kl of a collapsed unit": (
            lambda q: 1e4 * DiagonalNormal(q[0], q[1]).kl_divergence(DiagonalNormal.standard(LATENTS)),
            1e-2 * q,
        ),
        "normal: draws": (lambda q: DiagonalNormal(q[0], q[1]).reparameterize(z), q),
        "normal: score": (lambda q: DiagonalNormal(q[0], q[1]).grad_log_prob(z), q),
        "mixture: log_prob": (lambda p: mixed(p).log_prob(z), p),
        "mixture: log_prob per dimension": (lambda p: mixed(p).log_prob(z, per_dimension=True), p),
        "mixture: draws": (lambda p: mixed(p).from_noise(noise), p),
        "mixture: score": (lambda p: mixed(p).grad_log_prob(z), p),
        "mixture: moments": (moments, p),
    }


def model(**kwargs):
    """A linear encoder and decoder over six binary columns, with the weights and the training step set."""
    x, z = keras.Input((6,)), keras.Input((LATENTS,))
    encoder = keras.Model(x, [layers.Dense(LATENTS)(x), layers.Dense(LATENTS)(x)])
    vae = VAE(encoder, keras.Model(z, layers.Dense(6)(z)), **kwargs)
    for network in (vae.encoder, vae.decoder):
        network.set_weights([normal(*w.shape, seed=i, scale=0.7) for i, w in enumerate(network.get_weights())])
    vae.training_step.assign(5)
    return vae


def of_posteriors():
    """The log variance is limited: in training its gradient is not."""

    def log_var(training):
        return lambda x: POSTERIOR.distribution((x, x), training).log_var

    x = np.array([[-1e4, -3.0, 0.5], [2.0, 14.0, 1e4]], "float32")
    found = {f"posterior, training={training}": (log_var(training), x) for training in (False, True)}
    other = DISTRIBUTIONS["normal"]
    for name, family in POSTERIORS.items():
        shapes = family.output_shapes((LATENTS,)).values()
        family.bind((LATENTS,), tuple(shapes))
        for i, variable in enumerate(family.trainable_variables):
            variable.assign(normal(*variable.shape, seed=i))
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        noise = ops.convert_to_tensor(normal(2, BATCH, *family.noise_shape((LATENTS,))))
        z = ops.convert_to_tensor(normal(2, BATCH, LATENTS, seed=3))

        def q(x, family=family, shapes=shapes, ends=ends):
            parts = zip(shapes, (0, *ends[:-1]), ends, strict=True)
            outputs = [ops.reshape(x[:, start:end], (-1, *shape)) for shape, start, end in parts]
            return family.distribution(outputs, training=True)

        def draws(x, q=q, noise=noise):
            z, log_prob = q(x).draw(noise)
            return ops.concatenate([z, log_prob[..., None]], axis=-1)

        x = normal(BATCH, ends[-1])
        found[f"posterior {name}: draws"] = draws, x
        if issubclass(family.distribution_class, distributions.full_normal.CorrelatedNormal):
            found[f"posterior {name}: log_prob"] = (lambda x, q=q, z=z: q(x).log_prob(z)), x
            found[f"posterior {name}: kl"] = (lambda x, q=q: distributions.kl_divergence(q(x), other)), x
    return found


def of_models():
    """Each objective's loss and logs as functions of what the encoder sees; each prior as one of its weights."""
    found = {}
    x = np.random.default_rng(0).random((BATCH, 6)).astype("float32")
    target = ops.convert_to_tensor((x > 0.5).astype("float32"))
    for prior, distribution in DISTRIBUTIONS.items():
        for name, objective in OBJECTIVES.items():
            if prior != "normal" and name not in WITHOUT_A_CLOSED_FORM:
                continue
            vae = model(objective=objective, prior=distribution)
            epsilon = ops.convert_to_tensor(normal(objective.num_samples, BATCH, LATENTS))

            def terms(x, vae=vae, epsilon=epsilon):
                terms = vae.terms(x, epsilon, target)
                # Of what is logged some are scalars.
                columns = [terms.loss, terms.reconstruction, terms.kl, *terms.logs.values()]
                return ops.stack([column + ops.zeros_like(terms.kl) for column in columns], axis=-1)

            found[f"objective {name}, prior {prior}"] = terms, x
    z = ops.convert_to_tensor(normal(2, BATCH, LATENTS, seed=3))
    labels = np.arange(BATCH) % 3
    for name, make in PRIORS.items():
        vae = model(prior=make())
        for i, variable in enumerate(vae.prior.trainable_variables):
            scale = 0.2 if name == "vamp" else 1.0
            variable.assign(np.abs(normal(*variable.shape, seed=i, scale=scale)))
        for i, variable in enumerate(vae.prior.trainable_variables):

            def log_prob(value, vae=vae, variable=variable):
                with keras.StatelessScope(state_mapping=[(variable, value)]):
                    return vae.prior_distribution(labels).log_prob(z)

            found[f"prior {name}: log_prob by {variable.name} {i}"] = log_prob, ops.convert_to_numpy(variable.value)
    return found
