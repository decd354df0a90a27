"""What the callbacks say is true of the weights of that epoch, said when it should be, and changes nothing."""

import csv
import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_vae import ELBO, VAE, Gaussian, Standardized, callbacks, evaluation, networks, plotting, schedules
from keras_vae.callbacks import latent_monitor
from keras_vae.objectives import Objective

pytestmark = pytest.mark.once

BATCH = 32
COLLAPSED = "The posterior has collapsed"


@pytest.fixture
def frozen(make_vae):
    """A model that does not move: untrained, or with a posterior equal to the prior whatever x is."""

    def make(collapsed=True, **kwargs):
        vae = make_vae(compile={"optimizer": keras.optimizers.SGD(0.0)}, **kwargs)
        for name in ("z_mean", "z_log_var") if collapsed else ():
            layer = vae.encoder.get_layer(name)
            layer.kernel.assign(np.zeros(layer.kernel.shape, "float32"))
        return vae

    return make


def watch(vae, x, epochs, **kwargs):
    monitor = callbacks.LatentMonitor(x, **kwargs)
    history = vae.fit(x, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[monitor]).history
    return monitor, history


# Numbers


def test_kl_per_unit_and_active_units(make_vae, digits):
    """Posteriors that are planted: unit 0 is the prior, 1 is N(2, 1) and 2 is N(0, e), whatever x is; 3 sees x."""
    vae = make_vae(latent_dim=4)
    for name, biases in (("z_mean", [0, 2, 0, 0]), ("z_log_var", [0, 0, 1, 0])):
        layer = vae.encoder.get_layer(name)
        layer.kernel.assign(keras.ops.convert_to_numpy(layer.kernel) * np.array([0, 0, 0, 1], "float32"))
        layer.bias.assign(np.array(biases, "float32"))
    kl = evaluation.kl_per_unit(vae, digits, batch_size=100)
    assert kl.dtype == "float64"
    np.testing.assert_allclose(kl[:3], [0.0, 2.0, 0.5 * (np.e - 2.0)], rtol=1e-6)
    np.testing.assert_allclose(kl.sum(), vae.encode(digits).kl_divergence(vae.prior).mean(), rtol=1e-6)
    variance = np.var(vae.encode(digits).mean[:, 3])
    np.testing.assert_array_equal(evaluation.active_units(vae, digits, 0.99 * variance), [False, False, False, True])
    assert not evaluation.active_units(vae, digits, 1.01 * variance).any()
    posterior = vae.encode(digits)
    np.testing.assert_allclose(evaluation.kl_per_unit(vae, posterior), kl, rtol=1e-6)
    np.testing.assert_array_equal(evaluation.active_units(vae, posterior, 0.99 * variance), [False] * 3 + [True])
    with pytest.raises(ValueError, match="x needs at least two, and has 1"):
        evaluation.active_units(vae, digits[:1])
    with pytest.raises(ValueError, match="x has none"):
        evaluation.kl_per_unit(vae, digits[:0])


@pytest.mark.every_backend
def test_the_monitor_sees_the_weights_of_each_epoch(make_vae, digits):
    """As three fits of an epoch, each followed by a look from outside, where nothing is held by Keras."""
    watched, plain = make_vae(), make_vae()
    plain.set_weights(watched.get_weights())
    monitor, history = watch(watched, digits, 3, log_units=True)
    kl, active, losses = [], [], []
    for _ in range(3):
        losses += plain.fit(digits, batch_size=BATCH, shuffle=False, verbose=0).history["loss"]
        kl.append(evaluation.kl_per_unit(plain, digits))
        active.append(evaluation.active_units(plain, digits).sum())
    assert history["loss"] == pytest.approx(losses, rel=1e-6)  # the same noise was drawn
    np.testing.assert_allclose(monitor.kl_per_unit, kl, rtol=1e-4, atol=1e-6)
    assert not np.allclose(kl[0], kl[2], rtol=1e-2)  # so the line above would see weights of another epoch
    assert monitor.active_units.tolist() == active == history["active_units"]
    assert monitor.epochs == [1, 2, 3]
    np.testing.assert_array_equal(np.transpose([history[f"kl_unit_{i}"] for i in range(3)]), monitor.kl_per_unit)


@pytest.mark.every_backend
def test_every_log_has_a_value_for_every_epoch(make_vae, digits, tmp_path):
    monitor = callbacks.LatentMonitor(digits, threshold=0.0, every=2, log_units=True)
    vae = make_vae()
    fit = {"verbose": 0, "callbacks": [monitor, keras.callbacks.CSVLogger(tmp_path / "log.csv")]}
    history = vae.fit(digits, epochs=5, **fit).history
    assert monitor.epochs == [1, 2, 4]
    looks = monitor.kl_per_unit[[0, 1, 1, 2, 2], 0]  # repeated in between
    np.testing.assert_array_equal(history["kl_unit_0"], looks)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["kl_unit_0"]) for row in rows] == looks.tolist()
    assert [row["active_units"] for row in rows] == ["3"] * 5
    vae.fit(digits, initial_epoch=6, epochs=8, **fit)
    assert monitor.epochs == [7, 8]  # a new fit starts anew, with a first look
    assert monitor.kl_per_unit.shape == (2, 3)
    assert monitor.active_units.tolist() == [3, 3]


# Words


@pytest.mark.parametrize(
    ("kl_by_epoch", "times"),
    [
        ([0.2, 0.2, 0.2, 0.2], 0),
        ([0.0, 0.2, 0.0, 0.2], 0),  # never twice in a row
        ([0.2, 0.0, 0.0, 0.0, 0.0], 1),
        ([0.0, 0.0, 0.2, 0.0, 0.0, 0.0], 2),  # recovered in between
        ([0.0, np.nan, 0.0, np.nan, np.nan], 1),  # NaN is neither collapse nor recovery
        ([np.nan, np.nan, np.nan], 0),
        ([0.0], 0),
    ],
)
def test_collapse_is_said_once_when_it_sets_in(frozen, digits, monkeypatch, capsys, kl_by_epoch, times):
    monkeypatch.setattr(latent_monitor, "_MIN_STEPS_BEFORE_VERDICT", 1)
    values = iter(kl_by_epoch)
    monkeypatch.setattr(evaluation, "kl_per_unit", lambda vae, posterior: np.array([next(values), 0.0, 0.0]))
    watch(frozen(collapsed=False), digits, len(kl_by_epoch))
    assert capsys.readouterr().out.count(COLLAPSED) == times


def test_no_active_unit_is_a_collapse_whatever_the_kl(frozen, digits, capsys):
    vae = frozen()
    vae.encoder.get_layer("z_mean").bias.assign(np.full(3, 5.0, "float32"))
    watch(vae, digits, 2)
    assert "0 of 3 latents are active and the KL is 38 nats" in capsys.readouterr().out


def test_it_is_said_after_enough_batches_or_at_the_end(frozen, digits, monkeypatch, capsys):
    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            print(f"[{epoch}]")

        def on_train_end(self, logs=None):
            print("[end]")

    def when():
        monitor = callbacks.LatentMonitor(digits)
        frozen().fit(digits, epochs=5, batch_size=BATCH, verbose=0, callbacks=[Epochs(), monitor])
        before, after = capsys.readouterr().out.split(COLLAPSED)
        return before.split()[-1], "train for longer: this was after 40 batches" in after

    assert when() == ("[end]", True)
    monkeypatch.setattr(latent_monitor, "_MIN_STEPS_BEFORE_VERDICT", 24)  # three epochs of eight batches
    assert when() == ("[2]", False)


def test_a_model_that_trains_well_is_left_alone(make_vae, digits, monkeypatch, capsys):
    monkeypatch.setattr(latent_monitor, "_MIN_STEPS_BEFORE_VERDICT", 0)
    adam = keras.optimizers.Adam(1e-2)
    monitor, _ = watch(make_vae(latent_dim=2, hidden=(64,), compile={"optimizer": adam}), digits, 6)
    assert monitor.active_units[-1] == 2
    assert callbacks.collapse_report(monitor.model, digits) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("beta", "said"),
    [
        (schedules.Linear(steps=200), False),
        (schedules.Linear(steps=100), False),  # at 0.08 and 0.16 after eight and sixteen batches: judged once
        (schedules.Linear(steps=400, end=0.001, start=0.001), True),
        (schedules.Linear(steps=20), True),
        (0.0, False),
        (0.05, True),
    ],
)
def test_nothing_is_said_while_the_kl_hardly_counts(frozen, digits, capsys, beta, said):
    watch(frozen(objective=ELBO(beta=beta)), digits, 2)
    assert (COLLAPSED in capsys.readouterr().out) == said


class Other(Objective):
    def __call__(self, draws):
        return ELBO()(draws)


@pytest.mark.parametrize(
    ("settings", "named", "not_named"),
    [
        ({}, ["let beta rise from 0: ELBO(beta=schedules.Linear(steps=80));", "free_bits"], ["Gaussian", "lower beta"]),
        (
            {"objective": ELBO(beta=4.0)},
            ["lower beta, which weighs the KL 4 times", "Linear(steps=80, end=4)"],
            ["let beta rise"],
        ),
        (
            {"objective": ELBO(beta=schedules.Linear(9))},
            ["let beta, now Linear(steps=9, start=0.0, end=1.0), rise for longer"],
            [],
        ),
        ({"objective": Other()}, ["make it weaker"], ["beta", "free_bits"]),
        ({"likelihood": Gaussian(3.0)}, ["make it less than 3:", "a linear VAE"], []),
        ({"likelihood": Gaussian(0.5)}, ["make it less than 0.5:"], ["a linear VAE"]),
        (
            {"likelihood": Standardized(Gaussian(0.5), 0.0, 0.1)},
            ["standard deviation is 10.2", "than 0.5:"],
            ["linear"],
        ),
    ],
)
def test_the_hints_fit_the_model(frozen, digits, capsys, settings, named, not_named):
    vae = frozen(**settings)
    watch(vae, digits, 2)
    words = capsys.readouterr().out
    assert callbacks.collapse_report(vae, digits, 8) == words.strip().replace("after epoch 2, ", "")
    assert [text for text in named if text not in words] == []
    assert [text for text in not_named if text in words] == []


def test_the_scale_is_compared_with_the_principal_deviation(capsys):
    """Data of standard deviation 2 along a diagonal and 0.5 across it, which no coordinate alone shows."""
    z = np.random.default_rng(0).standard_normal((800, 2)) * [2.0, 0.5]
    x = (z @ np.array([[0.6, 0.8], [-0.8, 0.6]])).astype("float32")
    assert latent_monitor._largest_deviation(x) == pytest.approx(2.0, rel=0.1)
    keras.utils.set_random_seed(1)
    vae = VAE(*networks.mlp((2,), 2, hidden=(4,), likelihood="mse"), likelihood=Gaussian(2.5), seed=0)
    vae.compile(keras.optimizers.Adam(3e-2))
    watch(vae, x, 4)
    words = capsys.readouterr().out
    assert words.count(COLLAPSED) == 1  # trained into it: 2.5 is more than 2
    assert "its standard deviation is 2" in words


def test_bad_arguments_of_the_monitor(make_vae, digits):
    for arguments, words in (
        ({"x": digits[:1]}, "x needs two examples"),
        ({"x": "digits"}, "x must be an array of numbers .*; got a str"),
        ({"x": digits, "threshold": -1.0}, "threshold is a variance"),
        ({"x": digits, "every": 0}, "every must be a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            callbacks.LatentMonitor(**arguments)
    vae = make_vae()
    with pytest.raises(ValueError, match="add the channel axis"):
        vae.fit(digits, verbose=0, callbacks=[callbacks.LatentMonitor(digits[..., 0])])
    assert int(keras.ops.convert_to_numpy(vae.training_step.value)) == 0  # before an epoch, not after it


# Pictures


def test_a_picture_for_each_epoch_in_files_and_in_tensorboard(make_vae, digits, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    vae = make_vae()
    folder, log_dir = tmp_path / "new" / "pictures", tmp_path / "logs"
    grid = callbacks.ReconstructionGrid(digits, folder, every=2, log_dir=log_dir, columns=4)
    vae.fit(digits, epochs=2, verbose=0, callbacks=[grid])
    vae.fit(digits, initial_epoch=2, epochs=4, verbose=0, callbacks=[grid])
    names = [f"epoch_000{epoch}.png" for epoch in (1, 2, 3, 4)]
    assert sorted(file.name for file in folder.iterdir()) == names
    pictures = [(folder / name).read_bytes() for name in names]
    assert len(set(pictures)) == 4
    plotting.reconstructions(vae, digits, tmp_path / "now.png", columns=4)
    assert pictures[-1] == (tmp_path / "now.png").read_bytes()

    events = accumulators.EventAccumulator(str(log_dir), size_guidance={"images": 0}).Reload()
    images = events.Images("reconstructions")
    assert [image.step for image in images] == [0, 1, 2, 3]
    assert [image.encoded_image_string for image in images] == pictures
    with Image.open(tmp_path / "now.png") as image:
        assert (images[0].width, images[0].height) == image.size


@pytest.mark.every_backend
def test_pictures_and_looks_leave_training_as_it_was(make_vae, digits, tmp_path):
    plain, watched = make_vae(), make_vae()
    watched.set_weights(plain.get_weights())
    fit = {"epochs": 3, "batch_size": BATCH, "shuffle": False, "verbose": 0, "validation_data": (digits[:64],)}
    expected = plain.fit(digits, **fit).history
    looks = [callbacks.LatentMonitor(digits), callbacks.ReconstructionGrid(digits[:3], tmp_path)]
    history = watched.fit(digits, **fit, callbacks=looks).history
    assert {name: history[name] for name in expected} == expected


def test_curves_where_data_are_no_images(tmp_path):
    vae = VAE(*networks.mlp((6,), 2, hidden=(3,)))
    vae.compile("adam")
    x = np.random.default_rng(0).integers(0, 2, (5, 6)).astype("float32")
    vae.fit(x, verbose=0, callbacks=[callbacks.ReconstructionGrid(x, tmp_path)])
    assert (tmp_path / "epoch_0001.png").stat().st_size > 1000


def test_bad_arguments_of_the_grid(digits, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="folder=, for files, or log_dir="):
        callbacks.ReconstructionGrid(digits)
    with pytest.raises(ValueError, match="no example"):
        callbacks.ReconstructionGrid(digits[:0], tmp_path)
    with pytest.raises(ValueError, match="columns must be a whole number"):
        callbacks.ReconstructionGrid(digits, tmp_path, columns=0)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        callbacks.ReconstructionGrid(digits, log_dir=tmp_path)
    callbacks.ReconstructionGrid(digits, tmp_path)  # files need none
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file, and the pictures need a folder"):
        callbacks.ReconstructionGrid(digits, tmp_path / "file")


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_writing_events_imports_no_tensorflow(tmp_path):
    pytest.importorskip("tensorboard")
    code = """
import io, sys
from PIL import Image
from keras_vae.callbacks import reconstruction_grid
png = io.BytesIO()
Image.new("RGB", (3, 2)).save(png, "png")
reconstruction_grid._ImageEvents(sys.argv[1]).add("tag", 0, png)
print("tensorflow" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "jax"}, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    assert len(list(tmp_path.iterdir())) == 1
