"""The prior of the guide, as a user would copy it into a module: `RealNVP`, whose distribution is a `Flow`."""

# ruff: noqa: F401 # the blocks before it have imported these

import pathlib
import re

import keras
import numpy as np

import keras_vae

_GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "guide.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _GUIDE.read_text(), flags=re.DOTALL)
(_SOURCE,) = [block for block in _BLOCKS if "class RealNVP" in block]
RealNVP: type[keras_vae.priors.Prior]
exec(compile(_SOURCE, str(_GUIDE), "exec"))
