"""Missing values: NaN is left out of the reconstruction term, zero for the encoder, and refused by who was not told."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import oracles
from keras_vae import VAE, Categorical, Gaussian, Mixed, evaluation, networks

pytestmark = pytest.mark.once


@pytest.fixture
def table():
    """100 rows of five columns in [0, 1], a quarter of them missing; and the same without holes."""
    rng = np.random.default_rng(0)
    whole = rng.random((100, 5)).astype("float32")
    holes = np.where(rng.random(whole.shape) < 0.25, np.nan, whole).astype("float32")
    return holes, whole


def model(**kwargs):
    likelihood = kwargs.pop("likelihood", Gaussian(0.3))
    vae = VAE(*networks.mlp((5,), 2, hidden=(8,), likelihood=likelihood), likelihood=likelihood, seed=0, **kwargs)
    vae.compile("adam")
    return vae


def test_a_model_that_was_not_told_refuses_them_and_says_what_to_do(table):
    with pytest.raises(ValueError, match=r"x contains NaN, first at index .* VAE\(allow_missing=True\)"):
        model().fit(table[0], verbose=0)
    with pytest.raises(ValueError, match="NaN"):
        model().elbo(table[0])
    with pytest.raises(ValueError, match="infinite"):
        model(allow_missing=True).fit(np.where(np.isnan(table[0]), np.inf, table[0]), verbose=0)


def test_without_holes_it_changes_nothing(table):
    plain, told = model(), model(allow_missing=True)
    told.set_weights(plain.get_weights())
    np.testing.assert_array_equal(plain.elbo(table[1], seed=1), told.elbo(table[1], seed=1))


def test_the_encoder_sees_zeros_and_the_sum_leaves_the_holes_out(table):
    holes, _ = table
    vae = model(allow_missing=True)
    filled = np.nan_to_num(holes)
    np.testing.assert_array_equal(vae.encode(holes).mean, vae.encode(filled).mean)
    epsilon = np.random.default_rng(1).normal(size=(1, 100, 2)).astype("float32")
    terms = vae.terms(ops.convert_to_tensor(holes), ops.convert_to_tensor(epsilon))
    posterior = vae.encode(holes)
    mean = vae.decode(posterior.mean + np.exp(0.5 * posterior.log_var) * epsilon[0])
    per_value = oracles.normal_log_prob(filled, mean, 0.3)
    expected = -np.where(np.isnan(holes), 0.0, per_value).sum(axis=1)
    np.testing.assert_allclose(ops.convert_to_numpy(terms.reconstruction), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.every_backend
def test_an_example_without_any_value_has_its_kl_only(table):
    vae = model(allow_missing=True)
    nothing = np.full((3, 5), np.nan, "float32")
    kl = vae.encode(nothing).kl_divergence(vae.prior)
    np.testing.assert_allclose(vae.elbo(nothing, seed=0), -kl, rtol=1e-5)
    assert np.isfinite(vae.fit(nothing, epochs=2, verbose=0).history["loss"]).all()


@pytest.mark.every_backend
def test_a_step_moves_the_weights_as_if_the_missing_column_were_not_there():
    """One column missing everywhere: the same gradients as of a model that never had the column."""
    rng = np.random.default_rng(2)
    x = rng.random((20, 3)).astype("float32")
    x[:, 2] = np.nan

    def linear(dimensions):
        data, z = keras.Input((dimensions,)), keras.Input((1,))
        encoder = keras.Model(data, [layers.Dense(1)(data), layers.Dense(1)(data)])
        return VAE(encoder, keras.Model(z, layers.Dense(dimensions)(z)), Gaussian(0.5), allow_missing=True, seed=3)

    three, two = linear(3), linear(2)
    for a, b in zip(three.trainable_variables, two.trainable_variables, strict=True):
        values = np.asarray(ops.convert_to_numpy(a.value))
        b.assign(values[tuple(slice(size) for size in b.shape)])
    for vae, data in ((three, x), (two, x[:, :2])):
        vae.compile(keras.optimizers.SGD(0.1))
        vae.train_on_batch(data)
    for a, b in zip(three.trainable_variables, two.trainable_variables, strict=True):
        values = ops.convert_to_numpy(a.value)
        np.testing.assert_allclose(values[tuple(slice(size) for size in b.shape)], ops.convert_to_numpy(b.value), 1e-5)


def test_the_estimate_is_that_of_the_observed_values():
    """In a linear-Gaussian model log p of any part of the values is known."""
    rng = np.random.default_rng(4)
    weights, sigma2 = rng.normal(size=(4, 1)), 0.25
    data, z = keras.Input((4,)), keras.Input((1,))
    encoder = keras.Model(data, [layers.Dense(1, name="mean")(data), layers.Dense(1, name="log_var")(data)])
    vae = VAE(encoder, keras.Model(z, layers.Dense(4, name="x")(z)), Gaussian(0.5), allow_missing=True, seed=0)
    vae.decoder.get_layer("x").set_weights([weights.T, np.zeros(4)])
    m = (weights**2).sum() + sigma2
    vae.encoder.get_layer("mean").set_weights([weights / m, np.zeros(1)])
    vae.encoder.get_layer("log_var").set_weights([np.zeros((4, 1)), np.array([np.log(2.0 * sigma2 / m)])])
    x = (rng.normal(size=(30, 1)) @ weights.T + 0.5 * rng.normal(size=(30, 4))).astype("float32")
    x[:, 3] = np.nan
    found = evaluation.log_likelihood(vae, x, num_samples=4000, seed=1)
    exact = oracles.linear_gaussian_log_prob(x[:, :3], weights[:3], np.zeros(3), sigma2)
    assert np.all(np.abs(found.log_likelihood - exact) < 5.0 * found.standard_error + 1e-3)


@pytest.mark.every_backend
def test_metrics_and_validation_stay_finite(table):
    vae = model(allow_missing=True)
    vae.compile("adam", metrics=["mse"])
    history = vae.fit(table[0], epochs=2, validation_data=(table[0],), verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())


def test_a_table_of_kinds_with_holes_trains_saves_and_fills_in(tmp_path):
    rng = np.random.default_rng(5)
    label = rng.integers(0, 3, 300)
    real = (label[:, None] * [1.0, -1.0] + 0.1 * rng.normal(size=(300, 2))).astype("float32")
    x = np.concatenate([real, np.eye(3)[label], rng.poisson(2.0 + 3.0 * label)[:, None]], axis=1).astype("float32")
    holes = x.copy()
    hidden = rng.random(300) < 0.3
    holes[hidden, 2:5] = np.nan  # the category is missing
    likelihood = Mixed([(Gaussian("learned", initial_scale=0.5), 2), ("categorical", 3), ("poisson", 1)])
    vae = VAE(*networks.mlp((6,), 2, (32,), likelihood=likelihood), likelihood, seed=0, allow_missing=True)
    vae.compile(keras.optimizers.Adam(0.01))
    vae.fit(holes, epochs=60, batch_size=50, verbose=0)
    filled = vae.reconstruct(holes)[:, 2:5]
    assert (filled[hidden].argmax(axis=1) == label[hidden]).mean() > 0.9
    drawn = vae.sample(50, seed=0, draw=True)
    likelihood.validate(drawn)
    np.testing.assert_array_equal(drawn, vae.sample(50, seed=0, draw=True))
    vae.save(tmp_path / "table.keras")
    loaded = keras.saving.load_model(tmp_path / "table.keras")
    np.testing.assert_allclose(loaded.elbo(holes, seed=0), vae.elbo(holes, seed=0), rtol=1e-5)


@pytest.mark.every_backend
def test_an_encoder_of_integers_is_told_too():
    """Where nothing can be missing."""
    x, z = keras.Input((4,), dtype="int32"), keras.Input((2,))
    h = layers.Flatten()(layers.Embedding(9, 3)(x))
    encoder = keras.Model(x, [layers.Dense(2)(h), layers.Dense(2)(h)])
    vae = VAE(encoder, keras.Model(z, layers.Dense(4)(z)), likelihood="poisson", allow_missing=True, seed=0)
    vae.compile("adam")
    counts = np.random.default_rng(0).integers(0, 9, (10, 4)).astype("int32")
    assert np.isfinite(vae.fit(counts, verbose=0).history["loss"]).all()


def test_a_category_that_is_missing_in_part_is_refused():
    x = np.array([[0.0, np.nan, 1.0]])
    with pytest.raises(ValueError, match="only some of the one-hot columns are missing, .* make all of them NaN"):
        Categorical().validate(x, missing=True)
    Categorical().validate(np.full((1, 3), np.nan), missing=True)
