"""Data as a dict: what has a likelihood is modelled, what has none is given; the same bound as of one tensor."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_vae import VAE, Bernoulli, Categorical, Gaussian, evaluation, networks, plotting, priors
from keras_vae.data import Fields
from keras_vae.likelihoods import Joint

RNG = np.random.default_rng(0)
LIKELIHOOD = {"image": Bernoulli(), "label": Categorical(3), "size": Gaussian(0.5)}
SHAPES = {"image": (4, 2), "label": (), "size": (2,)}
DATA = {
    "image": RNG.integers(0, 2, (12, 4, 2)).astype("float32"),
    "label": RNG.integers(0, 3, 12),
    "size": RNG.normal(size=(12, 2)),
    "style": RNG.integers(0, 5, 12),
}


def model(prior=None, show_missing=False, **options):
    keras.utils.set_random_seed(0)
    settings = {"likelihood": LIKELIHOOD, "condition": {"style": 5}, "show_missing": show_missing}
    encoder, decoder = networks.mlp(SHAPES, 2, hidden=(5,), **settings)
    return VAE(encoder, decoder, LIKELIHOOD, prior=prior, seed=0, allow_missing=True, **options)


@pytest.fixture(scope="module")
def trained():
    vae = model()
    vae.compile(keras.optimizers.Adam(1e-2), metrics={"size": ["mse"]})
    vae.fit(DATA, batch_size=5, epochs=2, verbose=0, validation_data=(DATA,))
    return vae


@pytest.mark.every_backend
def test_every_verb_takes_and_gives_them_by_name(trained, tmp_path):
    logs = trained.evaluate(DATA, verbose=0, return_dict=True)
    parts = [logs[f"reconstruction_{name}"] for name in LIKELIHOOD]
    np.testing.assert_allclose(sum(parts), logs["reconstruction"], rtol=1e-5)
    predicted, style = trained.predict(DATA, verbose=0), {"style": DATA["style"]}
    reconstructed = trained.reconstruct(DATA)
    z = trained.encode(DATA).location
    for found in (predicted, reconstructed, trained.decode(z, condition=style)):
        assert {name: array.shape[1:] for name, array in found.items()} == SHAPES
        np.testing.assert_allclose(found["size"], predicted["size"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logs["size_mse"], np.square(predicted["size"] - DATA["size"]).mean(), rtol=1e-4)
    drawn = trained.sample(4, seed=0, draw=True, condition={"style": 1})
    assert set(np.unique(drawn["label"])) <= {0, 1, 2}
    assert drawn["image"].shape == (4, 4, 2)
    trained.save(tmp_path / "named.keras")
    loaded = keras.saving.load_model(tmp_path / "named.keras")
    np.testing.assert_array_equal(loaded.elbo(DATA, seed=0), trained.elbo(DATA, seed=0))


@pytest.mark.once
def test_one_part_and_one_given_are_x_and_its_condition():
    keras.utils.set_random_seed(0)
    encoder, decoder = networks.mlp((6,), 2, hidden=(4,), condition=3)
    x = {"x": RNG.integers(0, 2, (7, 6)).astype("float32"), "condition": RNG.integers(0, 3, 7)}
    plain = VAE(encoder, decoder, "bce", seed=0)
    named = VAE(encoder, decoder, {"x": "bce"}, seed=0)
    np.testing.assert_array_equal(named.elbo(x, 3, seed=1), plain.elbo(x, 3, seed=1))
    np.testing.assert_array_equal(
        named.elbo(x, seed=1, per_dimension=True)["x"], plain.elbo(x, seed=1, per_dimension=True)
    )
    for vae in (plain, named):
        vae.compile("sgd")
    np.testing.assert_array_equal(named.predict(x, verbose=0)["x"], plain.predict(x, verbose=0))
    first, second = (vae.evaluate(x, verbose=0, return_dict=True) for vae in (plain, named))
    assert second.pop("reconstruction_x") == second["reconstruction"]
    assert first == second
    weight = np.arange(7.0)
    assert (
        named.evaluate(x, sample_weight=weight, verbose=0)[0] == plain.evaluate(x, sample_weight=weight, verbose=0)[0]
    )


@pytest.mark.once
def test_the_terms_are_those_of_each_likelihood(trained):
    terms = trained.elbo(DATA, seed=0, per_dimension=True)
    z = trained.encode(DATA).sample(seed=0)
    mean = trained.decode(z, condition={"style": DATA["style"]})["size"]
    expected = -0.5 * np.square((DATA["size"] - mean) / 0.5) - np.log(0.5) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(terms["size"], expected, rtol=1e-4, atol=1e-5)
    probability = np.exp(terms["label"])  # of the label that is there; those of all labels add up to 1
    of_all = [trained.elbo(DATA | {"label": np.full(12, i)}, seed=0, per_dimension=True)["label"] for i in range(3)]
    assert ((probability > 0) & (probability < 1)).all()
    assert np.isfinite(of_all).all()
    threshold = evaluation.fit_threshold(trained, DATA, quantile=0.8, num_samples=1)
    strange = evaluation.surprise(trained, DATA | {"size": DATA["size"] + 9.0}, threshold)
    assert strange["size"].mean() > 10.0 > np.abs(strange["label"]).max()


@pytest.mark.once
def test_a_part_that_is_missing_is_summed_out():
    """An encoder that does not see the label, with and without a label in the model."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="image")
    encoder = keras.Model(x, [layers.Dense(2)(x), layers.Dense(2)(x)])
    z = keras.Input((2,), name="z")
    image, label = layers.Dense(8)(z), layers.Dense(3)(z)
    both = VAE(
        encoder, keras.Model(z, {"image": image, "label": label}), {"image": "bce", "label": Categorical(3)},
        allow_missing=True,
    )  # fmt: skip
    alone = VAE(encoder, keras.Model(z, image), "bce")
    images = RNG.integers(0, 2, (6, 8)).astype("float32")
    unknown = {"image": images, "label": np.full(6, np.nan, "float32")}
    np.testing.assert_allclose(both.elbo(unknown, seed=0), alone.elbo(images, seed=0), rtol=1e-6)
    filled = both.impute(unknown, num_samples=3000, seed=0)
    np.testing.assert_array_equal(filled["image"], images)
    # The most likely label by importance weights: p(label|image) = E[p(label|z) w] / E[w].
    z = alone.encode(images)
    noise = np.random.default_rng(0).standard_normal((4000, 6, 2), "float32")
    log_w = keras.ops.convert_to_numpy(alone.log_weights(keras.ops.convert_to_tensor(images), noise))
    drawn = z.mean + np.exp(0.5 * z.log_var) * noise
    kernel, bias = both.decoder.layers[-1].get_weights()
    logits = drawn @ kernel + bias
    p = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)) + (log_w - log_w.max(0))[..., None]).sum(0)
    sure = np.sort(p / p.sum(-1, keepdims=True), axis=-1)
    sure = sure[:, -1] - sure[:, -2] > 0.05
    assert sure.any()
    np.testing.assert_array_equal(filled["label"][sure], p.argmax(axis=-1)[sure])


@pytest.mark.once
def test_batches_weights_and_targets():
    vae = model()
    vae.compile(keras.optimizers.SGD(0.0))
    expected = vae.test_on_batch(DATA, return_dict=True)
    weight = np.r_[np.ones(6), np.zeros(6)]
    half = {name: part[:6] for name, part in DATA.items()}
    weighted = vae.evaluate(DATA, sample_weight=weight, batch_size=12, verbose=0, return_dict=True)
    np.testing.assert_allclose(weighted["kl"], vae.evaluate(half, verbose=0, return_dict=True)["kl"], rtol=1e-5)
    batches = ({name: part[i : i + 6] for name, part in DATA.items()} for i in (0, 6))
    np.testing.assert_allclose(vae.encode(batches).mean, vae.encode(DATA).mean, rtol=1e-6)
    other = DATA | {"size": DATA["size"] + 1.0}
    logs = vae.test_on_batch(DATA, {name: other[name] for name in SHAPES}, return_dict=True)
    assert logs["kl"] == pytest.approx(expected["kl"])
    assert logs["reconstruction_size"] != pytest.approx(expected["reconstruction_size"])


@pytest.mark.once
def test_a_prior_given_one_of_them():
    inputs = keras.Input((), name="style", dtype="int32")
    h = layers.Embedding(5, 3)(inputs)
    prior = priors.Conditional(keras.Model(inputs, {"z_mean": layers.Dense(2)(h), "z_log_var": layers.Dense(2)(h)}))
    vae = model(prior)
    vae.compile("adam")
    vae.fit(DATA, verbose=0)
    of_each = vae.numpy_prior({"style": DATA["style"]})
    of_one = vae.numpy_prior({"style": int(DATA["style"][3])})
    np.testing.assert_allclose(of_each.mean[3], of_one.mean, rtol=1e-6)
    assert vae.sample(3, seed=0, condition={"style": 2})["label"].shape == (3,)


@pytest.mark.once
def test_the_encoder_is_shown_what_is_missing():
    vae = model(show_missing=True)
    assert {"image_observed", "label_observed", "size_observed"} <= {t.name for t in vae.encoder.inputs}
    zero = DATA | {"size": np.zeros((12, 2))}
    missing = DATA | {"size": np.full((12, 2), np.nan)}
    blind = model()
    assert np.abs(vae.encode(zero).mean - vae.encode(missing).mean).max() > 1e-3
    np.testing.assert_array_equal(blind.encode(zero).mean, blind.encode(missing).mean)
    x, observed = keras.Input((2,), name="x"), keras.Input((2,), name="observed")
    z = keras.Input((2,))
    copying = VAE(
        keras.Model([x, observed], [observed, x]), keras.Model(z, layers.Dense(2)(z)), "mse", allow_missing=True
    )
    np.testing.assert_array_equal(copying.encode(np.array([[np.nan, 5.0]])).mean, [[0.0, 1.0]])
    alone = VAE(keras.Model(observed, [observed, observed]), keras.Model(z, layers.Dense(2)(z)), "mse")
    np.testing.assert_array_equal(alone.encode(np.full((1, 2), 5.0)).mean, [[5.0, 5.0]])  # where it is the only input
    images = RNG.random((3, 8, 8, 1)).astype("float32")
    images[0, :4] = np.nan
    for build, shape in ((networks.mlp, (8, 8, 1)), (networks.conv, (8, 8, 1))):
        encoder, decoder = build(shape, 2, show_missing=True)
        with_mask = VAE(encoder, decoder, allow_missing=True)
        seen = with_mask.encode(np.nan_to_num(images)).mean
        found = with_mask.encode(images).mean
        np.testing.assert_allclose(found[1:], seen[1:], rtol=1e-6)
        assert np.abs(found[0] - seen[0]).max() > 1e-4


@pytest.mark.once
def test_whole_numbers_that_float32_does_not_tell_apart_stay_as_they_are():
    fields = Fields.of({"a": (None,), "b": (None, 2)}, ["a", "b"])
    data = {"a": np.array([2**24 + 1, 7]), "b": np.ones((2, 2), "float32")}
    np.testing.assert_array_equal(fields.parts_of(fields.pack_parts(data))["a"], data["a"])


@pytest.mark.once
def test_mistakes_are_sentences(trained):
    def without(name):
        return {key: part for key, part in DATA.items() if key != name}

    with pytest.raises(ValueError, match=r"data are a dict of 'image', 'label', 'size', 'style'; got 'image'"):
        trained.encode(without("style"))
    with pytest.raises(ValueError, match="data are a dict"):
        trained.evaluate(DATA["image"], verbose=0)
    with pytest.raises(ValueError, match=r"size has shape \(12, 3\), but the model was built for"):
        trained.encode(DATA | {"size": np.zeros((12, 3))})
    with pytest.raises(ValueError, match="style must hold labels from 0 to 4"):
        trained.encode(DATA | {"style": DATA["style"] + 1})
    with pytest.raises(ValueError, match="pass condition="):
        trained.sample(2)
    with pytest.raises(ValueError, match=r"is given \['style'\]"):
        trained.sample(2, condition={"stile": 1})
    with pytest.raises(ValueError, match=r"label.*classes|classes.*label|label must"):
        trained.fit(DATA | {"label": DATA["label"] + 1}, verbose=0)
    z, x = keras.Input((2,), name="z"), keras.Input((8,), name="image")
    encoder = keras.Model(x, [layers.Dense(2)(x), layers.Dense(2)(x)])
    with pytest.raises(ValueError, match="keys.*'image', 'label'"):
        VAE(encoder, keras.Model(z, {"image": layers.Dense(8)(z)}), {"image": "bce", "label": Categorical(3)}).encode(
            {"image": DATA["image"].reshape(12, 8), "label": DATA["label"]}
        )
    with pytest.raises(ValueError, match=r"returns shape .* for 'image'"):
        VAE(encoder, keras.Model(z, {"image": layers.Dense(7)(z)}), {"image": "bce"})
    with pytest.raises(ValueError, match="unequal numbers of examples"):
        trained.evaluate(DATA | {"style": DATA["style"][:5]}, verbose=0)
    with pytest.raises(ValueError, match="Metrics of named parts are a dict"):
        model().compile("adam", metrics=["mse"])
    for draw in (plotting.reconstructions, plotting.traversals):
        with pytest.raises(ValueError, match="Pictures are of one tensor"):
            draw(trained, DATA)
    assert plotting.latent_scatter(trained, DATA) is not None
    with pytest.raises(ValueError, match="'z', as latents"):
        Joint({"z": "bce"})
    with pytest.raises(ValueError, match="a likelihood by the name of each part"):
        Joint({})


@pytest.mark.once
def test_parts_that_are_assigned_anew_are_those_of_the_next_call():
    x = {"a": RNG.normal(size=(4, 1)), "b": RNG.normal(size=(4, 2))}
    likelihood = {"a": Gaussian(1.0), "b": Gaussian(0.3)}
    vae = VAE(*networks.mlp({"a": (1,), "b": (2,)}, 2, (3,), likelihood=likelihood), likelihood)
    expected = vae.elbo(x, seed=0)
    vae.likelihood = dict(reversed(likelihood.items()))
    np.testing.assert_allclose(vae.elbo(x, seed=0), expected, rtol=1e-6)


@pytest.mark.once
def test_a_prior_may_be_given_what_no_network_takes():
    likelihood = {"image": Bernoulli()}
    pair = networks.mlp({"image": (4, 2)}, 2, (3,), likelihood=likelihood)
    inputs = keras.Input((), name="style", dtype="int32")
    h = layers.Embedding(5, 3)(inputs)
    prior = priors.Conditional(keras.Model(inputs, {"z_mean": layers.Dense(2)(h), "z_log_var": layers.Dense(2)(h)}))
    vae = VAE(*pair, likelihood, prior=prior)
    data = {"image": DATA["image"], "style": DATA["style"]}
    vae.compile("adam")
    vae.fit(data, sample_weight=np.ones(12), verbose=0)
    assert vae.sample(2, seed=0, condition={"style": 1})["image"].shape == (2, 4, 2)
