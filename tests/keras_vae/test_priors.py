"""Priors that learn: what they are in a model, in training, in a file."""

import keras
import numpy as np
import pytest

import families
import guide_parts
from keras_vae import (
    IWAE,
    VAE,
    BetaTC,
    DiagonalNormal,
    Gaussian,
    Mixture,
    callbacks,
    distributions,
    evaluation,
    networks,
    plotting,
    posteriors,
    priors,
)
from keras_vae.distributions import FullMixture

pytestmark = pytest.mark.once


def made(digits, kind):
    return {
        "standard": lambda: priors.StandardNormal(),
        "mixture": lambda: priors.GaussianMixture(4, seed=0),
        "vamp": lambda: priors.VampPrior(6, pseudo_inputs=digits[:6]),
        "fixed": lambda: Mixture(DiagonalNormal(np.eye(3, dtype="float32"), np.zeros((3, 3), "float32"))),
        "own": lambda: guide_parts.RealNVP(1, 2),
        "flow": lambda: priors.RealNVP(2, (4,), seed=0),
        "conditional": lambda: priors.Conditional(networks.normal_mlp(4, 3)),
        "full": lambda: FullMixture(np.eye(3), np.linalg.cholesky(0.5 * np.eye(3) + 0.1)[None].repeat(3, 0)),
        "layers": lambda: priors.Hierarchical([networks.normal_mlp((1,), 2, (4,))]),
    }[kind]()


def labelled(x):
    """Data of a conditional model: the label is the number of the example, of 4 kinds."""
    return {"x": x, "condition": np.arange(len(x)) % 4}


def test_a_standard_normal_is_the_prior_that_a_model_has_anyway(make_vae, digits):
    named, plain = make_vae(prior=priors.StandardNormal()), make_vae()
    named.set_weights(plain.get_weights())
    np.testing.assert_array_equal(named.elbo(digits, seed=0), plain.elbo(digits, seed=0))
    np.testing.assert_array_equal(named.sample(5, seed=0), plain.sample(5, seed=0))


def test_one_component_at_n_0_1_gives_the_plain_elbo_but_for_the_noise_of_its_kl(make_vae, digits):
    vae, plain = make_vae(prior=priors.GaussianMixture(1)), make_vae()
    vae.encoder.set_weights(plain.encoder.get_weights())
    vae.decoder.set_weights(plain.decoder.get_weights())
    found, expected = vae.elbo(digits, 200, seed=0), plain.elbo(digits, 200, seed=0)
    assert found.mean() == pytest.approx(expected.mean(), abs=0.02)
    exact = evaluation.log_likelihood(plain, digits[:20], 50)
    np.testing.assert_allclose(
        evaluation.log_likelihood(vae, digits[:20], 50).log_likelihood, exact.log_likelihood, rtol=1e-5
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=pytest.mark.every_backend) for kind in ("vamp", "own", "conditional")),
        *("standard", "fixed", "mixture", "flow", "full", "layers"),
    ],
)
def test_the_whole_life_of_a_model_with_such_a_prior(make_vae, digits, tmp_path, kind):
    compile, objective, watching = {"optimizer": keras.optimizers.Adam(0.01)}, "elbo", []
    if kind == "own":  # networks in the prior and in the objective, many steps at once, and a callback that looks
        objective, watching = families.Critic(), [callbacks.LatentMonitor(digits)]
        compile["steps_per_execution"] = 1 if keras.backend.backend() == "tensorflow" else 4  # XLA takes 10 s for it
    data, validation, given = digits, digits[:50], {}
    if kind == "conditional":
        data, validation, given = labelled(data), labelled(validation), {"condition": 1}
    vae = make_vae(prior=made(digits, kind), objective=objective, compile=compile)
    learning = [part for part in (vae.prior, vae.objective) if isinstance(part, keras.layers.Layer)]
    before = [np.array(weight) for part in learning for weight in part.get_weights()]
    history = vae.fit(data, epochs=2, validation_data=(validation,), verbose=0, callbacks=watching)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.history["val_negative_elbo"][-1] > 0.0
    after = [weight for part in learning for weight in part.get_weights()]
    assert len(after) == {"vamp": 1, "mixture": 3, "own": 4 + 4, "flow": 8, "conditional": 5, "layers": 6}.get(kind, 0)
    for one, other in zip(before, after, strict=True):
        assert np.abs(one - other).max() > 1e-4
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.elbo(data, seed=0), vae.elbo(data, seed=0))
    np.testing.assert_array_equal(copy.sample(5, seed=1, **given), vae.sample(5, seed=1, **given))
    assert type(copy.prior) is type(vae.prior)
    for one, other in zip(copy.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    kl_per_unit = evaluation.kl_per_unit(vae, data)
    assert kl_per_unit.shape == (3,)
    for monitor in watching:
        np.testing.assert_allclose(monitor.kl_per_unit[-1], kl_per_unit, rtol=1e-4, atol=1e-6)
    if kind != "conditional":
        assert evaluation.elbo_surgery(vae, data).kl > 0.0
    terms = evaluation.held_out(vae, data, num_samples=4)
    assert terms["negative_elbo"] == pytest.approx(-vae.elbo(data, 4, seed=0).mean(), rel=1e-5)


def test_the_log_density_in_the_weights_is_that_of_the_prior(make_vae, digits):
    """log w = log p(x|z) + log p(z) - log q(z|x): less that of the standard prior, the priors' difference is left."""
    vae, plain = make_vae(prior=made(digits, "vamp")), make_vae()
    vae.encoder.set_weights(plain.encoder.get_weights())
    vae.decoder.set_weights(plain.decoder.get_weights())
    x, epsilon = digits[:4], np.random.default_rng(0).standard_normal((3, 4, 3)).astype("float32")
    found, other = (keras.ops.convert_to_numpy(model.log_weights(x, epsilon)) for model in (vae, plain))
    posterior = vae.encode(x)
    z = posterior.mean + np.exp(0.5 * posterior.log_var) * epsilon
    components = vae.encode(digits[:6])  # the pseudo-inputs
    each = np.stack(
        [DiagonalNormal(m, v).log_prob(z) for m, v in zip(components.mean, components.log_var, strict=True)]
    )
    expected = np.logaddexp.reduce(each, axis=0) - np.log(6) - DiagonalNormal.standard(3).log_prob(z)
    np.testing.assert_allclose(found - other, expected, rtol=1e-4, atol=1e-4)


def test_pseudo_inputs_stay_in_the_range_of_the_data(make_vae):
    vae = make_vae(prior=priors.VampPrior(5, seed=0))
    start = vae.prior.get_weights()[0]
    assert start.shape == (5, 8, 8, 1)
    assert start.mean() == pytest.approx(0.5, abs=0.05)  # of data in [0, 1]
    seen = vae.numpy_prior().components.mean
    vae.prior.set_weights([np.where(start > 0.5, 7.0, -7.0)])
    np.testing.assert_allclose(
        vae.numpy_prior().components.mean, vae.encode(np.where(start > 0.5, 1.0, 0.0).astype("float32")).mean, rtol=1e-5
    )
    assert np.abs(vae.numpy_prior().components.mean - seen).max() > 1e-3


@pytest.mark.every_backend
def test_batch_normalisation_is_not_moved_by_pseudo_inputs(digits):
    x = keras.Input((8, 8, 1))
    h = keras.layers.BatchNormalization(momentum=0.5, name="bn")(keras.layers.Flatten()(x))
    encoder = keras.Model(x, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])
    averages = []
    for prior in (None, priors.VampPrior(4, pseudo_inputs=np.ones((4, 8, 8, 1)))):
        network = keras.models.clone_model(encoder)
        network.set_weights(encoder.get_weights())
        vae = VAE(network, networks.mlp((8, 8, 1), 3)[1], prior=prior, seed=0)
        vae.compile(keras.optimizers.SGD(0.0))
        vae.fit(digits, batch_size=64, verbose=0, shuffle=False)
        averages.append(network.get_layer("bn").get_weights()[2])
    np.testing.assert_allclose(averages[0], averages[1], rtol=1e-5)
    assert averages[0].max() > 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: priors.GaussianMixture(0), "components must be a whole number of at least 1"),
        (lambda: priors.VampPrior(3, pseudo_inputs=np.zeros((2, 8, 8, 1))), "2 examples for 3 components"),
    ],
)
def test_what_is_no_prior_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        ("gaussian", "prior must be a keras_vae.priors.Prior"),
        (priors.VampPrior(2, pseudo_inputs=np.zeros((2, 64))), "must hold examples of shape"),
        (priors.VampPrior(2, pseudo_inputs=np.full((2, 8, 8, 1), np.nan)), "hold NaN"),
        (Mixture(DiagonalNormal(np.zeros((2, 4)), np.zeros((2, 4)))), r"over z of shape \(4,\)"),
    ],
)
def test_a_prior_that_does_not_fit_the_model_is_refused(make_vae, prior, words):
    with pytest.raises(ValueError, match=words):
        make_vae(prior=prior)


def test_pseudo_inputs_are_refused_where_they_cannot_be_encoded():
    x = keras.Input((5,), dtype="int32", name="x")
    h = keras.layers.Flatten()(keras.layers.Embedding(2, 3)(x))
    encoder = keras.Model(x, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])
    with pytest.raises(ValueError, match="this encoder takes whole numbers"):
        VAE(encoder, networks.mlp((5,), 3)[1], prior=priors.VampPrior(4))


def test_a_prior_serves_models_of_one_number_of_latents(make_vae):
    prior = priors.GaussianMixture(3)
    make_vae(prior=prior)
    with pytest.raises(ValueError, match=r"belongs to a model with latents of shape \(3,\), and this one has \(2,\)"):
        make_vae(latent_dim=2, prior=prior)


@pytest.mark.every_backend
def test_the_prior_of_a_model_can_be_changed(make_vae, digits):
    vae = make_vae()
    vae.prior = priors.GaussianMixture(3, seed=0)
    vae.compile("adam")
    before = vae.prior.get_weights()[1]
    vae.fit(digits, verbose=0)
    assert np.abs(vae.prior.get_weights()[1] - before).max() > 1e-5
    vae = make_vae(objective=BetaTC(256))
    vae.prior = priors.GaussianMixture(3)
    with pytest.raises(ValueError, match="each latent with its own prior"):
        vae.compile("adam")


@pytest.mark.every_backend
def test_fixed_priors_may_be_of_float64(make_vae, digits):
    vae = make_vae(prior=Mixture(DiagonalNormal(np.eye(3), np.zeros((3, 3))), [0.1, 0.2, 0.3]))
    vae.fit(digits[:64], verbose=0)
    assert vae.elbo(digits[:5]).dtype == np.float32
    make_vae(prior=DiagonalNormal(np.ones(3), np.zeros(3))).fit(digits[:64], verbose=0)


@pytest.mark.parametrize("likelihood", ["poisson", "laplace"])
def test_pseudo_inputs_begin_finite_where_the_data_have_no_bound(likelihood):
    network = networks.mlp((6,), 2, hidden=(8,), likelihood=likelihood)
    vae = VAE(*network, likelihood, prior=priors.VampPrior(5, seed=0))
    assert np.isfinite(vae.prior.get_weights()[0]).all()
    assert np.isfinite(vae.elbo(np.ones((3, 6), "float32"))).all()


@pytest.mark.parametrize(
    ("data_range", "low", "high"),
    [
        (None, -1.0, 1.0),
        ((0.0, 1.0), 0.0, 1.0),
        ((0.0, np.inf), 0.0, 2.0),
        ((-np.inf, 0.5), -1.5, 0.5),
        ((-np.inf, np.inf), -1.0, 1.0),
    ],
)
def test_pseudo_inputs_begin_as_noise_around_the_middle_of_the_range(data_range, low, high):
    prior, again, other = (priors.VampPrior(200, seed=seed) for seed in (0, 0, 1))
    for one in (prior, again, other):
        one.bind((2,), priors.DataSpec((30,), range=data_range))
    start = prior.get_weights()[0]
    assert start.mean() == pytest.approx(0.5 * (low + high), abs=0.01 * (high - low))
    assert start.std() == pytest.approx(0.1 * (high - low), rel=0.05)
    np.testing.assert_array_equal(again.get_weights()[0], start)
    assert not np.array_equal(other.get_weights()[0], start)


def test_pseudo_inputs_start_at_what_is_given_and_not_as_whole_numbers():
    prior = priors.VampPrior(2, pseudo_inputs=np.array([[0, 1], [1, 0]]))
    prior.bind((3,), priors.DataSpec((2,), range=(0.0, 1.0)))
    np.testing.assert_array_equal(prior.get_weights()[0], [[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="^components must be a whole number"):
        priors.VampPrior(0)


def test_the_components_of_a_mixture_begin_apart_and_repeat_for_a_seed():
    means = []
    for components, seed in ((1, 0), (2, 0), (2, 0), (2, 1)):
        prior = priors.GaussianMixture(components, seed=seed)
        prior.bind((3,), priors.DataSpec((4,)))
        means.append(prior.get_weights()[1])
    assert not means[0].any()
    assert not np.array_equal(means[1][0], means[1][1])
    np.testing.assert_array_equal(means[1], means[2])
    assert not np.array_equal(means[1], means[3])
    many = priors.GaussianMixture(500, seed=0)
    many.bind((4,), priors.DataSpec((4,)))
    assert many.get_weights()[1].std() == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ValueError, match="^components must be a whole number"):
        priors.GaussianMixture(0)


def test_samples_can_be_drawn_from_another_distribution(make_vae):
    vae = make_vae()
    far = DiagonalNormal(np.full(3, 4.0, "float32"), np.full(3, -20.0, "float32"))
    expected = vae.decode(np.full((5, 3), 4.0))
    np.testing.assert_allclose(vae.sample(5, seed=0, prior=far), expected, atol=1e-3)


# A prior of one's own: the flow of the guide


def random_model(prior, latent_dim=3):
    """A model with a prior, its weights drawn at random."""
    vae = VAE(*networks.mlp((4,), latent_dim, (8,)), prior=prior, seed=0)
    if isinstance(prior, priors.Prior):
        families.randomize([prior])
    return vae


@pytest.fixture(scope="module", params=["own", "flow", "layers"])
def flow(request):
    return families.make("own_parts") if request.param == "own" else random_model(made(None, request.param))


def test_a_flow_has_the_density_of_its_draws(flow):
    """log p(z) = log N(noise; 0, I) - log |det dz/dnoise|."""
    prior, step = flow.numpy_prior(), 1e-2
    noise = np.random.default_rng(0).standard_normal((20, 3), dtype="float32")
    moved = [
        prior.from_noise(noise + step * e) - prior.from_noise(noise - step * e) for e in np.eye(3, dtype="float32")
    ]
    volume = np.linalg.slogdet(np.stack(moved, axis=-1).astype("float64") / (2.0 * step))[1]
    assert np.abs(volume).max() > 0.1
    expected = DiagonalNormal.standard(3).log_prob(noise) - volume
    np.testing.assert_allclose(prior.log_prob(prior.from_noise(noise)), expected, atol=2e-3)
    np.testing.assert_array_equal(prior.sample(20, seed=0), prior.from_noise(noise))
    assert prior.sample(seed=0).shape == (3,)


def test_the_gradient_and_the_moments_of_ones_own_prior(flow):
    prior, step = flow.numpy_prior(), 1e-2
    z = prior.sample(10, seed=1).reshape(2, 5, 3)
    moved = [prior.log_prob(z + step * e) - prior.log_prob(z - step * e) for e in np.eye(3, dtype="float32")]
    np.testing.assert_allclose(prior.grad_log_prob(z), np.stack(moved, axis=-1) / (2.0 * step), atol=2e-2)
    draws, moments = prior.sample(50_000, seed=2), prior.moment_matched()
    np.testing.assert_allclose(moments.mean, draws.mean(axis=0), atol=4.0 * draws.std() / 4096**0.5)
    np.testing.assert_allclose(np.exp(moments.log_var), draws.var(axis=0), rtol=0.2)


def test_log_p_of_x_with_a_prior_of_ones_own(make_vae, digits):
    """A flow whose networks say 0 is N(0, I), in every estimate."""
    vae, plain = make_vae(prior=guide_parts.RealNVP(2, 4)), make_vae()
    vae.prior.set_weights([np.zeros_like(weight) for weight in vae.prior.get_weights()])
    for network in ("encoder", "decoder"):
        getattr(vae, network).set_weights(getattr(plain, network).get_weights())
    x = digits[:6]
    for found, tolerance in (
        (lambda vae: evaluation.log_likelihood(vae, x, 30).log_likelihood, 1e-4),
        (lambda vae: evaluation.annealed_log_likelihood(vae, x, 2, 5).log_likelihood, 1e-4),
        (lambda vae: vae.sample(5, seed=0), 1e-4),
        # These look at the moments of the prior, which are those of draws here.
        (lambda vae: evaluation.annealed_log_likelihood(vae, x, 2, 5, start="prior").log_likelihood, 0.3),
        (lambda vae: evaluation.kl_per_unit(vae, x), 0.03),
    ):
        np.testing.assert_allclose(found(vae), found(plain), atol=tolerance)


class Wrong(priors.Prior):
    """A prior whose distribution is what a test says."""

    def __init__(self, distribution, distribution_class=distributions.Distribution):
        super().__init__()
        self.found, self.distribution_class = distribution, distribution_class

    def distribution(self, given=None, encode=None):
        return self.found


class OnlyDensity(distributions.Distribution):
    event_shape = (3,)

    def log_prob(self, z):
        return z[..., 0]


class OnlyDraws(distributions.Distribution):
    event_shape = (3,)

    def from_noise(self, noise):
        return noise


class WithoutShape(distributions.Distribution):
    def log_prob(self, z):
        return z[..., 0]

    def draw(self, noise):
        return noise, self.log_prob(noise)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (OnlyDensity, r"^OnlyDensity defines no from_noise\(noise\), with which z is drawn"),
        (OnlyDraws, r"^OnlyDraws defines no log_prob\(z\), of which the KL is made"),
    ],
)
def test_a_distribution_that_lacks_something_is_named(make_vae, digits, kind, words):
    with pytest.raises(TypeError, match=words):  # where its class is told, when the model is made
        make_vae(prior=Wrong(kind(), kind))
    with pytest.raises(TypeError, match=words):
        make_vae(prior=Wrong(kind())).fit(digits, verbose=0)


def test_a_distribution_that_does_not_fit_its_prior_is_named(make_vae, digits):
    with pytest.raises(TypeError, match=r"Wrong.distribution returned a DiagonalNormal, and its .* is Mixture"):
        make_vae(prior=Wrong(DiagonalNormal.standard(3), Mixture)).elbo(digits)
    with pytest.raises(TypeError, match=r"The WithoutShape of Wrong has no event_shape: set it to the shape"):
        make_vae(prior=Wrong(WithoutShape())).elbo(digits)


@pytest.mark.parametrize("kind", ["flow", "layers", "full"])
def test_its_density_integrates_to_one(kind):
    prior = {
        "flow": lambda: priors.RealNVP(4, (8,)),
        "layers": lambda: priors.Hierarchical([networks.normal_mlp((1,), 1, (8,))]),
        "full": lambda: FullMixture(
            np.eye(2), np.array([[[1.0, 0.0], [0.8, 0.6]], [[0.5, 0.0], [-0.3, 0.2]]]), [0.0, 1.0]
        ),
    }[kind]()
    density = random_model(prior, 2).numpy_prior()
    if kind == "full":
        np.testing.assert_allclose(np.exp(density.logits) / np.exp(density.logits).sum(), [0.2689, 0.7311], atol=1e-4)
    step = 0.05
    grid = np.stack(np.meshgrid(*[np.arange(-9.0, 9.0, step, "float32")] * 2), axis=-1)
    values = np.exp(density.log_prob(grid).astype("float64"))
    assert values.sum() * step**2 == pytest.approx(1.0, abs=2e-3)
    z = density.sample(20_000, seed=0)
    mean = (values[..., None] * grid).sum(axis=(0, 1)) * step**2  # of the density, and of its draws
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=4.0 * z.std() / 20_000**0.5)


def test_a_real_nvp_begins_as_n_0_1_exactly(make_vae, digits):
    vae, plain = make_vae(prior=priors.RealNVP(seed=3)), make_vae()
    for network in ("encoder", "decoder"):
        getattr(vae, network).set_weights(getattr(plain, network).get_weights())
    noise = np.random.default_rng(0).standard_normal((7, 3), dtype="float32")
    np.testing.assert_array_equal(vae.numpy_prior().from_noise(noise), noise)
    np.testing.assert_array_equal(vae.numpy_prior().log_prob(noise), DiagonalNormal.standard(3).log_prob(noise))
    np.testing.assert_array_equal(vae.sample(5, seed=0), plain.sample(5, seed=0))
    first, other = (priors.RealNVP(hidden=(3, 3), seed=seed) for seed in (0, 1))
    again = priors.RealNVP(hidden=(3, 3), seed=0)
    for prior in (first, other, again):
        prior.bind((3,), priors.DataSpec((4,)))
    kernels = first.get_weights()[:3:2]
    assert not np.array_equal(*kernels)  # the layers of one network
    np.testing.assert_array_equal(kernels, again.get_weights()[:3:2])
    assert not np.array_equal(kernels, other.get_weights()[:3:2])


def test_a_real_nvp_of_latents_with_axes_is_one_of_the_flat_ones():
    prior, flat = priors.RealNVP(2, (5,), seed=0), priors.RealNVP(2, (5,), seed=0)
    prior.bind((2, 3), priors.DataSpec((4,)))
    flat.bind((6,), priors.DataSpec((4,)))
    families.randomize([prior, flat][:1])
    flat.set_weights(prior.get_weights())
    noise = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal((4, 2, 3), dtype="float32"))
    z, log_prob = prior.distribution().draw(noise)
    assert tuple(z.shape) == (4, 2, 3)
    other, expected = flat.distribution().draw(keras.ops.reshape(noise, (4, 6)))
    for one, another in ((keras.ops.reshape(z, (4, 6)), other), (log_prob, expected)):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(another))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(prior.distribution().log_prob(z)), keras.ops.convert_to_numpy(log_prob), atol=1e-4
    )
    with pytest.raises(ValueError, match=r"a size in \(None, 4\) is free"):
        priors.RealNVP().bind((None, 4), priors.DataSpec((4,)))


# p(z|c)


@pytest.fixture
def conditional(make_vae):
    """A model with p(z|c), of random weights, whose encoder and decoder do not know the label."""
    vae = make_vae(prior=priors.Conditional(networks.normal_mlp(4, 3, (6,))))
    families.randomize([vae.prior])
    return vae


def test_with_a_constant_network_it_is_the_plain_model(make_vae, digits):
    vae, plain = make_vae(prior=priors.Conditional(networks.normal_mlp(4, 3))), make_vae()
    vae.prior.set_weights([np.zeros_like(weight) for weight in vae.prior.get_weights()])
    for network in ("encoder", "decoder"):
        getattr(vae, network).set_weights(getattr(plain, network).get_weights())
    x, data = digits[:8], labelled(digits[:8])
    for found in (
        lambda vae, x, **given: vae.elbo(x, seed=0),
        lambda vae, x, **given: vae.sample(5, seed=0, **given),
        lambda vae, x, **given: evaluation.log_likelihood(vae, x, 20).log_likelihood,
        lambda vae, x, **given: evaluation.annealed_log_likelihood(vae, x, 2, 4).log_likelihood,
        lambda vae, x, **given: evaluation.annealed_log_likelihood(vae, x, 2, 4, start="prior").log_likelihood,
        lambda vae, x, **given: evaluation.kl_per_unit(vae, x),
    ):
        np.testing.assert_allclose(found(vae, data, condition=2), found(plain, x), rtol=1e-6)


@pytest.mark.every_backend
def test_its_kl_is_that_to_the_prior_of_each_example(conditional, digits):
    data = labelled(digits[:8])
    posterior, prior = conditional.encode(data), conditional.numpy_prior(data["condition"])
    assert prior.mean.shape == (8, 3)
    assert np.ptp(prior.mean, axis=0).min() > 0.01
    noise = np.random.default_rng(0).standard_normal((20_000, 8, 3), dtype="float32")
    z = posterior.from_noise(noise)
    difference = posterior.log_prob(z) - prior.log_prob(z)
    kl = keras.ops.convert_to_numpy(conditional.elbo_terms(data["x"], noise[:2], condition=data["condition"]).kl)
    np.testing.assert_array_less(np.abs(difference.mean(axis=0) - kl), 5.0 * difference.std(axis=0) / 20_000**0.5)
    np.testing.assert_allclose(evaluation.kl_per_unit(conditional, data).sum(), kl.mean(), rtol=1e-5)
    weights = keras.ops.convert_to_numpy(conditional.log_weights(data["x"], noise[:2], data["condition"]))
    plain = VAE(conditional.encoder, conditional.decoder)
    of_plain = keras.ops.convert_to_numpy(plain.log_weights(data["x"], noise[:2]))
    change = prior.log_prob(z[:2]) - DiagonalNormal.standard(3).log_prob(z[:2])
    np.testing.assert_allclose(weights - of_plain, change, rtol=1e-4, atol=1e-4)


def test_samples_are_drawn_from_the_prior_of_their_condition(conditional, digits):
    noise = np.random.default_rng(4).standard_normal((6, 3), dtype="float32")
    labels = np.array([0, 1, 2, 3, 0, 1])
    z = conditional.numpy_prior(labels).from_noise(noise)
    np.testing.assert_allclose(conditional.sample(6, seed=4, condition=labels), conditional.decode(z, condition=labels))
    one = conditional.numpy_prior(2)
    assert one.mean.shape == (3,)
    np.testing.assert_allclose(one.mean, conditional.numpy_prior([0, 2]).mean[1], rtol=1e-6)
    np.testing.assert_allclose(
        conditional.sample(6, seed=4, condition=2), conditional.decode(one.from_noise(noise), condition=2)
    )
    data = labelled(digits[:6])
    exact = evaluation.log_likelihood(conditional, data, 2000)
    for start in ("posterior", "prior"):
        found = evaluation.annealed_log_likelihood(conditional, data, 8, 20, start=start)
        assert found.mean == pytest.approx(exact.mean, abs=5.0 * found.mean_standard_error + 0.05)
    assert conditional.interpolate(digits[0], digits[1], 3, condition=1).shape == (3, 8, 8, 1)
    data = labelled(digits)
    for figure in (
        plotting.latent_scatter(conditional, data),
        plotting.kl_per_unit(conditional, data),
        plotting.traversals(conditional, data, units=2, steps=3, condition=1),
    ):
        assert figure.axes
    assert callbacks.collapse_report(conditional, data) is None


def test_a_prior_may_be_all_that_takes_the_condition_and_learns_it(digits):
    """Two kinds of data whose codes lie apart: drawn by their label, and told apart by p(z|c) alone."""
    label = np.repeat([0, 1], 100)
    x = np.random.default_rng(0).normal(np.where(label == 0, -3.0, 3.0)[:, None], 0.3, (200, 4)).astype("float32")
    data = {"x": x, "condition": np.eye(2, dtype="float32")[label]}
    prior = priors.Conditional(networks.normal_mlp((2,), 1))
    vae = VAE(*networks.mlp((4,), 1, (8,), likelihood="mse"), Gaussian("learned"), prior=prior, seed=0)
    vae.compile(keras.optimizers.Adam(0.02))
    vae.fit(data, epochs=40, verbose=0)
    for kind in (0, 1):
        drawn = vae.sample(50, seed=0, condition=np.eye(2)[kind]).mean(axis=1)
        assert (np.sign(drawn) == 2 * kind - 1).mean() > 0.9


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("label", "network must be a Keras model or layer from the condition"),
        (keras.layers.Dense(6), "The network of p.z.c. must return what an encoder returns. .* it returned one output"),
        (networks.normal_mlp(4, 2), r"gives z of shape \(2,\), and the encoder z of shape \(3,\)"),
        (networks.mlp((3,), 3, condition=4)[0], "takes the condition alone; encoder has 2 inputs"),
    ],
)
def test_what_is_no_network_of_a_condition_is_refused(make_vae, digits, network, words):
    data = {"x": digits, "condition": np.zeros((len(digits), 4))}
    with pytest.raises(ValueError, match=words):
        make_vae(prior=priors.Conditional(network)).fit(data, verbose=0)


def test_what_has_no_meaning_with_a_conditional_prior_is_refused(conditional, make_vae, digits):
    prior = priors.Conditional(networks.normal_mlp(4, 3))
    network = networks.mlp((8, 8, 1), 3, condition=(2,))
    for words, call in {
        "BetaTC compares the codes of all data with one prior": lambda: make_vae(prior=prior, objective=BetaTC(256)),
        "how far the codes of all data lie from one prior": lambda: evaluation.elbo_surgery(conditional, digits),
        "and not the posterior alone": lambda: evaluation.kl_per_unit(
            conditional, conditional.encode(labelled(digits))
        ),
        "This model is conditional": conditional.numpy_prior,
        "labels from 0 to 3": lambda: conditional.sample(2, condition=4),
        r"The encoder takes a condition of shape \(None, 2\), .*, the prior": lambda: make_vae(
            network=network, prior=prior
        ),
    }.items():
        with pytest.raises(ValueError, match=words):
            call()


# Fitted after training


@pytest.mark.parametrize("kind", ["flow", pytest.param("conditional", marks=pytest.mark.every_backend)])
def test_a_prior_is_fitted_to_the_codes_of_a_trained_model(make_vae, digits, kind):
    vae, data = make_vae(network=networks.mlp((8, 8, 1), 3, (16,), condition=4)), labelled(digits)
    before, weights = evaluation.held_out(vae, data)["kl"], [part.get_weights() for part in (vae.encoder, vae.decoder)]
    vae.encoder.get_layer("z_mean").bias.assign([2.0, 0.0, -1.0])  # codes that are far from N(0, I)
    weights, before = [part.get_weights() for part in (vae.encoder, vae.decoder)], evaluation.held_out(vae, data)
    losses = evaluation.fit_prior(vae, data, made(digits, kind), 3, 64, keras.optimizers.Adam(0.03))
    assert losses.shape == (3,)
    assert losses[-1] < losses[0]
    after = evaluation.held_out(vae, data)
    assert after["kl"] < before["kl"] - 0.5
    assert after["reconstruction"] == pytest.approx(before["reconstruction"], rel=1e-6)
    for part, expected in zip((vae.encoder, vae.decoder), weights, strict=True):
        for one, other in zip(part.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_cannot_be_fitted_leaves_the_model_as_it_was(make_vae, digits):
    vae = make_vae(prior=priors.GaussianMixture(2))
    before = vae.prior
    with pytest.raises(ValueError, match="gives z of shape"):
        evaluation.fit_prior(vae, digits, priors.Conditional(networks.normal_mlp(4, 2)))
    assert vae.prior is before
    with pytest.raises(ValueError, match="has no weight that learns"):
        evaluation.fit_prior(vae, digits, priors.StandardNormal())


@pytest.mark.every_backend
def test_a_mixture_of_full_covariance_is_the_same_of_arrays_and_of_tensors(gradient):
    rng = np.random.default_rng(0)
    factors = np.tril(rng.normal(size=(3, 4, 4))) + 2.0 * np.eye(4)
    mixture = FullMixture(rng.normal(size=(3, 2, 2)), factors, rng.normal(size=3)).as_float32()
    noise = rng.standard_normal((6, 5), dtype="float32")
    z = mixture.from_noise(noise)
    assert z.shape == (6, 2, 2)
    assert z.dtype == np.float32
    tensor = keras.ops.convert_to_tensor
    np.testing.assert_allclose(keras.ops.convert_to_numpy(mixture.from_noise(tensor(noise))), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(mixture.log_prob(tensor(z))), mixture.log_prob(z), rtol=1e-5, atol=1e-5
    )
    slope = gradient(lambda z: keras.ops.sum(mixture.log_prob(z)), z)
    np.testing.assert_allclose(mixture.grad_log_prob(z), slope, rtol=1e-4, atol=1e-5)
    copy = FullMixture.from_config(mixture.get_config())
    np.testing.assert_array_equal(copy.log_prob(z), mixture.log_prob(z))
    marginal = mixture.log_prob(np.zeros((1, 2, 2), "float32"), per_dimension=True)
    assert marginal.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (np.ones((3, 2)), r"the factors must have shape \(3, 2, 2\); got \(3, 2\)"),
        (np.ones((3, 2, 2)), "must be lower triangular with a positive diagonal"),
        (np.zeros((3, 2, 2)), "must be lower triangular with a positive diagonal"),
    ],
)
def test_what_is_no_covariance_is_refused(factors, words):
    with pytest.raises(ValueError, match=words):
        FullMixture(np.zeros((3, 2)), factors)


@pytest.mark.every_backend
@pytest.mark.parametrize("log_var", [0.0, -8.0])
def test_the_gradient_of_a_learned_mixture_keeps_its_digits(gradient, log_var):
    """Against float64, for components that are as wide as their distances, or narrow, and lie far from 0."""
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(20.0, 1.0, (6, 4)), np.exp(log_var + 0.3 * rng.normal(size=(6, 4)))
    logits = rng.normal(size=6)
    z = mean[[0, 1, 2, 3, 3]] + np.sqrt(variance[[1, 2, 3, 4, 5]]) * rng.normal(size=(5, 4))
    mean, log_vars, logits, z = (array.astype("float32") for array in (mean, np.log(variance), logits, z))
    m, p, exact = mean.astype("float64"), np.exp(-log_vars.astype("float64")), z.astype("float64")[:, None]
    log_joint = -0.5 * (np.square(exact - m) * p - np.log(p) + np.log(2.0 * np.pi)).sum(axis=-1)
    log_joint += logits - np.logaddexp.reduce(logits)
    value = np.logaddexp.reduce(log_joint, axis=1)
    share = np.exp(log_joint - value[:, None])[..., None]
    expected = {
        "z": (share * (m - exact) * p).sum(axis=1),
        "mean": (share * (exact - m) * p).sum(axis=0),
        "log_var": 0.5 * (share * (np.square(exact - m) * p - 1.0)).sum(axis=0),
        "logits": share.sum(axis=(0, 2)) - 5.0 * np.exp(logits - np.logaddexp.reduce(logits)),
    }
    points = {"z": z, "mean": mean, "log_var": log_vars, "logits": logits}

    def total(name, point):
        parts = {key: keras.ops.convert_to_tensor(array) for key, array in points.items()} | {name: point}
        mixture = Mixture(DiagonalNormal(parts["mean"], parts["log_var"]), parts["logits"])
        return keras.ops.sum(mixture.log_prob(parts["z"]))

    found = keras.ops.convert_to_numpy(total("z", keras.ops.convert_to_tensor(z)))
    np.testing.assert_allclose(found, value.sum(), rtol=1e-5)
    for name, slope in expected.items():
        found = gradient(lambda point, name=name: total(name, point), points[name])
        np.testing.assert_allclose(found, slope, atol=2e-5 * np.abs(slope).max() * np.exp(-0.25 * log_var))


# Layers of latents


def linear(kernel, log_var, bias=0.0):
    """A network from one number to the normal N(kernel h + bias, exp(log_var))."""
    h = keras.Input((1,))
    mean = keras.layers.Dense(1, name="mean")
    log_variance = keras.layers.Dense(1, kernel_initializer="zeros", name="log_var")
    network = keras.Model(h, [mean(h), log_variance(h)])
    mean.set_weights([np.array([[kernel]]), np.array([bias])])
    log_variance.bias.assign([log_var])
    return network


def test_log_p_of_a_linear_model_of_two_layers_is_exact_with_its_own_posterior():
    """z2 ~ N(0, 1), z1 = a z2 + b + N(0, s), x = w z1 + N(0, I): with q(z1, z2|x) = p(z1, z2|x) each draw gives it."""
    a, b, s, w = 0.8, 0.5, 0.6, np.array([1.0, -0.5, 0.3])
    variance = a**2 + s  # of z1
    precision = 1.0 / variance + w @ w
    x_input = keras.Input((3,))
    mean = keras.layers.Dense(1)
    log_var = keras.layers.Dense(1, kernel_initializer="zeros")
    encoder = keras.Model(x_input, [mean(x_input), log_var(x_input)])
    mean.set_weights([w[:, None] / precision, np.array([b / variance / precision])])
    log_var.bias.assign([-np.log(precision)])
    decoded = keras.layers.Dense(3, use_bias=False)
    decoder = keras.Model(first := keras.Input((1,)), decoded(first))
    decoded.set_weights([w[None]])
    upper = linear(a / variance, np.log(s / variance), -a * b / variance)
    vae = VAE(
        encoder,
        networks.of_first_latents(decoder, 2),
        "mse",
        posterior=posteriors.Hierarchical([upper]),
        prior=priors.Hierarchical([linear(a, np.log(s), b)]),
        seed=0,
    )
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    covariance = variance * np.outer(w, w) + np.eye(3)
    error = x - b * w
    exact = -0.5 * (np.einsum("ni,ij,nj->n", error, np.linalg.inv(covariance), error) + 3 * np.log(2 * np.pi))
    exact -= 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(vae.elbo(x, 2, seed=0), exact, atol=1e-5)
    found = evaluation.log_likelihood(vae, x, 10)
    np.testing.assert_allclose(found.log_likelihood, exact, atol=1e-5)
    # A posterior that is none: the bound lies below, the estimates do not.
    upper.layers[1].kernel.assign([[0.1]])
    assert (vae.elbo(x, 500, seed=0) < exact - 0.01).all()
    estimate = evaluation.log_likelihood(vae, x, 5_000)
    np.testing.assert_allclose(estimate.log_likelihood, exact, atol=5.0 * estimate.standard_error.max() + 1e-3)
    annealed = evaluation.annealed_log_likelihood(vae, x, 8, 20, 5, start="prior")
    np.testing.assert_allclose(annealed.log_likelihood, exact, atol=5.0 * annealed.standard_error.max() + 1e-3)


def two_layers(objective):
    encoder, decoder = networks.mlp((8, 8, 1), 4, (16,))
    upper, lower = networks.normal_mlp((4,), 2, (8,), "tanh"), networks.normal_mlp((2,), 4, (8,), "tanh")
    vae = VAE(
        encoder,
        networks.of_first_latents(decoder, 6),
        posterior=posteriors.Hierarchical([upper]),
        prior=priors.Hierarchical([lower]),
        objective=objective,
        seed=0,
    )
    vae.compile(keras.optimizers.Adam(0.01))
    return vae


@pytest.mark.every_backend
def test_the_whole_life_of_a_model_of_two_layers(digits, tmp_path):
    vae = two_layers(IWAE(5))
    before = [part.get_weights() for part in (vae.prior, vae.posterior_family)]
    log = vae.fit(digits, epochs=4, verbose=0).history
    assert log["loss"][-1] < log["loss"][0]
    assert log["loss"][-1] < log["negative_elbo"][-1]  # IWAE is the tighter bound
    for part, weights in zip((vae.prior, vae.posterior_family), before, strict=True):
        assert all(np.abs(one - other).max() > 1e-4 for one, other in zip(part.get_weights(), weights, strict=True))
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.elbo(digits, seed=0), vae.elbo(digits, seed=0))
    np.testing.assert_array_equal(copy.sample(5, seed=1), vae.sample(5, seed=1))


def test_the_bound_of_two_layers_is_below_log_p_by_annealing(digits):
    vae, few = two_layers("elbo"), digits[:3]
    vae.fit(digits, epochs=4, verbose=0)
    assert vae.encode(few).location.shape == (3, 6)
    assert evaluation.active_units(vae, few).shape == evaluation.kl_per_unit(vae, few).shape == (6,)
    annealed = evaluation.annealed_log_likelihood(vae, few, 8, 40, 5, start="prior")
    assert (vae.elbo(few, 200, seed=0) < annealed.log_likelihood).all()
    estimate = evaluation.log_likelihood(vae, few, 2000)
    error = 5.0 * np.hypot(annealed.mean_standard_error, estimate.mean_standard_error)
    assert annealed.mean == pytest.approx(estimate.mean, abs=error + 0.05)
    with pytest.raises(ValueError, match='no density of any z with its slope: pass start="prior"'):
        evaluation.annealed_log_likelihood(vae, few, 2, 4)


def test_three_layers_are_drawn_from_the_top():
    mlp = networks.normal_mlp
    prior = priors.Hierarchical([mlp((2,), 3), mlp((1,), 2)])
    vae = VAE(*networks.mlp((4,), 6, (8,)), prior=prior, seed=0)  # with a plain posterior over as many latents
    families.randomize([prior])
    noise = np.random.default_rng(0).standard_normal((5, 6), dtype="float32")
    top = noise[:, 5:]
    layers = [top]
    for network, epsilon in ((prior.networks[1], noise[:, 3:5]), (prior.networks[0], noise[:, :3])):
        outputs = {name: keras.ops.convert_to_numpy(value) for name, value in network(layers[0]).items()}
        layers.insert(0, outputs["z_mean"] + np.exp(0.5 * outputs["z_log_var"]) * epsilon)
    np.testing.assert_allclose(
        vae.numpy_prior().from_noise(noise), np.concatenate(layers, axis=1), rtol=1e-5, atol=1e-6
    )


def test_layers_that_do_not_fit_are_refused(make_vae):
    mlp = networks.normal_mlp
    image = keras.Model(h := keras.Input((2, 2, 1)), [h, h])
    for make, words in (
        (lambda: priors.Hierarchical([]), "at least one network"),
        (lambda: posteriors.Hierarchical([keras.layers.Dense(3)]), "networks.0. must be a Keras model with one input"),
        (lambda: posteriors.Hierarchical([image]), "networks.0. must be a Keras model with one input"),
        (lambda: posteriors.Hierarchical([mlp((4,), 3), mlp((2,), 1)]), "networks.1. takes 2 latents, .* before has 3"),
        (lambda: make_vae(prior=priors.Hierarchical([mlp((2,), 2)])), r"is over z of shape \(4,\), .* shape \(3,\)"),
        (lambda: make_vae(posterior=posteriors.Hierarchical([mlp((2,), 2)])), r"gives z1 of shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(ValueError, match='gradient="dreg" needs log q'):
        make_vae(
            network=(networks.mlp((8, 8, 1), 3)[0], networks.mlp((8, 8, 1), 5)[1]),
            posterior=posteriors.Hierarchical([mlp((3,), 2)]),
            objective=IWAE(2, "dreg"),
        )


@pytest.mark.parametrize("condition", [None, 4])
def test_a_decoder_of_the_first_layer_takes_the_condition_along(condition):
    _, decoder = networks.mlp((5,), 3, (8,), condition=condition)
    wrapped = networks.of_first_latents(decoder, 7)
    z, label = np.random.default_rng(0).normal(size=(2, 7)).astype("float32"), np.array([1, 3])
    given = {"z": z, "condition": label} if condition else z
    first = {"z": z[:, :3], "condition": label} if condition else z[:, :3]
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(wrapped(given)), keras.ops.convert_to_numpy(decoder(first))
    )


def test_a_prior_that_cannot_be_fitted_leaves_the_model_the_one_it_had(make_vae, digits):
    vae = make_vae(prior=priors.GaussianMixture(2))
    before, bound = vae.prior, vae.elbo(digits, seed=0)
    for prior, words in (
        (priors.StandardNormal(), "no weight that learns"),
        (None, "no weight that learns"),
        (priors.Conditional(networks.normal_mlp(3, 3)), "This model is conditional: pass"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluation.fit_prior(vae, digits, prior)
        assert vae.prior is before
    np.testing.assert_array_equal(vae.elbo(digits, seed=0), bound)
    data = {"x": digits, "condition": np.arange(len(digits)) % 3}
    evaluation.fit_prior(vae, data, priors.Conditional(networks.normal_mlp(3, 3)), epochs=1)
    assert vae.sample(2, condition=[0, 2]).shape == (2, 8, 8, 1)


def test_a_flow_is_its_own_inverse_whatever_keras_computes_in(make_vae, digits):
    keras.config.set_dtype_policy("mixed_bfloat16")
    vae = make_vae(prior=priors.RealNVP(2, (8,), seed=0))
    for weight in vae.prior.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape, scale=0.5))
    noise = np.random.default_rng(1).normal(size=(50, 3)).astype("float32")
    z, log_prob = vae.prior_distribution().draw(keras.ops.convert_to_tensor(noise))
    found = vae.prior_distribution().log_prob(z)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (found, log_prob)), rtol=1e-4, atol=1e-4)


def test_a_network_of_layers_is_named_by_its_place():
    with pytest.raises(ValueError, match=r"networks\[0\] must be a Keras model"):
        priors.Hierarchical([keras.layers.Dense(3), networks.normal_mlp((2,), 5)])
