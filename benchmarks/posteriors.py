"""What a richer posterior is worth: diagonal, low-rank and full covariance, and a flow, on static binarised MNIST.

    KERAS_BACKEND=jax python benchmarks/posteriors.py binarized_mnist.npz [--epochs 30]

The file holds `train`, `valid` and `test`, each row 784 pixels in 98 bytes (`np.packbits`). Four models that differ in
nothing but q(z|x) are trained for as many steps: 784-300-300-z40-300-300-784, ReLU, Adam 1e-3, batch 100, beta rising
from 0 to 1 in the first third. Of random test images it prints the ELBO, log p(x) by importance sampling, and how much
the latter differs from that of the diagonal normal on the same images, with the standard error of that difference over
images. It writes a CSV.

Reference: Kingma et al. 2016, Improving Variational Inference with Inverse Autoregressive Flow, arXiv:1606.04934.
"""

import keras
import numpy as np
from loops import static_mnist
from loops.rows import write_dicts

from keras_vae import posteriors


def main():
    parser = static_mnist.parser(__file__, __doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    train, valid, test = static_mnist.load(options.file, "train", "valid", "test")
    print(f"{keras.backend.backend()}, {options.epochs} epochs; nats per image")
    images = static_mnist.some_of(test, options.images, np.random.default_rng(0))
    comparison = static_mnist.Comparison("posterior", images, options.draws)
    for posterior in (
        posteriors.Normal(),
        posteriors.LowRankNormal(8),
        posteriors.FullNormal(),
        posteriors.Flow(depth=2, hidden=(320,), context=64),
    ):
        comparison.add(repr(posterior), train, valid, options.epochs, options.seed, posterior=posterior)
    write_dicts(comparison.rows, options.output)


if __name__ == "__main__":
    main()
