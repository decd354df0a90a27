"""Conditional models: the condition reaches both networks, in every verb, and a mistake with it is a sentence."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_vae import VAE, _row_batches, callbacks, evaluation, networks, plotting, priors


@pytest.fixture
def data(digits):
    """Digits, and which half of each was blanked, as the label."""
    labels = np.arange(len(digits)) % 4
    x = digits.copy()
    for label in range(4):
        x[labels == label, 2 * label : 2 * label + 2] = 0.0
    return {"x": x, "condition": labels.astype("int32")}


@pytest.fixture
def make(make_vae):
    def of(condition=4, **kwargs):
        return make_vae(network=networks.mlp((8, 8, 1), 3, hidden=(16,), condition=condition), **kwargs)

    return of


def one_hot(data):
    return {"x": data["x"], "condition": np.eye(4, dtype="float32")[data["condition"]]}


@pytest.mark.once  # the numbers of a step are compared on every backend
def test_a_label_is_learned_from(make, data):
    vae = make(compile={"optimizer": keras.optimizers.Adam(0.01), "steps_per_execution": 4})
    before = vae.evaluate(data, verbose=0)[0]
    vae.fit(data, epochs=60, batch_size=64, verbose=0)
    assert vae.evaluate(data, verbose=0)[0] < 0.8 * before
    for label in range(4):  # the rows that are blank under this label
        drawn = vae.sample(20, seed=0, condition=label)
        blank = drawn[:, 2 * label : 2 * label + 2].mean()
        assert blank < 0.5 * np.delete(drawn, [2 * label, 2 * label + 1], axis=1).mean()


def test_every_verb_takes_the_condition_and_uses_it(make, data):
    vae = make()
    few = {name: part[:6] for name, part in data.items()}
    other = {"x": few["x"], "condition": (few["condition"] + 1) % 4}
    posterior = vae.encode(few)
    assert np.abs(posterior.mean - vae.encode(other).mean).max() > 1e-4
    z = posterior.mean
    np.testing.assert_allclose(vae.reconstruct(few), vae.decode(z, condition=few["condition"]), atol=1e-6)
    np.testing.assert_allclose(vae.predict(few, verbose=0), vae.reconstruct(few), atol=1e-6)
    np.testing.assert_array_equal(vae.decode(z, condition=2), vae.decode(z, condition=np.full(6, 2)))
    assert np.abs(vae.decode(z, condition=2) - vae.decode(z, condition=3)).max() > 1e-4
    assert vae.elbo(few, num_samples=3, seed=0, batch_size=4).shape == (6,)
    assert np.abs(vae.elbo(few, seed=0) - vae.elbo(other, seed=0)).max() > 1e-3
    assert vae.interpolate(few["x"][0], few["x"][1], 5, condition=1).shape == (5, 8, 8, 1)
    draw = vae.sample(6, seed=0, draw=True, condition=few["condition"])
    assert set(np.unique(draw)) == {0.0, 1.0}
    found = evaluation.log_likelihood(vae, few, 20, max_bytes=20_000)
    assert np.abs(found.log_likelihood - evaluation.log_likelihood(vae, other, 20).log_likelihood).max() > 1e-3


@pytest.mark.once
def test_numbers_are_those_of_the_same_networks_on_both_inputs(make, data):
    """Against the networks called by hand."""
    vae = make()
    outputs = vae.encoder({"x": data["x"], "condition": data["condition"]})
    posterior = vae.encode(data)
    np.testing.assert_allclose(posterior.mean, keras.ops.convert_to_numpy(outputs["z_mean"]), atol=1e-5)
    epsilon = np.random.default_rng(3).standard_normal((256, 2, 3), dtype="float32")
    z = posterior.mean[:, None] + np.exp(0.5 * posterior.log_var[:, None]) * epsilon
    terms = np.zeros((256, 2))
    for i in range(2):
        logits = keras.ops.convert_to_numpy(vae.decoder({"z": z[:, i], "condition": data["condition"]}))
        signed = np.where(data["x"] > 0.5, logits, -logits).astype("float64")
        terms[:, i] = -np.logaddexp(0.0, -signed).sum(axis=(1, 2, 3))
    kl = posterior.kl_divergence(vae.prior)
    np.testing.assert_allclose(vae.elbo(data, 2, seed=3), terms.mean(axis=1) - kl, rtol=1e-4)


@pytest.mark.once
def test_evaluation_and_pictures_take_the_dict(make, data, capsys):
    vae = make()
    monitor = callbacks.LatentMonitor(data)
    vae.fit(data, epochs=1, callbacks=[monitor], verbose=0)
    assert monitor.kl_per_unit.shape == (1, 3)
    threshold = evaluation.fit_threshold(vae, data, quantile=0.9, num_samples=2)
    assert evaluation.anomalies(vae, data, threshold).mean() == pytest.approx(0.1, abs=0.02)
    assert evaluation.elbo_surgery(vae, data).max_mutual_information == pytest.approx(np.log(256))
    assert evaluation.held_out(vae, data, 2)["kl"] > 0.0
    assert evaluation.active_units(vae, data).shape == evaluation.aggregate_posterior(vae, data).mean.shape == (3,)
    for figure in (
        plotting.reconstructions(vae, data, columns=5),
        plotting.samples(vae, 8, condition=np.arange(8) % 4),
        plotting.traversals(vae, data, units=2, steps=3, condition=1, example=data["x"][0]),
        plotting.latent_scatter(vae, data, labels=data["condition"]),
        plotting.kl_per_unit(vae, data),
    ):
        assert figure.axes


def test_weights_targets_and_splits_go_with_the_dict(make, data):
    vae = make()
    weight = np.arange(256) % 3
    history = vae.fit(data, data["x"], sample_weight=weight, validation_split=0.25, epochs=1, verbose=0)
    assert np.isfinite(history.history["val_loss"]).all()
    whole = vae.evaluate(
        data, sample_weight=(weight > 0).astype("float32"), verbose=0, return_dict=True, batch_size=256
    )
    assert np.isfinite(whole["loss"])
    assert np.isfinite(vae.train_on_batch(data, return_dict=True)["loss"])


@pytest.mark.once
def test_a_tensor_is_a_condition_too_and_images_have_their_network(data):
    for network in (
        networks.mlp((8, 8, 1), 3, hidden=(16,), condition=(4,)),
        networks.conv((8, 8, 1), 3, filters=(4,), hidden=(8,), condition=(4,)),
    ):
        vae = VAE(*network, seed=0)
        vae.compile("adam")
        vae.train_on_batch({name: part[:8] for name, part in one_hot(data).items()})
        assert vae.condition_shape == (4,)
        assert vae.sample(3, condition=np.eye(4)[0]).shape == (3, 8, 8, 1)


@pytest.mark.once
def test_only_the_decoder_may_take_it(data):
    encoder, _ = networks.mlp((8, 8, 1), 3, hidden=(8,))
    _, decoder = networks.mlp((8, 8, 1), 3, hidden=(8,), condition=4)
    vae = VAE(encoder, decoder, seed=0)
    vae.compile("adam")
    vae.fit(data, verbose=0)
    others = {"x": data["x"], "condition": (data["condition"] + 1) % 4}
    np.testing.assert_array_equal(vae.encode(data).mean, vae.encode(others).mean)
    assert np.abs(vae.elbo(data, seed=0) - vae.elbo(others, seed=0)).max() > 1e-3


@keras.saving.register_keras_serializable(package="tests")
class Beside(keras.Model):
    """A network without known inputs, which is handed the dict."""

    def __init__(self, main, units, **kwargs):
        super().__init__(**kwargs)
        self.main, self.units = main, units
        self.dense = layers.Dense(units)

    def call(self, inputs):
        h = keras.ops.concatenate([layers.Flatten()(inputs[self.main]), inputs["condition"]], axis=-1)
        h = self.dense(h)
        return keras.ops.split(h, 2, axis=-1) if self.main == "x" else keras.ops.reshape(h, (-1, 8, 8, 1))

    def get_config(self):
        return {"main": self.main, "units": self.units}


@pytest.mark.once
def test_networks_without_known_inputs_are_handed_the_dict(data, tmp_path):
    vae = VAE(Beside("x", 6), Beside("z", 64), seed=0)
    vae.compile("adam")
    vae.fit(one_hot(data), verbose=0)
    assert vae.condition_shape == (4,)
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.elbo(one_hot(data), seed=0), vae.elbo(one_hot(data), seed=0))


def test_a_conditional_model_is_saved_and_goes_on_as_if_never_stopped(make, data, tmp_path):
    vae = make()
    vae.fit(data, verbose=0, shuffle=False)
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.sample(4, seed=0, condition=1), vae.sample(4, seed=0, condition=1))
    for model in (vae, copy):
        model.fit(data, verbose=0, shuffle=False)
    np.testing.assert_allclose(copy.elbo(data, seed=0), vae.elbo(data, seed=0), rtol=1e-5)


@pytest.mark.once
def test_half_precision_does_not_round_labels(digits):
    keras.config.set_dtype_policy("mixed_bfloat16")
    x, label = keras.Input((8, 8, 1), name="x"), keras.Input((), name="condition")  # floats, for which 16 bits are few
    h = layers.Concatenate()([layers.Flatten()(x), layers.Embedding(1000, 2)(label)])
    encoder = keras.Model({"x": x, "condition": label}, [layers.Dense(3)(h), layers.Dense(3)(h)])
    vae = VAE(encoder, networks.mlp((8, 8, 1), 3, hidden=(8,))[1], seed=0)
    given = {"x": digits[:2], "condition": np.array([301.0, 999.0], "float32")}
    np.testing.assert_allclose(vae.predict(given, verbose=0), vae.reconstruct(given), atol=0.02)
    posterior = vae.encode(given)
    whole = vae.encode({**given, "condition": np.array([301, 999])})
    np.testing.assert_array_equal(posterior.mean, whole.mean)


def test_a_label_that_is_none_is_found_wherever_it_is(make, data):
    """Keras's first batch does not hold it."""
    labels = data["condition"].copy()
    labels[-1] = -1
    bad, vae = {**data, "condition": labels}, make()
    for call in (
        lambda: vae.fit(bad, shuffle=False, verbose=0),
        lambda: vae.fit(data, validation_data=(bad,), verbose=0),
        lambda: vae.evaluate(bad, verbose=0),
        lambda: vae.predict(bad, verbose=0),
    ):
        with pytest.raises(ValueError, match="labels from 0 to 3"):
            call()
    with pytest.raises(ValueError, match="one for each example"):
        vae.fit({**data, "condition": labels[:-1]}, verbose=0)


@pytest.mark.once
def test_arrays_in_files_are_read_batch_by_batch_with_their_labels(make, data, tmp_path, monkeypatch):
    monkeypatch.setattr(_row_batches, "MIN_MAPPED_BYTES", 0)
    np.save(tmp_path / "x.npy", data["x"])
    mapped = {"x": np.load(tmp_path / "x.npy", mmap_mode="r"), "condition": data["condition"]}
    losses = []
    for given in (data, mapped):
        keras.utils.set_random_seed(1)
        vae = make()
        losses.append(vae.fit(given, shuffle=False, epochs=2, verbose=0, sample_weight=np.ones(256)).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda vae, data: vae.fit(data["x"], verbose=0), "This model is conditional"),
        (lambda vae, data: vae.encode(data["x"]), "This model is conditional"),
        (lambda vae, data: vae.sample(3), "This model is conditional"),
        (lambda vae, data: vae.fit({**data, "condition": data["condition"] + 1}, verbose=0), "labels from 0 to 3"),
        (lambda vae, data: vae.sample(3, condition=4), "labels from 0 to 3"),
        (lambda vae, data: vae.sample(3, condition=-1), "labels from 0 to 3"),
        (lambda vae, data: vae.sample(3, condition=[0, 1]), r"must have shape \(3,\), one for each example"),
        (lambda vae, data: vae.encode(one_hot(data)), "Labels go in as they are, not one-hot"),
        (lambda vae, data: vae.sample(3, condition=0.5), "whole numbers"),
        (lambda vae, data: vae.sample(3, condition="cat"), "must hold numbers"),
        (lambda vae, data: vae.fit({"x": data["x"], "label": data["condition"]}, verbose=0), "a dict with keys"),
    ],
)
def test_a_mistake_with_the_condition_is_a_sentence(make, data, call, words):
    with pytest.raises(ValueError, match=words):
        call(make(), data)


@pytest.mark.once
def test_a_condition_that_nobody_takes_is_refused(make_vae, make, data):
    for call in (
        lambda vae: vae.fit(data, verbose=0),
        lambda vae: vae.encode(data),
        lambda vae: vae.sample(2, condition=1),
    ):
        with pytest.raises(ValueError, match="takes no condition"):
            call(make_vae())
    x, other = keras.Input((8, 8, 1), name="x"), keras.Input((2,), name="other")
    h = layers.Concatenate()([layers.Flatten()(x), other])
    encoder = keras.Model([x, other], [layers.Dense(3)(h), layers.Dense(3)(h)])
    with pytest.raises(ValueError, match="has 2 inputs"):
        VAE(encoder, networks.mlp((8, 8, 1), 3, condition=4)[1])
    with pytest.raises(ValueError, match="condition of shape"):
        VAE(networks.mlp((8, 8, 1), 3, condition=4)[0], networks.mlp((8, 8, 1), 3, condition=(4,))[1])
    with pytest.raises(ValueError, match="takes a condition with each"):
        make(prior=priors.VampPrior(5))
    with pytest.raises(ValueError, match="two or more, or a shape"):
        networks.mlp((8, 8, 1), 3, condition=1)


def test_compiled_metrics_compare_x_and_not_the_condition():
    vae = VAE(*networks.mlp((6,), 2, hidden=(8,), condition=3), seed=0)
    vae.compile("adam", metrics=["mse"])
    x = np.random.default_rng(0).random((9, 6)).round().astype("float32")
    data = {"x": x, "condition": np.arange(9) % 3}
    found = vae.evaluate(data, verbose=0, return_dict=True)["mse"]
    assert found == pytest.approx(np.square(vae.reconstruct(data) - x).mean(), rel=1e-4)
