"""Deliberate faults that the tests must catch: `python tests/faults.py [NAME...]` plants each and runs its tests.

A fault is one piece of text in the place of another that occurs exactly once in a package, whatever file it is in.
Where code moves nothing is to do; where it changes, `python tests/faults.py --check` lists what must be adapted
(test_faults.py does the same in the suite). The tests named beside a fault are those that should catch it, so that a
run takes seconds; they run on PyTorch unless the fault names a backend. Each fault is planted in a copy of the sources.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = ("keras_vae", "export", "serving")


class Fault(NamedTuple):
    package: str  # a folder of ROOT
    old: str
    new: str
    tests: str  # pytest ids below tests/, separated by spaces; a name stands for all of its parameters
    backend: str = "torch"


V, S = "keras_vae", "serving"
DISTRIBUTIONS, OBJECTIVES = "keras_vae/test_distributions.py::test", "keras_vae/test_objectives.py::test"
PRIORS = "keras_vae/test_priors.py::test"
LIKELIHOODS, MODEL = "keras_vae/test_every_likelihood.py::test", "keras_vae/test_model.py::test"
POSTERIORS = "keras_vae/test_posteriors.py::test"
TRAINING, EVALUATION = "keras_vae/test_training.py::test", "keras_vae/test_evaluation.py::test"
_DENSITY = f"{LIKELIHOODS}_log_prob_is_the_reference_in_float64"

FAULTS = {
    # Distributions
    "kl: a sign": Fault(
        V,
        "xp.expm1(difference) - difference)",
        "xp.expm1(difference) + difference)",
        f"{DISTRIBUTIONS}_kl_equals_the_textbook_form",
    ),
    "kl: the textbook form": Fault(
        V,
        "xp.expm1(difference) - difference)",
        "xp.exp(difference) - 1.0 - difference)",
        f"{DISTRIBUTIONS}_kl_of_a_nearly_collapsed_unit_is_not_lost",
    ),
    "kl: the prior's variance": Fault(
        V,
        "xp.exp(xp.negative(other.log_var))",
        "xp.exp(other.log_var)",
        f"{DISTRIBUTIONS}_kl_to_another_normal_and_its_monte_carlo_estimate_agree",
    ),
    "normal: a constant": Fault(
        V, "self.log_var) + LOG_2_PI)", "self.log_var))", f"{DISTRIBUTIONS}_log_prob_equals_float64"
    ),
    "normal: variance for deviation": Fault(
        V,
        "xp.multiply(self.log_var, 0.5)",
        "xp.multiply(self.log_var, 1.0)",
        f"{DISTRIBUTIONS}_reparameterize_is_mean_plus_scale_times_noise",
    ),
    "mixture: the gradient of a variance": Fault(
        V,
        "0.5 * (total[:, None] - precision * spread)",
        "(total[:, None] - precision * spread)",
        f"{PRIORS}_the_gradient_of_a_learned_mixture_keeps_its_digits",
    ),
    "coupling: the volume": Fault(
        V,
        "return _standard_log_prob(z) - log_volume",
        "return _standard_log_prob(z) + log_volume",
        f"{PRIORS}_a_flow_has_the_density_of_its_draws",
    ),
    "chain: the density of the first layer": Fault(
        V,
        "log_prob = log_prob + _given(step, before).log_prob(layer)",
        "log_prob = log_prob",
        f"{PRIORS}_log_p_of_a_linear_model_of_two_layers_is_exact_with_its_own_posterior",
    ),
    "conditional: one prior for all": Fault(
        V,
        "ConditionalNormal(normal.mean,",
        "ConditionalNormal(0.0 * normal.mean,",
        f"{PRIORS}_its_kl_is_that_to_the_prior_of_each_example",
    ),
    "mixture: weights ignored": Fault(
        V,
        "log_sum_exp(xp, log_prob + log_weights, axis=-1)",
        "log_sum_exp(xp, log_prob, axis=-1)",
        f"{DISTRIBUTIONS}_the_density_of_a_mixture_is_the_weighted_sum",
    ),
    # Posteriors
    "full normal: variance for deviation": Fault(
        V,
        "scale = ops.exp(0.5 * self._diagonal.log_var)",
        "scale = ops.exp(self._diagonal.log_var)",
        f"{POSTERIORS}_density_and_draws_are_those_of_the_covariance_in_the_outputs",
    ),
    "full normal: the layout": Fault(
        V,
        "np.tril_indices(size, -1)]",
        "np.triu_indices(size, 1)]",
        f"{POSTERIORS}_density_and_draws_are_those_of_the_covariance_in_the_outputs",
    ),
    "low rank: the determinant": Fault(
        V,
        "0.5 * ops.sum(added, axis=-1) - q._log_volume()",
        "0.5 * ops.sum(added, axis=-1)",
        f"{POSTERIORS}_the_closed_form_of_the_kl_is_the_average_over_draws_and_the_textbook_s",
    ),
    "low rank: the sign of the shared noise": Fault(
        V,
        "ops.concatenate([own, -shared], axis=-1)",
        "ops.concatenate([own, shared], axis=-1)",
        f"{POSTERIORS}_density_and_draws_are_those_of_the_covariance_in_the_outputs",
    ),
    "flow: the volume": Fault(
        V,
        "-ops.sum(ops.softplus(-gate), axis=-1)",
        "ops.sum(ops.softplus(-gate), axis=-1)",
        f"{POSTERIORS}_the_density_of_a_draw_is_that_of_its_noise_and_the_volume",
    ),
    "flow: an element sees itself": Fault(
        V,
        "np.tile(order, 2) > degrees[-1]",
        "np.tile(order, 2) >= degrees[-1]",
        f"{POSTERIORS}_the_density_of_a_draw_is_that_of_its_noise_and_the_volume",
    ),
    "fsq: no gradient": Fault(
        V,
        "(bounded - ops.stop_gradient(bounded))",
        "0.0 * bounded",
        f"{POSTERIORS}_rounding_is_to_the_nearest_value_and_passes_the_gradient_on",
    ),
    "codes: a probability of 1": Fault(
        V,
        'xp.subtract(xp.zeros_like(z), np.log(self.levels).astype("float32"))',
        "xp.zeros_like(z)",
        f"{POSTERIORS}_uniform_codes_have_equal_shares_and_the_moments_that_they_say",
    ),
    # Objectives
    "elbo: beta ignored": Fault(
        V,
        "reconstruction + beta * penalty",
        "reconstruction + penalty",
        f"{OBJECTIVES}_beta_weighs_the_kl_in_the_loss_but_not_in_the_logs",
    ),
    "elbo: beta frozen": Fault(
        V,
        "schedule and schedule(batch.step)",
        "schedule and schedule(0 * batch.step)",
        f"{OBJECTIVES}_beta_follows_the_step",
    ),
    "elbo: a sum over samples": Fault(
        V,
        "-ops.mean(self.log_likelihood(self.z), axis=0)",
        "-ops.sum(self.log_likelihood(self.z), axis=0)",
        f"{OBJECTIVES}_the_loss_is_reconstruction_plus_kl",
    ),
    "elbo: free bits ignored": Fault(
        V,
        "ops.where(counts, kl, self.free_bits)",
        "ops.where(counts, kl, kl)",
        f"{OBJECTIVES}_free_bits_hold_each_latent_at_their_number_on_the_average_of_the_batch",
    ),
    "elbo: stl ignored": Fault(
        V,
        "batch.posterior.without_gradient(), batch.prior",
        "batch.posterior, batch.prior",
        f"{OBJECTIVES}_where_the_posterior_is_exact_its_gradient_is_exactly_zero",
    ),
    "iwae: log k": Fault(
        V,
        " - math.log(self.num_samples) + bound_probe",
        " + bound_probe",
        f"{OBJECTIVES}_iwae_is_the_logarithm_of_the_mean_weight_and_lies_below_the_elbo",
    ),
    "iwae: dreg's second weight": Fault(
        V, "return of_z * weight", "return of_z", f"{OBJECTIVES}_dreg_is_the_formula_of_the_paper"
    ),
    "beta-tc: weights swapped": Fault(
        V,
        "self.alpha * information + self.beta(batch.step) * correlation",
        "self.alpha * correlation + self.beta(batch.step) * information",
        f"{OBJECTIVES}_beta_tc_by_brute_force",
    ),
    "info-vae: the diagonal": Fault(
        V,
        "ops.where(diagonal(ops.shape(a)[1]), 0.0, pairs)",
        "pairs",
        f"{OBJECTIVES}_info_vae_by_brute_force {OBJECTIVES}_the_mmd_is_zero_on_average_where_the_codes_are_the_prior",
    ),
    # Likelihoods
    "likelihood: a mean over dimensions": Fault(
        V,
        "ops.sum(terms, axis=tuple(range(1 - len(ops.shape(x)), 0)))",
        "ops.mean(terms, axis=tuple(range(1 - len(ops.shape(x)), 0)))",
        "keras_vae/test_likelihoods.py::test_bernoulli_is_minus_bce_summed_over_dimensions",
    ),
    "likelihood: missing values counted": Fault(
        V,
        "ops.where(observed, terms, 0.0)",
        "ops.where(observed, terms, terms)",
        f"{LIKELIHOODS}_what_is_missing_counts_for_nothing_in_value_and_gradient",
    ),
    "gaussian: a constant": Fault(V, "constant = -0.5 * math.log(2.0 * math.pi)", "constant = 0.0", _DENSITY),
    "continuous bernoulli: the constant": Fault(V, " - ops.where(near, series, far)", "", _DENSITY),
    "poisson: x!": Fault(V, " - ops.exp(log_rate) - log_gamma(small + 1.0)", " - ops.exp(log_rate)", _DENSITY),
    "learned scale: starts at 1": Fault(
        V,
        'ops.cast(ops.equal(self._batches, 0.0), "float32")',
        "0.0 * self._batches",
        "keras_vae/test_scale.py::test_a_scale_starts_at_the_error_of_the_first_batch_and_later_batches_do_not_change_it",
    ),
    "learned scale: as slow as a weight": Fault(
        V,
        "_GAIN = 10.0",
        "_GAIN = 1.0",
        "keras_vae/test_scale.py::test_a_learned_scale_moves_ten_times_as_far_under_adam_and_as_far_under_gradient_descent",
    ),
    "multinomial: the coefficient": Fault(V, "counts - of_total / x.shape[-1]", "counts", _DENSITY),
    "codes: a missing one is the first": Fault(
        V,
        "ops.where(ops.isnan(x), -ops.ones_like(x), x)",
        "ops.where(ops.isnan(x), ops.zeros_like(x), x)",
        "keras_vae/test_likelihoods.py::test_a_category_by_its_code_is_the_same_as_one_hot",
    ),
    "standardized: densities of standardised data": Fault(
        V, "ops.subtract(terms, np.log(self._stddev))", "terms", _DENSITY
    ),
    "optimal scale: only the last batch": Fault(
        V,
        "ops.maximum(1.0 / (self._batches + 1.0), 1.0 / _WINDOW)",
        "1.0",
        "keras_vae/test_scale.py::test_the_value_kept_is_the_mean_over_batches_and_evaluation_does_not_touch_it",
    ),
    "mixed: columns of the wrong likelihood": Fault(
        V,
        "array[..., end - count : end]",
        "array[..., :count]",
        f"{LIKELIHOODS}_mixed_is_its_parts_side_by_side",
    ),
    # The model and its training
    "model: a fixed prior ignored": Fault(
        V,
        "return self.prior.as_float32()",
        "return DiagonalNormal.standard(self.latent_dim)",
        f"{MODEL}_a_prior_of_the_wrong_size_is_refused_and_another_normal_is_used",
    ),
    "model: encoder outputs swapped": Fault(
        V,
        'mean, log_var = (ops.cast(output, "float32")',
        'log_var, mean = (ops.cast(output, "float32")',
        f"{MODEL}_the_terms_equal_a_float64_forward_pass",
    ),
    "model: batch statistics at inference": Fault(
        V,
        "def posterior(self, x: Any, training: bool = False",
        "def posterior(self, x: Any, training: bool = True",
        f"{TRAINING}_batch_normalisation_and_dropout_train_and_are_still_at_inference",
    ),
    "model: log_var unbounded": Fault(
        V,
        "LOG_VAR_RANGE = (-30.0, 15.0)",
        "LOG_VAR_RANGE = (-30.0, 1500.0)",
        f"{MODEL}_log_var_is_bounded_and_its_gradient_survives",
    ),
    "model: a frozen seed": Fault(
        V,
        "batch, *shape), self.seed_generator)",
        "batch, *shape), keras.random.SeedGenerator(0))",
        f"{MODEL}_noise_changes_inside_fit",
    ),
    "model: sample weights ignored": Fault(
        V,
        "terms.loss if weight is None else terms.loss * weight",
        "terms.loss",
        f"{MODEL}_weights_scale_the_gradient_as_in_keras",
    ),
    "model: regularisation not minimised": Fault(
        V,
        'ops.maximum(batch.size, 1), "float32") + penalties',
        'ops.maximum(batch.size, 1), "float32")',
        f"{MODEL}_regularisation_losses_have_a_gradient",
    ),
    "fit: clipping ignored": Fault(
        V,
        "self.data_on_device = data_on_device\n",
        "self.data_on_device = data_on_device\n"
        "        self.optimizer.clipnorm = self.optimizer.clipvalue = self.optimizer.global_clipnorm = None\n",
        f"{TRAINING}_gradients_are_clipped {TRAINING}_clipping_limits_the_step",
    ),
    "fit: clipping by value and by norm ignored": Fault(
        V,
        "self.data_on_device = data_on_device\n",
        "self.data_on_device = data_on_device\n        self.optimizer.clipnorm = self.optimizer.clipvalue = None\n",
        f"{TRAINING}_gradients_are_clipped {TRAINING}_clipping_limits_the_step",
    ),
    "fit: learning rate schedule ignored": Fault(
        V,
        "self.data_on_device = data_on_device\n",
        "self.data_on_device = data_on_device\n        rate = self.optimizer._learning_rate\n"
        '        self.optimizer._learning_rate = getattr(rate, "initial_learning_rate", rate)\n',
        f"{TRAINING}_a_schedule_sets_the_learning_rate_of_each_step",
    ),
    "fit: gradient accumulation ignored": Fault(
        V,
        "self.data_on_device = data_on_device\n",
        "self.data_on_device = data_on_device\n        self.optimizer.gradient_accumulation_steps = None\n",
        f"{TRAINING}_accumulated_gradients_are_applied_after_the_last_of_them",
    ),
    "fit: loss scale ignored": Fault(
        V,
        "torch.autograd.grad(loss * scale, weights",
        "torch.autograd.grad(loss, weights",
        f"{TRAINING}_mixed_precision_trains_as_well_as_float32",
    ),
    "fit: loss scale ignored on JAX": Fault(
        V,
        "self.optimizer.scale_loss(loss), others",
        "loss, others",
        f"{TRAINING}_mixed_precision_trains_as_well_as_float32",
        "jax",
    ),
    "fit: epsilon of Adam": Fault(
        V,
        "eps=self.epsilon / math.sqrt(1.0 - self.beta_2**t)",
        "eps=self.epsilon",
        "keras_vae/test_fast_paths.py::test_the_fused_update_is_that_of_keras",
    ),
    # Evaluation
    "evaluation: bits for nats": Fault(
        V,
        "nats / (num_dimensions * math.log(2.0))",
        "nats / num_dimensions",
        f"{EVALUATION}_bits_per_dim_of_fair_coins_is_one",
    ),
    "evaluation: threshold below what was promised": Fault(
        V,
        "ordered[-1 - beyond]",
        "ordered[-2 - beyond]",
        "keras_vae/test_anomaly.py::test_of_the_data_it_was_fitted_on_no_more_than_promised_is_called_anomalous",
    ),
    "annealed: temperatures": Fault(
        V,
        "(t - before) * (at.log_last - at.log_first)",
        "t * (at.log_last - at.log_first)",
        "keras_vae/test_annealed.py::test_with_the_exact_posterior_every_weight_is_p_of_x "
        "keras_vae/test_annealed.py::test_it_is_right_within_its_standard_error",
    ),
    # Export and serving
    "export: parity compares nothing": Fault(
        "export",
        "tolerance * magnitude\n",
        "np.inf * magnitude\n",
        "export/test_bundle.py::test_check_compares_numbers_not_only_hashes",
    ),
    "bundle: hashes not compared": Fault(
        S,
        'file_hash(path) != expected["sha256"]',
        "False",
        "export/test_bundle.py::test_check_names_the_damaged_file",
    ),
    "server: answers of a batch mixed up": Fault(
        S,
        "start += job.rows",
        "start += 0",
        "serving/test_batching.py::test_what_waits_is_run_together_and_told_apart",
    ),
    "server: any token will do": Fault(
        S,
        "not hmac.compare_digest(given.strip(), self._token)",
        "False",
        "serving/test_server.py::test_a_token_is_asked_for_where_one_is_set",
    ),
    "pipeline: the seed of a score ignored": Fault(
        S,
        "np.random.default_rng(usual_seed if seed is None else seed)",
        "np.random.default_rng(usual_seed)",
        "serving/test_pipeline.py::test_the_score_is_the_negative_elbo_of_the_model",
    ),
}


def places(fault, root=ROOT):
    """The files of a fault's package that hold its old text, once for each time."""
    files = sorted((root / fault.package).rglob("*.py"))
    return [path for path in files for _ in range(path.read_text(encoding="utf-8").count(fault.old))]


def missing_tests(fault):
    """The ids of a fault's tests that are not there any more."""

    def exists(test):
        file, _, name = test.partition("::")
        path = ROOT / "tests" / file
        return path.exists() and f"def {name}(" in path.read_text(encoding="utf-8")

    return [test for test in fault.tests.split() if not exists(test)]


def copy_of_the_sources(folder):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def is_caught(fault, copy):
    """Whether one of its tests fails with the fault in the copy of the sources."""
    (path,) = places(fault, copy)
    source = path.read_text(encoding="utf-8")
    environment = {**os.environ, "KERAS_BACKEND": fault.backend, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(str(copy / folder) for folder in (".", *CODE, "tests"))
    tests = [f"tests/{test}" for test in fault.tests.split()]
    path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    finally:
        path.write_text(source, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest did not run {fault.tests}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main():
    parser = argparse.ArgumentParser(description="Plants deliberate faults and says which the tests catch.")
    parser.add_argument("names", nargs="*", help="faults to plant; all by default")
    parser.add_argument("--check", action="store_true", help="only say which faults must be adapted to the sources")
    arguments = parser.parse_args()
    chosen = {name: FAULTS[name] for name in arguments.names or FAULTS}
    stale = [
        f"{name}: {len(places(fault))} times {fault.old!r} in {fault.package}/; no {missing_tests(fault)}"
        for name, fault in chosen.items()
        if len(places(fault)) != 1 or missing_tests(fault)
    ]
    print(*stale, sep="\n")
    if arguments.check or stale:
        sys.exit(len(stale) > 0)
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_the_sources(pathlib.Path(folder))
        for name, fault in chosen.items():
            caught = is_caught(fault, copy)
            missed += [] if caught else [name]
            print(f"{'caught' if caught else 'MISSED'}  {name}", flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught")
    sys.exit(len(missed) > 0)


if __name__ == "__main__":
    main()
