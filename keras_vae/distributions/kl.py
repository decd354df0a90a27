"""KL(q || p): in closed form for the pairs registered here, else averaged over samples.

KL = E_q [log q(z|x) - log p(z)]
"""

from collections.abc import Callable
from typing import Any

from keras_vae.distributions.base import Distribution, namespace
from keras_vae.distributions.normal import DiagonalNormal

_CLOSED_FORMS: dict[tuple[type, type], Callable] = {}


def register_kl(q: type[Distribution], p: type[Distribution]) -> Callable:
    """Decorates a function `(q, p, per_dimension=False)` that returns KL(q || p) in nats, `(...)`.

    With `per_dimension` it keeps the axes of the event; only of two `Factorised` distributions is it asked to.
    """

    def register(function: Callable) -> Callable:
        _CLOSED_FORMS[q, p] = function
        return function

    return register


register_kl(DiagonalNormal, DiagonalNormal)(DiagonalNormal.kl_divergence)


def has_closed_form_kl(q: Distribution | type[Distribution], p: Distribution | type[Distribution]) -> bool:
    """Whether a closed form is registered for two distributions or two classes of them."""
    return _closed_form(q, p) is not None


def kl_divergence(q: Distribution, p: Distribution, z: Any = None, per_dimension: bool = False) -> Any:
    """KL(q || p) in nats: in closed form where one is registered, else the average over samples.

    Args:
        q: The posterior, of `(batch, *event_shape)`.
        p: The prior, of the same event shape.
        z: `(num_samples, batch, *event_shape)` draws from q; needed only without a closed form.
        per_dimension: Whether to keep the axes of the event instead of summing over them; needs a closed form.

    Returns:
        `(batch,)`, or `(batch, *event_shape)` with `per_dimension`.

    Raises:
        TypeError: If no closed form is registered and z is missing, or `per_dimension` is asked for.
    """
    closed_form = _closed_form(q, p)
    if closed_form is not None:
        return closed_form(q, p, per_dimension=per_dimension)
    if z is None or per_dimension:
        raise TypeError(
            f"The KL divergence of a {type(q).__name__} to a {type(p).__name__} has no closed form: pass draws of q, "
            "kl_divergence(q, p, z), for an average over samples, which has no value for each dimension."
        )
    return monte_carlo_kl(q, p, z)


def monte_carlo_kl(q: Distribution, p: Distribution, z: Any) -> Any:
    """`kl_divergence` averaged over samples, whether or not a closed form exists."""
    difference = q.log_prob(z) - p.log_prob(z)
    return namespace(difference).mean(difference, axis=0)


def _closed_form(q, p):
    classes = [d if isinstance(d, type) else type(d) for d in (q, p)]
    pairs = ((a, b) for a in classes[0].__mro__ for b in classes[1].__mro__)
    return next((_CLOSED_FORMS[pair] for pair in pairs if pair in _CLOSED_FORMS), None)
