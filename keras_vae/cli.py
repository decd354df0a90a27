"""The commands behind `keras-vae`: quickstart, train, evaluate, sample, export.

`keras_vae_command.py` has chosen the backend before this file is imported, and hands in what the library itself does
not know: how to import the exporter. A user's mistake ends in one sentence on
standard error and exit code 1 (2 for a wrong command line), never in a traceback; an output folder appears whole or
not at all.
"""

import argparse
import contextlib
import csv
import errno
import json
import math
import pathlib
import signal
import sys
import time
import warnings
from typing import Any

import keras
import numpy as np

from keras_vae import (
    __version__,
    _files,
    callbacks,
    datasets,
    evaluation,
    likelihoods,
    networks,
    objectives,
    plotting,
    priors,
)
from keras_vae.model import VAE

# Chosen so that the pictures show digits and the whole takes well under two minutes on two cores.
QUICKSTART = {
    "data": "digits",
    "binarize": "threshold",
    "likelihood": "bce",
    "scale": None,
    "levels": 256,
    "network": "mlp",
    "hidden": (256,),
    "latent_dim": 2,
    "epochs": 60,
    "batch_size": 50,
    "learning_rate": 2e-3,
    "objective": "elbo",
    "num_samples": 1,
    "beta": 1.0,
    "free_bits": 0.0,
    "prior": "normal",
    "components": None,
    "allow_missing": False,
}

# Of examples that are compared with each other, all with all, to take the KL term apart.
_MOST_FOR_SURGERY = 10_000


def main(arguments=None, exporter=None):
    """Runs a command line and returns its exit code.

    Args:
        arguments: The command line, without the program's name.
        exporter: A function without arguments that imports and returns the package `keras_vae_export`.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    options.exporter = exporter or _no_exporter
    if options.backend not in (None, keras.backend.backend()):
        parser.error(
            f"Keras runs on {keras.backend.backend()} already; set KERAS_BACKEND={options.backend} before it starts"
        )
    try:
        options.run(options)
    except BrokenPipeError:
        return 1  # the reader of our output has gone; there is nobody to tell
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        sys.stdout.flush()
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        words = "the disk is full: free some space, or choose another output" if full else _sentence(error)
        print(f"keras-vae {options.command}: {words}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-written was left.", file=sys.stderr)
        return 130
    return 0


def quickstart(options):
    """Trains on the embedded digits with settings known to work."""
    settings = {**QUICKSTART, "epochs": options.epochs or QUICKSTART["epochs"], "seed": options.seed}
    vae, test = _train(settings, options.output, options.overwrite)
    following = [f"keras-vae sample {options.output}"]
    try:
        exporter = options.exporter()
    except ModuleNotFoundError as error:
        print(f"No ONNX files: {error}")
    else:
        _export(exporter, vae, pathlib.Path(options.output) / "bundle", data=test)
        following.append(f"keras-vae serve {options.output}/bundle")
    print(f"\nNext: {', or '.join(following)}")
    print(f"or, in Python: keras.saving.load_model('{options.output}/model.keras')")


def train(options):
    """Trains on any data."""
    options.hidden = options.hidden or ((32, 64) if options.network == "conv" else (500,))
    # With one sample the importance-weighted bound is the ELBO.
    options.num_samples = options.num_samples or (5 if options.objective == "iwae" else 1)
    if options.data not in ("digits", *datasets.KERAS_SETS) and pathlib.Path(options.data).exists():
        options.data = str(pathlib.Path(options.data).resolve())  # so that `evaluate` finds it from any folder
    names = (*QUICKSTART, "seed")
    _train({name: getattr(options, name) for name in names}, options.output, options.overwrite)


def evaluate(options):
    """Prints the held-out terms of a trained model."""
    vae, settings = _load(options.model), _settings(options.model)
    data = datasets.load(
        options.data or settings.get("data", "digits"),
        options.binarize or (settings.get("binarize") if options.data is None else None),
    )
    x = _fit_shape(data.test if options.split == "test" else data.train, vae.data_shape)
    found: dict[str, Any] = evaluation.held_out(vae, x, options.num_samples, options.seed)
    found |= _latents(vae, x, options.seed)
    if options.log_likelihood is not None:
        verbose = 0 if options.json else "auto"
        estimate = evaluation.log_likelihood(vae, x, options.log_likelihood, options.seed, verbose=verbose)
        found["log_likelihood"] = estimate.mean
        found["log_likelihood_standard_error"] = estimate.mean_standard_error
        found["effective_sample_size"] = float(np.median(estimate.effective_sample_size))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{len(x):,} examples   {_in_words(found)}")
    units = ", ".join(f"{kl:.2f}" for kl in sorted(found["kl_per_unit"], reverse=True))
    print(f"latents    {found['active_units']} of {vae.latent_dim} active; KL of each in nats: {units}")
    print(
        f"of the KL  {found['mutual_information']:.3f} nats tell examples apart (to tell all takes "
        f"{found['max_mutual_information']:.3f}); {found['marginal_kl']:.3f} are the distance of codes from prior"
    )
    if options.log_likelihood is not None:
        error, effective = found["log_likelihood_standard_error"], found["effective_sample_size"]
        print(
            f"log p(x)   {found['log_likelihood']:.3f} +- {error:.3f} nats per example, by {options.log_likelihood:,} "
            f"draws of z, of which {effective:.0f} count in the median example"
        )


def _latents(vae, x, seed):
    """What the latents hold, as numbers that can be written as JSON."""
    surgery = evaluation.elbo_surgery(vae, x[:_MOST_FOR_SURGERY], seed)
    posterior = vae.encode(x)
    return {
        "active_units": int(evaluation.is_active(posterior).sum()),
        "kl_per_unit": evaluation.mean_kl(posterior, vae.numpy_prior()).tolist(),
        "mutual_information": surgery.mutual_information,
        "marginal_kl": surgery.marginal_kl,
        "max_mutual_information": surgery.max_mutual_information,
    }


def sample(options):
    """Writes samples of a trained model as a picture or an array."""
    vae = _load(options.model)
    output = pathlib.Path(options.output)
    if output.suffix == ".npy":
        with _files.atomic_file(output) as temporary:
            np.save(temporary, vae.sample(options.num, seed=options.seed))
    elif output.suffix == ".png":
        plotting.samples(vae, options.num, output, seed=options.seed)
    else:
        raise ValueError(f"--output must end in .png (a picture) or .npy (an array); got {output}.")
    print(f"Wrote {options.num} samples to {output}.")


def export(options):
    """Writes a trained model as a bundle of ONNX files that were run and compared with it, or checks a bundle."""
    if options.check:
        if options.bundle is not None:
            raise ValueError("--check takes one folder, the bundle.")
        differences = options.exporter().check(options.model, options.providers or "cpu", options.tolerance)
        print(f"{options.model} is whole and runs on {options.providers or 'cpu'}. {_differences(differences)}")
        return
    if options.providers is not None:
        raise ValueError("--providers says where --check runs a bundle; an export is always compared on the CPU.")
    if options.bundle is None:
        raise ValueError("name a model and the folder to write: keras-vae export MODEL BUNDLE")
    exporter, vae = options.exporter(), _load(options.model)
    data = _held_out(options)
    data = None if data is None else _fit_shape(data, vae.data_shape)
    threshold = None
    if options.threshold is not None:
        if data is None:
            raise ValueError("--threshold is fitted on held-out data, of which there are none: name some with --data.")
        threshold = evaluation.fit_threshold(vae, data, options.threshold, seed=options.seed)
    _export(
        exporter,
        vae,
        options.bundle,
        data=data,
        threshold=threshold,
        engine=options.engine,
        precision=options.precision,
        **({} if options.tolerance is None else {"tolerance": options.tolerance}),
        max_elbo_loss=options.max_elbo_loss,
        max_batch_size=options.max_batch_size,
        simplify=options.simplify,
        overwrite=options.overwrite,
    )
    if threshold is not None:
        print(
            f"Threshold {threshold.nats:.3f} nats, fitted on {threshold.examples:,} held-out examples: "
            f"{1 - threshold.quantile:.2%} of normal data, give or take {threshold.standard_error:.2%}, will be called "
            "anomalous."
        )


def _held_out(options):
    """The data named, or those the model was trained on, which may be gone by now: they are welcome, not needed."""
    if options.data is not None:
        return datasets.load(options.data, options.binarize).test
    settings = _settings(options.model)
    if "data" not in settings:
        return None
    try:
        return datasets.load(settings["data"], options.binarize or settings.get("binarize")).test
    except (ValueError, OSError) as error:
        print(f"Note: not compared on the data it was trained on: {_sentence(error)}")
        return None


def _export(exporter, vae, output, **settings):
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manifest = exporter.export(vae, output, **settings)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"Note: {warning.message}")
    print(f"Wrote {', '.join(manifest.graphs)} as ONNX to {output}, verified, in {time.monotonic() - started:.0f} s.")
    exact = {name: graph.parity for name, graph in manifest.graphs.items() if graph.precision == "float32"}
    batches = ", ".join(str(batch) for batch in exact["encoder"]["batches"])
    print(
        f"{_differences({name: parity['max_abs_diff'] for name, parity in exact.items()})}, at batch {batches} on "
        f"{', '.join(exact['encoder']['inputs'])} inputs."
    )
    for graph in manifest.graphs.values():
        if graph.name == f"elbo_{graph.precision}":
            print(f"{graph.precision} changes the bound by {graph.parity['elbo_change']:+.4f} nats per example.")


def _differences(by_graph):
    figures = ", ".join(f"{name} {max(outputs.values()):.1e}" for name, outputs in by_graph.items())
    return f"Largest difference from the model: {figures}"


def _no_exporter():
    raise ModuleNotFoundError('keras_vae_export is not installed: pip install "keras-vae[export]".')


def _train(settings, output, overwrite):
    started = time.monotonic()
    with _files.atomic_folder(output, overwrite, _is_run) as folder:
        keras.utils.set_random_seed(settings["seed"])
        data = datasets.load(settings["data"], settings["binarize"])
        train, test = data.train, data.test
        if settings["network"] == "conv" and train.ndim == 3:
            train, test = train[..., None], test[..., None]
        vae = _model(settings, train)
        shape = "x".join(str(size) for size in train.shape[1:])
        how = f", binarised by {settings['binarize']}" if settings["binarize"] else ""
        print(
            f"keras-vae {__version__} on {keras.backend.backend()}. {settings['data']}: {len(train):,} examples of "
            f"{shape} to train on, {len(test):,} held out{how}. {vae.count_params():,} weights."
        )
        if not vae.prior.has_closed_form_kl:
            name = type(vae.prior).__name__
            print(f"To a {name} the KL has no closed form: it is averaged over the samples of z, and so is its log.")
        with _notes():
            history = _fit(vae, settings, train, test)
        summary = {
            "backend": keras.backend.backend(),
            "versions": {"keras_vae": __version__, "keras": keras.__version__},
            "settings": {**settings, "hidden": list(settings["hidden"])},
            "epochs": len(history),
            "held_out": evaluation.held_out(vae, test),
        }
        vae.save(folder / "model.keras")
        _write_history(folder / "history.csv", history)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        plotting.reconstructions(vae, test, folder / "reconstructions.png")
        plotting.samples(vae, 100, folder / "samples.png")
        if vae.latent_dim == 2:
            plotting.manifold(vae, folder / "manifold.png")
        files = sorted(file.name for file in folder.iterdir())
    print(f"held out  {_in_words(summary['held_out'])}")
    print(f"Wrote {', '.join(files)} to {output} in {time.monotonic() - started:.0f} s.")
    return vae, test


def _model(settings, train):
    likelihood = _likelihood(settings)
    likelihood.validate(train, "the data", settings["allow_missing"])
    build = networks.conv if settings["network"] == "conv" else networks.mlp
    size = {"filters": settings["hidden"]} if settings["network"] == "conv" else {"hidden": settings["hidden"]}
    data_mean = np.nanmean(train, axis=0, dtype="float64")  # NaN is there only where it is allowed
    encoder, decoder = build(
        train.shape[1:], settings["latent_dim"], likelihood=likelihood, data_mean=data_mean, **size
    )
    vae = VAE(
        encoder,
        decoder,
        likelihood,
        _objective(settings),
        _prior(settings, train),
        seed=settings["seed"],
        allow_missing=settings["allow_missing"],
    )
    vae.compile(keras.optimizers.Adam(settings["learning_rate"]))
    return vae


def _likelihood(settings):
    kind = type(likelihoods.get(settings["likelihood"]))
    arguments = {}
    if settings["scale"] is not None:
        if not issubclass(kind, likelihoods.LocationScale):
            raise ValueError(f"--scale has no meaning for {settings['likelihood']}: it is for gaussian and its like.")
        arguments["scale"] = settings["scale"]
    if kind is likelihoods.DiscretizedLogistic:
        arguments["levels"] = settings["levels"]
    elif settings["levels"] != QUICKSTART["levels"]:
        raise ValueError(f"--levels has no meaning for {settings['likelihood']}: it is for discretized_logistic.")
    return kind(**arguments)


def _objective(settings):
    if settings["objective"] == "elbo":
        names = ("beta", "num_samples", "free_bits")
        return objectives.ELBO(**{name: settings[name] for name in names})
    changed = [name for name in ("beta", "free_bits") if settings[name] != QUICKSTART[name]]
    if changed:
        raise ValueError(f"--{changed[0].replace('_', '-')} belongs to the ELBO and has no meaning for iwae.")
    return objectives.IWAE(settings["num_samples"])


def _prior(settings, train):
    components = settings["components"]
    if settings["prior"] == "normal":
        if components is not None:
            raise ValueError("--components has no meaning for the normal prior: it is for mixture and vamp.")
        return None
    if settings["prior"] == "mixture":
        return priors.GaussianMixture(components or 10, seed=settings["seed"])
    count = min(components or 500, len(train))
    start = train[np.random.default_rng(settings["seed"]).permutation(len(train))[:count]]
    return priors.VampPrior(count, pseudo_inputs=np.nan_to_num(start))


@contextlib.contextmanager
def _notes():
    """Shows what the library warns of as a line among the others."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message, category, *rest, **named):
            if category is not UserWarning:
                return show(message, category, *rest, **named)
            return print(f"Note: {message}", flush=True)

        warnings.showwarning = note
        warnings.filterwarnings("always", category=UserWarning, module=r"keras_vae\.")
        yield


def _fit(vae, settings, train, test):
    """Trains and returns the history as a list of dicts; the first Ctrl-C ends training after the current batch."""
    progress = _Progress(settings["epochs"], math.ceil(len(train) / settings["batch_size"]))
    previous = signal.signal(signal.SIGINT, lambda *_: progress.stop())
    try:
        vae.fit(
            train,
            batch_size=settings["batch_size"],
            epochs=settings["epochs"],
            validation_data=(test,),
            verbose=0,
            callbacks=[callbacks.NonFiniteGuard(), progress],
        )
    finally:
        signal.signal(signal.SIGINT, previous)
    return progress.history


class _Progress(keras.callbacks.Callback):
    """A line for each epoch, with a bar in it on a terminal: the four numbers that matter, in nats."""

    def __init__(self, epochs, batches):
        super().__init__()
        self.epochs, self.batches = epochs, batches
        self.history = []
        self.on_terminal = sys.stdout.isatty()
        self.started = self.drawn = 0.0

    def stop(self):
        if self.model.stop_training:
            raise KeyboardInterrupt
        self.model.stop_training = True
        print(
            "\nStopping after this epoch's validation, then writing what there is. Ctrl-C again to give up.", flush=True
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self.on_terminal and time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            filled = round(20 * (batch + 1) / self.batches)
            bar = "#" * filled + "." * (20 - filled)
            print(f"\repoch {len(self.history) + 1}/{self.epochs} [{bar}]", end="", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.history.append({"epoch": epoch + 1, **logs})
        start = "\r\033[K" if self.on_terminal else ""
        print(
            f"{start}epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
            f"  negative ELBO {logs['negative_elbo']:9.3f}"
            f"  held out {logs['val_negative_elbo']:9.3f}"
            f" = reconstruction {logs['val_reconstruction']:.3f} + kl {logs['val_kl']:.3f} nats"
            f"  {time.monotonic() - self.started:.1f} s",
            flush=True,
        )


def _write_history(path, history):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]) if history else ["epoch"])
        writer.writeheader()
        writer.writerows(history)


def _load(path):
    """The model in a `.keras` file or in an output folder."""
    file = _model_file(path)
    if not file.is_file():
        raise ValueError(f"There is no model {file}: name a .keras file, or the output folder of quickstart or train.")
    try:
        model = keras.saving.load_model(file)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{file} cannot be loaded as a Keras model: {_sentence(error)}") from None
    if not isinstance(model, VAE):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a keras_vae.VAE.")
    return model


def _settings(path):
    """The settings that the model was trained with, from the summary beside it; empty if there is none."""
    summary = _model_file(path).parent / "summary.json"
    if not summary.is_file():
        return {}
    try:
        return dict(json.loads(summary.read_text())["settings"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{summary} does not hold the settings of a run: name the data with --data.") from None


def _model_file(path):
    path = pathlib.Path(path)
    return path / "model.keras" if path.is_dir() else path


def _is_run(folder):
    """Whether a folder is the output of a run, and so may be replaced by one."""
    try:
        return "held_out" in json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def _fit_shape(x, data_shape):
    return x[..., None] if (*x.shape[1:], 1) == tuple(data_shape) else x


def _in_words(summary):
    return (
        f"negative ELBO {summary['negative_elbo']:.3f} = reconstruction {summary['reconstruction']:.3f} + kl "
        f"{summary['kl']:.3f} nats per example, {summary['bits_per_dim']:.4f} bits per dimension"
    )


def _sentence(error):
    """The first paragraph of an error's message on one line."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-vae",
        description="Train, evaluate, sample and export variational autoencoders. All losses are in nats per example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"keras-vae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    command = _command(commands, "quickstart", quickstart)
    command.add_argument("--epochs", type=_count, help=f"passes over the data (default {QUICKSTART['epochs']})")
    _add_output(command, "quickstart")

    command = _command(commands, "train", train)
    command.add_argument("--data", default="digits", help="digits, mnist, fashion_mnist, cifar10, or a file or folder")
    command.add_argument("--binarize", choices=("threshold", "sample"), help="make grey values binary")
    command.add_argument("--likelihood", choices=_LIKELIHOODS, default="bce", metavar="NAME", help=_likelihood_help())
    command.add_argument(
        "--scale", type=_scale, help="of gaussian and its like: a number, learned, optimal or predicted"
    )
    command.add_argument(
        "--levels", type=_count, default=256, help="of discretized_logistic (default 256; the digits have 17)"
    )
    command.add_argument("--network", choices=("mlp", "conv"), default="mlp")
    command.add_argument(
        "--hidden", type=_counts, help="units (mlp, default 500) or filters (conv, default 32,64), by commas"
    )
    command.add_argument("--latent-dim", type=_count, default=8)
    command.add_argument("--epochs", type=_count, default=20)
    command.add_argument("--batch-size", type=_count, default=100)
    command.add_argument("--learning-rate", type=_positive, default=1e-3, help="of Adam (default 0.001)")
    command.add_argument("--objective", choices=("elbo", "iwae"), default="elbo", help="(default elbo)")
    command.add_argument("--num-samples", type=_count, help="samples of z per example (default 1; of iwae 5)")
    command.add_argument("--beta", type=_non_negative, default=1.0, help="weight of the KL term (default 1, the ELBO)")
    command.add_argument(
        "--free-bits", type=_non_negative, default=0.0, help="nats that each latent may have for free (default 0)"
    )
    command.add_argument(
        "--prior", choices=("normal", "mixture", "vamp"), default="normal", help="p(z): N(0, I), or one that learns"
    )
    command.add_argument("--components", type=_count, help="of the prior (default 10 of mixture, 500 of vamp)")
    command.add_argument("--allow-missing", action="store_true", help="NaN in the data is a missing value")
    _add_output(command, "runs/vae")

    command = _command(commands, "evaluate", evaluate)
    _add_model(command)
    command.add_argument("--data", help="as for train (default: what the model was trained on)")
    command.add_argument("--binarize", choices=("threshold", "sample"))
    command.add_argument("--split", choices=("test", "train"), default="test")
    command.add_argument("--num-samples", type=_count, default=16, help="samples of z per example (default 16)")
    command.add_argument(
        "--log-likelihood", type=_count, metavar="SAMPLES", help="estimate log p(x) too, with so many (papers: 5000)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")

    command = _command(commands, "sample", sample)
    _add_model(command)
    command.add_argument("--num", type=_count, default=100, help="how many (default 100)")
    command.add_argument("--output", default="samples.png", help="a .png picture or a .npy array (default samples.png)")

    command = _command(commands, "export", export)
    _add_model(command)
    command.add_argument("bundle", nargs="?", help="the folder to write")
    command.add_argument("--check", action="store_true", help="verify the bundle that is named instead of a model")
    command.add_argument("--providers", choices=("auto", "cpu", "cuda"), help="where --check runs (default cpu)")
    command.add_argument("--data", help="held-out data, as for train (default: what the model was trained on)")
    command.add_argument("--binarize", choices=("threshold", "sample"))
    command.add_argument(
        "--precision",
        type=_precisions,
        default=("float32",),
        help="float16, int8 or float16,int8: smaller variants, written beside float32",
    )
    command.add_argument("--engine", default="auto", choices=("auto", "tensorflow", "torch"), help="(default auto)")
    command.add_argument("--tolerance", type=_positive, help="difference allowed (default 1e-4)")
    command.add_argument(
        "--max-elbo-loss", type=_positive, default=0.5, help="nats that a smaller variant may lose (default 0.5)"
    )
    command.add_argument(
        "--threshold",
        type=_share,
        metavar="QUANTILE",
        help="call anomalous what scores above this quantile of the held-out data, such as 0.99",
    )
    command.add_argument("--max-batch-size", type=_count, default=64, help="for Triton (default 64)")
    command.add_argument("--simplify", action="store_true", help="run onnxslim over the graphs")
    command.add_argument("--overwrite", action="store_true", help="replace the bundle if it exists")

    # For the list of commands only: `keras_vae_command.py` has handed it to keras_vae_serving, which knows no Keras.
    commands.add_parser("serve", help="Serves exported bundles over HTTP, with a page to look at them.")
    return parser


def _command(commands, name, run):
    command = commands.add_parser(name, help=run.__doc__.split("\n")[0], description=run.__doc__, allow_abbrev=False)
    command.set_defaults(run=run)
    command.add_argument(
        "--backend", choices=("tensorflow", "jax", "torch"), help="default: KERAS_BACKEND, or what is installed"
    )
    command.add_argument("--seed", type=_seed, default=0, help="of weights, order and noise (default 0)")
    return command


def _add_output(command, default):
    command.add_argument("--output", default=default, help=f"folder to write (default {default})")
    command.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")


def _add_model(command):
    command.add_argument("model", help="a .keras file or an output folder")


def _number(convert, accept, words):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {words}; got {text!r}")
        return value

    return parse


# One name for each that fits data of any shape; a Mixed one needs to know its columns.
_LIKELIHOODS = tuple(name for name in likelihoods.NAMES if name != "categorical")


def _likelihood_help():
    return f"{', '.join(_LIKELIHOODS)} (default bce)"


def _scale(text):
    return text if text in likelihoods.SCALES else _positive(text)


_count = _number(int, lambda value: value >= 1, "a whole number of at least 1")
_seed = _number(int, lambda value: value >= 0, "a whole number, zero or more")
_positive = _number(float, lambda value: 0 < value < math.inf, "a positive number")
_share = _number(float, lambda value: 0 < value < 1, "a number between 0 and 1")
_non_negative = _number(float, lambda value: 0 <= value < math.inf, "a number, zero or more")
_precisions = _number(
    lambda text: tuple(text.split(",")),
    lambda names: set(names) <= {"float32", "float16", "int8"},
    "float32, float16, int8, or several with commas between them",
)
_counts = _number(
    lambda text: tuple(int(part) for part in text.split(",")),
    lambda values: all(value >= 1 for value in values),
    "whole numbers with commas between them, such as 500 or 32,64",
)
