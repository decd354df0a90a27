"""Parts of the guide, as a user would copy them into a module: the prior `RealNVP`, the posterior `StudentT`."""

# ruff: noqa: F401 # the blocks before it have imported these

import pathlib
import re

import keras
import numpy as np

import keras_vae

_GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "guide.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _GUIDE.read_text(), flags=re.DOTALL)
RealNVP: type[keras_vae.priors.Prior]
StudentT: type[keras_vae.posteriors.Posterior]
for _name in ("RealNVP", "StudentT"):
    (_SOURCE,) = [block for block in _BLOCKS if f"class {_name}(" in block]
    exec(compile(_SOURCE, str(_GUIDE), "exec"))
