"""Data in every form that users hold them in, in every verb: each form gives what the array gives."""

import keras
import numpy as np
import pandas
import polars
import pytest
import scipy.sparse
from keras import layers

from keras_vae import VAE, Standardized, callbacks, evaluation, networks, plotting

pytestmark = pytest.mark.once

X = (np.random.default_rng(0).random((40, 6)) > 0.7).astype("float32")
CONDITION = np.arange(40) % 3
COLUMNS = list("abcdef")


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return (self.x[index * 8 : (index + 1) * 8],)


def _tf_data(x):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(x).batch(8)


def _data_loader(x):
    import torch

    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x)), 8)


WHOLE = {
    "a list of lists": lambda x: x.tolist(),
    "a list of one array": lambda x: [x],
    "pandas": lambda x: pandas.DataFrame(x, columns=COLUMNS),
    "pandas, nullable": lambda x: pandas.DataFrame(x.astype(int), columns=COLUMNS).astype("Int64"),
    "polars": lambda x: polars.DataFrame(x, schema=COLUMNS),
    "a sparse matrix": scipy.sparse.coo_array,
    "big-endian": lambda x: x.astype(">f4"),
    "masked, of which nothing": np.ma.masked_array,
    "a tensor": keras.ops.convert_to_tensor,
}
STREAMS = {
    "PyDataset": Batches,
    "generator": lambda x: (x[start : start + 8] for start in range(0, 40, 8)),
    **{"tensorflow": {"tf.data": _tf_data}, "torch": {"DataLoader": _data_loader}}.get(keras.backend.backend(), {}),
}
FORMS = WHOLE | STREAMS


@pytest.fixture(scope="module")
def vae():
    model = VAE(*networks.mlp((6,), 2, hidden=(4,)), seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    return model


VERBS = {
    "fit": lambda vae, x: vae.fit(x, batch_size=8, shuffle=False, verbose=0).history["kl"],
    "evaluate": lambda vae, x: vae.evaluate(x, batch_size=8, verbose=0),
    "predict": lambda vae, x: vae.predict(x, batch_size=8, verbose=0),
    "reconstruct": lambda vae, x: vae.reconstruct(x, sample=True, seed=3, batch_size=8),
    "elbo": lambda vae, x: vae.elbo(x, 2, seed=0, batch_size=16),
}
if keras.backend.backend() == "torch":  # the others are NumPy around `encode` and `elbo`
    VERBS |= {
        "encode": lambda vae, x: vae.encode(x, 8).mean,
        "log_likelihood": lambda vae, x: evaluation.log_likelihood(vae, x, num_samples=4, max_bytes=800, verbose=0)[0],
        "held_out": lambda vae, x: list(evaluation.held_out(vae, x, num_samples=1).values()),
        "fit_threshold": lambda vae, x: evaluation.fit_threshold(vae, x, quantile=0.9, num_samples=1).nats,
        "active_units": lambda vae, x: evaluation.active_units(vae, x, threshold=1e-3),
        "kl_per_unit": lambda vae, x: evaluation.kl_per_unit(vae, x),
        "elbo_surgery": lambda vae, x: evaluation.elbo_surgery(vae, x),
        "aggregate_posterior": lambda vae, x: evaluation.aggregate_posterior(vae, x).mean,
    }


@pytest.fixture(scope="module")
def of_array(vae):
    return {name: verb(vae, X) for name, verb in VERBS.items()}


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=[pytest.mark.every_backend] * (f in {"a sparse matrix", *STREAMS})) for f in FORMS]
)
def test_every_verb_takes_every_form(vae, of_array, form):
    for name, verb in VERBS.items():
        np.testing.assert_allclose(verb(vae, FORMS[form](X)), of_array[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("form", ["pandas", "a sparse matrix", "PyDataset"])
def test_validation_data_in_every_form(vae, form):
    logs = vae.fit(X, validation_data=FORMS[form](X), batch_size=8, verbose=0).history
    np.testing.assert_allclose(logs["val_loss"][0], vae.evaluate(X, batch_size=8, verbose=0)[0], rtol=1e-6)


@pytest.mark.parametrize("form", ["a sparse matrix", "big-endian", "pandas"])
def test_one_batch_in_every_form(vae, form):
    x = FORMS[form](X)
    np.testing.assert_allclose(vae.predict_on_batch(x), vae.predict(X, verbose=0), rtol=1e-5)
    assert vae.test_on_batch(x)[0] == pytest.approx(vae.train_on_batch(x)[0], rel=0.1)


def test_conditional_data_in_frames_and_sparse_matrices():
    model = VAE(*networks.mlp((6,), 2, hidden=(4,), condition=3), seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    expected = model.elbo({"x": X, "condition": CONDITION}, seed=0)
    for x, condition in (
        (pandas.DataFrame(X), pandas.Series(CONDITION)),
        (scipy.sparse.csr_matrix(X), CONDITION.tolist()),
    ):
        data = {"x": x, "condition": condition}
        np.testing.assert_allclose(model.elbo(data, seed=0), expected, rtol=1e-5)
        model.fit(data, batch_size=8, verbose=0)
        assert model.predict(data, verbose=0).shape == (40, 6)
    with pytest.raises(ValueError, match="32 of x, 40 of condition"):
        model.encode({"x": scipy.sparse.csr_matrix(X[:32]), "condition": CONDITION})


@pytest.mark.parametrize("missing", [np.nan, "masked", None])
def test_what_is_masked_or_absent_is_missing(missing):
    model = VAE(*networks.mlp((6,), 2, hidden=(4,)), allow_missing=True, seed=0)
    with_nan = np.where(np.arange(6) == 2, np.nan, X).astype("float32")
    data = with_nan
    if missing == "masked":
        data = np.ma.masked_array(X, mask=np.isnan(with_nan))
    elif missing is None:
        data = polars.DataFrame(with_nan, schema=COLUMNS).fill_nan(None)
    np.testing.assert_allclose(model.elbo(data, seed=0), model.elbo(with_nan, seed=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (X[:0], r"holds no example: its shape is \(0, 6\)"),
        (np.float32(3.0), "single number 3.0; it must have an axis of examples"),
        (X.astype(str), "x must hold numbers; got <U"),
        (pandas.DataFrame({"a": [1.0], "colour": ["red"]}), r"Column 'colour' of x holds .*tables\.Table\.fit\(x\)"),
        (polars.DataFrame({"a": [1.0], "colour": ["red"]}), "Column 'colour' of x holds String"),
        ([[1.0, 2.0], [3.0]], "rows of unequal length"),
        ([X, X], "list of 2 arrays"),
        (np.ma.masked_array(X, mask=X > 0), "x contains NaN.*allow_missing=True"),
        ({"x": X, "condition": [X, X]}, "condition is a list of 2 arrays.*concatenate"),
        (polars.LazyFrame({"a": [1.0]}), "got a LazyFrame"),
        (iter(()), "no batch"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "elbo"])
def test_what_is_no_data_is_a_sentence(vae, verb, data, words):
    if verb == "fit" and words == "no batch":
        words = "."  # Keras's
    elif verb == "elbo" and "no example" in words:
        words = "x is empty"
    with pytest.raises(ValueError, match=words):
        VERBS[verb](vae, data)


def test_data_without_an_end_are_a_sentence(vae):
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return X

    with pytest.raises(ValueError, match="no end"):
        vae.encode(Endless())


def test_pictures_callbacks_and_standardizing_take_what_fit_takes(vae):
    frame = pandas.DataFrame(X)
    assert Standardized.fit("gaussian", frame).get_config() == Standardized.fit("gaussian", X).get_config()
    assert plotting.latent_scatter(vae, Batches(X), CONDITION) is not None
    vae.fit(frame, verbose=0, callbacks=[callbacks.LatentMonitor(frame)])
    with pytest.raises(ValueError, match="examples in memory"):
        callbacks.LatentMonitor(Batches(X))


def _series():
    """Networks of series of any length, of which the condition holds the times."""
    x, times = keras.Input((None, 2), name="x"), keras.Input((None, 1), name="condition")
    h = layers.GlobalAveragePooling1D()(layers.Dense(4, activation="relu")(layers.Concatenate()([x, times])))
    encoder = keras.Model({"x": x, "condition": times}, [layers.Dense(2)(h), layers.Dense(2)(h)])
    z, times = keras.Input((2,), name="z"), keras.Input((None, 1), name="condition")
    h = layers.Activation("relu")(layers.Dense(4)(times) + layers.Reshape((1, 4))(layers.Dense(4)(z)))
    return encoder, keras.Model({"z": z, "condition": times}, layers.Dense(2)(h))


@pytest.mark.every_backend
def test_free_axes_are_counted_from_the_batch():
    model = VAE(*_series(), likelihood="mse", seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(size=(8, t, 2)), "condition": rng.random((8, t, 1))} for t in (5, 7)]
    found = evaluation.held_out(model, ((part,) for part in data), num_samples=1)
    dimensions = (5 + 7) / 2 * 2
    assert found["bits_per_dim"] == pytest.approx(found["negative_elbo"] / (dimensions * np.log(2.0)))
    assert np.isfinite(evaluation.log_likelihood(model, data[1], num_samples=3, verbose=0).mean)
    assert model.sample(2, condition=data[0]["condition"][:2]).shape == (2, 5, 2)
