"""Objectives: how log p(x|z) and the KL divergence become the bound that is maximised.

    log p(x) >= ELBO = E_q [log p(x|z)] - KL(q(z|x) || p(z))

`ELBO` is that bound and `IWAE` a tighter one; `BetaTC` and `InfoVAE` weigh parts of it otherwise and are bounds only
where their docstrings say so. An objective sees numbers, not networks. Add one by subclassing `Objective`.
"""

from typing import Any

import keras

from keras_vae.objectives.base import LatentBatch as LatentBatch
from keras_vae.objectives.base import Objective as Objective
from keras_vae.objectives.base import Terms as Terms
from keras_vae.objectives.base import compute_terms as compute_terms
from keras_vae.objectives.beta_tc import BetaTC as BetaTC
from keras_vae.objectives.elbo import ELBO as ELBO
from keras_vae.objectives.info_vae import InfoVAE as InfoVAE
from keras_vae.objectives.iwae import IWAE as IWAE

_BY_NAME = {"elbo": ELBO, "iwae": IWAE}


def get(objective: Any) -> Objective:
    """An objective from its name ("elbo" or "iwae"), its config, or itself."""
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, dict):
        return keras.saving.deserialize_keras_object(objective)
    if isinstance(objective, str) and objective.lower() in _BY_NAME:
        return _BY_NAME[objective.lower()]()
    raise ValueError(f'objective must be "elbo", "iwae" or an Objective such as ELBO(beta=4.0); got {objective!r}.')
