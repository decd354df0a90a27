"""Latents that the posterior leaves unused, and what warm-up, free bits and a capacity do to them.

    KERAS_BACKEND=jax python benchmarks/collapse.py binarized_mnist.npz [--epochs 20]

The file holds `train` and `test`, each row 784 pixels in 98 bytes (`np.packbits`). Five models with 50 latents, alike
in all but the objective and trained for as many steps: 784-300-300-z50-300-300-784, ReLU, Adam 1e-3, batch 100. Warm-up
and capacity rise during the first half. Of random test images (the file is sorted by class) it prints the ELBO, its KL,
log p(x) by importance sampling, and the latents in use, by two counts: those whose posterior mean varies (variance over
images > 0.01), and those that carry more than 0.1 nats more than a latent may have for free. It writes a CSV and a
picture of the KL of each latent.

Reference: Burda et al. 2016, arXiv:1509.00519, section 5.2 (active units); Bowman et al. 2016, arXiv:1511.06349 (warm-
up); Kingma et al. 2016, arXiv:1606.04934 (free bits); Burgess et al. 2018, arXiv:1804.03599 (capacity).
"""

import keras
import numpy as np
from loops import static_mnist
from loops.rows import write_dicts
from matplotlib.figure import Figure

import keras_vae
from keras_vae import ELBO, evaluation, schedules


def main():
    options = static_mnist.parser(__file__, __doc__, epochs=20, draws=200).parse_args()

    train, test = static_mnist.load(options.file, "train", "test")
    test = static_mnist.some_of(test, options.images, np.random.default_rng(0))
    half = max(1, options.epochs * len(train) // 100 // 2)  # steps

    rows, units = [], {}
    for name, objective in {
        "ELBO": ELBO(),
        "warm-up": ELBO(beta=schedules.Linear(steps=half)),
        "free bits 0.1": ELBO(free_bits=0.1),
        "free bits 0.5": ELBO(free_bits=0.5),
        "capacity 40": ELBO(beta=10.0, capacity=schedules.Linear(steps=half, end=40.0)),
    }.items():
        keras.utils.set_random_seed(0)
        encoder, decoder = keras_vae.networks.mlp((784,), latent_dim=50, hidden=(300, 300))
        vae = keras_vae.VAE(encoder, decoder, "bce", objective=objective, seed=0)
        vae.compile(keras_vae.FusedAdam(1e-3), steps_per_execution=50)
        logs = vae.fit(train, batch_size=100, epochs=options.epochs, verbose=2).history
        bound = evaluation.held_out(vae, test)
        found = evaluation.log_likelihood(vae, test, num_samples=options.draws)
        units[name] = np.sort(evaluation.kl_per_unit(vae, test))[::-1]
        rows.append(
            {
                "objective": name,
                "active_units": int(evaluation.active_units(vae, test).sum()),
                "above_free": int(np.sum(units[name] > objective.free_bits + 0.1)),
                "kl": bound["kl"],
                "train_elbo": -logs["negative_elbo"][-1],
                "test_elbo": -bound["negative_elbo"],
                "test_log_p": found.mean,
                "monte_carlo_error": found.mean_standard_error,
            }
        )
    print(f"{keras.backend.backend()}, {options.epochs} epochs; nats per image, {len(test)} random test images")
    for row in rows:
        print(
            f"{row['objective']:14s} {row['active_units']:2d} active of 50, {row['above_free']:2d} above what is free; "
            f"KL {row['kl']:.2f}, ELBO {row['test_elbo']:.2f} (training {row['train_elbo']:.2f}), log p(x) "
            f"{row['test_log_p']:.2f} +- {row['monte_carlo_error']:.2f} ({options.draws} draws)"
        )
    write_dicts(rows, options.output)

    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, kl in units.items():
        axes.plot(np.arange(1, len(kl) + 1), np.maximum(kl, 1e-4), label=name)
    axes.set(yscale="log", xlabel="latents, sorted", ylabel="KL of the latent, nats", ylim=(1e-4, None))
    axes.legend()
    figure.savefig(options.output.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
