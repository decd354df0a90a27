"""Saved models: bit-identical in a clean process, resumed without a seam, and readable on every backend."""

import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from keras_vae import ELBO, VAE, DiagonalNormal, Gaussian, networks, objectives, schedules

EVERYTHING = {
    "likelihood": Gaussian(scale=0.5),
    "objective": ELBO(beta=schedules.Cyclical(6), num_samples=2, kl="monte_carlo"),
    "prior": DiagonalNormal(np.array([0.5, 0.0, -0.5], "float32"), np.full(3, 0.1, "float32")),
}


@pytest.mark.once
def test_a_saved_model_predicts_the_same_in_a_clean_process(make_vae, digits, tmp_path):
    vae = make_vae(**EVERYTHING)
    vae.fit(digits, verbose=0)
    vae.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", digits[:20])
    script = (
        "import keras, numpy as np, keras_vae\n"
        "vae = keras.saving.load_model('model.keras')\n"
        "assert type(vae) is keras_vae.VAE\n"
        "np.save('y.npy', vae.predict(np.load('x.npy'), verbose=0))\n"
        "np.save('z.npy', vae.sample(5, seed=1))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=os.environ)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), vae.predict(digits[:20], verbose=0))
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), vae.sample(5, seed=1))


def test_training_continues_as_if_it_had_not_stopped(make_vae, digits, tmp_path):
    """Optimizer, step of the schedule, and the seeds of the noise and of dropout are all part of the file."""
    x = keras.Input((8, 8, 1))
    h = keras.layers.Dropout(0.2, seed=3)(keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(x)))
    encoder = keras.Model(x, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])
    vae = make_vae(network=(encoder, networks.mlp((8, 8, 1), 3)[1]), objective=ELBO(beta=schedules.Linear(30)))
    fit = {"batch_size": 32, "shuffle": False, "verbose": 0}
    vae.fit(digits, epochs=2, **fit)
    vae.save(tmp_path / "model.keras")
    expected = vae.fit(digits, epochs=2, **fit).history
    history = keras.saving.load_model(tmp_path / "model.keras").fit(digits, epochs=2, **fit).history
    for name, values in expected.items():
        np.testing.assert_array_equal(history[name], values, err_msg=name)


@keras.saving.register_keras_serializable(package="tests")
class WithATemperature(VAE):
    """What people subclass for: a weight and a tracker of their own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.temperature = self.add_weight(name="temperature", shape=(), initializer="ones")
        self.tracker = keras.metrics.Mean(name="temperature")
        self.head = keras.layers.Dense(2)

    def step_loss(self, batch, noise, training):
        self.tracker.update_state(self.temperature.value)
        return super().step_loss(batch, noise, training)


def test_a_subclass_adds_and_saves_weights_of_its_own(digits, tmp_path):
    vae = WithATemperature(*networks.mlp((8, 8, 1), 2, hidden=(4,)), seed=0)
    vae.compile("adam")
    vae.temperature.assign(5.0)
    assert vae.evaluate(digits, verbose=0, return_dict=True)["temperature"] == pytest.approx(5.0)
    vae.fit(digits, verbose=0)
    vae.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert float(copy.temperature.value) == float(vae.temperature.value)
    assert int(copy.training_step.value) == 8


class Unregistered(objectives.Objective):
    def __call__(self, batch):
        return ELBO()(batch)


@keras.saving.register_keras_serializable(package="tests")
class WithAnArgument(Unregistered):
    """It forgets its weight in a file."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight


@keras.saving.register_keras_serializable(package="tests")
class MakesItsNetworks(VAE):
    def __init__(self, latent_dim=2):
        super().__init__(*networks.mlp((8, 8, 1), latent_dim, hidden=(4,)))


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "words", "loads"),
    [
        (
            lambda pair: VAE(*pair, objective=Unregistered()),
            "^Unregistered is not registered, so keras.saving.load_model will find it only with custom_objects: put",
            True,
        ),
        (
            lambda pair: VAE(*pair, objective=WithAnArgument(4.0)),
            r"^WithAnArgument .*__init__ takes \['weight'\], and its get_config returns \[\]. Let get_config",
            True,
        ),
        (lambda pair: MakesItsNetworks(3), r"^MakesItsNetworks .*takes \['latent_dim'\], and its get_config", False),
    ],
)
def test_what_a_file_will_not_give_back_is_said_when_it_is_written(make, words, loads, tmp_path):
    """It is written in any case: the model may have been trained for days."""
    vae = make(networks.mlp((8, 8, 1), 2, hidden=(4,)))
    with pytest.warns(UserWarning, match=words):
        vae.save(tmp_path / "model.keras")
    load = {"custom_objects": {"Unregistered": Unregistered}}
    if loads:
        assert type(keras.saving.load_model(tmp_path / "model.keras", **load).objective) is type(vae.objective)
    else:
        with pytest.raises(TypeError, match="latent_dim|unexpected"):
            keras.saving.load_model(tmp_path / "model.keras", **load)


@pytest.mark.once
def test_the_config_holds_everything(make_vae):
    vae = make_vae(**EVERYTHING)
    copy = type(vae).from_config(vae.get_config())
    assert repr(copy.likelihood) == repr(vae.likelihood)
    assert repr(copy.objective) == repr(vae.objective)
    np.testing.assert_array_equal(copy.prior.mean, vae.prior.mean)
    assert copy.get_config() == vae.get_config()
    assert copy.count_params() == vae.count_params()


def test_weights_go_through_a_weights_file(make_vae, digits, tmp_path):
    vae, other = make_vae(), make_vae()
    vae.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.reconstruct(digits[:5]), vae.reconstruct(digits[:5]))


@pytest.mark.once
def test_a_convolutional_pair_with_a_data_mean_is_saved(digits, make_vae, tmp_path):
    pair = networks.conv((8, 8, 1), 2, filters=(3,), hidden=(4,), data_mean=digits.mean(axis=0))
    vae = make_vae(network=pair)
    vae.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy.reconstruct(digits[:5]), vae.reconstruct(digits[:5]))


@pytest.mark.once
def test_the_file_holds_no_code(make_vae, tmp_path):
    make_vae(**EVERYTHING).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert set(archive.namelist()) == {"metadata.json", "config.json", "model.weights.h5"}
        config = archive.read("config.json").decode()
    assert "Lambda" not in config
    assert "marshal" not in config


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has no SavedModel on PyTorch")
def test_keras_exports_the_reconstruction_after_fit(make_vae, digits, tmp_path):
    vae = make_vae()
    vae.fit(digits, verbose=0)
    if keras.backend.backend() == "jax":
        with pytest.raises(ImportError) as error:
            vae.export(tmp_path / "model.onnx", format="onnx")
        assert "keras_vae_export.export" in error.value.__notes__[0]
        return
    import tensorflow as tf

    vae.export(str(tmp_path / "model"), verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(exported.serve(digits), vae.predict(digits, verbose=0), rtol=1e-5, atol=1e-6)
