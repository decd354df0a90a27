"""The model that everybody trains, and its data: the same sizes, and the same work a step.

784-500-z20-500-784 with tanh, Bernoulli, one sample, Adam(1e-3), as in Kingma & Welling 2014 (arXiv:1312.6114)
"""

import numpy as np

PIXELS, HIDDEN, LATENTS, LEARNING_RATE = 784, 500, 20, 1e-3

# Of each weight matrix: (inputs, outputs).
LAYERS = {
    "hidden": (PIXELS, HIDDEN),
    "mean": (HIDDEN, LATENTS),
    "log_var": (HIDDEN, LATENTS),
    "decoder": (LATENTS, HIDDEN),
    "logits": (HIDDEN, PIXELS),
}


def images(n):
    """Binary noise with the density of binarised MNIST: `(n, 784)` float32. What the pixels are costs nothing."""
    return (np.random.default_rng(0).random((n, PIXELS), dtype="float32") < 0.13).astype("float32")


def weights():
    """Glorot-uniform kernels and zero biases, by layer."""
    rng = np.random.default_rng(1)
    made = {}
    for name, (inputs, outputs) in LAYERS.items():
        limit = (6.0 / (inputs + outputs)) ** 0.5
        made[name] = (
            rng.uniform(-limit, limit, (inputs, outputs)).astype("float32"),
            np.zeros(outputs, dtype="float32"),
        )
    return made
