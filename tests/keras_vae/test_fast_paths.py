"""What makes `fit` fast gives the numbers of the plain path: many steps in one call, data on the device, replay.

The plain path is one step at a time: on PyTorch `run_eagerly`, elsewhere a compiled `train_step`. Its own numbers are
compared with closed forms and among the backends by other tests.
"""

import contextlib
import importlib
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import stats

import keras_vae
from keras_vae import _backend
from keras_vae._backend.fast import automatic, device_data

pytestmark = pytest.mark.usefixtures("trace_early")

BACKEND = keras.backend.backend()
PLAIN = {"run_eagerly": True} if BACKEND == "torch" else {}

# 12 batches of 20, the last of 3: groups of 5, 5, 1 and, on its own, the short one.
FIT = {"batch_size": 20, "epochs": 2, "verbose": 0}
EXAMPLES = 223

WAYS = {
    "many steps, data on the device": {"steps_per_execution": 5},
    "many steps, data from the host": {"steps_per_execution": 5, "data_on_device": False},
}
if BACKEND == "torch":
    WAYS["one step"] = {}


@pytest.fixture
def make_vae(make_vae):
    """On TensorFlow without XLA, which takes seconds to compile a loop: one test is about it."""
    own = {"jit_compile": False} if BACKEND == "tensorflow" else {}
    return lambda compile=None, **settings: make_vae(compile=own | (compile or {}), **settings)


def fitted(make, compile, *data, **fit):
    """Weights and history of a model trained from one start with one order of the data."""
    keras.utils.set_random_seed(1)
    vae = make(compile=compile)
    keras.utils.set_random_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = vae.fit(*data, **FIT | fit).history
    return vae.get_weights(), history


def assert_same(found, expected, rtol=1e-4):
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol / 10)
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, rtol=rtol, err_msg=name)


def _grey(digits):
    return np.random.default_rng(0).random(digits.shape, dtype="float32")


def weights_targets_and_metrics(x):
    # In order, because Keras shuffles once more when it builds metrics by itself.
    data = {"x": _grey(x), "y": x.astype("uint8"), "sample_weight": np.linspace(0.0, 2.0, len(x)), "shuffle": False}
    return {}, {"metrics": ["mae"], "optimizer": "sgd"}, data | {"validation_data": (x[:50].astype("bool"),)}


def missing_values_and_a_split(x):
    objective = keras_vae.ELBO(beta=keras_vae.schedules.Linear(steps=20))
    settings = {"allow_missing": True, "likelihood": keras_vae.Gaussian("learned"), "objective": objective}
    x = np.where(_grey(x) < 0.2, np.nan, _grey(x)).astype("float32")
    return settings, {}, {"x": x, "validation_split": 0.2}


def labels_a_mixture_and_importance_weights(x):
    network = keras_vae.networks.mlp((8, 8, 1), 3, hidden=(16,), condition=3)
    settings = {"prior": keras_vae.priors.GaussianMixture(3, seed=0), "objective": keras_vae.IWAE(3, "dreg")}
    data = {"x": x, "condition": np.arange(len(x)) % 3}
    return {"network": network, **settings}, {}, {"x": data, "validation_data": (data,)}


def convolutions(x):
    """On PyTorch the gradients of their kernels are not contiguous."""
    return {"network": keras_vae.networks.conv((8, 8, 1), 2, filters=(3,), hidden=())}, {}, {"x": x}


@pytest.mark.parametrize(
    "case",
    [
        weights_targets_and_metrics,
        missing_values_and_a_split,
        labels_a_mixture_and_importance_weights,
        convolutions,
    ],
)
def test_every_fast_path_gives_the_numbers_of_the_plain_one(make_vae, digits, case):
    if case is convolutions and BACKEND != "torch":
        pytest.skip("they are compiled slowly, and run outside a loop")

    def run(way):
        keras.utils.set_random_seed(1)
        settings, compile, data = case(digits[:EXAMPLES])
        return fitted(lambda compile: make_vae(compile=compile, **settings), compile | way, **data)

    expected = run(PLAIN)
    ways = list(WAYS.values())
    if case is labels_a_mixture_and_importance_weights and BACKEND != "torch":
        ways = ways[1:]  # data with a condition come from the host in any case
    for way in ways:
        assert_same(run(way), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="PyTorch has no XLA, and JAX nothing else")
def test_many_steps_under_xla_give_the_numbers_of_one(make_vae, digits):
    expected = fitted(make_vae, PLAIN, digits[:200])
    assert_same(fitted(make_vae, {"jit_compile": "auto", "steps_per_execution": 5}, digits[:200]), expected)
    assert make_vae(network=_network(), compile={"jit_compile": "auto", "steps_per_execution": 5}).jit_compile
    dropout = _network(layers.Dropout(0.1))  # other numbers under XLA
    assert not make_vae(network=dropout, compile={"jit_compile": "auto", "steps_per_execution": 5}).jit_compile


def test_with_nothing_said_many_steps_are_one_program_with_the_numbers_of_single_steps(make_vae, digits, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST_IN_ALL", 24)
    expected = fitted(make_vae, PLAIN | {"steps_per_execution": 1}, digits[:EXAMPLES], validation_data=(digits[:70],))
    made = []
    way = {"data_on_device": BACKEND != "jax"}
    found = fitted(
        lambda compile: made.append(make_vae(compile=compile)) or made[0],
        way,
        digits[:EXAMPLES],
        validation_data=(digits[:70],),
        callbacks=[keras.callbacks.EarlyStopping(patience=9)],
    )
    assert_same(found, expected)
    (vae,) = made
    assert vae.steps_per_execution == automatic.MOST
    assert vae.get_compile_config()["steps_per_execution"] == "auto"
    # Three steps, and not twenty: Keras would round up.
    plain = make_vae(compile=PLAIN | {"steps_per_execution": 1})
    plain.set_weights(vae.get_weights())
    expected = plain.evaluate(digits, batch_size=10, steps=3, verbose=0, return_dict=True)
    found = vae.evaluate(digits, batch_size=10, steps=3, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert vae.predict(digits, batch_size=10, steps=3, verbose=0).shape == (30, 8, 8, 1)
    assert vae.steps_per_execution == automatic.MOST
    vae.fit(digits[:20], batch_size=20, verbose=0)  # too short
    assert vae.steps_per_execution == 1
    vae.steps_per_execution = 2  # as Keras's users may
    vae.fit(digits[:EXAMPLES], batch_size=20, epochs=2, verbose=0)
    assert vae.steps_per_execution == 2


class AtTheEnd(keras.callbacks.Callback):
    """Calls another verb of the model in the middle of a `fit`, between epochs."""

    def __init__(self, call):
        super().__init__()
        self.call, self.results = call, []

    def on_epoch_end(self, epoch, logs=None):
        self.results.append(self.call(self.model))


def test_another_verb_in_a_callback_leaves_a_fit_as_it_was(make_vae, digits, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST_IN_ALL", 24)
    vae = make_vae(compile={"data_on_device": BACKEND != "jax"})
    calls = AtTheEnd(
        lambda model: (
            model.evaluate(digits[:60], batch_size=20, steps=1, verbose=0, return_dict=True)["loss"],
            model.fit(digits[:20], batch_size=20, verbose=0),
        )
    )
    vae.fit(digits[:EXAMPLES], **FIT, callbacks=[calls])
    assert vae.steps_per_execution == automatic.MOST
    assert int(ops.convert_to_numpy(vae.training_step.value)) == 2 * (12 + 1)
    assert len(calls.results) == 2


def test_an_assigned_jit_compile_stays(make_vae, digits, monkeypatch):
    monkeypatch.setattr(automatic, "LEAST_IN_ALL", 2)
    vae = make_vae(compile={"jit_compile": "auto"})
    other = not vae.jit_compile
    vae.jit_compile = other
    for _ in range(2):
        vae.fit(digits[:40], batch_size=20, verbose=0)
        assert vae.jit_compile == other


def test_who_listens_to_batches_of_validation_hears_of_each(make_vae, digits):
    vae, heard = make_vae(), []
    vae.steps_per_execution, vae._chosen = automatic.MOST, (automatic.MOST, vae.jit_compile)  # as after a long fit
    callback = keras.callbacks.LambdaCallback()
    callback.on_test_batch_end = lambda batch, logs=None: heard.append(batch)
    vae.evaluate(digits[:60], batch_size=20, verbose=0, callbacks=[callback])
    assert heard == [0, 1, 2]


def test_a_model_that_is_not_compiled_predicts_and_says_what_it_needs_to_train(digits):
    vae = keras_vae.VAE(*keras_vae.networks.mlp((8, 8, 1), 2))
    assert vae.predict(digits, batch_size=10, steps=3, verbose=0).shape == (30, 8, 8, 1)
    with pytest.raises(ValueError, match=r"compile\(\)"):
        vae.fit(digits, verbose=0)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1000


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"x": np.zeros((3200, 2))}, 1),
        ({"x": np.zeros((3200, 2)), "epochs": 10}, 20),
        ({"x": np.zeros((3200, 2)), "epochs": 10, "initial_epoch": 5}, 1),
        ({"x": np.zeros((3200, 2)), "epochs": 9, "batch_size": 10}, 20),
        ({"x": np.zeros((3200, 2)), "epochs": 10, "validation_split": 0.1}, 1),
        ({"x": {"x": np.zeros((3200, 2)), "condition": np.zeros((3200, 2))}, "epochs": 10}, 20),
        ({"x": Batches(), "epochs": 1}, 20),
        ({"x": iter([]), "epochs": 100}, 1),
        ({"x": iter([]), "epochs": 100, "steps_per_epoch": 36}, 18),
        ({"x": iter([]), "epochs": 100, "steps_per_epoch": 36, "validation_steps": 10}, 2),
        ({"x": iter([]), "epochs": 100, "steps_per_epoch": 37}, 1),
        (
            {
                "x": Batches(),
                "callbacks": [keras.callbacks.EarlyStopping(), keras.callbacks.ModelCheckpoint("a.keras")],
            },
            20,
        ),
        ({"x": Batches(), "callbacks": [keras.callbacks.ModelCheckpoint("a.keras", save_freq=7)]}, 1),
        ({"x": Batches(), "callbacks": keras.callbacks.CallbackList([keras.callbacks.TerminateOnNaN()])}, 1),
        ({"x": Batches(), "callbacks": [keras_vae.callbacks.NonFiniteGuard()]}, 20),
        ({"x": Batches(), "callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=print)]}, 1),
        ({"x": Batches(), "callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=print)]}, 20),
    ],
)
def test_how_many_steps_are_one_program(arguments, steps):
    assert automatic.number_of_steps(arguments) == steps


class Doubled(keras.layers.Layer):
    """Looks at its values while it runs, which no list of operations can."""

    def call(self, x):
        return x * 2.0 if float(ops.convert_to_numpy(ops.sum(x)).item()) > -1e9 else x


def _network(*middle):
    x, z = keras.Input((8, 8, 1)), keras.Input((3,))
    h = layers.Flatten()(x)
    for layer in middle:
        h = layer(h)
    encoder = keras.Model(x, (layers.Dense(3)(h), layers.Dense(3)(h)))
    return encoder, keras.Model(z, layers.Reshape((8, 8, 1))(layers.Dense(64)(z)))


def test_layers_with_a_state_keep_it(make_vae, digits):
    """Batch normalisation, whose averages are updated at each step, and dropout, whose seed is."""

    def make(compile):
        # Without a bias, which the normalisation subtracts: Adam would make steps of the rounding of its gradient.
        dense = layers.Dense(8, use_bias=False)
        network = _network(dense, layers.BatchNormalization(momentum=0.9), layers.Dropout(0.3, seed=4))
        return make_vae(network=network, compile=compile)

    expected = fitted(make, PLAIN, digits[:200])
    for way in WAYS.values():
        found = fitted(make, way, digits[:200])
        assert_same(found, expected)


@pytest.mark.skipif(BACKEND == "jax", reason="XLA makes one kernel of Keras's update: there is no other")
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda adam: adam(1e-2, beta_1=0.8, beta_2=0.95, epsilon=1e-3, global_clipnorm=0.5, weight_decay=0.1),
        lambda adam: adam(keras.optimizers.schedules.ExponentialDecay(1e-2, 3, 0.5), use_ema=True),
        lambda adam: adam(1e-2, gradient_accumulation_steps=2, loss_scale_factor=8.0),
        lambda adam: adam(1e-2, amsgrad=True),
        lambda adam: keras.optimizers.LossScaleOptimizer(adam(1e-2), initial_scale=4.0),
    ],
)
def test_the_fused_update_is_that_of_keras(optimizer):
    fused, plain = (_updated(optimizer(adam)) for adam in (keras_vae.FusedAdam, keras.optimizers.Adam))
    for one, other in zip(fused, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)  # Keras's 1 - 0.999**t has five digits only
    if not getattr(optimizer(keras.optimizers.Adam), "amsgrad", False):
        assert any(not np.array_equal(a, b) for a, b in zip(fused, plain, strict=True))  # another kernel ran


def _updated(optimizer):
    """Two variables after eight updates, and the state of the optimizer."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=shape), dtype="float32") for shape in ((7, 5), (5,))]
    optimizer.build(variables)
    scale = float(ops.convert_to_numpy(optimizer.scale_loss(ops.ones(()))))
    for _ in range(8):
        gradients = [ops.convert_to_tensor(scale * rng.normal(size=each.shape), "float32") for each in variables]
        with contextlib.nullcontext() if BACKEND == "tensorflow" else importlib.import_module("torch").no_grad():
            optimizer.apply(gradients, variables)
    optimizer.finalize_variable_values(variables)
    return [ops.convert_to_numpy(each).astype("float64") for each in (*variables, *optimizer.variables)]


def test_adam_by_name_is_fused_and_an_optimizer_of_the_user_is_left_alone(make_vae, digits, tmp_path):
    vae, mine = make_vae(), keras.optimizers.Adam(1e-2)
    assert type(vae.optimizer) is keras_vae.FusedAdam
    before = set(vars(mine))
    vae.fit(digits, verbose=0)
    vae.save(tmp_path / "vae.keras")
    assert type(keras.saving.load_model(tmp_path / "vae.keras").optimizer) is keras_vae.FusedAdam
    vae.compile(mine)
    assert vae.optimizer is mine
    assert set(vars(mine)) == before


def test_a_subclass_with_a_step_of_its_own_gets_it(digits, make_vae):
    class Loud(keras_vae.VAE):
        def train_step(self, *arguments):
            raise RuntimeError("my own step")

    with pytest.warns(UserWarning, match="Loud has a train_step of its own"):
        vae = Loud(*keras_vae.networks.mlp((8, 8, 1), 2))
    vae.compile("adam", steps_per_execution=4)
    with pytest.raises(RuntimeError, match="my own step"):
        vae.fit(digits, verbose=0)


def counting():
    """A model, and the list of the calls of its step from Python."""
    calls = []

    class Counting(keras_vae.VAE):
        def step_loss(self, batch, noise, training):
            calls.append(training)
            return super().step_loss(batch, noise, training)

    return Counting(*keras_vae.networks.mlp((8, 8, 1), 2)), calls


def test_a_step_is_traced_once_for_each_shape(digits):
    vae, calls = counting()
    vae.compile("adam", steps_per_execution=5)
    # On PyTorch a shape is traced when it has been seen eight times.
    vae.fit(digits[:EXAMPLES], batch_size=20, epochs=12 if BACKEND == "torch" else 2, verbose=0)
    traced = len(calls)
    for examples in (EXAMPLES, 163):  # of which the last batch has three, too
        vae.fit(digits[:examples], batch_size=20, epochs=3, verbose=0)
    assert len(calls) == traced
    assert traced < 40


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere Keras makes the optimizer's variables before the step")
def test_the_first_step_is_traced_once(digits):
    vae, calls = counting()
    vae.compile("adam")
    vae.fit(digits[:40], batch_size=20, verbose=0)
    assert calls == [True]


def test_data_come_in_every_form(make_vae, digits):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            return (digits[20 * i : 20 * i + 20],)

    vae = make_vae(compile={"steps_per_execution": 4})
    reference = make_vae(compile=PLAIN)
    reference.set_weights(vae.get_weights())
    expected = reference.fit(digits[:120], batch_size=20, shuffle=False, verbose=0).history
    history = vae.fit(Batches(), shuffle=False, verbose=0).history
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)

    def forever():
        while True:
            yield (digits[:20],)

    assert np.isfinite(vae.fit(forever(), steps_per_epoch=10, epochs=2, shuffle=False, verbose=0).history["loss"]).all()
    assert vae.predict(digits[:50], batch_size=8, verbose=0).shape == (50, 8, 8, 1)


def test_tensors_are_looked_up_where_they_are(make_vae, digits):
    expected = fitted(make_vae, PLAIN, digits[:EXAMPLES], shuffle=False)
    found = fitted(make_vae, {"steps_per_execution": 5}, ops.convert_to_tensor(digits[:EXAMPLES]), shuffle=False)
    assert_same(found, expected)


def test_data_above_the_size_stay_on_the_host(make_vae, digits, monkeypatch):
    digits = digits[:96]  # one group of three batches
    seen = []
    monkeypatch.setattr(
        device_data.DeviceData, "put", lambda self, x, *_: seen.append(len(x)) or pytest.fail("was put")
    )
    monkeypatch.setattr(device_data, "MAX_DEVICE_BYTES", digits.nbytes - 1)
    make_vae(compile={"steps_per_execution": 3}).fit(digits, verbose=0)
    make_vae(compile={"steps_per_execution": 3, "data_on_device": False}).fit(digits[:32], verbose=0)
    make_vae().fit(digits[:32], verbose=0)
    assert seen == []
    with pytest.raises(pytest.fail.Exception, match="was put"):
        make_vae(compile={"steps_per_execution": 3, "data_on_device": True}).fit(digits, verbose=0)


def test_the_data_are_let_go_when_fit_ends(make_vae, digits):
    vae = make_vae(compile={"steps_per_execution": 3})
    vae.fit(digits, verbose=0)
    assert vae._device_data.arrays is None
    with pytest.raises(ValueError, match="finite|NaN"):
        vae.fit(digits * np.nan, verbose=0)
    assert vae._device_data.arrays is None
    assert np.isfinite(vae.fit(digits, verbose=0).history["loss"]).all()


def test_bad_data_are_named_before_they_are_looked_up(make_vae, digits):
    vae = make_vae(compile={"steps_per_execution": 3})
    with pytest.raises(ValueError, match="255"):
        vae.fit(digits * 255.0, verbose=0)
    with pytest.raises(ValueError, match="sizes|cardinality|length|same"):
        vae.fit(digits, sample_weight=np.ones(3), verbose=0)
    with pytest.raises(ValueError, match=r"\(9, 8, 1\)|8, 8, 1"):
        vae.fit(np.zeros((40, 9, 8, 1), "float32"), verbose=0)


def test_what_compile_was_told_is_saved_with_the_model(make_vae, digits, tmp_path):
    vae = make_vae(compile={"steps_per_execution": 3, "data_on_device": False, "jit_compile": "auto"})
    vae.fit(digits[:96], verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert loaded.data_on_device is False
    loaded.data_on_device = True
    assert loaded.get_compile_config()["data_on_device"] is True
    assert loaded.get_compile_config()["jit_compile"] == "auto"  # and not what it means on this backend
    assert loaded.steps_per_execution == 3
    with pytest.raises(ValueError, match='data_on_device must be "auto", True or False; got 7'):
        make_vae(compile={"data_on_device": 7})


def test_short_groups_and_the_count_of_steps(make_vae, digits):
    """Callbacks hear of every group, the last of which may be short, and the step counter of every step."""
    ends = []
    vae = make_vae(compile={"steps_per_execution": 5})
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: ends.append(step))
    vae.fit(digits[:EXAMPLES], batch_size=20, verbose=0, callbacks=[callback])
    assert ends == [4, 9, 14]
    assert int(ops.convert_to_numpy(vae.training_step.value)) == 12
    assert int(ops.convert_to_numpy(vae.optimizer.iterations.value)) == 12


@pytest.mark.skipif(BACKEND != "jax", reason="on JAX a loop over convolutions runs on one thread of a CPU")
def test_convolutions_are_not_looped_over_on_a_cpu(make_vae, digits):
    network = keras_vae.networks.conv((8, 8, 1), 2, filters=(2,), hidden=())
    assert not make_vae(network=network, compile={"steps_per_execution": 3})._accepts_indices()
    assert make_vae(compile={"steps_per_execution": 3})._accepts_indices()


@pytest.mark.skipif(BACKEND != "torch", reason="only PyTorch is traced by us")
class TestTracedSteps:
    def steps(self, vae):
        return vae.train_function.step.step

    def test_is_used_for_training_evaluation_prediction_and_inference(self, make_vae, digits, monkeypatch):
        from keras_vae._backend.fast.traced import TracedStep

        made = []
        original = TracedStep._trace
        monkeypatch.setattr(TracedStep, "_trace", lambda self, *args: made.append(self) or original(self, *args))
        vae = make_vae()
        for verb, arguments in (("fit", {"verbose": 0}), ("evaluate", {"verbose": 0}), ("predict", {"verbose": 0})):
            getattr(vae, verb)(digits, batch_size=16, **arguments)
        vae.encode(digits, batch_size=16)
        assert len({id(traced) for traced in made}) == len(made) == 4
        assert not any(traced.refused for traced in made)

    def test_inference_gives_the_same_numbers_and_sees_new_weights(self, make_vae, digits):
        vae = make_vae()
        one_by_one = vae.elbo(digits, seed=0, batch_size=len(digits))
        np.testing.assert_allclose(vae.elbo(digits, seed=0, batch_size=16), one_by_one, rtol=1e-5)
        vae.set_weights([0.5 * weight for weight in vae.get_weights()])
        again = vae.elbo(digits, seed=0, batch_size=16)
        assert not np.allclose(again, one_by_one)
        np.testing.assert_allclose(again, vae.elbo(digits, seed=0, batch_size=len(digits)), rtol=1e-5)

    @pytest.mark.parametrize("layer", [Doubled, lambda: layers.Dropout(0.5, seed=1)])
    def test_what_cannot_be_written_down_runs_as_before(self, make_vae, digits, layer):
        def make(compile):
            return make_vae(network=_network(layers.Dense(8), layer()), compile=compile)

        assert_same(fitted(make, {}, digits[:EXAMPLES]), fitted(make, PLAIN, digits[:EXAMPLES]))
        vae = make({})
        vae.fit(digits, batch_size=16, verbose=0)
        assert self.steps(vae).traced.refused

    def test_a_list_that_gives_other_numbers_is_dropped(self, make_vae, digits):
        """A layer whose result depends on how often it was called: no two runs agree."""

        class Counting(layers.Layer):
            calls = 0

            def call(self, x):
                self.calls += 1
                return x * (1.0 + self.calls)

        vae = make_vae(network=_network(Counting()))
        vae.fit(digits, batch_size=16, verbose=0)
        assert self.steps(vae).traced.refused

    def test_a_layer_that_assigns_to_its_weights_does_so(self, make_vae, digits):
        def make(compile):
            return make_vae(network=_network(layers.SpectralNormalization(layers.Dense(8))), compile=compile)

        assert_same(fitted(make, {}, digits[:EXAMPLES]), fitted(make, PLAIN, digits[:EXAMPLES]))

    def test_one_variable_may_take_the_value_of_another(self, make_vae, digits):
        class Lag(layers.Layer):
            def build(self, shape):
                self.now = self.add_weight(shape=(), initializer="zeros", trainable=False, name="now")
                self.before = self.add_weight(shape=(), initializer="zeros", trainable=False, name="before")

            def call(self, x, training=False):
                if training:
                    self.before.assign(self.now)
                    self.now.assign(self.now + 1.0)
                return x

        lag = Lag()
        make_vae(network=_network(lag)).fit(digits[:240], batch_size=10, verbose=0)
        assert (float(lag.now.value), float(lag.before.value)) == (24.0, 23.0)

    def test_the_order_of_memory_does_not_matter(self, make_vae, digits):
        vae = make_vae()
        plain = vae.encode(digits, batch_size=16).mean
        np.testing.assert_allclose(vae.encode(np.asfortranarray(digits), batch_size=16).mean, plain, rtol=1e-6)

    def test_frozen_layers_stay_where_they_are(self, make_vae, digits):
        vae = make_vae()
        vae.fit(digits, batch_size=10, verbose=0)
        vae.encoder.trainable = False
        before = vae.encoder.get_weights()
        vae.fit(digits, batch_size=10, verbose=0)
        for one, other in zip(vae.encoder.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_jit_compile_says_when_it_cannot(self, make_vae, digits):
        vae = make_vae(network=_network(Doubled()), compile={"jit_compile": True})
        with pytest.warns(UserWarning, match="runs eagerly in spite of jit_compile=True"):
            vae.fit(digits, batch_size=16, verbose=0)


def test_noise_is_standard_normal_and_new_at_each_draw():
    seed = keras.random.SeedGenerator(3)
    first, second = (ops.convert_to_numpy(_backend.random_normal((2, 20_000, 3), seed)) for _ in range(2))
    assert stats.kstest(first.ravel(), "norm").pvalue > 0.001
    assert np.abs(np.corrcoef([*first.reshape(6, 20_000), second.ravel()[:20_000]]) - np.eye(7)).max() < 0.03
