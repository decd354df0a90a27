"""How far what is asked of a server lies from the data that its bundle was exported with.

Nothing of a request is kept but its scores and a mean of its codes. Scores are compared by the Kolmogorov-Smirnov
distance, the largest difference of two distribution functions: if the last n come from the same distribution, it is
above 1.63 / sqrt(n) in one case of a hundred. It sees data that the model explains worse, and data that it explains too
well. Codes are compared by their means, which also see data that move to another place among the usual ones.
"""

import collections
from typing import Any

import numpy as np

WINDOW: int = 1000  # examples, the last of which are compared


class Drift:
    """The last scores and codes of a bundle, beside those of the data given at export.

    Args:
        reference: Entry `reference` of the manifest.
    """

    def __init__(self, reference: dict[str, Any]) -> None:
        self._quantiles = np.asarray(reference["scores"], "float64")
        self._mean, self._std = (np.asarray(reference["codes"][name], "float64") for name in ("mean", "std"))
        self._scores: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self._z, self._encoded = np.zeros_like(self._mean), 0

    def scored(self, nats: np.ndarray) -> None:
        """Takes note of scores."""
        self._scores.extend(nats[np.isfinite(nats)].tolist())

    def encoded(self, z: np.ndarray) -> None:
        """Takes note of codes, `(n, ..., channels)`."""
        z = z[np.isfinite(z).reshape(len(z), -1).all(axis=1)]  # one extreme example would be in the mean for good
        if len(z) == 0:
            return
        self._encoded = min(self._encoded + len(z), WINDOW)
        rate = min(len(z), WINDOW) / self._encoded  # a plain mean of the first, then an exponential one
        self._z += rate * (z.reshape(-1, z.shape[-1]).mean(axis=0) - self._z)

    def measured(self) -> dict[str, tuple[float, int]]:
        """Distance and number of examples behind it, of "scores" and "codes" where there are any.

        That of the codes is the largest distance of a channel's mean from that at export, in standard deviations of
        one code.
        """
        found = {}
        if self._scores:
            found["scores"] = kolmogorov_smirnov(np.array(self._scores), self._quantiles), len(self._scores)
        if self._encoded:
            found["codes"] = float(np.max(np.abs(self._z - self._mean) / self._std)), self._encoded
        return found


def kolmogorov_smirnov(values: np.ndarray, quantiles: np.ndarray) -> float:
    """The largest difference between the distribution functions of values and of evenly spaced quantiles."""
    values = np.sort(values)
    levels = np.interp(values, quantiles, np.linspace(0.0, 1.0, len(quantiles)), left=0.0, right=1.0)
    steps = np.arange(len(values) + 1) / len(values)
    return float(np.maximum(steps[1:] - levels, levels - steps[:-1]).max())
