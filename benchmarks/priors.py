"""What a prior that learns is worth: N(0, I), a mixture of normals and the VampPrior on static binarised MNIST.

    KERAS_BACKEND=jax python benchmarks/priors.py binarized_mnist.npz [--epochs 30]

The file holds `train`, `valid` and `test`, each row 784 pixels in 98 bytes (`np.packbits`). Three models that differ in
nothing but p(z) are trained for as many steps: 784-300-300-z40-300-300-784, ReLU, Adam 1e-3, batch 100, beta rising
from 0 to 1 in the first third. The VampPrior's pseudo-inputs begin as random training images. Of random test images
(the file is sorted by class) it prints the ELBO, log p(x) by importance sampling, and how much the latter differs from
that of N(0, I) on the same images, with the standard error of that difference over images. It writes a CSV, and a
picture of the validation ELBO while training and of samples.

Reference: Tomczak & Welling 2018, VAE with a VampPrior, arXiv:1705.07120, table 1.
"""

import keras
import numpy as np
from loops import static_mnist
from loops.rows import write_dicts
from matplotlib.figure import Figure

from keras_vae import priors


def main():
    parser = static_mnist.parser(__file__, __doc__)
    parser.add_argument("--components", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    train, valid, test = static_mnist.load(options.file, "train", "valid", "test")
    rng = np.random.default_rng(0)
    print(f"{keras.backend.backend()}, {options.epochs} epochs; nats per image")
    comparison = static_mnist.Comparison("prior", static_mnist.some_of(test, options.images, rng), options.draws)
    start = static_mnist.some_of(train, options.components, rng)

    curves, drawn = {}, {}
    for name, prior in {
        "N(0, I)": None,
        f"GaussianMixture({options.components})": priors.GaussianMixture(options.components, seed=options.seed),
        f"VampPrior({options.components})": priors.VampPrior(options.components, pseudo_inputs=start),
    }.items():
        vae, logs = comparison.add(name, train, valid, options.epochs, options.seed, prior=prior)
        curves[name] = -np.array(logs["val_negative_elbo"])
        drawn[name] = vae.sample(12, seed=0).reshape(-1, 28, 28)
    write_dicts(comparison.rows, options.output)
    _plot(curves, drawn, options.output.with_suffix(".png"))


def _plot(curves, drawn, path):
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    for name, curve in curves.items():
        left.plot(np.arange(1, len(curve) + 1), curve, label=name)
    highest = max(curve.max() for curve in curves.values())
    left.set(xlabel="epoch", ylabel="ELBO of the validation set, nats", ylim=(highest - 15, highest + 1))
    left.legend(loc="lower right")
    right.imshow(np.vstack([np.hstack(list(images)) for images in drawn.values()]), cmap="gray_r", vmin=0, vmax=1)
    right.set(xticks=[], yticks=28 * np.arange(len(drawn)) + 14, title="samples, the pixels' means")
    right.set_yticklabels(list(drawn))
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
