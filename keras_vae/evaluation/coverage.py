"""Do the spreads that a model states hold? Where data lie among its draws.

The rank of a value among N draws is uniform if the value could be one of them: for every N, and for counts and
categories too, if ties are broken at random. So no quantile is estimated: between interpolated quantiles of 100 draws
lie 88 % of what is drawn, not 90.
"""

import dataclasses
from numbers import Real
from typing import Any

import keras
import numpy as np

from keras_vae import validation
from keras_vae.evaluation import _model
from keras_vae.model import VAE


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Where values lie among draws of a model; `coverage` makes one.

    Args:
        pit: Share of the draws that lie below each value (the probability integral transform), shaped like x, a dict
            for named parts: uniform on [0, 1] if the model is calibrated; NaN where a value was missing or not asked
            for. Of a category, whose values have no order, it is 1/2 plus or minus, at random, half the share of the
            draws that are more usual; of one that is one-hot it is in the first column.
    """

    pit: Any

    def at(self, level: float = 0.9) -> Any:
        """Share of the values inside the central interval of a level, of each dimension: the shape of one example.

        Of a category inside the set of most probable values. NaN where no value counts.
        """
        _check_share("level", level)

        def share(pit):
            counts = np.sum(~np.isnan(pit), axis=0)
            inside = np.sum(np.abs(2.0 * pit - 1.0) <= level, axis=0)
            return np.where(counts > 0, inside / np.maximum(counts, 1), np.nan)

        return keras.tree.map_structure(share, self.pit)

    def overall(self, level: float = 0.9) -> float:
        """Share of all values inside the central interval of a level; above it: too wide, below: too narrow."""
        _check_share("level", level)
        return float(np.mean(np.abs(2.0 * self._values() - 1.0) <= level))

    @property
    def error(self) -> float:
        """The distance between a level and the share inside, averaged over all levels: 0 is best, 0.5 worst."""
        inside = np.sort(np.abs(2.0 * self._values() - 1.0))  # the level of the interval that ends at each value
        return float(np.mean(np.abs(inside - (np.arange(len(inside)) + 0.5) / len(inside))))

    def _values(self):
        values = np.concatenate([np.ravel(each) for each in keras.tree.flatten(self.pit)])
        return values[~np.isnan(values)]


def coverage(
    vae: VAE,
    x: Any,
    hidden: Any = None,
    draws: int = 100,
    num_samples: int = 100,
    seed: int = 0,
    batch_size: int = 256,
) -> Coverage:
    """Whether held-out data lie inside the intervals of a model's draws as often as these promise.

    Without `hidden`: each example is encoded and drawn again, z from q(z|x) and x from p(x|z). This asks whether the
    errors of reconstruction are as large as p(x|z) says. As z has seen x, intervals of the true model would hold more
    than they promise, much more if x has few dimensions for each of z.

    With `hidden`: values are taken out and drawn by `impute`, given the others. This asks whether the intervals of
    imputation hold; those of the true model hold what they promise, exactly.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data that the model was not trained on, in any form; they are read into memory.
        hidden: Share of the observed values that are taken out at random, each category as a whole; or booleans shaped
            like x (not for named parts). The model then has `allow_missing=True`.
        draws: Number of draws that a value is compared with: levels are told apart to 1 / draws.
        num_samples: Number of z per example that the weights of `impute` are made of.
        seed: Seed for all that is random, an integer.
        batch_size: Number of decoded examples at a time.

    Returns:
        A `Coverage`. Integers of a table are compared with draws that are not rounded.

    Raises:
        ValueError: If `hidden` is no share or of another shape, nothing is hidden, or the data have no likelihood of
            which draws could be like them, such as grey values as Bernoulli; says what to do.

    Example:

    >>> found = coverage(vae, x_test, hidden=0.2)
    >>> found.overall(0.9), found.error
    >>> np.histogram(found.pit, 10, (0, 1))  # a valley: intervals too narrow; a hill: too wide; a slope: off to a side
    >>> by_column = {name: found.at(0.9)[place.start] for name, place in table.places.items()}

    Reference: Dawid 1984, Statistical Theory: The Prequential Approach; Gneiting, Balabdaoui & Raftery 2007,
    Probabilistic Forecasts, Calibration and Sharpness, section 3.1 (PIT); Czado, Gneiting & Held 2009, Predictive Model
    Assessment for Count Data, section 2.1 (ties). Romano et al. 2020, arXiv:2006.02544 (sets of categories).
    """
    draws = validation.whole_number("draws", draws)
    x, *condition = _model.in_memory(vae, x, batch_size)
    of_noise, of_ties, of_hidden = np.random.default_rng(seed).spawn(3)
    asked, shown = ~np.isnan(x), x
    if hidden is not None:
        asked = _hidden(vae, x, hidden, of_hidden) & asked
        shown = np.where(asked, np.nan, x).astype("float32")
    if not asked.any():
        raise ValueError("No value is hidden, or x has none: there is nothing that draws could be compared with.")
    is_category = _model.by_part(vae, x[:1], _model.is_category)[0].astype(bool)
    found, rows = [], max(1, 2**24 // (draws * x[0].size))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        given = [each[part] for each in condition]
        if hidden is None:
            drawn = _model.reconstructions(vae, shown[part], given, draws, of_noise, batch_size)
        else:
            own = int(of_noise.integers(2**31))
            drawn = _model.imputations(vae, shown[part], given, draws, num_samples, own, batch_size)
        values, drawn = (_model.by_part(vae, each, _model.numbered) for each in (x[part], drawn))
        found.append(_pit(values, drawn, is_category, of_ties))
    return Coverage(_model.by_name(vae, np.where(asked, np.concatenate(found), np.nan).astype("float32")))


def _hidden(vae, x, hidden, generator):
    """Booleans shaped like x."""
    if isinstance(hidden, Real) and not isinstance(hidden, bool):
        _check_share("hidden", hidden)
        return _model.by_part(vae, generator.random(x.shape), _model.together) < hidden
    hidden = validation.to_numpy(hidden)
    if hidden.dtype != bool or hidden.shape != x.shape:
        raise ValueError(
            f"hidden must be a share such as 0.2, or booleans of the shape of x, {x.shape}; got {hidden.dtype} of "
            f"shape {hidden.shape}."
        )
    return hidden


def _pit(x, draws, is_category, generator):
    """Of values `(n, ...)` and draws `(draws, n, ...)`, of which a category is its number; NaN where x is."""
    equal = np.isclose(draws, x, rtol=2e-7, atol=0.0)  # to the rounding of float32
    below = np.sum((draws < x) & ~equal, axis=0)
    rank = below + generator.random(x.shape) * (1 + np.sum(equal, axis=0))
    side = generator.random(x.shape) < 0.5
    if is_category.any():
        of = (slice(None), is_category)
        more_usual = _more_usual(x[of], draws[:, :, is_category], generator)
        rank[of] = (len(draws) + 1 + np.where(side[of], more_usual, -more_usual)) / 2
    return np.where(np.isnan(x), np.nan, rank / (len(draws) + 1))


def _more_usual(x, draws, generator):
    """Number of the draws, and of x, in categories more frequent than that of x, ties at random."""
    pool = np.nan_to_num(np.concatenate([x[None], draws])).astype("int64")
    cells = np.arange(x.size).reshape(x.shape) * (1 + pool.max(initial=0))
    _, which, counts = np.unique(pool + cells, return_inverse=True, return_counts=True)
    counts = counts[which].reshape(pool.shape)
    before = (counts > counts[0]) | ((counts == counts[0]) & (pool < pool[0]))
    return before.sum(axis=0) + generator.random(x.shape) * counts[0]


def _check_share(name, share):
    if isinstance(share, bool) or not isinstance(share, Real) or not 0.0 < float(share) < 1.0:
        raise ValueError(f"{name} must be a number between 0 and 1, such as 0.9; got {share!r}.")
