"""The state of the noise: in the file, so that a resumed run draws what it would have, and apart for close seeds.

Keras saves weights but not the state of seed generators, those of dropout layers included.
"""

from numbers import Integral
from typing import Any

import numpy as np

from keras_vae import validation


class SavesSeeds:
    """Mixed into `VAE`."""

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for i, state in enumerate(self._seed_states()):
            store[f"seed_state_{i}"] = validation.to_numpy(state.value).astype("int64")

    def load_own_variables(self, store: Any) -> None:
        names = list(store.keys())  # an h5 group on disk is no dict: it cannot be iterated or asked with `in`
        super().load_own_variables({name: store[name] for name in names if not name.startswith("seed_state_")})
        for i, state in enumerate(self._seed_states()):
            if f"seed_state_{i}" in names:  # layers added since the file was written keep their own seed
                state.assign(np.asarray(store[f"seed_state_{i}"]).astype(state.dtype))

    def _seed_states(self):
        return [variable for variable in self.variables if variable.name == "seed_generator_state"]


def decorrelate(seed: int | None) -> int | None:
    """A seed for the `SeedGenerator`: on torch Keras adds seed and step, and seeds 5 and 6 would share their noise."""
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a whole number, zero or more, or None; got {seed!r}.")
    # Below 2**30: room for the counter in int32.
    return int(np.random.SeedSequence(int(seed)).generate_state(1)[0] >> 2)
