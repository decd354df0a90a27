"""Parts of the guide, as a user would copy them into a module: the prior `RealNVP`, the posterior `StudentT`."""

# ruff: noqa: F401 # the blocks before it have imported these

import pathlib
import re

import keras
import numpy as np

import keras_vae

_GUIDE = pathlib.Path(__file__).parent.parent / "docs" / "guide"
RealNVP: type[keras_vae.priors.Prior]
StudentT: type[keras_vae.posteriors.Posterior]
for _name, _page in (("RealNVP", _GUIDE / "priors.md"), ("StudentT", _GUIDE / "posteriors.md")):
    _blocks = re.findall(r"```python\n(.*?)```", _page.read_text(), flags=re.DOTALL)
    (_source,) = [block for block in _blocks if f"class {_name}(" in block]
    exec(compile(_source, str(_page), "exec"))
