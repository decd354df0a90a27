"""Runs every graph of a bundle on the inputs recorded in it; test_other_runtimes.py starts this elsewhere.

What that environment lacks must not be needed, so this prints the packages that were imported.
"""

import json
import sys

import numpy as np
import onnxruntime

from keras_vae_serving import Manifest, Session

bundle, results = sys.argv[1:]
found = {}
with np.load(f"{bundle}/probe.npz") as probe:
    for graph in Manifest.load(bundle).graphs.values():
        session = Session(bundle, graph, providers="cpu")
        recorded = graph.name.removesuffix(f"_{graph.precision}")
        inputs = {tensor.name: probe[f"{recorded}/inputs/{tensor.name}"] for tensor in graph.inputs}
        for batch in (1, 7):
            outputs = session.run({name: array[:batch] for name, array in inputs.items()})
            found |= {f"{graph.name}/{batch}/{name}": array for name, array in outputs.items()}
np.savez(results, **found)
packages = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"numpy": np.__version__, "onnxruntime": onnxruntime.__version__, "imported": packages}))
