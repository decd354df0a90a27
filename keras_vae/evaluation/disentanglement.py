"""Whether each latent stands for one factor of the data, where the factors are known: MIG, DCI and SAP.

All take codes and factors as arrays, whatever made them: the codes of a VAE are `vae.encode(x).mean`. They answer
different questions and disagree on real models (Locatello et al. 2019, arXiv:1811.12359): report more than one.
"""

from typing import Any, NamedTuple

import numpy as np

from keras_vae import validation
from keras_vae.evaluation import _sklearn

_INACTIVE = 1e-12  # the variance of a code, relative to the largest, below which it is a constant


def mig(codes: Any, factors: Any, bins: int = 20) -> float:
    """The mutual information gap: how much more the best latent knows about a factor than the second best.

        MIG = average over factors v of (I(z_1; v) - I(z_2; v)) / H(v)

    where z_1 and z_2 are the latents that tell most about v. Each code is cut into `bins` of equal width, as in
    disentanglement_lib; with few examples per bin the information is overestimated, equally for all latents.

    Args:
        codes: `(n, latent_dim)` floats.
        factors: `(n, num_factors)` whole numbers: the value of each factor.
        bins: Number of bins of each code's histogram.

    Returns:
        A float from 0 (several latents know each factor equally well) to 1 (one latent knows it fully, the others
        nothing).

    Raises:
        ValueError: If codes and factors are not such arrays of the same examples, or a factor has one value only.

    Example:

    >>> evaluation.mig(vae.encode(x).mean, factors)

    Reference: Chen et al. 2018, Isolating sources of disentanglement, arXiv:1802.04942, section 4.1, equation 6.
    """
    codes, factors = _checked(codes, factors)
    bins = validation.whole_number("bins", bins, least=2)
    binned = [np.digitize(code, np.histogram_bin_edges(code, bins)[1:-1]) for code in codes.T]
    gaps = []
    for factor in factors.T:
        labels = np.unique(factor, return_inverse=True)[1]
        information = np.array([_mutual_information(code, labels) for code in binned])
        gaps.append(_gap(information) / _mutual_information(labels, labels))
    return float(np.mean(gaps))


class DCI(NamedTuple):
    """What `dci` finds; each from 0 to 1, higher is better."""

    disentanglement: float  # whether each latent is of use for one factor only
    completeness: float  # whether each factor needs one latent only
    informativeness: float  # share of the error of guessing, without the codes, that the codes remove
    importance: np.ndarray  # `(latent_dim, num_factors)`: each latent's for the prediction of each factor; sums to 1


def dci(codes: Any, factors: Any, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness, from which latents a random forest uses for each factor.

    Disentanglement is 1 minus the entropy of a latent's importance over the factors, in units of its maximum, averaged
    over the latents by their importance; completeness is the same of a factor over the latents, averaged over the
    factors. Informativeness is 1 - e / e0, where e is the forest's share of errors on a quarter of the examples held
    out, and e0 that of guessing the commonest value; below 0 counts as 0.

    Args:
        codes: `(n, latent_dim)` floats.
        factors: `(n, num_factors)` whole numbers: the value of each factor.
        seed: Seed for the forests and for the choice of held-out examples.

    Returns:
        A `DCI`.

    Raises:
        ValueError: If codes and factors are not such arrays of the same examples, or a factor has a single value among
            all examples, among those used for training or among those held out.
        ModuleNotFoundError: If scikit-learn is not installed.

    Reference: Eastwood & Williams 2018, A framework for the quantitative evaluation of disentangled representations,
    ICLR, section 2 and 4 (random forests).
    """
    codes, factors = _checked(codes, factors)
    order = np.random.default_rng(seed).permutation(len(codes))
    held_out, learned = np.split(order, [max(1, len(order) // 4)])
    importance, informativeness = np.zeros((codes.shape[1], factors.shape[1])), []
    for j, factor in enumerate(factors.T):
        for part in (learned, held_out):
            if np.all(factor[part] == factor[part[0]]):
                raise ValueError(
                    f"Factor {j} has a single value in the {len(part)} examples that are "
                    f"{'learned from' if part is learned else 'held out'}: give more examples, or leave out the factor."
                )
        # A tree that sees all codes at each split uses the best one; with a few codes drawn at random it would often
        # have to use another, which would lower completeness.
        forest = _sklearn.module("ensemble").RandomForestClassifier(100, max_features=None, random_state=seed)
        forest.fit(codes[learned], factor[learned])
        importance[:, j] = forest.feature_importances_
        values, counts = np.unique(factor[learned], return_counts=True)
        guess = np.mean(factor[held_out] != values[counts.argmax()])
        error = np.mean(factor[held_out] != forest.predict(codes[held_out]))
        informativeness.append(max(0.0, 1.0 - error / guess))
    total = max(importance.sum(), np.finfo(float).tiny)
    disentanglement = np.sum(_concentration(importance) * importance.sum(axis=1) / total)
    completeness = np.mean(_concentration(importance.T))
    return DCI(float(disentanglement), float(completeness), float(np.mean(informativeness)), importance / total)


def sap(codes: Any, factors: Any, continuous: Any = False) -> float:
    """Separated attribute predictability: how much better the best latent predicts a factor than the second best.

    One latent at a time is scored: for a continuous factor by the R**2 of a linear regression; for a discrete one by
    (a - 1/k) / (1 - 1/k), where k is its number of values and a the balanced accuracy of thresholds fitted to these
    examples, a decision tree with a leaf for each value. (disentanglement_lib takes the a of a linear SVM, by which a
    perfect code scores 1 - 1/k.) A constant latent scores 0.

    Args:
        codes: `(n, latent_dim)` floats.
        factors: `(n, num_factors)`: whole numbers; any numbers for continuous factors.
        continuous: Whether the factors are continuous: one bool for all, or one for each.

    Returns:
        A float, the gap of the two scores averaged over factors: 1 if one latent knows each factor fully and the others
        nothing, 0 if two know it equally well.

    Raises:
        ValueError: If codes and factors are not such arrays of the same examples, or a factor has one value only.
        ModuleNotFoundError: If a factor is discrete and scikit-learn is not installed.

    Reference: Kumar et al. 2018, Variational inference of disentangled latent concepts from unlabeled observations,
    arXiv:1711.00848, section 3.
    """
    shape = np.shape(factors)[1:]
    is_continuous = np.asarray(continuous, bool)
    if is_continuous.shape not in ((), shape):
        raise ValueError(f"continuous must be one bool, or one for each factor, shape {shape}; got {continuous!r}.")
    is_continuous = np.broadcast_to(is_continuous, shape)
    codes, factors = _checked(codes, factors, is_continuous)
    variance = codes.var(axis=0)
    active = variance > _INACTIVE * variance.max()
    gaps = []
    for factor, of_numbers in zip(factors.T, is_continuous, strict=True):
        score = _squared_correlation if of_numbers else _above_guessing
        scores = [score(code, factor) if used else 0.0 for code, used in zip(codes.T, active, strict=True)]
        gaps.append(_gap(np.array(scores)))
    return float(np.mean(gaps))


def _checked(codes, factors, continuous: bool | np.ndarray = False):
    """Both as float64 arrays, `(n, latent_dim)` and `(n, num_factors)`."""
    codes, factors = validation.to_numpy(codes), validation.to_numpy(factors)
    for name, array, second in (("codes", codes, "latent_dim"), ("factors", factors, "num_factors")):
        if array.ndim != 2 or array.shape[1] == 0:
            fix = f": a single column is {name}[:, None]" if array.ndim == 1 else ""
            raise ValueError(f"{name} must have shape (n, {second}); got {array.shape}{fix}.")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} must hold numbers; got {array.dtype}.")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} contain NaN or infinite values: leave out such examples.")
    if len(codes) != len(factors):
        raise ValueError(f"codes and factors must be of the same examples; got {len(codes)} and {len(factors)}.")
    if len(codes) < 2:
        raise ValueError(f"What a latent knows about a factor takes several examples to measure; got {len(codes)}.")
    codes, factors = codes.astype("float64"), factors.astype("float64")
    for j, (factor, of_numbers) in enumerate(
        zip(factors.T, np.broadcast_to(continuous, factors.shape[1:]), strict=True)
    ):
        if not of_numbers and np.any(factor != np.round(factor)):
            raise ValueError(f"Factor {j} must hold whole numbers, one for each of its values; it has fractions.")
        if np.all(factor == factor[0]):
            raise ValueError(f"Factor {j} is {factor[0]:g} in all examples, so there is nothing to know: leave it out.")
    return codes, factors


def _gap(scores):
    """The largest of `(latent_dim,)` minus the second largest, which is 0 where there is none."""
    largest = np.sort(np.append(scores, 0.0) if len(scores) == 1 else scores)
    return largest[-1] - largest[-2]


def _mutual_information(a, b):
    """I(a; b) in nats of two arrays of labels from 0, from the frequencies of their pairs."""
    together = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(together, (a, b), 1.0 / len(a))
    apart = together.sum(axis=1, keepdims=True) * together.sum(axis=0, keepdims=True)
    present = together > 0.0
    return float(np.sum(together[present] * np.log(together[present] / apart[present])))


def _concentration(importance):
    """1 minus the entropy of each row's shares, in units of its maximum: `(rows, columns)` to `(rows,)`.

    0 for a row of zeros; 1 if there is one column, which leaves no choice.
    """
    total = importance.sum(axis=1, keepdims=True)
    share = importance / np.where(total > 0.0, total, 1.0)
    entropy = -np.sum(share * np.log(np.where(share > 0.0, share, 1.0)), axis=1)
    most = np.log(max(importance.shape[1], 2))
    return np.where(total[:, 0] > 0.0, 1.0 - entropy / most, 0.0)


def _squared_correlation(code, factor):
    """R**2 of the linear regression of one on the other."""
    return float(np.square(np.corrcoef(code, factor)[0, 1]))


def _above_guessing(code, factor):
    """The balanced accuracy of thresholds on a code, rescaled so that guessing scores 0 and a perfect code 1."""
    values = np.unique(factor)
    tree = _sklearn.module("tree").DecisionTreeClassifier(
        max_leaf_nodes=len(values), class_weight="balanced", random_state=0
    )
    predicted = tree.fit(code[:, None], factor).predict(code[:, None])
    accuracy = np.mean([np.mean(predicted[factor == value] == value) for value in values])
    return float((accuracy - 1.0 / len(values)) / (1.0 - 1.0 / len(values)))
