"""A model that is changed after its first use is the changed model in every verb, or the change is refused in words.

The reference is the same model loaded from its file, which has compiled nothing.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_vae
from keras_vae import ELBO, IWAE, VAE, DiagonalNormal, Gaussian, _backend, schedules

pytestmark = pytest.mark.usefixtures("trace_early")

BACKEND = keras.backend.backend()
BATCH = 4
BATCHES = 11 if BACKEND == "torch" else 3  # PyTorch traces a step when it has seen its shapes eight times, here
X = np.random.default_rng(0).normal(size=(BATCH * BATCHES, 4)).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Held(schedules.Schedule):
    """A schedule that holds a variable, which a callback sets."""

    def __init__(self):
        super().__init__()
        self.variable = self.add_weight(shape=(), initializer="ones", trainable=False, name="held")

    def __call__(self, step):
        return self.variable + 0.0


def make(**settings):
    x, z = keras.Input((4,)), keras.Input((2,))
    h = layers.Dense(3, activation="tanh", name="hidden")(layers.Normalization(name="normalization")(x))
    encoder = keras.Model(x, [layers.Dense(2)(h), layers.Dense(2)(h)])
    decoder = keras.Model(z, layers.Dense(4)(layers.Dense(3, activation="tanh")(z)))
    vae = VAE(encoder, decoder, **{"likelihood": Gaussian(1.0), "objective": ELBO(beta=Held()), "seed": 1} | settings)
    vae.compile(keras.optimizers.SGD(1e-2))
    return vae


def other_decoder(vae):
    z = keras.Input((2,))
    vae.decoder = keras.Model(z, layers.Dense(4, name="another")(z))


def load_other_weights(vae):
    """Into a Normalization layer, whose constants are no variables."""
    layer, other = vae.encoder.get_layer("normalization"), layers.Normalization()
    other.adapt(2.0 * X)
    layer.load_own_variables({str(i): value for i, value in enumerate(other.get_weights())})


# In an order in which each can be made after those before it.
CHANGES = {
    "a variable of a schedule": lambda vae: vae.objective.beta.variable.assign(10.0),
    "a weight of the objective": lambda vae: setattr(vae.objective, "beta", 2.0),
    "another objective": lambda vae: setattr(vae, "objective", ELBO(beta=10.0)),
    "an objective that logs more": lambda vae: setattr(vae, "objective", ELBO(beta=schedules.Linear(40))),
    "another likelihood": lambda vae: setattr(vae, "likelihood", Gaussian(0.3)),
    "another prior": lambda vae: setattr(
        vae, "prior", DiagonalNormal(np.full(2, 2.0, "float32"), np.ones(2, "float32"))
    ),
    "an objective with more samples": lambda vae: setattr(vae, "objective", IWAE(3)),
    "missing values allowed": lambda vae: setattr(vae, "allow_missing", True),
    "an attribute of a layer": lambda vae: setattr(
        vae.encoder.get_layer("hidden"), "activation", keras.activations.softplus
    ),
    "an adapted layer": lambda vae: vae.encoder.get_layer("normalization").adapt(3.0 * X + 1.0),
    "loaded weights": load_other_weights,
    "another decoder": other_decoder,
    "a prior that learns": lambda vae: setattr(vae, "prior", keras_vae.priors.GaussianMixture(2, seed=0)),
    "a frozen encoder": lambda vae: setattr(vae.encoder, "trainable", False),
}
# A change of each sort, which every backend sees; that a sort has more of them is known to code that they share.
ON_EACH = {
    "a variable of a schedule",
    "another objective",
    "an attribute of a layer",
    "loaded weights",
    "another decoder",
    "a prior that learns",
    "a frozen encoder",
}
# What the optimizer has no state for is trained only after another compile().
NEEDS_COMPILE = {"a prior that learns", "another decoder"}
if BACKEND == "jax":
    NEEDS_COMPILE |= {"a frozen encoder"}


def used(vae):
    """Runs every verb, so that it is compiled."""
    vae.fit(X, batch_size=BATCH, epochs=1, verbose=0)
    results(vae)
    return vae


def results(vae, batch_size=BATCH):
    """What every verb says, by its name."""
    posterior = vae.encode(X, batch_size=batch_size)
    return {
        "evaluate": list(vae.evaluate(X, batch_size=BATCH, verbose=0, return_dict=True).values()),
        "predict": vae.predict(X, batch_size=batch_size, verbose=0),
        "encode": np.stack([posterior.mean, posterior.log_var]),
        "sample": vae.sample(len(X), seed=0, batch_size=batch_size),
        "elbo": vae.elbo(X, seed=0, batch_size=batch_size),
    }


def trained(vae):
    history = vae.fit(X, batch_size=BATCH, shuffle=False, verbose=0).history
    return [*(history[name] for name in sorted(history)), *vae.encoder.get_weights(), *vae.decoder.get_weights()]


@pytest.fixture(scope="module")
def changing():
    """One model, changed again and again: what it has compiled is always of the model before the change."""
    return used(make())


@pytest.mark.parametrize("change", [pytest.param(n, marks=[pytest.mark.once] * (n not in ON_EACH)) for n in CHANGES])
def test_every_verb_is_of_the_changed_model(changing, change, tmp_path, monkeypatch):
    vae, before = changing, results(changing)
    CHANGES[change](vae)
    if change in NEEDS_COMPILE:
        with pytest.raises(ValueError, match=r"call compile\(\) again"):
            vae.fit(X, batch_size=BATCH, verbose=0)
        vae.compile(keras.optimizers.SGD(1e-2))
    vae.save(tmp_path / "changed.keras")
    after, history = results(vae), trained(vae)
    if BACKEND != "jax":  # where it takes longer than compiling
        run_eagerly(monkeypatch)
    loaded = keras.saving.load_model(tmp_path / "changed.keras")
    for verb, value in results(loaded, batch_size=len(X)).items():
        np.testing.assert_allclose(after[verb], value, rtol=1e-4, atol=1e-5, err_msg=f"{verb}: {change}")
    if change not in ("missing values allowed", "a frozen encoder"):
        assert any(np.shape(after[v]) != np.shape(before[v]) or not np.allclose(after[v], before[v]) for v in before)
    for one, other in zip(history, trained(loaded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=f"fit: {change}")


def run_eagerly(monkeypatch):
    """From here on nothing is compiled."""
    monkeypatch.setattr(keras.Model, "run_eagerly", property(lambda self: True, lambda self, value: None))
    monkeypatch.setattr(
        _backend, "compile", lambda model, function: lambda *arrays: function(*map(ops.convert_to_tensor, arrays))
    )


@pytest.mark.parametrize("change", sorted({"another objective", "a frozen encoder"} - NEEDS_COMPILE))
def test_a_change_inside_fit_counts_from_the_next_step(change):
    class Change(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0 and self.epoch == 1:
                CHANGES[change](self.model)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    inside, between = make(), make()
    between.set_weights(inside.get_weights())
    inside.fit(X, epochs=2, callbacks=[Change()], **fit)
    between.fit(X, **fit)
    CHANGES[change](between)
    between.fit(X, **fit)
    for one, other in zip(inside.get_weights(), between.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.once
def test_quantised_weights_are_used_at_once(tmp_path):
    vae = used(make())
    before = vae.elbo(X, seed=0, batch_size=BATCH)
    vae.quantize("int8")
    after = vae.elbo(X, seed=0, batch_size=BATCH)
    vae.save(tmp_path / "quantised.keras")
    np.testing.assert_allclose(after, keras.saving.load_model(tmp_path / "quantised.keras").elbo(X, seed=0), rtol=1e-5)
    assert not np.array_equal(before, after)


@pytest.mark.once
def test_parts_that_do_not_fit_are_refused_at_their_next_use():
    vae = used(make())
    vae.likelihood = Gaussian("predicted")  # twice the channels that the decoder has
    with pytest.raises(ValueError, match=r"The decoder returns shape .* needs \('batch', 8\)"):
        vae.elbo(X)
    vae.likelihood = Gaussian(1.0)
    assert np.isfinite(vae.elbo(X)).all()
    with pytest.raises(ValueError, match="objective must be"):
        vae.objective = "elbow"
    vae.objective = "iwae"
    assert isinstance(vae.objective, IWAE)


def test_replaced_parts_leave_nothing_behind():
    vae = used(make())
    x, z = keras.Input((4,)), keras.Input((3,))
    vae.encoder = keras.Model(x, [layers.Dense(3)(x), layers.Dense(3)(x)])
    vae.decoder = keras.Model(z, layers.Dense(4)(z))
    vae.objective = ELBO(beta=schedules.Linear(10))
    vae.compile(keras.optimizers.SGD(1e-2))
    assert set(vae.fit(X, verbose=0).history) == {"loss", "reconstruction", "kl", "negative_elbo", "beta"}
    assert vae.latent_dim == 3
    assert vae.sample(2).shape == (2, 4)
    assert vae.count_params() == 2 * (4 * 3 + 3) + 3 * 4 + 4 + 1  # and the step counter
    vae.objective.capacity = Held()
    vae.objective.capacity = None
    assert vae.count_params() == 2 * (4 * 3 + 3) + 3 * 4 + 4 + 1
    vae.objective = ELBO()
    assert set(vae.fit(X, verbose=0).history) == {"loss", "reconstruction", "kl", "negative_elbo"}


def saved(vae, tmp_path):
    vae.save(tmp_path / "saved.keras")
    return keras.saving.load_model(tmp_path / "saved.keras")


@pytest.mark.once
def test_what_was_assigned_a_moment_ago_is_saved(tmp_path):
    vae = make()
    vae.prior = keras_vae.priors.GaussianMixture(2, seed=0)
    np.testing.assert_array_equal(saved(vae, tmp_path).numpy_prior().components.mean, vae.numpy_prior().components.mean)
    x, z = keras.Input((4,)), keras.Input((3,))
    vae = make()
    vae.encoder, vae.decoder = keras.Model(x, [layers.Dense(3)(x)] * 2), keras.Model(z, layers.Dense(4)(z))
    assert saved(vae, tmp_path).latent_dim == 3


@pytest.mark.once
def test_the_standard_prior_can_be_had_back_and_is_saved_as_none(tmp_path):
    vae = used(make())
    before = vae.elbo(X, seed=0)
    vae.prior = DiagonalNormal(np.full(2, 2.0, "float32"), np.ones(2, "float32"))
    assert not np.allclose(vae.elbo(X, seed=0), before)
    vae.prior = None
    np.testing.assert_allclose(vae.elbo(X, seed=0), before, rtol=1e-6)
    assert "prior" not in vae.get_config()


@pytest.mark.once
def test_pseudo_inputs_lie_in_the_range_of_the_likelihood_that_there_is_now(tmp_path):
    vae = make(likelihood="bce", prior=keras_vae.priors.VampPrior(3, seed=0))
    vae.prior.pseudo_inputs.assign(np.full((3, 4), 5.0))
    clipped = vae.numpy_prior()
    vae.likelihood = Gaussian(1.0)
    assert not np.allclose(vae.numpy_prior().components.mean, clipped.components.mean)
    np.testing.assert_allclose(
        saved(vae, tmp_path).numpy_prior().components.mean, vae.numpy_prior().components.mean, rtol=1e-6
    )


def test_a_callback_that_holds_the_model_itself_sees_the_weights_of_the_last_step():
    vae, seen = make(prior=keras_vae.priors.GaussianMixture(2, seed=0)), []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(vae.numpy_prior().components.mean)
    )
    vae.fit(X, batch_size=BATCH, verbose=0, callbacks=[look])
    np.testing.assert_array_equal(seen[-1], vae.numpy_prior().components.mean)
    assert not np.array_equal(seen[0], seen[-1])


@pytest.mark.once
def test_an_attribute_may_be_a_tuple_of_arrays():
    vae = used(make())
    vae.encoder.get_layer("hidden").bounds = (np.zeros(3), np.ones(3))
    before = vae._version.current()
    vae.encoder.get_layer("hidden").bounds = (np.zeros(3), np.ones(3))
    assert vae._version.current() == before + 1
    assert vae._version.current() == before + 1


@pytest.mark.once
def test_public_containers_are_looked_into():
    vae = used(make())
    layer = vae.encoder.get_layer("hidden")
    layer.table, layer.first, layer.second = {"a": 1.5}, [1.5, 2.5], [3.5]
    versions = [vae._version.current()]
    layer.table["b"] = layer.table.pop("a")
    versions.append(vae._version.current())
    layer.second.insert(0, layer.first.pop())
    versions.append(vae._version.current())
    layer.second[0] = 4.5
    versions.append(vae._version.current())
    assert len(set(versions)) == 4


@pytest.mark.skipif(BACKEND == "jax", reason="Keras reads run_eagerly before the first step only")
def test_data_on_the_device_need_compiled_steps():
    vae = make()
    vae.compile(keras.optimizers.SGD(1e-2), steps_per_execution=3)
    change = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(vae, "run_eagerly", True))
    with pytest.raises(ValueError, match="compile with data_on_device=False"):
        vae.fit(X, batch_size=BATCH, epochs=2, verbose=0, callbacks=[change])


@pytest.mark.parametrize("name", ["latent_dim", "data_shape", "condition_shape", "seed"])
def test_what_cannot_be_set_says_so(name):
    with pytest.raises(AttributeError, match=name):
        setattr(make(), name, 5)


def test_functions_are_compiled_each_for_itself():
    """Two lambdas have one name."""
    vae, ones = make(), np.ones((2, 2), "float32")
    double, triple = (lambda z: z * 2.0), (lambda z: z * 3.0)
    assert vae._batched(double, ones, batch_size=2)[0, 0] == 2.0
    assert vae._batched(triple, ones, batch_size=2)[0, 0] == 3.0
    assert ops.is_tensor(ops.ones(1))


def test_nothing_is_compiled_again_without_a_change():
    traces = []

    class Counting(VAE):
        def step_loss(self, batch, noise, training):
            traces.append(training)
            return super().step_loss(batch, noise, training)

        def decoder_parameters(self, z, training=False, condition=None):
            traces.append("decoder")
            return super().decoder_parameters(z, training, condition)

    base = make()
    vae = Counting(base.encoder, base.decoder, Gaussian(1.0), seed=1)
    vae.compile(keras.optimizers.SGD(1e-2), run_eagerly=False)
    for _ in range(2):
        used(vae)
    count = len(traces)
    used(vae)
    assert len(traces) == count
