"""Which sigma? Fixed, learned, optimal and predicted against each other and against closed forms."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import oracles
from keras_vae import VAE, Bernoulli, DiscretizedLogistic, Gaussian, Laplace, Mixed, evaluation, likelihoods, networks

pytestmark = pytest.mark.once


def linear_vae(dimensions, k, likelihood):
    x, z = keras.Input((dimensions,)), keras.Input((k,))
    encoder = keras.Model(x, [layers.Dense(k)(x), layers.Dense(k, kernel_initializer="zeros")(x)])
    width = likelihood.parameter_channels(dimensions)
    return VAE(encoder, keras.Model(z, layers.Dense(width)(z)), likelihood=likelihood, seed=0)


def spread(eigenvalues, n=250, seed=0):
    """Centred points whose covariance has exactly these eigenvalues."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(n, len(eigenvalues)))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(white.T @ white / n)).T
    rotation = np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))[0]
    return (white * np.sqrt(eigenvalues) @ rotation).astype("float32")


def trained(x, k, likelihood, steps=800):
    """Each step sees every point several times, with noise of its own: few steps are enough."""
    vae = linear_vae(x.shape[1], k, likelihood)
    vae.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, steps)))
    vae.fit(np.tile(x, (4 * steps // 10, 1)), epochs=10, batch_size=4 * len(x), verbose=0, shuffle=False)
    return vae


def measured_error(vae, x, seed=0):
    """E_q (x - mean)**2 per dimension, with many draws of z."""
    z = vae.encode(x).sample(50, seed=seed)
    return float(np.mean(np.square(x - vae.decode(z.reshape(-1, vae.latent_dim)).reshape(50, *x.shape))))


def test_learned_and_optimal_converge_to_the_measured_error_and_to_ppca():
    x = spread([4.0, 2.0, 0.3, 0.25, 0.2, 0.25])
    best, sigma2, _ = oracles.ppca(x, 2)
    for scale in ("learned", "optimal"):
        vae = trained(x, 2, Gaussian(scale))
        assert vae.likelihood.current_scale**2 == pytest.approx(sigma2, rel=0.03), scale
        assert vae.likelihood.current_scale**2 == pytest.approx(measured_error(vae, x), rel=0.03), scale
        assert vae.elbo(x, 20, seed=0).mean() == pytest.approx(best, abs=0.05), scale


def test_with_a_fixed_scale_the_directions_of_larger_variance_stay_active():
    """sigma**2 between the third and the fourth eigenvalue: exactly three units. Lucas et al. 2019, section 4."""
    x = spread([8.0, 5.0, 3.0, 0.8, 0.5, 0.3])
    vae = trained(x, 5, Gaussian(scale=float(np.sqrt(1.5))))
    posterior = vae.encode(x)
    active = posterior.mean.var(axis=0) > 0.01
    assert active.sum() == 3
    kl = posterior.kl_divergence(vae.prior, per_dimension=True).mean(axis=0)
    assert np.all(kl[~active] < 0.02)
    # The exact posterior keeps of a direction with eigenvalue v the KL 1/2 log(v / sigma**2), on average.
    assert kl.sum() == pytest.approx(0.5 * np.log(np.array([8.0, 5.0, 3.0]) / 1.5).sum(), abs=0.1)


def test_the_optimal_scale_turns_the_loss_into_the_logarithm_of_the_error():
    """-log p = D/2 (log(2 pi MSE) + 1), with the MSE of this batch and these draws. Rybkin et al. 2021, section 3.2."""
    rng = np.random.default_rng(0)
    x, mean = rng.normal(size=(8, 5)).astype("float32"), rng.normal(size=(3, 8, 5)).astype("float32")
    likelihood = Gaussian("optimal")
    log_prob = ops.convert_to_numpy(likelihood.log_prob(x, mean, fitted=likelihood.update(x, mean)))
    mse = np.square(x - mean, dtype="float64").mean()
    assert -log_prob.mean() == pytest.approx(2.5 * (np.log(2.0 * np.pi * mse) + 1.0), rel=1e-5)
    assert likelihood.current_scale == pytest.approx(np.sqrt(mse), rel=1e-5)  # the first batch is all there is
    half = ops.convert_to_numpy(likelihood.log_prob(x, mean))
    np.testing.assert_allclose(half, oracles.normal_log_prob(x, mean, np.sqrt(mse)).sum(axis=-1), rtol=1e-4)


def test_the_value_kept_is_the_mean_over_batches_and_evaluation_does_not_touch_it():
    likelihood, errors = Laplace("optimal"), [0.5, 2.0, 1.1]
    for error in errors:
        likelihood.update(np.full((4, 3), error, "float32"), np.zeros((4, 3), "float32"))
    assert likelihood.current_scale == pytest.approx(np.mean(errors), rel=1e-5)
    likelihood.log_prob(np.full((4, 3), 9.0, "float32"), np.zeros((4, 3), "float32"))
    assert likelihood.current_scale == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_gradient_flows_through_the_optimal_scale(gradient):
    """Of D N / 2 log MSE, the loss that is left: minus (x - mean) / MSE per dimension."""
    rng = np.random.default_rng(1)
    x, mean = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))

    def log_prob(value):
        likelihood = Gaussian("optimal")
        return ops.sum(likelihood.log_prob(x, value, fitted=likelihood.update(x, value)))

    found = gradient(log_prob, mean)
    np.testing.assert_allclose(found, (x - mean) / np.square(x - mean).mean(), rtol=1e-4)


def test_missing_values_do_not_count_in_the_optimal_scale():
    x = np.array([[1.0, np.nan], [3.0, 1.0]], "float32")
    likelihood = Gaussian("optimal")
    likelihood.update(x, np.zeros_like(x), observed=~np.isnan(x))
    assert likelihood.current_scale == pytest.approx(np.sqrt(11.0 / 3.0), rel=1e-5)


def test_a_mixture_of_likelihoods_learns_in_each_part_from_its_own_columns():
    rng = np.random.default_rng(4)
    x, parameters = rng.normal(size=(6, 5)).astype("float32"), rng.normal(size=(2, 6, 5)).astype("float32")
    observed, weight = rng.random((6, 5)) < 0.7, rng.random(6).astype("float32")
    parts = [Gaussian("optimal"), Gaussian(0.5), Laplace("optimal")]
    mixed = Mixed(list(zip(parts, (2, 1, 2), strict=True)))
    fitted = mixed.update(x, parameters, observed, weight)
    assert fitted[1] is None
    for part, columns, found in ((parts[0], slice(0, 2), fitted[0]), (parts[2], slice(3, 5), fitted[2])):
        alone = type(part)("optimal", per_column=True)
        alone.bind(2)
        arguments = x[:, columns], parameters[..., columns], observed[:, columns]
        expected = alone.update(*arguments, weight)
        np.testing.assert_array_equal(*(ops.convert_to_numpy(value) for value in (found, expected)))
        np.testing.assert_array_equal(part.current_scale, alone.current_scale)
        assert len(set(part.current_scale) | {1.0}) == 3
    total = sum(
        ops.convert_to_numpy(part.log_prob(x[:, columns], parameters[..., columns], observed[:, columns], found))
        for part, columns, found in zip(parts, (slice(0, 2), slice(2, 3), slice(3, 5)), fitted, strict=True)
    )
    np.testing.assert_allclose(ops.convert_to_numpy(mixed.log_prob(x, parameters, observed, fitted)), total, rtol=1e-5)


def test_a_log_probability_changes_nothing():
    x, mean = np.full((4, 3), 9.0, "float32"), np.zeros((4, 3), "float32")
    likelihood = Mixed([(Gaussian("optimal"), 2), (Laplace("optimal"), 1)])
    fitted = likelihood.update(0.1 * x, mean)
    before = np.concatenate([ops.convert_to_numpy(weight.value) for weight in likelihood.weights])
    first, second = (ops.convert_to_numpy(likelihood.log_prob(x, mean, None, fitted)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    likelihood.log_prob(x, mean)
    after = np.concatenate([ops.convert_to_numpy(weight.value) for weight in likelihood.weights])
    np.testing.assert_array_equal(after, before)


@pytest.mark.every_backend
def test_an_example_of_weight_0_does_not_count_in_the_optimal_scale():
    x = np.random.default_rng(3).normal(size=(32, 3)).astype("float32")
    weights = np.ones(32, "float32")
    weights[0] = 0.0
    scales = []
    for outlier in (0.0, 1e6):
        x[0] = outlier
        vae = linear_vae(3, 1, Gaussian("optimal"))
        vae.set_weights([0.1 * np.ones_like(w) if w.ndim else w for w in vae.get_weights()])
        vae.compile("sgd")
        vae.train_on_batch(x, sample_weight=weights)
        scales.append(vae.likelihood.current_scale)
    assert scales[0] == pytest.approx(scales[1], rel=0.02)
    assert 0.3 < scales[0] < 3.0


@pytest.mark.parametrize("scale", ["learned", "optimal", pytest.param("of a table", marks=pytest.mark.every_backend)])
def test_a_model_saves_and_loads_what_it_learned(tmp_path, scale):
    x = np.random.default_rng(0).normal(scale=0.2, size=(64, 6)).astype("float32")
    parts = Gaussian("learned"), Laplace("predicted"), Laplace("optimal"), Gaussian("predicted", initial_scale=0.5)
    is_table = scale == "of a table"
    likelihood = Mixed(list(zip(parts, (2, 1, 2, 1), strict=True))) if is_table else Gaussian(scale, initial_scale=0.5)
    vae = VAE(*networks.mlp((6,), 2, hidden=(8,), likelihood=likelihood), likelihood=likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(0.05))
    vae.fit(x, epochs=3, batch_size=16, verbose=0)
    vae.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.elbo(x, seed=0), vae.elbo(x, seed=0), rtol=1e-5)
    assert loaded.likelihood.get_config() == likelihood.get_config()
    if is_table:
        for i, part in ((0, parts[0]), (2, parts[2])):
            np.testing.assert_allclose(loaded.likelihood.parts[i].current_scale, part.current_scale, rtol=1e-6)
            assert np.all((part.current_scale > 0.1) & (part.current_scale < 0.8)), part.current_scale
            assert part.current_scale[0] != part.current_scale[1]
    else:
        assert loaded.likelihood.current_scale == pytest.approx(likelihood.current_scale)
        assert likelihood.current_scale != pytest.approx(0.5, abs=0.05)


def test_a_scale_starts_at_the_error_of_the_first_batch_and_later_batches_do_not_change_it():
    """Of what is observed, by weight, and relative to what a decoder predicts."""
    x = np.array([[1.0, np.nan], [3.0, 2.0], [50.0, 50.0]], "float32")
    observed, weight = ops.logical_not(ops.isnan(x)), np.array([2.0, 1.0, 0.0], "float32")
    nothing = np.zeros((3, 2), "float32")
    for part, expected in ((Gaussian("learned"), np.sqrt(15.0 / 4.0)), (Laplace("learned"), 7.0 / 4.0)):
        part.update(np.full_like(x, np.nan), nothing, np.zeros((3, 2), bool))  # nothing was there to measure
        part.update(np.full_like(x, np.inf), nothing)
        assert part.current_scale == pytest.approx(1.0, rel=0.01)
        fitted = part.update(x, nothing, observed, weight)
        np.testing.assert_array_equal(
            *(ops.convert_to_numpy(part.log_prob(x, nothing, observed, how)) for how in (None, fitted))
        )
        part.update(100.0 * x, nothing, observed)
        assert part.current_scale == pytest.approx(expected, rel=0.01)
    for part in (Gaussian("predicted"), DiscretizedLogistic(levels=3)):  # starts at the same scale whatever it predicts
        scales = []
        for scale in (0.01, 1.0, 100.0):
            copy = type(part).from_config(part.get_config())
            predicted = np.full_like(nothing, np.log(scale) * part.raw_per_log_scale)
            parameters = np.concatenate([nothing, predicted], axis=1)
            copy.update(np.full_like(nothing, 0.5), parameters)
            scales.append(ops.convert_to_numpy(ops.exp(copy._location_and_log_scale(parameters)[1]))[0, 0])
        expected = 0.5 if isinstance(part, Gaussian) else 0.25 / np.log(2.0)
        np.testing.assert_allclose(scales, expected, rtol=0.01)


def test_after_400_usual_steps_a_scale_is_the_error_that_is_left():
    """Adam at 0.001, on columns whose spread differs tenfold, each with a scale of its own."""
    x = (np.random.default_rng(1).normal(size=(500, 8)) * np.tile([0.1, 1.0], 4)).astype("float32")
    parts = [kind(mode) for mode in ("learned", "predicted") for kind in (Gaussian, Laplace)]
    likelihood = Mixed([(part, 2) for part in parts])
    vae = VAE(*networks.mlp((8,), 1, hidden=(8,), likelihood=likelihood), likelihood=likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(1e-3))
    vae.fit(x, epochs=16, batch_size=20, verbose=0)
    difference = x - vae.reconstruct(x, sample=True, seed=0)
    best = np.where(np.arange(8) % 4 < 2, np.sqrt(np.square(difference).mean(axis=0)), np.abs(difference).mean(axis=0))
    found = np.median(ops.convert_to_numpy(likelihood.stddev(vae.decoder(vae.encode(x).mean))), axis=0)
    found[[2, 3, 6, 7]] /= np.sqrt(2.0)
    np.testing.assert_array_less(np.abs(found / best - 1.0), [0.05] * 4 + [0.2] * 4)  # predicted, it varies with z


def test_a_learned_scale_moves_ten_times_as_far_under_adam_and_as_far_under_gradient_descent():
    x = np.full((4, 3), 0.5, "float32")
    moved = []
    for optimizer in (keras.optimizers.Adam(1e-3), keras.optimizers.SGD(1e-3)):
        for likelihood in (Gaussian("learned", initial_scale=2.0), Gaussian("learned")):
            likelihood.update(np.full((4, 3), 2.0, "float32"), np.zeros((4, 3), "float32"))
            vae = linear_vae(3, 1, likelihood)
            vae.set_weights([np.zeros_like(w) if w.ndim else w for w in vae.get_weights()])
            vae.compile(optimizer.from_config(optimizer.get_config()))
            before = likelihood.current_scale
            vae.train_on_batch(x)
            moved.append(np.log(likelihood.current_scale / before))
    np.testing.assert_allclose(moved[:2], [-1e-3, -1e-2], rtol=0.01)
    assert moved[2] == pytest.approx(moved[3], rel=0.02)


def test_one_scale_for_all_or_one_for_each_column():
    x = np.array([[1.0, 10.0], [-1.0, -10.0]], "float32")
    alone, each = Gaussian("optimal"), Gaussian("optimal", per_column=True)
    vae = linear_vae(2, 1, each)
    for likelihood in (alone, each, Mixed([(part := Gaussian("optimal"), 2)])):
        likelihood.update(x, np.zeros_like(x))
    assert alone.current_scale == pytest.approx(np.sqrt(50.5))
    np.testing.assert_allclose(each.current_scale, [1.0, 10.0], rtol=1e-5)
    np.testing.assert_allclose(part.current_scale, [1.0, 10.0], rtol=1e-5)
    fixed = linear_vae(2, 1, Gaussian(0.5))
    assert vae.count_params() == fixed.count_params() + 4  # the error, and how many batches it is of
    linear_vae(2, 1, each)
    with pytest.raises(ValueError, match=r"has the scales of 2 columns, and these data have 3: make a new one"):
        linear_vae(3, 1, each)
    with pytest.raises(ValueError, match="needs data whose last axis has a known size"):
        Gaussian("learned", per_column=True).bind(None)
    with pytest.raises(ValueError, match="per_column is for a scale that is learned or measured; got scale=1.0"):
        Gaussian(per_column=True)


@pytest.mark.parametrize("scale", ["learned", "optimal", "predicted"])
def test_a_scale_of_an_older_file_is_what_it_was(scale):
    """Its configuration names a number to start at, and no columns: nothing is measured, and one scale is for all."""
    config = {"scale": scale, "initial_scale": 0.5, "min_scale": 0.01}
    old = Mixed([(Laplace.from_config(config), 2)]).parts[0]
    names = {"learned": ["raw_log_scale"], "optimal": ["error", "batches"], "predicted": []}[scale]
    assert [weight.name for weight in old.weights] == names
    assert all(weight.shape == () for weight in old.weights)
    if scale == "learned":
        old.weights[0].assign(-1.5)
    x, parameters = np.ones((1, 2), "float32"), np.array([[0.0, 0.0, -1.5, -1.5]], "float32")
    if scale != "predicted":
        parameters = parameters[:, :2]
    expected = 0.5 if scale == "optimal" else 0.01 * (1.0 + np.exp(-1.5) / 0.01)
    np.testing.assert_allclose(ops.convert_to_numpy(old.stddev(parameters)), np.sqrt(2.0) * expected, rtol=1e-5)
    if scale != "optimal":
        assert old.update(x, parameters) is None


def test_the_learned_scale_is_one_weight_of_the_model_and_starts_where_it_is_told():
    likelihood = Gaussian("learned", initial_scale=0.25)
    vae = linear_vae(4, 2, likelihood)
    assert likelihood.current_scale == pytest.approx(0.25)
    assert sum(w.shape == () for w in vae.trainable_variables) == 1
    fixed = linear_vae(4, 2, Gaussian(0.25))
    assert vae.count_params() == fixed.count_params() + 1


def test_a_scale_never_falls_below_its_least_value():
    x = np.zeros((16, 3), "float32")  # nothing to reconstruct: the best scale is 0
    for scale in ("learned", "optimal"):
        likelihood = Gaussian(scale, min_scale=0.05)
        vae = linear_vae(3, 1, likelihood)
        vae.compile(keras.optimizers.Adam(0.1))
        logs = vae.fit(x, epochs=150, verbose=0).history
        assert 0.05 <= likelihood.current_scale < 0.1, scale
        assert np.isfinite(logs["loss"]).all()
        assert logs["reconstruction"][-1] > 3 * (np.log(0.05) + 0.5 * np.log(2.0 * np.pi)) - 1e-3


def test_the_predicted_scale_follows_the_data():
    """Columns whose noise differs tenfold: the decoder says so."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(2000, 4)) * [0.1, 1.0, 0.1, 1.0]).astype("float32")
    likelihood = Gaussian("predicted")
    vae = VAE(*networks.mlp((4,), 1, hidden=(8,), likelihood=likelihood), likelihood=likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(0.02))
    vae.fit(x, epochs=25, batch_size=100, verbose=0)
    stddev = ops.convert_to_numpy(likelihood.stddev(vae.decoder(np.zeros((1, 1), "float32"))))[0]
    np.testing.assert_allclose(stddev, [0.1, 1.0, 0.1, 1.0], rtol=0.3)


def test_bits_per_dimension_of_uniform_noise_are_eight():
    """A discretized logistic so wide that all 256 levels are alike is a code of 8 bits a pixel."""
    x = np.random.default_rng(0).integers(0, 256, (50, 12)) / 255.0
    wide = np.concatenate([np.full((50, 12), 0.5), np.full((50, 12), 3.0)], axis=1)
    nats = -ops.convert_to_numpy(DiscretizedLogistic().log_prob(x, wide))
    # The tails of a wide logistic lie on the outermost levels; inside, a level has its share of what is left.
    inside = nats[~np.isin(x, (0.0, 1.0)).any(axis=1)]
    scale = np.exp(3.0)
    share = 2.0 / (1.0 + np.exp(-0.5 / scale)) - 1.0
    assert evaluation.bits_per_dim(inside.mean(), 12) == pytest.approx(-np.log2(share / 255.0), rel=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match=r'must be a positive number, or one of "learned", "optimal", "predicted"'):
        Gaussian("big")
    with pytest.raises(ValueError, match="initial_scale must be above min_scale"):
        Gaussian("learned", initial_scale=0.001, min_scale=0.01)
    with pytest.raises(ValueError, match="min_scale must be a positive number"):
        Gaussian("optimal", min_scale=0.0)
    with pytest.raises(ValueError, match="min_scale must be a positive number"):
        Gaussian(0.1, min_scale=-5.0)
    with pytest.raises(ValueError, match='one of "learned", "predicted"'):
        DiscretizedLogistic("optimal")
    with pytest.raises(ValueError, match="scale is predicted"):
        _ = Gaussian("predicted").current_scale
    with pytest.raises(ValueError, match="ends in a sigmoid, but its output is a location and a log scale"):
        Gaussian("predicted").validate_activation("sigmoid")
    with pytest.raises(ValueError, match=r"needs \('batch', 12\).*networks.mlp and conv .* likelihood="):
        VAE(*networks.mlp((6,), 2), likelihood=Gaussian("predicted"))
    assert Bernoulli().has_stddev is False


class Cauchy(likelihoods.LocationScale):
    """A noise of one's own that says nothing of its error, and so starts at its default scale."""

    modes = ("learned",)

    def log_density(self, x, location, log_scale):
        return -np.log(np.pi) - log_scale - ops.log1p(ops.square((x - location) * ops.exp(-log_scale)))


class OwnGaussian(Gaussian):
    def __init__(self):
        super().__init__("learned")

    def get_config(self):
        return {}


def test_kinds_of_ones_own_need_no_error_and_keep_their_own_config():
    likelihood = Cauchy("learned")
    assert likelihood.update(np.zeros((2, 3)), np.zeros((2, 3))) is None
    assert likelihood.current_scale == pytest.approx(1.0)
    assert OwnGaussian.from_config(OwnGaussian().get_config()).scale == "learned"


@pytest.mark.parametrize("scale", ["learned", "optimal"])
def test_tiny_weights_weigh_like_others(scale):
    likelihood, x = Gaussian(scale), np.full((4, 5), 3.0, "float32")
    likelihood.update(x, np.zeros_like(x), weight=np.full(4, 1e-11, "float32"))
    assert likelihood.current_scale == pytest.approx(3.0, rel=1e-2)  # the lower bound of "learned" is a softplus
