"""The pictures of docs/learn, from the same closed forms as the pages: `python docs/learn/figures.py`.

SVG without a background, in greys and colours that stand out on white and on black alike, as a page may be either.
"""

import pathlib

import keras
import numpy as np
from matplotlib import pyplot as plt

import keras_vae

HERE = pathlib.Path(__file__).parent
GREY, BLUE, ORANGE, GREEN, PINK = "#808080", "#3b8ec8", "#e07b28", "#2ca47c", "#cc6fa8"
plt.rcParams |= {
    "svg.hashsalt": "keras_vae",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PINK]),
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
}


def save(figure, name):
    figure.savefig(HERE / name, transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def bound():
    """The ELBO of x ~ N(w z, s**2) against q's mean and against its standard deviation."""
    w, s, x = 1.5, 0.5, 1.2
    precision = 1 + w**2 / s**2
    best_mean, best_deviation = w * x / s**2 / precision, precision**-0.5
    log_p = -0.5 * (x**2 / (w**2 + s**2) + np.log(2 * np.pi * (w**2 + s**2)))

    def elbo(mean, deviation):
        square = (x - w * mean) ** 2 + (w * deviation) ** 2
        kl = 0.5 * (mean**2 + deviation**2 - 1 - 2 * np.log(deviation))
        return -0.5 * (square / s**2 + np.log(2 * np.pi * s**2)) - kl

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.7), sharey=True, layout="constrained")
    means, deviations = np.linspace(-0.25, 1.7, 200), np.geomspace(0.06, 1.1, 200)
    for axis, values, curve, best, label in (
        (axes[0], means, elbo(means, best_deviation), best_mean, "mean of q"),
        (axes[1], deviations, elbo(best_mean, deviations), best_deviation, "standard deviation of q"),
    ):
        axis.axhline(log_p, color=GREY, linestyle="--", linewidth=1.2)
        axis.plot(values, curve)
        axis.fill_between(values, curve, log_p, color=ORANGE, alpha=0.25, linewidth=0)
        axis.plot([best], [log_p], "o", color=BLUE)
        axis.set(xlabel=label, ylim=(log_p - 5.2, log_p + 0.7))
    axes[0].set_ylabel("nats")
    axes[0].text(1.7, log_p + 0.12, "log p(x)", ha="right")
    axes[0].text(1.25, log_p - 3.6, "ELBO", color=BLUE, ha="right")
    axes[0].text(-0.22, log_p - 0.55, "KL(q || p(z|x))", color=ORANGE)
    axes[1].text(best_deviation, log_p + 0.2, "the true posterior", ha="center")
    axes[1].set_xscale("log")
    axes[1].set_xticks([0.1, 0.3, 1.0], ["0.1", "0.3", "1"])
    axes[1].minorticks_off()
    save(figure, "bound.svg")


def negative_log_prob(likelihood, x, parameters):
    return -keras.ops.convert_to_numpy(likelihood.log_prob(np.full((len(parameters), 1), x), parameters[:, None]))


def likelihoods():
    """-log p(x|z) of one number against the error, and of one pixel against the predicted mean."""
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.3), layout="constrained")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2, "fontsize": 8}
    errors = np.linspace(-2, 2, 161)
    for name, likelihood in {
        "Gaussian(1)": keras_vae.Gaussian(1.0),
        "Gaussian(0.3)": keras_vae.Gaussian(0.3),
        "Laplace(0.5)": keras_vae.Laplace(0.5),
    }.items():
        axes[0].plot(errors, negative_log_prob(likelihood, 0.0, errors), label=name)
    axes[0].set(xlabel="x - mean", ylabel="-log p(x|z), nats", ylim=(-0.6, 5))
    axes[0].legend(**above)

    p = np.linspace(0.02, 0.98, 193)
    logits = np.linspace(-24, 24, 241)
    mean = keras_vae.ContinuousBernoulli().mean(keras.ops.convert_to_tensor(logits))
    of_continuous = keras.ops.convert_to_numpy(mean)
    inside = (of_continuous > 0.05) & (of_continuous < 0.95)
    x = 0.8
    axes[1].plot(p, negative_log_prob(keras_vae.Gaussian(0.1), x, p), label="Gaussian(0.1)")
    axes[1].plot(p, negative_log_prob(keras_vae.Gaussian(0.3), x, p), label="Gaussian(0.3)")
    continuous = negative_log_prob(keras_vae.ContinuousBernoulli(), x, logits[inside])
    axes[1].plot(of_continuous[inside], continuous, label="ContinuousBernoulli()")
    axes[1].plot(p, negative_log_prob(keras_vae.Bernoulli(), x, np.log(p / (1 - p))), label='"bce"')
    axes[1].axvline(x, color=GREY, linestyle=":", linewidth=1.2)
    axes[1].set(xlabel="mean that the decoder says, for a pixel of 0.8", ylim=(-1.7, 3.4), xlim=(0, 1))
    axes[1].legend(**above)
    save(figure, "likelihoods.svg")


def rate_distortion():
    """The curve of the linear VAE on the digits, and how the nats are spread over its latents."""
    x = keras_vae.datasets.load("digits").train.reshape(-1, 64)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    latents = 16
    sigma2 = eigenvalues[latents:].mean()

    def rates(s):
        return 0.5 * np.log(np.maximum(eigenvalues[:latents], s) / s)

    def distortion(s):
        error = np.minimum(eigenvalues[:latents], s).sum() + eigenvalues[latents:].sum()
        return error / (2 * sigma2) + 32 * np.log(2 * np.pi * sigma2)

    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.0), layout="constrained")
    curve = np.geomspace(0.05, 64, 400) * sigma2
    axes[0].plot([rates(s).sum() for s in curve], [distortion(s) for s in curve])
    for beta in (0.1, 1.0, 2.0, 4.0, 16.0, 64.0):
        rate, cost = rates(beta * sigma2).sum(), distortion(beta * sigma2)
        axes[0].plot([rate], [cost], "o", color=ORANGE if beta == 1 else BLUE)
        axes[0].annotate(f"{beta:g}", (rate, cost), (4, 4), textcoords="offset points")
    rate, cost = rates(sigma2).sum(), distortion(sigma2)
    tangent = np.array([6.0, 36.0])
    axes[0].plot(tangent, cost - (tangent - rate), "--", color=ORANGE, linewidth=1.2)
    axes[0].text(36, cost - 24, "slope -1", color=ORANGE, ha="center")
    axes[0].set(xlabel="rate: KL, nats", ylabel="distortion: -E log p(x|z), nats", ylim=(-77, 97))
    for beta in (1, 4, 16):
        axes[1].plot(range(1, latents + 1), rates(beta * sigma2), "o-", markersize=3.5, label=f"beta = {beta}")
    axes[1].set(xlabel="latent", ylabel="its KL, nats", xticks=[1, 4, 8, 12, 16])
    axes[1].legend()
    save(figure, "rate_distortion.svg")


def samples():
    """The codes of the model of the page beside the prior, and what each of two priors draws."""
    keras.utils.set_random_seed(0)
    data, likelihood = keras_vae.datasets.load("digits"), keras_vae.Gaussian("learned")
    encoder, decoder = keras_vae.networks.mlp((8, 8, 1), latent_dim=8, hidden=(256,), likelihood=likelihood)
    vae = keras_vae.VAE(encoder, decoder, likelihood=likelihood, seed=0)
    vae.compile(keras_vae.FusedAdam(2e-3))
    vae.fit(data.train, batch_size=50, epochs=60, verbose=0)
    codes = keras_vae.evaluation.fit_aggregate_posterior(vae, data.train, components=20)
    z = vae.encode(data.train).sample(seed=0)
    i, j = np.argsort(keras_vae.evaluation.kl_per_unit(vae, data.train))[-2:]

    figure = plt.figure(figsize=(7.4, 3.1), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    axis = left.subplots()
    axis.scatter(z[:, i], z[:, j], c=data.train_labels, cmap="tab10", s=3, linewidth=0, alpha=0.8)
    angle = np.linspace(0, 2 * np.pi, 200)
    for radius in (1, 2, 3):
        axis.plot(radius * np.cos(angle), radius * np.sin(angle), color=GREY, linewidth=1)
    axis.set(aspect="equal", xlabel=f"z{i + 1}", ylabel=f"z{j + 1}")
    rows = {
        "reconstructions of held-out digits": vae.reconstruct(data.test[:10]),
        "samples, z from N(0, I)": vae.sample(10, seed=0),
        "samples, z from a mixture fitted to the codes": vae.sample(10, seed=0, prior=codes),
    }
    for panel, (name, images) in zip(right.subfigures(3, 1), rows.items(), strict=True):
        panel.suptitle(name, fontsize=9)
        for image, tile in zip(images, panel.subplots(1, 10), strict=True):
            tile.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
            tile.axis("off")
    figure.savefig(HERE / "samples.png", transparent=True, dpi=120, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    bound()
    likelihoods()
    rate_distortion()
    samples()
