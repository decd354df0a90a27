"""Variational autoencoders with the manners of scikit-learn, for a `Pipeline` or a `GridSearchCV`.

An estimator makes its networks, likelihood and model of a few numbers when it is fitted; what it made is `vae_`, with
all verbs of a `VAE`, to be evaluated, saved and exported like any other. Import this module by its name: `keras_vae`
itself does not need scikit-learn.

scikit-learn asks that what an example gets depends on that example alone. So here every example meets the same draws of
z's noise, and examples are computed in blocks of one size, the last one filled up: in float32 a product of matrices of
another size differs in its last bits.
"""

import contextlib
import random
from collections.abc import Iterator
from numbers import Real
from typing import Any, Self

import numpy as np

from keras_vae import _row_batches, likelihoods, networks, validation
from keras_vae._backend import FusedAdam
from keras_vae._containers import is_number
from keras_vae.evaluation import _model, _sklearn
from keras_vae.likelihoods.standardized import is_real
from keras_vae.model import VAE
from keras_vae.objectives import ELBO
from keras_vae.tables import Table

base: Any = _sklearn.module("base")
checks: Any = _sklearn.module("utils.validation")

_ROWS = 128  # of a block


class _Estimator(base.BaseEstimator):
    """What both estimators do: make a VAE, train it, and score with it."""

    vae_: VAE
    table_: Table | None

    def __init__(
        self,
        latent_dim: int = 8,
        hidden: Any = (64,),
        likelihood: Any = None,
        standardize: bool = True,
        beta: float = 1.0,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        random_state: Any = None,
        verbose: int = 0,
        kinds: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.likelihood = likelihood
        self.standardize = standardize
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.verbose = verbose
        self.kinds = kinds

    def fit(self, X: Any, y: Any = None) -> Self:
        """Makes a VAE and trains it.

        Args:
            X: `(n_samples, n_features)` numbers, an array or a DataFrame; NaN is a missing value. A DataFrame may have
                columns of text, which are categories.
            y: Ignored.
        """
        self._fit(X)
        return self

    def _fit(self, X):
        """Trains, and returns the array that it trained on."""
        latent_dim, epochs, batch_size = (
            validation.whole_number(name, getattr(self, name)) for name in ("latent_dim", "epochs", "batch_size")
        )
        table = Table.fit(X, self.kinds) if self.kinds or _has_categories(X) else None
        x, likelihood = self._array(X, table, reset=True), self._likelihood(table)
        if table is None and self.standardize and is_real(likelihood):
            likelihood = likelihoods.Standardized.fit(likelihood, x)
        data_mean = None
        if not isinstance(likelihood, likelihoods.Standardized):  # of which the mean is 0
            data_mean = np.sum(x, axis=0, where=~np.isnan(x)) / np.maximum(np.sum(~np.isnan(x), axis=0), 1)
        seed = checks.check_random_state(self.random_state).randint(2**31 - 1)
        with _global_seed(seed):
            pair = networks.mlp(x.shape[1], latent_dim, self.hidden, likelihood=likelihood, data_mean=data_mean)
            vae = VAE(*pair, likelihood, ELBO(beta=self.beta), seed=seed, allow_missing=True)
            vae.compile(FusedAdam(self.learning_rate))
            batches = _row_batches.RowBatches((x, None, None), batch_size, shuffle=True)
            vae.fit(batches, epochs=epochs, verbose=self.verbose, shuffle=False)
        self.vae_, self.table_ = vae, table
        return x

    def _likelihood(self, table):
        """A likelihood with weights of its own."""
        given = self.likelihood and likelihoods.get(self.likelihood)
        given = given and type(given).from_config(given.get_config())
        if table is not None:
            return table.likelihood(given)
        return given or likelihoods.Gaussian("learned", per_column=True)

    def _array(self, X, table, reset=False):
        """X as float64 numbers that are none too large for float32, checked as scikit-learn does."""
        if table is None:
            x = checks.validate_data(self, X, reset=reset, dtype="float64", ensure_all_finite="allow-nan")
        else:
            x = table.to_array(checks.validate_data(self, X, reset=reset, skip_check_array=True))
        with np.errstate(over="ignore"):
            checks.assert_all_finite(x.astype("float32"), allow_nan=True, input_name="X")
        return x

    def _checked(self, X):
        checks.check_is_fitted(self, "vae_")
        return self._array(X, self.table_)

    def _elbo(self, x):
        return -_in_blocks(lambda x: _model.negative_elbo_at(self.vae_, x, self._noise(), _ROWS), x).astype("float64")

    def _noise(self):
        """Noise at which to take the expectation over z, `(2 * latent_dim, latent_dim)`, the same for every example.

        Pairs of opposite sign along orthogonal directions: their average has the mean and the covariance of N(0, I),
        so that it is the expectation of any polynomial of up to the third degree.

        Reference: Arasaratnam & Haykin 2009, Cubature Kalman Filters (the spherical-radial rule, here turned).
        """
        dim = self.vae_.latent_dim
        directions, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))
        return np.concatenate([directions, -directions]).astype("float32") * np.float32(np.sqrt(dim))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class VAETransformer(base.ClassNamePrefixFeaturesOutMixin, base.TransformerMixin, _Estimator):
    """The codes of a VAE as features; its bound as the score by which a search compares settings.

    Args:
        latent_dim: Number of latent dimensions, which is that of the features.
        hidden: Numbers of units of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: p(x|z): a name or a `Likelihood`. None: a Gaussian with a learned scale for each column.
        standardize: Whether a likelihood of real numbers is one of the standardised columns (`Standardized.fit`); nats
            stay those of the data's units.
        beta: Weight of the KL term in training; scores are of the ELBO, whatever it is.
        epochs: Number of passes over the data.
        batch_size: Number of examples in a step.
        learning_rate: Learning rate of Adam.
        random_state: Seed of weights, batches and noise: an integer, a `RandomState`, or None for NumPy's global one.
        verbose: As in `keras.Model.fit`.
        kinds: Kinds of the columns of a DataFrame, where they are others than `Table.fit` finds, such as `{"id": None,
            "mass": "log"}`.

    Attributes:
        vae_: The trained `VAE`.
        table_: The `Table` of a DataFrame with categories; None for numbers alone.
        n_features_in_, feature_names_in_: As of any estimator.

    Raises:
        ValueError: From `fit`, if the likelihood does not allow the data, or an argument has no meaning.

    Example:

    >>> codes = VAETransformer(latent_dim=4, random_state=0).fit_transform(X)
    >>> GridSearchCV(VAETransformer(), {"latent_dim": [2, 4, 8]}).fit(X).best_params_  # by the held-out ELBO

    Reference: Kingma & Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114.
    """

    def transform(self, X: Any) -> np.ndarray:
        """The mean of q(z|x): `(n_samples, latent_dim)` float32."""
        return _in_blocks(lambda x: self.vae_.encode(x, _ROWS).location, self._checked(X))

    def inverse_transform(self, X: Any) -> Any:
        """The mean of p(x|z) for z `(n_samples, latent_dim)`: `(n_samples, n_features)` float32.

        A DataFrame, with the most likely categories, if `fit` was given one with categories.
        """
        checks.check_is_fitted(self, "vae_")
        x = self.vae_.decode(checks.check_array(X, dtype="float32", input_name="X"))
        return x if self.table_ is None else self.table_.to_frame(x)

    def score_samples(self, X: Any) -> np.ndarray:
        """The ELBO of each example: `(n_samples,)` float64, nats."""
        return self._elbo(self._checked(X))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean ELBO, nats per example: higher is better."""
        return float(np.mean(self.score_samples(X)))

    @property
    def _n_features_out(self):
        return self.vae_.latent_dim

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class VAEDetector(base.OutlierMixin, _Estimator):
    """Finds examples of which a VAE says that they are improbable, and the columns that make them so.

    Args:
        contamination: Share of the training data to be called outliers, above 0 and up to 0.5. New data score a little
            lower than those of training: `evaluation.fit_threshold(detector.vae_, x)` finds a threshold by data held
            out.
        two_sided: Whether an example is an outlier, too, if it is much more probable than those of training, such as
            the constant reading of a sensor that is stuck: scores are then minus the distance of the ELBO from its mean
            (Nalisnick et al. 2019).
        latent_dim, hidden, likelihood, standardize, beta, epochs, batch_size, learning_rate, random_state, verbose: As
            in `VAETransformer`.

    Attributes:
        vae_, table_, n_features_in_, feature_names_in_: As in `VAETransformer`.
        offset_: Score below which an example is an outlier.
        mean_elbo_: Mean ELBO of the training data, nats per example.
        usual_: Mean of -E_q log p(x_d|z) over the training data for each of the model's inputs, nats.

    Raises:
        ValueError: From `fit`, as in `VAETransformer`.

    Example:

    >>> detector = VAEDetector(contamination=0.02, random_state=0).fit(X)
    >>> detector.predict(X)  # -1 for outliers, else 1
    >>> detector.surprise(X).argmax(axis=1)  # the strangest column of each

    Reference: An & Cho 2015, Variational Autoencoder based Anomaly Detection using Reconstruction Probability,
    SNUDM-TR-2015-03. Nalisnick et al. 2019, Detecting Out-of-Distribution Inputs to Deep Generative Models Using
    Typicality, arXiv:1906.02994.
    """

    offset_: float
    mean_elbo_: float
    usual_: np.ndarray

    def __init__(
        self,
        contamination: float = 0.1,
        two_sided: bool = False,
        latent_dim: int = 8,
        hidden: Any = (64,),
        likelihood: Any = None,
        standardize: bool = True,
        beta: float = 1.0,
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        random_state: Any = None,
        verbose: int = 0,
        kinds: Any = None,
    ) -> None:
        networks_and_training = latent_dim, hidden, likelihood, standardize, beta, epochs, batch_size, learning_rate
        super().__init__(*networks_and_training, random_state, verbose, kinds)
        self.contamination = contamination
        self.two_sided = two_sided

    def fit(self, X: Any, y: Any = None) -> Self:
        """Makes a VAE, trains it, and finds the score of which a share `contamination` of X lies below; as there."""
        share = self.contamination
        if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 < share <= 0.5:
            raise ValueError(f"contamination must be a number above 0 and up to 0.5; got {share!r}.")
        x = self._fit(X)
        elbo = self._elbo(x)
        self.mean_elbo_ = float(np.mean(elbo))
        self.usual_ = np.sum(self._costs(x), axis=0) / np.maximum(np.sum(~np.isnan(x), axis=0), 1)
        self.offset_ = float(np.percentile(self._scores(elbo), 100.0 * share))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """The ELBO of each example, `(n_samples,)` float64, nats; if `two_sided`, minus its distance from the mean."""
        return self._scores(self._elbo(self._checked(X)))

    def _scores(self, elbo):
        return -np.abs(elbo - self.mean_elbo_) if self.two_sided else elbo

    def decision_function(self, X: Any) -> np.ndarray:
        """The score above `offset_`, `(n_samples,)`, nats: negative for an outlier."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for an outlier, else 1: `(n_samples,)`. What is too far off for float32 to score is an outlier."""
        return np.where(self.decision_function(X) >= 0.0, 1, -1)

    def surprise(self, X: Any) -> np.ndarray:
        """Where each example is strange: `(n_samples, n_features)`, nats above what the feature costs in training data.

        0 where a value is missing; see `evaluation.surprise`.
        """
        x = self._checked(X)
        nats = np.where(np.isnan(x), 0.0, self._costs(x) - self.usual_)
        return nats if self.table_ is None else np.stack(list(self.table_.by_column(nats).values()), axis=1)

    def _costs(self, x):
        """-E_q log p(x_d|z) of each of the model's inputs, 0 where one is missing."""
        return -_in_blocks(lambda x: _model.log_prob_terms_at(self.vae_, x, self._noise(), _ROWS), x).astype("float64")


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seeds Python's and NumPy's global generators, from which Keras takes initial weights and the order of batches.

    Afterwards they are as they were.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 # Keras's generator
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _in_blocks(function, x):
    """What a function gives for each row, which it is given in whole blocks."""
    return function(np.pad(x, ((0, -len(x) % _ROWS), (0, 0)), "edge").astype("float32"))[: len(x)]


def _has_categories(X):
    """Whether X is a DataFrame, of pandas or polars, with a column that does not hold numbers."""
    return hasattr(X, "columns") and not all(map(is_number, X.dtypes))
