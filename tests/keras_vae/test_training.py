"""Every way Keras offers to feed and to configure training gives the same bound, on each backend."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_vae import ELBO, VAE, callbacks, datasets, networks, schedules

BACKEND = keras.backend.backend()
BATCH = 32


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return -(-len(self.arrays[0]) // BATCH)

    def __getitem__(self, i):
        return tuple(array[i * BATCH : (i + 1) * BATCH] for array in self.arrays)


def tf_data(x):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(x).batch(BATCH)


def data_loader(x):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(x)), batch_size=BATCH)


FORMS = {
    "array": lambda x: {"x": x, "batch_size": BATCH},
    "tuple of an array": lambda x: {"x": (x,), "batch_size": BATCH},
    "array and itself as the target": lambda x: {"x": x, "y": x, "batch_size": BATCH},
    "backend tensor": lambda x: {"x": ops.convert_to_tensor(x), "batch_size": BATCH},
    "tf.data": lambda x: {"x": tf_data(x)},
    "tf.data of pairs": lambda x: {"x": tf_data((x, x))},
    "tf.data of triples": lambda x: {"x": tf_data((x, x, np.ones(len(x), "float32")))},
    "PyDataset": lambda x: {"x": Batches(x)},
    "PyDataset of pairs": lambda x: {"x": Batches(x, x)},
    "DataLoader": lambda x: {"x": data_loader(x)},
    "generator": lambda x: {"x": (batch for batch in [Batches(x)[i] for i in range(len(Batches(x)))])},
}


@pytest.fixture(scope="module")
def reference():
    """The weights that a model starts from, and the history of two epochs without shuffling from there."""
    keras.utils.set_random_seed(7)
    vae = VAE(*networks.mlp((8, 8, 1), 3, hidden=(16,)), seed=5)
    vae.compile("adam")
    weights = vae.get_weights()
    x = datasets.load("digits", binarize="threshold").train[:120]
    return weights, vae.fit(x, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history


# Keras reads most forms in the same way on all backends.
ON_EACH = ("backend tensor", "tf.data of triples", "PyDataset of pairs", "generator")


@pytest.mark.parametrize("form", [pytest.param(n, marks=[pytest.mark.once] * (n not in ON_EACH)) for n in FORMS])
def test_every_form_of_data_gives_the_same_history(make_vae, digits, reference, form):
    weights, expected = reference
    vae = make_vae()
    vae.set_weights(weights)
    arguments = FORMS[form](digits[:120])
    if form == "generator":  # a generator is exhausted after one epoch
        history = vae.fit(**arguments, epochs=1, shuffle=False, verbose=0).history
        expected = {name: values[:1] for name, values in expected.items()}
    else:
        history = vae.fit(**arguments, epochs=2, shuffle=False, verbose=0).history
    assert set(history) == set(expected) == {"loss", "reconstruction", "kl", "negative_elbo"}
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


def test_validation_split_holds_out_the_end(make_vae, digits, reference):
    weights, expected = reference
    vae = make_vae()
    vae.set_weights(weights)
    history = vae.fit(
        np.concatenate([digits[:120], digits[120:150]]),
        validation_split=0.2,
        batch_size=BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    assert set(history) == {*expected, *(f"val_{name}" for name in expected)}


@pytest.mark.parametrize(
    "options", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}, {"steps_per_execution": 3}]
)
def test_execution_options_do_not_change_the_numbers(make_vae, digits, options):
    plain, changed = make_vae(), make_vae(compile=options)
    changed.set_weights(plain.get_weights())
    if BACKEND == "tensorflow":  # under XLA it draws other noise
        plain.noise = changed.noise = lambda batch: ops.zeros((1, batch, 3))
    # On PyTorch the first eight batches of a shape run uncompiled.
    x = digits[: 120 if BACKEND == "torch" else 36]
    fit = {"batch_size": 12, "epochs": 2, "shuffle": False, "verbose": 0}
    expected, history = plain.fit(x, **fit).history, changed.fit(x, **fit).history
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4)


def test_on_batch_verbs_do_what_fit_does(make_vae, digits, reference):
    weights, expected = reference
    vae = make_vae()
    vae.set_weights(weights)
    logs = [vae.train_on_batch(*Batches(digits[:120])[i], return_dict=True) for i in range(4)]
    sizes = [32, 32, 32, 24]
    np.testing.assert_allclose(np.average([log["loss"] for log in logs], weights=sizes), expected["loss"][0], rtol=1e-5)
    assert set(vae.test_on_batch(digits[:8], return_dict=True)) == set(expected)
    assert vae.predict_on_batch(digits[:8]).shape == (8, 8, 8, 1)


def test_denoising_reconstructs_the_target(make_vae, digits):
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(digits.shape) < 0.1, 1.0 - digits, digits).astype("float32")
    vae = make_vae()
    vae.noise = lambda batch: ops.zeros((1, batch, 3))
    logs = vae.evaluate(noisy, digits, verbose=0, return_dict=True)
    terms = vae.terms(ops.convert_to_tensor(noisy), ops.zeros((1, len(noisy), 3)), target=ops.convert_to_tensor(digits))
    assert logs["reconstruction"] == pytest.approx(float(ops.mean(terms.reconstruction)), rel=1e-5)
    assert logs["reconstruction"] != pytest.approx(vae.evaluate(noisy, verbose=0, return_dict=True)["reconstruction"])
    assert vae.fit(noisy, digits, epochs=3, verbose=0).history["loss"][-1] < logs["loss"]


def test_stock_metrics_compare_target_and_reconstruction(make_vae, digits):
    vae = make_vae(
        compile={"metrics": ["mae"], "weighted_metrics": [keras.metrics.MeanSquaredError(name="weighted_mse")]}
    )
    weights = np.linspace(0.0, 1.0, len(digits), dtype="float32")
    logs = vae.evaluate(digits, sample_weight=weights, verbose=0, return_dict=True)
    error = vae.predict(digits, verbose=0) - digits
    assert logs["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    squared = np.square(error).mean(axis=(1, 2, 3))
    assert logs["weighted_mse"] == pytest.approx(np.average(squared, weights=weights), rel=1e-4)
    history = vae.fit(digits, epochs=1, verbose=0, validation_data=(digits,)).history
    assert {"mae", "val_mae", "val_weighted_mse"} <= set(history)


def steps_of(make_vae, digits, optimizer, change=lambda optimizer: None):
    """What each of two batches moved each of the weights by, from one start and with the same noise."""
    keras.utils.set_random_seed(1)
    vae = make_vae(compile={"optimizer": optimizer})
    weights = [[ops.convert_to_numpy(variable.value) for variable in vae.trainable_variables]]
    for batch in (digits[:BATCH], digits[BATCH : 2 * BATCH]):
        vae.fit(batch, batch_size=BATCH, verbose=0)
        weights.append([ops.convert_to_numpy(variable.value) for variable in vae.trainable_variables])
        change(vae.optimizer)
    return [[b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(weights)]


def clipped_by_norm(step):
    return step * min(1.0, 0.02 / np.linalg.norm(step))


@pytest.mark.parametrize(
    ("clipping", "clipped"),
    [
        pytest.param({"clipvalue": 0.003}, lambda step: np.clip(step, -0.003, 0.003), marks=pytest.mark.once),
        ({"clipnorm": 0.02}, clipped_by_norm),
    ],
)
def test_gradients_are_clipped(make_vae, digits, clipping, clipped):
    plain, _ = steps_of(make_vae, digits, keras.optimizers.SGD(1.0))
    found, _ = steps_of(make_vae, digits, keras.optimizers.SGD(1.0, **clipping))
    assert any(np.abs(clipped(step) - step).max() > 1e-3 for step in plain)
    for one, step in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, clipped(step), rtol=1e-3, atol=1e-6)


def test_a_schedule_sets_the_learning_rate_of_each_step(make_vae, digits):
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 1, 0.25)
    found = steps_of(make_vae, digits, keras.optimizers.Adam(schedule))
    by_hand = steps_of(
        make_vae, digits, keras.optimizers.Adam(1e-2), lambda optimizer: setattr(optimizer, "learning_rate", 0.25e-2)
    )
    for one, other in zip([*found[0], *found[1]], [*by_hand[0], *by_hand[1]], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    assert max(np.abs(step).max() for step in found[1]) < 0.5 * max(np.abs(step).max() for step in found[0])


def test_accumulated_gradients_are_applied_after_the_last_of_them(make_vae, digits):
    first, second = steps_of(make_vae, digits, keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2))
    assert all(np.all(step == 0.0) for step in first)
    assert max(np.abs(step).max() for step in second) == pytest.approx(1e-2, rel=1e-2)


def test_clipping_limits_the_step(make_vae, digits):
    vae = make_vae(compile={"optimizer": keras.optimizers.SGD(1.0, global_clipnorm=1e-3)})
    before = vae.get_weights()
    vae.train_on_batch(digits)
    moved = sum(np.square(b - a).sum() for a, b in zip(before, vae.get_weights(), strict=True) if a.ndim)
    assert np.sqrt(moved) == pytest.approx(1e-3, rel=1e-2)


def test_gradient_accumulation_equals_the_large_batch(make_vae, digits):
    large = make_vae(compile={"optimizer": keras.optimizers.SGD(1e-2)})
    small = make_vae(compile={"optimizer": keras.optimizers.SGD(1e-2, gradient_accumulation_steps=2)})
    small.set_weights(large.get_weights())
    for vae in (large, small):
        vae.noise = lambda batch: ops.zeros((1, batch, 3))
    large.train_on_batch(digits[:64])
    small.train_on_batch(digits[:32])
    small.train_on_batch(digits[32:64])
    for a, b in zip(large.get_weights(), small.get_weights(), strict=True):
        if a.ndim:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.once)])
def test_mixed_precision_trains_as_well_as_float32(make_vae, digits, policy):
    """With plain SGD too, where gradients that are not scaled vanish in float16."""
    losses = {}
    for name in ("float32", policy):
        keras.utils.set_random_seed(7)
        keras.config.set_dtype_policy(name)
        vae = make_vae(compile={"optimizer": keras.optimizers.SGD(1e-2)})
        losses[name] = vae.fit(digits, batch_size=BATCH, epochs=8, shuffle=False, verbose=0).history["loss"]
        assert keras.backend.standardize_dtype(vae.posterior(digits[:2]).mean.dtype) == "float32"
        assert vae.predict(digits[:2], verbose=0).dtype == "float32"
        assert (policy in name and "16" in vae.encoder.layers[-1].compute_dtype) or name == "float32"
    assert losses[policy][-1] < 0.9 * losses[policy][0]
    assert losses[policy][-1] == pytest.approx(losses["float32"][-1], rel=0.02)


def test_batch_normalisation_and_dropout_train_and_are_still_at_inference(make_vae, digits):
    x = keras.Input((8, 8, 1))
    h = keras.layers.Flatten()(x)
    h = keras.layers.Dropout(0.3, seed=1)(
        keras.layers.BatchNormalization()(keras.layers.Dense(16, activation="relu")(h))
    )
    encoder = keras.Model(x, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])
    vae = make_vae(network=(encoder, networks.mlp((8, 8, 1), 3)[1]))
    moving_mean = vae.encoder.layers[3].get_weights()[2]
    vae.fit(digits, epochs=2, verbose=0)
    assert not np.array_equal(moving_mean, vae.encoder.layers[3].get_weights()[2])
    np.testing.assert_array_equal(vae.encode(digits[:9]).mean, vae.encode(digits[:9]).mean)
    alone = vae.encode(digits[:1]).mean  # by the moving averages, and not by those of its batch; without dropout
    np.testing.assert_allclose(vae.encode(digits[:9]).mean[:1], alone, rtol=1e-4, atol=1e-5)


# Callbacks


def test_stock_callbacks(make_vae, digits, tmp_path):
    vae = make_vae(compile={"optimizer": keras.optimizers.Adam(1e-2)})
    vae.fit(
        digits,
        epochs=3,
        verbose=0,
        validation_data=(digits[:64],),
        callbacks=[
            keras.callbacks.EarlyStopping("val_negative_elbo", patience=5, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_negative_elbo", save_best_only=True),
            keras.callbacks.ReduceLROnPlateau("val_negative_elbo", patience=1),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    )
    best = keras.saving.load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(best.reconstruct(digits[:3]), vae.reconstruct(digits[:3]), rtol=1e-5, atol=1e-6)
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert {"negative_elbo", "val_negative_elbo", "val_kl"} <= set(header.split(","))
    assert len(rows) == 3


@pytest.mark.once
def test_early_stopping_stops(make_vae, digits):
    vae = make_vae(compile={"optimizer": keras.optimizers.SGD(0.0)})
    stop = keras.callbacks.EarlyStopping("val_negative_elbo", patience=2)
    history = vae.fit(digits, epochs=20, verbose=0, validation_data=(digits[:64],), callbacks=[stop]).history
    assert len(history["loss"]) == 3  # frozen weights and the same noise: the second epoch is no better


@pytest.mark.once
def test_tensorboard_writes_events(make_vae, digits, tmp_path):
    pytest.importorskip("tensorboard")
    vae = make_vae()
    vae.fit(digits, epochs=1, verbose=0, callbacks=[keras.callbacks.TensorBoard(str(tmp_path))])
    assert list(tmp_path.rglob("events*"))


def test_backup_and_restore_resumes_with_the_same_losses(make_vae, digits, tmp_path):
    objective = ELBO(beta=schedules.Linear(20))
    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    whole, broken = make_vae(objective=objective), make_vae(objective=objective)
    weights = whole.get_weights()
    broken.set_weights(weights)
    expected = whole.fit(digits, epochs=4, **fit).history["loss"]

    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        broken.fit(digits, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup"), Crash()], **fit)
    resumed = make_vae(objective=objective)
    history = resumed.fit(
        digits, epochs=4, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")], **fit
    ).history
    np.testing.assert_allclose(history["loss"], expected[2:], rtol=1e-6)


@pytest.mark.parametrize("action", ["raise", "stop"])
def test_a_loss_that_is_not_finite_is_named(make_vae, digits, action, capsys):
    vae = make_vae()
    decoder = vae.decoder.get_layer("x_parameters")
    decoder.bias.assign(np.full(64, np.nan, "float32"))
    guard = callbacks.NonFiniteGuard(action)
    words = (
        r"The loss is nan after batch 0 of epoch 0 .*: reconstruction is not finite.*no longer finite: .*learning rate"
    )
    if action == "raise":
        with pytest.raises(FloatingPointError, match=words):
            vae.fit(digits, batch_size=BATCH, verbose=0, callbacks=[guard])
    else:
        vae.fit(digits, batch_size=BATCH, epochs=5, verbose=0, callbacks=[guard])
        assert "reconstruction is not finite" in capsys.readouterr().out
        assert vae.stop_training
    with pytest.raises(ValueError, match="action must be"):
        callbacks.NonFiniteGuard("explode")
