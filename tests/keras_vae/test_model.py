"""The model: what it accepts, what it refuses, and that its numbers are the bound."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import families
import oracles
from keras_vae import (
    ELBO,
    VAE,
    Bernoulli,
    DiagonalNormal,
    Gaussian,
    Mixture,
    evaluation,
    likelihoods,
    networks,
    objectives,
    posteriors,
    priors,
    schedules,
)


def dense_encoder(as_what="pair", units=(3, 3), rank=2):
    x = keras.Input((8, 8, 1))
    h = layers.Flatten()(x)
    heads = [layers.Dense(n)(h) for n in units]
    if rank == 3:
        heads = [layers.Reshape((1, -1))(head) for head in heads]
    outputs = heads if as_what == "pair" else dict(zip(as_what, heads, strict=True))
    return keras.Model(x, outputs)


def dense_decoder(units=64, shape=(8, 8, 1), activation=None):
    return keras.Sequential([layers.Dense(units, activation=activation), layers.Reshape(shape)])


# What goes in


@pytest.mark.parametrize("as_what", ["pair", ("z_mean", "z_log_var"), ("mean", "log_var")])
@pytest.mark.once
def test_the_encoder_may_return_a_pair_or_a_dict_by_name(as_what, digits):
    encoder = dense_encoder(as_what)
    vae = VAE(encoder, dense_decoder())
    outputs = encoder(ops.convert_to_tensor(digits[:2]))
    expected = outputs[0] if as_what == "pair" else outputs[as_what[0]]
    np.testing.assert_allclose(vae.encode(digits[:2]).mean, ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (lambda: dense_encoder(units=(3,)), "it returned 1 outputs|it returned one output"),
        (lambda: dense_encoder(units=(3, 3, 3)), "it returned 3 outputs"),
        (lambda: dense_encoder(units=(3, 4)), r"z_mean of shape \(None, 3\) and z_log_var of shape \(None, 4\)"),
        (lambda: dense_encoder(("mu", "sigma")), r"keys \['mu', 'sigma'\]"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_at_once(encoder, words):
    with pytest.raises(ValueError, match=words):
        VAE(encoder(), dense_decoder())


def test_latents_of_a_shape_that_the_decoder_does_not_take_are_refused_with_both():
    words = r"z of shape \('batch', 1, 3\), and the decoder takes z of shape \('batch', 3\): put a Flatten"
    with pytest.raises(ValueError, match=words):
        VAE(dense_encoder(rank=3), networks.mlp((8, 8, 1), 3)[1])


def test_a_decoder_that_does_not_fit_the_data_is_refused_with_both_shapes_and_the_fix():
    with pytest.raises(ValueError, match=r"'batch', 64\).*'batch', 8, 8, 1\).*Reshape\(\(8, 8, 1\)\)"):
        VAE(dense_encoder(), keras.Sequential([layers.Dense(64)]))
    with pytest.raises(ValueError, match=r"'batch', 8, 8, 3\).*'batch', 8, 8, 1\).*1 units or filters"):
        VAE(dense_encoder(), dense_decoder(192, (8, 8, 3)))


def _ending_in_ops_sigmoid():
    z = keras.Input((3,))
    return keras.Model(z, ops.sigmoid(layers.Reshape((8, 8, 1))(layers.Dense(64)(z))))


@pytest.mark.parametrize(
    "decoder",
    [
        lambda: dense_decoder(activation="sigmoid"),
        lambda: keras.Sequential([layers.Dense(64), layers.Activation("sigmoid"), layers.Reshape((8, 8, 1))]),
        lambda: keras.Sequential([layers.Input((3,)), dense_decoder(activation="sigmoid")]),
        _ending_in_ops_sigmoid,
    ],
)
def test_a_sigmoid_before_logits_is_refused_with_two_fixes(decoder):
    with pytest.raises(
        ValueError, match=r"ends in a sigmoid.*remove the last activation.*Bernoulli\(from_logits=False\)"
    ):
        VAE(dense_encoder(), decoder(), likelihood="bce")
    VAE(dense_encoder(), decoder(), likelihood=Bernoulli(from_logits=False))
    VAE(dense_encoder(), decoder(), likelihood="mse")


@pytest.mark.once
def test_a_plain_layer_as_decoder_is_checked_too():
    encoder = networks.mlp((12,), 3)[0]
    with pytest.raises(ValueError, match="ends in a sigmoid"):
        VAE(encoder, layers.Dense(12, activation="sigmoid"))
    with pytest.raises(ValueError, match="ends in a relu, but logits must be able to take any value"):
        VAE(encoder, layers.Dense(12, activation="relu"))
    assert VAE(encoder, layers.Dense(12)).decode(np.zeros((2, 3))).shape == (2, 12)


def test_a_posterior_that_gives_another_distribution_than_it_says_is_refused():
    class Other(posteriors.Normal):
        distribution_class = Mixture

    vae = VAE(*networks.mlp((4,), 2), posterior=Other(), objective="iwae")
    with pytest.raises(TypeError, match="is a DiagonalNormal, and Other's distribution_class is Mixture"):
        vae.elbo(np.zeros((1, 4)))


class Tempered(posteriors.Normal):
    """Half the variance that the encoder says."""

    def distribution(self, outputs, training=False):
        said = super().distribution(outputs, training)
        return DiagonalNormal(said.mean, said.log_var - np.log(2.0).astype("float32"))


@pytest.mark.once
@pytest.mark.parametrize("kind", [(families.Tempered, posteriors.Normal), (VAE, Tempered)])
def test_every_verb_is_of_the_posterior_that_the_user_defines(kind, digits):
    """It equals the plain model whose encoder says what that posterior makes of it."""
    model, posterior = kind
    encoder, decoder = networks.mlp((8, 8, 1), 3, hidden=(16,))
    shifted = keras.models.clone_model(encoder)
    shifted.set_weights(encoder.get_weights())
    shifted.get_layer("z_log_var").bias.assign(encoder.get_layer("z_log_var").bias - np.log(2.0))
    found, expected = model(encoder, decoder, posterior=posterior(), seed=0), VAE(shifted, decoder, seed=0)
    for vae in (found, expected):
        vae.compile(keras.optimizers.SGD(0.0))
    x, draws = digits[:40], {"seed": 1, "batch_size": 16}
    np.testing.assert_allclose(found.encode(x).log_var, expected.encode(x).log_var, rtol=1e-5, atol=1e-6)
    for verb in (
        lambda vae: vae.elbo(x, 2, seed=1),
        lambda vae: vae.reconstruct(x, sample=True, seed=1),
        lambda vae: vae.evaluate(x, verbose=0),
        lambda vae: vae.fit(x, shuffle=False, verbose=0).history["loss"],
        lambda vae: list(evaluation.held_out(vae, x, 2, **draws).values()),
        lambda vae: evaluation.log_likelihood(vae, x, 3).log_likelihood,
        lambda vae: evaluation.annealed_log_likelihood(vae, x[:3], 2, 2, 2).log_likelihood,
        lambda vae: evaluation.elbo_surgery(vae, x)[:3],
        lambda vae: evaluation.kl_per_unit(vae, x),
    ):
        np.testing.assert_allclose(verb(found), verb(expected), rtol=1e-4)


class Student(DiagonalNormal):
    """Another density under the name of the normal, as far as a type can tell."""


@pytest.mark.once
@pytest.mark.parametrize("verb", ["encode", "elbo", "predict", "fit"])
def test_a_posterior_that_a_subclass_defines_is_a_diagonal_normal(digits, verb):
    class Heavy(VAE):
        def posterior(self, x, training=False):
            return Student(*vars(super().posterior(x, training)).values())

    vae = Heavy(*networks.mlp((8, 8, 1), 2, hidden=(4,)))
    vae.compile("adam")
    with pytest.raises(TypeError, match="The posterior of this Heavy is a Student, and Normal's distribution_class"):
        getattr(vae, verb)(digits[:8])


@pytest.mark.once
def test_what_people_of_other_libraries_write_is_told_its_place():
    encoder, decoder = networks.mlp((8, 8, 3), 2, likelihood="mse")
    with pytest.raises(TypeError, match=r"beta belongs to the objective: VAE\(\.\.\., objective=keras_vae\.ELBO"):
        VAE(encoder, decoder, "mse", beta=4.0)
    z = keras.Input((2,))
    channels_first = keras.Model(z, keras.layers.Reshape((3, 8, 8))(keras.layers.Dense(192)(z)))
    with pytest.raises(ValueError, match=r"axes stand in another order: .* keras.layers.Permute\(\(2, 3, 1\)\)"):
        VAE(encoder, channels_first, "mse")


@pytest.mark.once
def test_compute_loss_of_a_subclass_is_refused_unless_a_step_of_its_own_calls_it():
    class Mine(VAE):
        def compute_loss(self, *args, **kwargs):
            return 0.0

    class Stepping(Mine):
        def train_step(self, *args):
            return {"loss": self.compute_loss()}

    pair = networks.mlp((4,), 2)
    with pytest.raises(
        TypeError, match=r"^Mine defines compute_loss, which a VAE does not call.* an? .*Objective.*step_loss"
    ):
        Mine(*pair)
    with pytest.warns(UserWarning, match="Stepping has a train_step of its own .* not the bound .*Objective"):
        Stepping(*pair)

    class Counting(VAE):
        def train_step(self, *args):
            return super().train_step(*args)

    class Inside(VAE):
        def train_step(self, *args):
            return (lambda: super(Inside, self).train_step(*args))()

    class Named(VAE):
        def train_step(self, *args):
            return VAE.train_step(self, *args)

    for kind in (Counting, Inside, Named):
        kind(*pair)  # no warning


# Parts of one's own that lack something


class Point(likelihoods.Likelihood):
    def log_prob_per_dimension(self, x, parameters):
        return -ops.square(x - parameters)

    def mean(self, parameters):
        return parameters

    def sample(self, parameters, seed=None):
        return ops.convert_to_numpy(parameters)


def without(base, *names, **values):
    """A subclass in which methods are as in the base of all."""
    root = base.__mro__[1]
    return type(
        f"Without{names[0]}" if names else base.__name__, (base,), {n: getattr(root, n) for n in names} | values
    )


class NoInit(objectives.Objective):
    def __init__(self):
        pass

    def __call__(self, batch):
        return ELBO()(batch)


class LateInit(NoInit):
    def __init__(self):
        self.network = layers.Dense(1)
        super().__init__()


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            lambda: {"likelihood": without(Point, "log_prob_per_dimension")()},
            r"no log_prob_per_dimension\(x, parameters\)",
        ),
        (
            lambda: {"likelihood": without(Point, "mean")()},
            r"^Withoutmean defines no mean\(parameters\), which predict",
        ),
        (
            lambda: {"likelihood": without(Point, "sample")()},
            r"no sample\(parameters, seed\), with which sample\(draw=True",
        ),
        (
            lambda: {"likelihood": without(Point, has_stddev=True)()},
            r"^Point\(\) says has_stddev = True and .* no stddev",
        ),
        (
            lambda: {"objective": objectives.Objective()},
            r"^Objective defines no __call__\(batch\), which returns the Terms",
        ),
        (lambda: {"prior": priors.Prior()}, r"^Prior defines no distribution\(given, encode\), which gives p\(z\)"),
        (lambda: {"posterior": posteriors.Posterior()}, r"^Posterior defines no latent_shape\(outputs\)"),
        (lambda: {"objective": NoInit()}, r"^NoInit.__init__ does not call super\(\).__init__\(\)"),
        (lambda: {"objective": LateInit()}, r"^LateInit.__init__ assigns self.network, a layer, before"),
    ],
)
def test_a_part_that_lacks_something_is_named_when_the_model_is_made(settings, words):
    with pytest.raises(TypeError, match=words):
        VAE(*networks.mlp((4,), 2), **settings())


@pytest.mark.once
def test_a_part_that_lacks_something_does_not_take_the_place_of_another(digits, make_vae):
    vae = make_vae()
    with pytest.raises(TypeError, match="Withoutmean defines no mean"):
        vae.likelihood = without(Point, "mean")()
    assert isinstance(vae.likelihood, Bernoulli)
    vae.fit(digits[:32], verbose=0)
    with pytest.raises(TypeError, match=r"^Point defines no parameters_at_mean\(mean\), with which data_mean"):
        networks.mlp((4,), 2, likelihood=Point(), data_mean=0.5)


def test_an_encoder_with_two_inputs_is_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    h = layers.Concatenate()([a, b])
    with pytest.raises(ValueError, match="The encoder has 2 inputs"):
        VAE(keras.Model([a, b], [layers.Dense(3)(h), layers.Dense(3)(h)]), layers.Dense(4))


def test_unbounded_probabilities_are_refused():
    with pytest.raises(ValueError, match="ends in a linear activation"):
        VAE(dense_encoder(), dense_decoder(), likelihood=Bernoulli(from_logits=False))


def test_a_subclassed_decoder_that_seems_to_end_in_a_sigmoid_is_warned_about():
    class Decoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = layers.Dense(8), layers.Dense(64, activation="sigmoid", name="out")

        def call(self, z):
            return ops.reshape(self.out(self.hidden(z)), (-1, 8, 8, 1))

    with pytest.warns(UserWarning, match="If out is the decoder's last layer: The decoder ends in a sigmoid"):
        VAE(dense_encoder(), Decoder())


def test_networks_without_a_known_input_shape_are_built_by_the_first_data(digits):
    class Encoder(layers.Layer):
        def __init__(self):
            super().__init__()
            self.flatten, self.mean, self.log_var = layers.Flatten(), layers.Dense(3), layers.Dense(3)

        def call(self, x):  # no `training`: the model must not insist
            return self.mean(self.flatten(x)), self.log_var(self.flatten(x))

    vae = VAE(Encoder(), dense_decoder())
    with pytest.raises(ValueError, match="not built yet"):
        vae.sample(2)
    vae.compile("adam")
    assert np.isfinite(vae.fit(digits, verbose=0).history["loss"][0])
    assert vae.latent_dim == 3


@pytest.mark.once
def test_a_prior_of_the_wrong_size_is_refused_and_another_normal_is_used(digits):
    with pytest.raises(ValueError, match=r"z of shape \(3,\): .* must have shape \(3,\)"):
        VAE(dense_encoder(), dense_decoder(), prior=DiagonalNormal.standard(4))
    prior = DiagonalNormal(np.array([2.0, 0.0, -1.0], "float32"), np.array([0.0, 1.0, -1.0], "float32"))
    vae = VAE(dense_encoder(), dense_decoder(), prior=prior)
    np.testing.assert_allclose(vae.sample(10, seed=0), vae.decode(prior.sample(10, seed=0)), rtol=1e-5)
    terms = vae.terms(ops.convert_to_tensor(digits), ops.zeros((1, len(digits), 3)))
    np.testing.assert_allclose(ops.convert_to_numpy(terms.kl), vae.encode(digits).kl_divergence(prior), rtol=1e-4)


def test_a_loss_and_class_weights_are_refused_with_the_reason(make_vae, digits):
    vae = make_vae()
    with pytest.raises(ValueError, match="the loss is -ELBO"):
        vae.compile("adam", loss="mse")
    with pytest.raises(ValueError, match="no classes.*sample_weight"):
        vae.fit(digits, class_weight={0: 1.0})
    with pytest.raises(ValueError, match="no classes"):
        vae.train_on_batch(digits, class_weight={0: 1.0})


# Data that cannot be right


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 255.0, r"ranges from 0 to 255: divide x by 255"),
        (lambda x: (x * 255).astype("uint8"), "divide x by 255"),
        (lambda x: 2.0 * x - 1.0, r"map x from \[-1, 1\]"),
        (lambda x: np.where(x > 0, np.nan, x), "contains NaN"),
        (lambda x: x[..., 0], r"add the channel axis with x\[..., None\]"),
        (lambda x: np.moveaxis(x, -1, 1), r"moved: np.transpose\(x, \(0, 2, 3, 1\)\)"),
        (lambda x: x.reshape(-1, 64), r"reshape it with x.reshape\(\(-1, 8, 8, 1\)\)"),
    ],
)
def test_wrong_data_are_named(make_vae, digits, change, words):
    with pytest.raises(ValueError, match=words):
        make_vae().fit(change(digits), verbose=0)


@pytest.mark.parametrize("verb", ["fit", "evaluate", "train_on_batch", "test_on_batch", "elbo"])
def test_the_first_batch_is_checked_and_the_model_is_none_the_worse(make_vae, digits, verb):
    vae = make_vae()
    weights = vae.get_weights()
    with pytest.raises(ValueError, match="divide x by 255"):
        getattr(vae, verb)(255.0 * digits)
    for before, after in zip(weights, vae.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.isfinite(vae.train_on_batch(digits, return_dict=True)["loss"])


@pytest.mark.once
@pytest.mark.parametrize("verb", ["encode", "reconstruct", "elbo"])
def test_a_value_that_is_no_number_is_refused_wherever_it_stands(make_vae, digits, verb):
    vae, x = make_vae(), digits[:30].copy()
    x[25, 3, 2, 0] = np.nan  # not in the first piece
    with pytest.raises(ValueError, match=r"x contains NaN, first at index .*allow_missing=True"):
        getattr(vae, verb)(x, batch_size=10)
    x[25, 3, 2, 0] = -np.inf
    with pytest.raises(ValueError, match="x contains infinite values"):
        getattr(vae, verb)(x, batch_size=10)


def test_several_inputs_are_refused(make_vae, digits):
    with pytest.raises(ValueError, match=r"a tuple of 2 arrays.*fit\(x, y\)"):
        make_vae().fit((digits, digits), verbose=0)


def test_a_batch_that_is_a_dict_is_refused_with_the_fix(make_vae, digits):
    with pytest.raises(ValueError, match=r"dict with keys \['image'\].*dataset.map"):
        make_vae().fit({"image": digits}, verbose=0)


def test_labels_as_y_are_refused(make_vae, digits):
    with pytest.raises(ValueError, match="y has shape .* labels have no place here"):
        make_vae().fit(digits, np.arange(len(digits)))


def test_the_data_of_a_later_fit_and_of_validation_are_checked_too(make_vae, digits):
    vae = make_vae()
    vae.fit(digits, verbose=0)
    with pytest.raises(ValueError, match="divide x by 255"):
        vae.fit(digits * 255.0, verbose=0)
    with pytest.raises(ValueError, match="divide x by 255"):
        vae.fit(digits, validation_data=(digits * 255.0,), verbose=0)


@pytest.mark.once
def test_integers_are_cast(make_vae, digits):
    as_float, as_integer = make_vae(), make_vae()
    as_integer.set_weights(as_float.get_weights())
    kwargs = {"verbose": 0, "return_dict": True}
    assert as_float.evaluate(digits, **kwargs) == pytest.approx(as_integer.evaluate(digits.astype("uint8"), **kwargs))
    assert np.isfinite(as_integer.fit(digits.astype("uint8"), verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((8, 8, 1)), r"looks like one example: add the batch axis with x\[None\]"),
        (np.zeros((2, 9, 9, 1)), "built for other data"),
    ],
)
def test_inference_names_a_wrong_shape(make_vae, x, words):
    with pytest.raises(ValueError, match=words):
        make_vae().encode(x)
    with pytest.raises(ValueError, match=r"z must have shape \(n, 3\); got \(2, 4\)"):
        make_vae().decode(np.zeros((2, 4)))


# The numbers


def forward(vae, x, epsilon):
    """The network of `make_vae` in float64: reconstruction and KL per example for given noise."""

    def of(layer):
        return [np.asarray(part, "float64") for part in layer.get_weights()]

    hidden, decoder_hidden = of(vae.encoder.layers[2]), of(vae.decoder.layers[1])
    mean, log_var = of(vae.encoder.get_layer("z_mean")), of(vae.encoder.get_layer("z_log_var"))
    out = of(vae.decoder.get_layer("x_parameters"))
    h = np.maximum(x.reshape(len(x), -1) @ hidden[0] + hidden[1], 0.0)
    mean, log_var = h @ mean[0] + mean[1], h @ log_var[0] + log_var[1]
    z = mean + np.exp(0.5 * log_var) * epsilon
    logits = np.maximum(z @ decoder_hidden[0] + decoder_hidden[1], 0.0) @ out[0] + out[1]
    log_likelihood = oracles.bernoulli_log_prob(x.reshape(len(x), -1), logits).sum(axis=-1)
    return -log_likelihood.mean(axis=0), oracles.standard_normal_kl(mean, log_var).sum(axis=-1)


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_terms_equal_a_float64_forward_pass(make_vae, digits, num_samples):
    vae = make_vae(objective=ELBO(beta=2.0, num_samples=num_samples))
    epsilon = np.random.default_rng(0).normal(size=(num_samples, 20, 3)).astype("float32")
    terms = vae.terms(ops.convert_to_tensor(digits[:20]), ops.convert_to_tensor(epsilon))
    reconstruction, kl = forward(vae, digits[:20].astype("float64"), epsilon)
    np.testing.assert_allclose(ops.convert_to_numpy(terms.reconstruction), reconstruction, rtol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(terms.kl), kl, rtol=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(terms.loss), reconstruction + 2.0 * kl, rtol=1e-5)


def test_elbo_averages_samples_and_repeats_for_a_seed(make_vae, digits):
    vae, x = make_vae(), digits[:50]
    epsilon = np.random.default_rng(3).standard_normal((50, 8, 3), dtype="float32").transpose(1, 0, 2)
    reconstruction, kl = forward(vae, x.astype("float64"), epsilon)
    elbo = vae.elbo(x, num_samples=8, seed=3, batch_size=17)
    np.testing.assert_allclose(elbo, -(reconstruction + kl), rtol=1e-5)
    np.testing.assert_array_equal(elbo, vae.elbo(x, num_samples=8, seed=3, batch_size=17))
    assert not np.array_equal(elbo, vae.elbo(x, num_samples=8, seed=4, batch_size=17))


def test_the_logs_are_exact_means_over_examples_with_a_ragged_last_batch(make_vae, digits):
    """100 examples in batches of 32, 32, 32, 4: a mean of batch means would weigh the last four eightfold."""
    vae = make_vae()
    vae.noise = lambda batch: ops.zeros((1, batch, 3))
    logs = vae.evaluate(digits[:100], batch_size=32, verbose=0, return_dict=True)
    reconstruction, kl = forward(vae, digits[:100].astype("float64"), np.zeros((1, 100, 3)))
    assert logs == pytest.approx(
        {
            "loss": (reconstruction + kl).mean(),
            "negative_elbo": (reconstruction + kl).mean(),
            "reconstruction": reconstruction.mean(),
            "kl": kl.mean(),
        },
        rel=1e-5,
    )


def test_an_example_of_weight_zero_does_not_count(make_vae, digits):
    vae = make_vae()
    vae.noise = lambda batch: ops.zeros((1, batch, 3))
    weights = np.r_[np.ones(40), np.zeros(24)].astype("float32")
    kwargs = {"verbose": 0, "return_dict": True, "batch_size": 16}
    weighted = vae.evaluate(digits[:64], sample_weight=weights, **kwargs)
    assert weighted == pytest.approx(vae.evaluate(digits[:40], **kwargs), rel=1e-5)
    doubled = vae.evaluate(digits[:40], sample_weight=np.full(40, 2.0), **kwargs)
    assert doubled == pytest.approx(vae.evaluate(digits[:40], **kwargs), rel=1e-5)


def test_weights_reach_the_logs_through_every_verb(make_vae, digits):
    """Keras drops sample_weight where there is no y; a VAE has none."""
    vae = make_vae(compile={"optimizer": keras.optimizers.SGD(0.0)})
    vae.noise = lambda batch: ops.zeros((1, batch, 3))
    weights = np.r_[np.ones(40), np.zeros(24)].astype("float32")
    expected = pytest.approx(vae.evaluate(digits[:40], verbose=0, return_dict=True)["loss"], rel=1e-5)
    history = vae.fit(
        digits[:64], sample_weight=weights, validation_data=(digits[:64], None, weights), verbose=0, batch_size=24
    ).history
    assert history["loss"] == [expected]
    assert history["val_loss"] == [expected]
    assert vae.train_on_batch(digits[:64], sample_weight=weights, return_dict=True)["loss"] == expected
    assert vae.test_on_batch(digits[:64], sample_weight=weights, return_dict=True)["loss"] == expected
    data = (digits[:64], digits[:64], weights)
    assert vae.fit(*data[:2], sample_weight=data[2], verbose=0).history["loss"] == [expected]


def test_weights_scale_the_gradient_as_in_keras(make_vae, digits):
    """The loss minimised is the weighted sum over the number of examples: 16 of 64 left in is a quarter step."""
    few, some = (make_vae(compile={"optimizer": keras.optimizers.SGD(0.01)}) for _ in range(2))
    some.set_weights(few.get_weights())
    before = few.get_weights()
    for vae in (few, some):
        vae.noise = lambda batch: ops.zeros((1, batch, 3))
    few.train_on_batch(digits[:16])
    some.train_on_batch(digits[:64], sample_weight=np.r_[np.ones(16), np.zeros(48)].astype("float32"))
    for start, a, b in zip(before, few.get_weights(), some.get_weights(), strict=True):
        if start.ndim:  # not the step counter
            np.testing.assert_allclose((a - start) / 4.0, b - start, rtol=1e-3, atol=1e-7)


def test_a_weight_per_pixel_is_refused(make_vae, digits):
    with pytest.raises(ValueError, match="one value per example"):
        make_vae().fit(digits, sample_weight=np.ones((len(digits), 8)), verbose=0)


def test_log_var_is_bounded_and_its_gradient_survives(digits):
    x = keras.Input((8, 8, 1))
    h = layers.Flatten()(x)
    mean = layers.Dense(3)(h)
    log_var = layers.Dense(3, bias_initializer=keras.initializers.Constant(1000.0), name="log_var")(h)
    encoder = keras.Model(x, [mean, log_var])
    vae = VAE(encoder, dense_decoder(), seed=0)
    vae.compile(keras.optimizers.SGD(1e-9))
    np.testing.assert_array_equal(vae.encode(digits[:4]).log_var, 15.0)
    before = encoder.get_layer("log_var").get_weights()[1]
    assert np.isfinite(vae.train_on_batch(digits, return_dict=True)["loss"])
    assert np.all(encoder.get_layer("log_var").get_weights()[1] < before)  # drawn back by the KL, not stranded


def test_log_var_is_bounded_at_infinity_too(make_vae, digits):
    vae = make_vae()
    vae.encoder.get_layer("z_log_var").bias.assign(np.array([np.inf, -np.inf, 0.0], "float32"))
    log_var = vae.encode(digits[:4]).log_var
    np.testing.assert_array_equal(log_var[:, :2], [[15.0, -30.0]] * 4)
    assert np.isfinite(log_var).all()


def test_regularisation_losses_are_minimised_and_logged_in_the_loss(digits):
    x = keras.Input((8, 8, 1))
    h = layers.Flatten()(x)
    heads = [layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))(h) for _ in range(2)]
    vae = VAE(keras.Model(x, heads), dense_decoder())
    vae.compile("adam")
    logs = vae.evaluate(digits, verbose=0, return_dict=True)
    kernels = [layer.get_weights()[0] for layer in vae.encoder.layers if layer.get_weights()]
    penalty = sum(0.5 * np.sum(np.square(kernel, dtype="float64")) for kernel in kernels)
    assert logs["loss"] - logs["negative_elbo"] == pytest.approx(penalty, rel=1e-3)


def test_regularisation_losses_have_a_gradient(digits):
    """One step moves a penalised kernel by its penalty's gradient further than the same kernel without penalty."""
    steps = []
    for regularizer in (None, keras.regularizers.L2(5.0)):
        keras.utils.set_random_seed(1)
        x = keras.Input((8, 8, 1))
        h = layers.Flatten()(x)
        heads = [layers.Dense(3, kernel_regularizer=regularizer)(h) for _ in range(2)]
        vae = VAE(keras.Model(x, heads), dense_decoder(), seed=0)
        vae.compile(keras.optimizers.SGD(0.01))
        before = vae.encoder.get_weights()[0]
        vae.train_on_batch(digits[:8])
        steps.append(vae.encoder.get_weights()[0] - before)
    np.testing.assert_allclose(steps[1] - steps[0], -0.01 * 2.0 * 5.0 * before, rtol=1e-2, atol=1e-5)


# Noise


def test_noise_changes_from_step_to_step_and_repeats_for_a_seed(make_vae, digits):
    frozen = {"optimizer": keras.optimizers.SGD(0.0)}
    first, second = make_vae(compile=frozen), make_vae(compile={"optimizer": keras.optimizers.SGD(0.0)})
    second.set_weights(first.get_weights())
    losses = [[vae.train_on_batch(digits, return_dict=True)["loss"] for _ in range(4)] for vae in (first, second)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4
    other = make_vae(seed=6, compile={"optimizer": keras.optimizers.SGD(0.0)})
    other.set_weights(first.get_weights())
    assert other.train_on_batch(digits, return_dict=True)["loss"] not in losses[0]


def test_noise_changes_inside_fit(make_vae, digits):
    """A seed generator whose state is lost between steps gives every step the same noise."""
    vae = make_vae(compile={"optimizer": keras.optimizers.SGD(0.0)})
    history = vae.fit(digits, batch_size=len(digits), epochs=3, verbose=0, shuffle=False).history["loss"]
    assert len(set(history)) == 3


def test_evaluation_is_repeatable_and_leaves_training_noise_alone(make_vae, digits):
    plain, validated = make_vae(), make_vae()
    validated.set_weights(plain.get_weights())
    kwargs = {"epochs": 3, "verbose": 0, "shuffle": False}
    assert (
        plain.fit(digits, **kwargs).history["loss"]
        == validated.fit(digits, validation_data=(digits[:50],), **kwargs).history["loss"]
    )
    assert plain.evaluate(digits, verbose=0) == plain.evaluate(digits, verbose=0)


# Inference


def test_predict_is_the_reconstruction_through_the_posterior_mean(make_vae, digits):
    vae = make_vae()
    expected = vae.decode(vae.encode(digits).mean)
    assert isinstance(expected, np.ndarray)
    for reconstruction in (vae.predict(digits, verbose=0), vae.reconstruct(digits), vae.predict_on_batch(digits)):
        np.testing.assert_allclose(reconstruction, expected, rtol=1e-5, atol=1e-6)
    assert expected.min() >= 0.0
    assert expected.max() <= 1.0  # probabilities, not logits


def test_batches_do_not_change_the_result(make_vae, digits):
    vae = make_vae()
    np.testing.assert_allclose(vae.encode(digits, batch_size=7).mean, vae.encode(digits).mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae.sample(20, seed=0, batch_size=3), vae.sample(20, seed=0), rtol=1e-5, atol=1e-6)


def test_one_array_in_a_tuple_is_that_array(make_vae, digits):
    vae = make_vae()
    np.testing.assert_array_equal(vae.predict((digits,), verbose=0), vae.predict(digits, verbose=0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda vae, x: vae.elbo(x, num_samples=0), "num_samples must be a whole number of at least 1; got 0"),
        (lambda vae, x: vae.elbo(x[:0]), "x is empty"),
        (lambda vae, x: vae.sample(-1), "n must be a whole number"),
        (
            lambda vae, x: vae.sample(3, latent_shape=(7,)),
            r"latent_shape is \(7,\), and this model's z has shape \(3,\)",
        ),
        (lambda vae, x: vae.encode(x, batch_size=0), "batch_size must be a whole number"),
        (lambda vae, x: vae.interpolate(x[0], x[0, :4]), "two examples of one shape"),
        (lambda vae, x: vae.compile(loss="mse"), "the loss is -ELBO"),
    ],
)
def test_numbers_that_make_no_sense_are_named(make_vae, digits, call, words):
    with pytest.raises(ValueError, match=words):
        call(make_vae(), digits)


def test_numpy_scalars_and_lists_are_numbers_too():
    assert Gaussian(scale=np.float32(0.5)).scale == 0.5
    assert ELBO(beta=np.float32(2), num_samples=np.int64(3)).num_samples == 3
    assert DiagonalNormal([0.0, 0.0], [0.0, 0.0]).sample(4, seed=0).shape == (4, 2)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        VAE(dense_encoder(), dense_decoder(), seed=-1)


def test_sampling_repeats_for_a_seed(make_vae, digits):
    vae = make_vae()
    z = np.random.default_rng(2).standard_normal((9, 3), dtype="float32")
    np.testing.assert_allclose(vae.sample(9, seed=2), vae.decode(z), rtol=1e-6)
    assert vae.sample(9).shape == (9, 8, 8, 1)
    sampled = vae.reconstruct(digits[:5], sample=True, seed=1)
    np.testing.assert_array_equal(sampled, vae.reconstruct(digits[:5], sample=True, seed=1))
    assert not np.allclose(sampled, vae.reconstruct(digits[:5]))


def test_interpolation_starts_and_ends_at_the_reconstructions(make_vae, digits):
    vae = make_vae()
    ends = vae.reconstruct(digits[:2])
    for path in ("linear", "spherical"):
        frames = vae.interpolate(digits[0], digits[1], steps=7, path=path)
        assert frames.shape == (7, 8, 8, 1)
        np.testing.assert_allclose(frames[[0, -1]], ends, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='path must be "linear" or "spherical"'):
        vae.interpolate(digits[0], digits[1], path="curved")
    with pytest.raises(ValueError, match="at least 2"):
        vae.interpolate(digits[0], digits[1], steps=1)


def test_a_spherical_path_keeps_the_norm():
    from keras_vae.inference import latent_path

    a, b = np.array([3.0, 0.0], "float32"), np.array([0.0, 3.0], "float32")
    np.testing.assert_allclose(np.linalg.norm(latent_path(a, b, 9, "spherical"), axis=1), 3.0, rtol=1e-6)
    assert np.linalg.norm(latent_path(a, b, 9), axis=1).min() < 2.2
    np.testing.assert_allclose(latent_path(a, a, 3, "spherical"), [a, a, a])  # no angle between them


def test_inference_sees_new_weights(make_vae, digits):
    """Compiled functions read the weights at each call; baked-in constants would never change."""
    vae = make_vae()
    before = vae.reconstruct(digits[:3])
    vae.fit(digits, verbose=0)
    assert not np.allclose(before, vae.reconstruct(digits[:3]))


# Objectives in training


def test_beta_is_logged_while_it_runs_and_the_elbo_is_not_weighted(make_vae, digits):
    vae = make_vae(objective=ELBO(beta=schedules.Linear(8)))
    history = vae.fit(digits, batch_size=64, epochs=3, verbose=0, validation_data=(digits,)).history
    np.testing.assert_allclose(history["beta"], [np.mean([0, 1, 2, 3]) / 8, np.mean([4, 5, 6, 7]) / 8, 1.0], rtol=1e-6)
    np.testing.assert_allclose(history["val_beta"], [4 / 8, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(history["negative_elbo"], np.add(history["reconstruction"], history["kl"]), rtol=1e-5)
    assert "beta" not in make_vae().fit(digits, verbose=0).history


def test_training_improves_the_bound(make_vae, digits):
    vae = make_vae(hidden=(64,), compile={"optimizer": keras.optimizers.Adam(5e-3)})
    before = vae.evaluate(digits, verbose=0, return_dict=True)["negative_elbo"]
    vae.fit(digits, epochs=30, verbose=0)
    after = vae.evaluate(digits, verbose=0, return_dict=True)["negative_elbo"]
    assert before > 44.0  # 64 coins: 64 log 2
    assert after < 0.65 * before


@pytest.mark.once
def test_mse_trains_on_real_values(make_vae, digits):
    vae = make_vae(likelihood=Gaussian(scale=0.3))
    history = vae.fit(3.0 * digits - 1.0, epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_a_convolutional_pair_trains(digits):
    vae = VAE(*networks.conv((8, 8, 1), 2, filters=(4, 4), hidden=(8,)), seed=0)
    vae.compile("adam")
    history = vae.fit(digits[:64], epochs=2, verbose=0).history["loss"]
    assert history[1] < history[0]
