"""Pairs for every shape return to exactly the input shape, and start where they are told."""

import keras
import numpy as np
import pytest

from keras_vae import VAE, Bernoulli, Categorical, Gaussian, Mixed, likelihoods, networks, posteriors

pytestmark = pytest.mark.once


class TwoParameters(likelihoods.Gaussian):
    num_parameters = 2


@pytest.mark.parametrize("shape", [(5,), (1,), (7, 3), (8, 8, 1), (5, 4, 3), (2, 3, 4, 5)])
def test_mlp_returns_to_the_input_shape(shape):
    encoder, decoder = networks.mlp(shape, 2, hidden=(6, 4))
    outputs = encoder(np.zeros((3, *shape), "float32"))
    assert set(outputs) == {"z_mean", "z_log_var"}
    assert tuple(outputs["z_mean"].shape) == tuple(outputs["z_log_var"].shape) == (3, 2)
    assert tuple(decoder(outputs["z_mean"]).shape) == (3, *shape)


@pytest.mark.parametrize("shape", [(9, 3), (8, 8, 1), (7, 5, 3), (1, 9, 1), (28, 20, 1), (3, 3, 2), (3, 4, 5, 1)])
@pytest.mark.parametrize("filters", [(2,), (2, 3, 2)])
def test_conv_returns_to_the_input_shape(shape, filters):
    encoder, decoder = networks.conv(shape, 2, filters=filters, hidden=(4,))
    outputs = encoder(np.zeros((3, *shape), "float32"))
    assert tuple(decoder(outputs["z_mean"]).shape) == (3, *shape)


def test_conv_takes_a_map_of_classes():
    likelihood = Categorical(num_classes=3)
    x = np.random.default_rng(0).integers(0, 3, (6, 5, 4, 1))
    vae = VAE(*networks.conv((5, 4, 1), 2, filters=(2,), hidden=(4,), likelihood=likelihood), likelihood=likelihood)
    assert vae.decoder.output_shape == (None, 5, 4, 1, 3)
    assert set(np.unique(vae.reconstruct(x))) <= {0.0, 1.0, 2.0}
    assert vae.elbo(x, seed=0).shape == (6,)


def test_conv_has_its_channels_last_whatever_keras_is_told():
    keras.config.set_image_data_format("channels_first")
    try:
        assert networks.conv((28, 20, 1), 2, filters=(2,), hidden=(4,))[1].output_shape == (None, 28, 20, 1)
        with pytest.raises(ValueError, match=r"\(1, 28, 20\) has them first: .*moveaxis\(x, 1, -1\)"):
            networks.conv((1, 28, 20), 2)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_conv_warns_of_channels_that_stand_first():
    with pytest.warns(UserWarning, match=r"3 rows of 16 pixels with 16 channels.*moveaxis\(x, 1, -1\)"):
        networks.conv((3, 16, 16), 2, filters=(2,), hidden=(4,))


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", Mixed([("poisson", 4), ("mse", 3)])])
def test_counts_of_thousands_can_be_trained_on_as_they_are(likelihood, tmp_path):
    x = np.random.default_rng(0).poisson(5e3, (200, 7)).astype("float32")
    x[:, 4:] = x[:, 4:] if isinstance(likelihood, str) else 0.5
    network = networks.mlp((7,), 2, hidden=(8,), likelihood=likelihood, data_mean=x.mean(axis=0))
    vae = VAE(*network, likelihood=likelihood, seed=0)
    vae.compile(keras.optimizers.Adam(1e-3))
    loss = vae.fit(x, epochs=5, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert loss[-1] < min(loss[0], 1e5)
    vae.save(tmp_path / "counts.keras")
    loaded = keras.saving.load_model(tmp_path / "counts.keras")
    np.testing.assert_allclose(loaded.encode(x).mean, vae.encode(x).mean, rtol=1e-4, atol=1e-5)
    assert np.abs(vae.encode(x).mean).max() < 20.0  # and not of the size of the counts


def test_the_encoder_sees_counts_as_logarithms_and_other_data_as_they_are():
    x = np.array([[0.0, 7.0, -3.0]], "float32")
    seen = Mixed([("poisson", 2), ("mse", 1)]).for_encoder(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(seen), [[0.0, np.log(8.0), -3.0]], rtol=1e-6)
    assert [layer.name.split("_")[0] for layer in networks.mlp((3,), 2)[0].layers[:3]] == ["x", "flatten", "dense"]


def test_the_decoder_has_the_channels_that_the_likelihood_needs():
    assert networks.mlp((6,), 2, likelihood=TwoParameters())[1].output_shape == (None, 12)
    assert networks.mlp((4, 4, 3), 2, likelihood=TwoParameters())[1].output_shape == (None, 4, 4, 6)
    assert networks.conv((4, 4, 3), 2, likelihood=TwoParameters())[1].output_shape == (None, 4, 4, 6)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian()])
def test_data_mean_is_where_the_output_starts(likelihood):
    mean = np.random.default_rng(0).uniform(0.1, 0.9, (4, 4, 1))
    vae = VAE(*networks.mlp((4, 4, 1), 2, likelihood=likelihood, data_mean=mean), likelihood=likelihood)
    hidden_is_zero = np.zeros((1, 2), "float32")  # biases start at zero, so z = 0 reaches the output bias unchanged
    np.testing.assert_allclose(vae.decode(hidden_is_zero)[0], mean, rtol=1e-5)
    conv = VAE(*networks.conv((4, 4, 1), 2, likelihood=likelihood, data_mean=mean), likelihood=likelihood)
    np.testing.assert_allclose(conv.decode(hidden_is_zero)[0], np.full((4, 4, 1), mean.mean()), rtol=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"conv needs data of shape \(steps, channels\), .*; got \(28,\).*use mlp"):
        networks.conv((28,), 2)
    with pytest.warns(UserWarning, match=r"as 28 steps of 28 channels.*x\[\.\.\., None\]"):
        networks.conv((28, 28), 2)
    with pytest.raises(ValueError, match="latent_dim must be whole numbers of at least 1"):
        networks.mlp((4,), 0)
    with pytest.raises(ValueError, match="hidden must be whole numbers"):
        networks.mlp((4,), 2, hidden=(3.5,))
    with pytest.raises(ValueError, match=r"data_mean must be a number or have shape \(4,\)"):
        networks.mlp((4,), 2, data_mean=np.zeros(3))
    with pytest.raises(ValueError, match="data_shape must have at least one axis"):
        networks.mlp((), 2)


def test_a_file_of_an_older_version_finds_the_initializer_under_its_name_there():
    config = {
        "module": "keras_vae.networks",
        "class_name": "StartAt",
        "config": {"values": [1.0, 2.0]},
        "registered_name": "keras_vae>StartAt",
    }
    initializer = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(initializer((2,), "float32")), [1.0, 2.0])


@pytest.mark.parametrize("shape", [(16, 3), (8, 4, 1), (4, 8, 12, 2)])
def test_a_spatial_pair_has_a_map_for_z_and_takes_other_sizes(shape):
    likelihood = Gaussian("predicted")
    known = VAE(*networks.conv_spatial(shape, 5, filters=(2, 3), likelihood=likelihood), likelihood=likelihood)
    assert known.latent_shape == (*(size // 4 for size in shape[:-1]), 5)
    free = (*[None] * (len(shape) - 1), shape[-1])
    vae = VAE(*networks.conv_spatial(free, 5, filters=(2, 3), likelihood=likelihood), likelihood=likelihood)
    vae.set_weights(known.get_weights())
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    np.testing.assert_allclose(vae.reconstruct(x), known.reconstruct(x), rtol=1e-5, atol=1e-6)
    larger = np.concatenate([x, x], axis=1)
    assert vae.encode(larger).location.shape == (2, shape[0] // 2, *known.latent_shape[1:])
    assert vae.reconstruct(larger).shape == larger.shape
    vae.compile("adam")
    assert np.isfinite(vae.train_on_batch(larger, return_dict=True)["loss"])


def test_a_spatial_pair_starts_at_the_data_mean_of_each_channel():
    mean = np.array([0.2, 0.7], "float32")
    for data_mean in (mean, np.broadcast_to(mean, (4, 4, 2))):
        vae = VAE(*networks.conv_spatial((4, 4, 2), 3, filters=(2,), data_mean=data_mean))
        np.testing.assert_allclose(vae.decode(np.zeros((1, 2, 2, 3)))[0], np.broadcast_to(mean, (4, 4, 2)), rtol=1e-5)


def test_what_a_spatial_pair_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"multiples of 4; got \(10, 8, 1\)"):
        networks.conv_spatial((10, 8, 1), 2)
    with pytest.raises(
        ValueError, match=r"outputs of the sizes of z, \(2, 2\), and z_cholesky .* use conv\(..., latent"
    ):
        networks.conv_spatial((8, 8, 1), 2, posterior="full")
    with pytest.raises(ValueError, match="no place for the axis of classes"):
        networks.conv_spatial((8, 8, 1), 2, likelihood=Categorical(num_classes=3))
    with pytest.raises(ValueError, match="channels must be whole numbers"):
        networks.conv_spatial((8, 8, 1), 0)
    with pytest.raises(ValueError, match="data_shape must be whole numbers"):
        networks.conv_spatial((8, 8, None), 2)
    with pytest.raises(ValueError, match=r"conv_spatial needs data of shape \(steps, channels\)"):
        networks.conv_spatial((8,), 2)


@pytest.mark.parametrize("make", [networks.mlp, networks.conv])
@pytest.mark.parametrize("posterior", ["normal", "full", posteriors.Flow(), posteriors.LowRankNormal(3)])
def test_a_pair_has_the_outputs_of_any_posterior_and_z_of_any_shape(make, posterior):
    vae = VAE(*make((8, 8, 1), (2, 3), hidden=(4,), posterior=posterior), posterior=posterior)
    assert vae.latent_shape == (2, 3)
    assert vae.sample(2, seed=0).shape == (2, 8, 8, 1)
    if posterior == "full":  # a new one has no covariances
        assert np.all(vae.encode(np.ones((1, 8, 8, 1), "float32")).outputs["z_cholesky"] == 0.0)


@pytest.mark.parametrize("verb", ["fit", "elbo", "reconstruct", "predict"])
def test_sizes_that_a_decoder_does_not_give_back_are_refused_and_never_broadcast(verb):
    """x of (1, 1) is given back as (2, 2), and one pixel would count four times."""
    vae = VAE(*networks.conv_spatial((None, None, 1), 2, filters=(3,)), seed=0)
    vae.compile("adam")
    options = {"verbose": 0} if verb in ("fit", "predict") else {}
    assert getattr(vae, verb)(np.ones((4, 2, 6, 1), "float32"), **options) is not None
    for shape in ((4, 1, 1, 1), (4, 7, 7, 1)):
        with pytest.raises(ValueError, match="decoder gives data of shape .* where x has .* Pad or crop"):
            getattr(vae, verb)(np.ones(shape, "float32"), **options)
