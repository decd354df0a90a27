"""Signal and noise of the encoder's gradient: the importance-weighted bound as it is, and doubly reparameterised.

    KERAS_BACKEND=jax python benchmarks/gradients.py [--draws 2000]

With more samples k the importance-weighted bound is tighter, and the standard gradient of the encoder worse: its noise
falls like 1/sqrt(k), but the gradient itself like 1/k. `IWAE(k, gradient="dreg")` has the same mean and less noise. For
a VAE of two latents after 30 epochs on the embedded digits, binarised, and one fixed batch of 16 images, this draws the
gradient of the loss many times, with new z only, and prints the average over the encoder's weights of

    SNR = |mean of g| / standard deviation of g

which should fall like 1/sqrt(k) and rise like sqrt(k), once k is large and if the importance weights have a finite
variance. Here that is if the posterior's variance is above 1/2, as of E w**2 = integral p(x|z)**2 p(z)**2 / q(z|x) the
decoder, which saturates, does not tame the tails; training makes it smaller. So all is done twice, with the posterior
as it was trained, and with its variance made exp(2) times as large. Of n draws of pure noise the SNR would not be 0 but
about 0.8 / sqrt(n): the floor. Weights whose gradient is always 0 (pixels that are always white) are left out. It then
prints how far apart the two means are, in standard errors (1 is what equal means give), the ratio of the variances, and
what a training step of each takes. It writes a CSV and a picture.

Reference: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, figure 1;
Tucker et al. 2019, arXiv:1810.04152, equation 6.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from loops.rows import write_dicts
from matplotlib.figure import Figure

import keras_vae

GRADIENTS = ("standard", "dreg")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="k")
    parser.add_argument("--draws", type=int, default=2000, help="of the gradient, for each k")
    parser.add_argument("--epochs", type=int, default=30, help="of training before")
    parser.add_argument("--repeats", type=int, default=15, help="of the timed epochs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    if keras.backend.backend() != "jax":
        raise SystemExit("This draws thousands of gradients in one JAX program: set KERAS_BACKEND=jax.")

    data = keras_vae.datasets.load("digits", binarize="threshold")
    keras.utils.set_random_seed(0)
    networks = keras_vae.networks.mlp((8, 8, 1), latent_dim=2, hidden=(64,), activation="tanh")
    vae = keras_vae.VAE(*networks, "bce", objective=keras_vae.IWAE(1), seed=0)
    vae.compile(keras_vae.FusedAdam(1e-3))
    vae.fit(data.train, batch_size=100, epochs=options.epochs, verbose=0)
    print(f"after {options.epochs} epochs: test negative ELBO {-vae.elbo(data.test, seed=0).mean():.2f} nats")

    floor = np.sqrt(2.0 / (np.pi * options.draws))
    print(f"{options.draws} draws of the gradient of 16 images; an SNR of {floor:.3f} is noise alone")
    rows = [row for widen in (0.0, 2.0) for row in _measure(networks, data.train, widen, options)]
    write_dicts(rows, options.output)
    _plot(rows, floor, options.output.with_suffix(".png"))


def _measure(networks, x, widen, options):
    """Rows for each k, the posterior's log-variance being raised by `widen`."""
    log_var = networks[0].get_layer("z_log_var")
    kernel, bias = log_var.get_weights()
    log_var.set_weights([kernel, bias + widen])
    vae = keras_vae.VAE(*networks, "bce")
    found = keras_vae.evaluation.log_likelihood(vae, x[:16], num_samples=1000)
    share = found.effective_sample_size.mean() / 1000
    variance = np.exp(vae.encode(x[:16]).log_var)
    print(
        f"the posterior's variance times exp({widen:g}), {variance.min():.2f} to {variance.max():.2f}: "
        f"effective sample size {100 * share:.0f} % of 1,000"
    )
    rows = []
    for k in options.samples:
        mean, variance = {}, {}
        for gradient in GRADIENTS:
            drawn = draw(networks, keras_vae.IWAE(k, gradient), x[:16], options.draws)
            mean[gradient], variance[gradient] = drawn.mean(axis=0), drawn.var(axis=0, ddof=1)
        moves = (variance["standard"] > 0.0) & (variance["dreg"] > 0.0)
        snr = {name: np.mean(np.abs(mean[name][moves]) / np.sqrt(variance[name][moves])) for name in GRADIENTS}
        difference = mean["dreg"][moves] - mean["standard"][moves]
        together = sum(variance[name][moves] for name in GRADIENTS) / options.draws
        lengths = [np.linalg.norm(each) for each in mean.values()]
        row = {
            "variance_times": np.exp(widen),
            "k": k,
            "snr_standard": snr["standard"],
            "snr_dreg": snr["dreg"],
            "standard_errors_apart": np.sqrt(np.mean(difference**2 / together)),  # root mean square over weights
            "cosine_of_means": np.vdot(mean["dreg"], mean["standard"]) / np.prod(lengths),
            "variance_ratio": variance["standard"].sum() / variance["dreg"].sum(),
        }
        words = ""
        if not widen:
            times = step_times(networks, k, x, options.repeats)
            words = f"; a step {times['standard']:.2f} ms, dreg {times['dreg']:.2f} ms"
            row |= {f"ms_{name}": value for name, value in times.items()}
        rows.append(row)
        print(
            f"k {k:4d}: SNR standard {row['snr_standard']:.3f}, dreg {row['snr_dreg']:.3f}; means "
            f"{row['standard_errors_apart']:.2f} standard errors apart, cosine {row['cosine_of_means']:.4f}; variance "
            f"standard / dreg {row['variance_ratio']:.2f}{words}",
            flush=True,
        )
    log_var.set_weights([kernel, bias])
    return rows


def draw(networks, objective, x, draws):
    """Gradients of the mean loss of x by the encoder's weights, `(draws, weights)` float64."""
    import jax
    from jax import numpy as jnp

    vae = keras_vae.VAE(*networks, "bce", objective=objective)
    vae.build((None, *x.shape[1:]))
    encoder = networks[0].trainable_variables

    def loss(values, epsilon):
        with keras.StatelessScope(list(zip(encoder, values, strict=True))):
            return jnp.mean(vae.terms(jnp.asarray(x), epsilon, training=True).loss)

    @jax.jit
    def all_draws(values):
        def one(seed):
            shape = (objective.num_samples, len(x), vae.latent_dim)
            gradients = jax.grad(loss)(values, jax.random.normal(jax.random.key(seed), shape))
            return jnp.concatenate([jnp.ravel(each) for each in gradients])

        # Different noise for each objective, so that their errors are independent.
        first = draws * GRADIENTS.index(objective.gradient)
        return jax.lax.map(one, first + jnp.arange(draws))

    return np.asarray(all_draws([variable.value for variable in encoder]), "float64")


def step_times(networks, k, x, repeats):
    """Milliseconds of a training step of 100 images with each gradient: medians of epochs that take turns."""
    trained = {}
    for name in GRADIENTS:
        copies = (keras.models.clone_model(network) for network in networks)
        vae = keras_vae.VAE(*copies, "bce", objective=keras_vae.IWAE(k, name), seed=0)
        vae.compile(keras_vae.FusedAdam(1e-3), steps_per_execution=14)
        trained[name] = vae
    x, times = x[:1400], {name: [] for name in GRADIENTS}
    for _ in range(repeats + 1):  # the first is compilation
        for name, vae in trained.items():
            started = time.perf_counter()
            vae.fit(x, batch_size=100, epochs=3, verbose=0)
            times[name].append(1e3 * (time.perf_counter() - started) / 42)
    return {name: float(np.median(each[1:])) for name, each in times.items()}


def _plot(rows, floor, path):
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    titles = "the posterior as trained", "its variance times exp(2)"
    widths = sorted({row["variance_times"] for row in rows})
    for axes, width, title in zip(figure.subplots(1, 2, sharey=True), widths, titles, strict=True):
        own = [row for row in rows if row["variance_times"] == width]
        k = np.array([row["k"] for row in own], "float64")
        for i, (name, power) in enumerate(zip(GRADIENTS, (-0.5, 0.5), strict=True)):
            snr = np.array([row[f"snr_{name}"] for row in own])
            axes.plot(k, snr, "o-", color=f"C{i}", label=f'gradient="{name}"')
            if width > 1.0:
                axes.plot(k, snr[-1] * (k / k[-1]) ** power, ":", color=f"C{i}", label=f"slope of k ** {power}")
        axes.axhline(floor, color="black", linewidth=0.8, label="noise alone")
        axes.set(xscale="log", yscale="log", xlabel="samples k", title=title)
        axes.set_xticks(k, [str(int(each)) for each in k])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("SNR of the encoder's gradient")
    figure.axes[1].legend(fontsize="small", loc="lower left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
