"""`keras-vae evaluate`: the bound on held-out data, what the latents hold, and log p(x)."""

import argparse
import json
from typing import Any

import keras
import numpy as np

from keras_vae import DiagonalNormal, evaluation
from keras_vae_cli import runs

# elbo_surgery compares all examples with each other.
MAX_SURGERY_EXAMPLES = 10_000


def run(given: argparse.Namespace) -> None:
    """Prints the held-out terms of a trained model."""
    vae = runs.load_model(given.model, given.modules)
    data = runs.load_data(given, vae)
    if data is None:
        raise ValueError(f"No summary.json beside {given.model} says what it was trained on: name data with --data.")
    x = data.test if given.split == "test" else data.train
    found: dict[str, Any] = {"backend": keras.backend.backend()}
    found |= evaluation.held_out(vae, x, given.num_samples, given.seed)
    kl = evaluation.kl_per_unit(vae, x)
    found |= {
        "active_units": int(evaluation.active_units(vae, x).sum()),
        "kl_per_unit": kl.tolist(),
        "collapse": runs.collapse_report(vae, x),
    }
    if issubclass(vae.posterior_family.distribution_class, DiagonalNormal):
        surgery = evaluation.elbo_surgery(vae, x[:MAX_SURGERY_EXAMPLES], given.seed)._asdict()
        found |= {name: value for name, value in surgery.items() if name != "kl"}
    if given.log_likelihood is not None:
        verbose = 0 if given.json else "auto"
        estimate = evaluation.log_likelihood(vae, x, given.log_likelihood, given.seed, verbose=verbose)
        found["log_likelihood"] = estimate.mean
        found["log_likelihood_standard_error"] = estimate.mean_standard_error
        found["effective_sample_size"] = float(np.median(estimate.effective_sample_size))
    if given.json:
        print(json.dumps(found))
        return
    print(f"{len(x):,} examples on {found['backend']}   {runs.in_words(found, vae, x)}")
    of_channels = kl.sum(axis=tuple(range(kl.ndim - 1)))
    each = "each" if kl.ndim == 1 else "each channel"
    units = ", ".join(f"{nats:.2f}" for nats in sorted(of_channels, reverse=True))
    print(f"latents    {found['active_units']} of {kl.size} active; KL of {each} in nats: {units}")
    if "marginal_kl" in found:
        print(
            f"of the KL  {found['mutual_information']:.3f} nats tell examples apart (to tell all takes "
            f"{found['max_mutual_information']:.3f}); {found['marginal_kl']:.3f} are the distance of codes from prior"
        )
    if found["collapse"] is not None:
        print(found["collapse"])
    if given.log_likelihood is not None:
        print(
            f"log p(x)   {found['log_likelihood']:.3f} +- {found['log_likelihood_standard_error']:.3f} nats per "
            f"example, by {given.log_likelihood:,} draws of z, of which {found['effective_sample_size']:.0f} count "
            "in the median example"
        )
