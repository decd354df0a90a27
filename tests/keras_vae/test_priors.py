"""Priors that learn: what they are in a model, in training, in a file."""

import keras
import numpy as np
import pytest

import families
import guide_parts
from keras_vae import VAE, BetaTC, DiagonalNormal, Mixture, callbacks, distributions, evaluation, networks, priors

pytestmark = pytest.mark.once


def made(digits, kind):
    return {
        "standard": lambda: priors.StandardNormal(),
        "mixture": lambda: priors.GaussianMixture(4, seed=0),
        "vamp": lambda: priors.VampPrior(6, pseudo_inputs=digits[:6]),
        "fixed": lambda: Mixture(DiagonalNormal(np.eye(3, dtype="float32"), np.zeros((3, 3), "float32"))),
        "own": lambda: guide_parts.RealNVP(1, 2),
    }[kind]()


KINDS = ("standard", "mixture", "vamp", "fixed", "own")


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


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_life_of_a_model_with_such_a_prior(make_vae, digits, tmp_path, kind):
    compile, objective, watching = {"optimizer": keras.optimizers.Adam(0.01)}, "elbo", []
    if kind == "own":  # networks in the prior and in the objective, many steps at once, and a callback that looks
        objective, watching = families.Critic(), [callbacks.LatentMonitor(digits)]
        compile["steps_per_execution"] = 1 if keras.backend.backend() == "tensorflow" else 4  # XLA takes 10 s for it
    vae = make_vae(prior=made(digits, kind), objective=objective, compile=compile)
    learning = [part for part in (vae.prior, vae.objective) if isinstance(part, keras.layers.Layer)]
    before = [np.array(weight) for part in learning for weight in part.get_weights()]
    history = vae.fit(digits, epochs=2, validation_data=(digits[:50],), verbose=0, callbacks=watching)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert history.history["val_negative_elbo"][-1] > 0.0
    after = [weight for part in learning for weight in part.get_weights()]
    assert len(after) == {"vamp": 1, "mixture": 3, "own": 4 + 4}.get(kind, 0)
    for one, other in zip(before, after, strict=True):
        assert np.abs(one - other).max() > 1e-4
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.elbo(digits, seed=0), vae.elbo(digits, seed=0))
    np.testing.assert_array_equal(copy.sample(5, seed=1), vae.sample(5, seed=1))
    assert type(copy.prior) is type(vae.prior)
    for one, other in zip(copy.get_weights(), vae.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    kl_per_unit = evaluation.kl_per_unit(vae, digits)
    assert kl_per_unit.shape == (3,)
    for monitor in watching:
        np.testing.assert_allclose(monitor.kl_per_unit[-1], kl_per_unit, rtol=1e-4, atol=1e-6)
    assert evaluation.elbo_surgery(vae, digits).kl > 0.0
    terms = evaluation.held_out(vae, digits, num_samples=4)
    assert terms["negative_elbo"] == pytest.approx(-vae.elbo(digits, 4, seed=0).mean(), rel=1e-5)


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


@pytest.fixture(scope="module")
def flow():
    """A model whose prior is a flow, its weights drawn at random."""
    return families.make("own_parts")


def test_the_flow_of_the_guide_has_the_density_of_its_draws(flow):
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
