"""`keras-vae card`: what a bundle is and how good it is, in Markdown, with numbers that its own files gave.

The front matter and the place, README.md in the folder, are those of the Hugging Face hub. What no file can say, such
as what the model is for, is left to its author, and said to be.
"""

import argparse
import json
import math
import pathlib
from typing import Any

import keras
import numpy as np

from keras_vae import _files, datasets, evaluation, tables
from keras_vae_cli import runs
from keras_vae_serving import Manifest, Pipeline

NUM_SAMPLES = 16  # of z, by which each score is averaged


def run(given: argparse.Namespace) -> None:
    """Writes the card of a bundle."""
    bundle = pathlib.Path(given.bundle)
    pipeline = Pipeline.load(bundle, providers="cpu")
    measured = _measured(pipeline, given) if given.data else _at_export(pipeline.manifest)
    name = " ".join((given.name or bundle.resolve().name).split())
    output = bundle / "README.md" if given.output is None else pathlib.Path(given.output)
    runs.check_output(output, given.overwrite)
    with _files.atomic_file(output) as temporary:
        temporary.write_text(card(name, pipeline.manifest, measured), encoding="utf-8")
    print(f"Wrote {output}.")


def card(name: str, manifest: Manifest, measured: list[tuple[str, str]]) -> str:
    """The text of a card."""
    versions = manifest.export["versions"]
    front = "---\nlibrary_name: keras\ntags:\n- variational-autoencoder\n- keras-vae\n- onnx\n---\n"
    sections = {
        "What it is": [
            ("data x", f"shape {_shape(manifest.data_shape)}, {_range(manifest)}"),
            (
                "p(x given z)",
                _part(manifest.likelihood) if manifest.table is None else "one for each column, by its kind",
            ),
            ("z", f"shape {_shape(manifest.latent_shape)}"),
            ("q(z given x)", _part({"name": manifest.posterior.name, "config": manifest.posterior.config})),
            ("p(z)", _part(manifest.prior and {**manifest.prior, "config": _short(manifest.prior["config"])})),
            *_columns(manifest),
            *([("decoder", "follows the steps before each step of x")] if manifest.autoregressive else []),
            ("missing values", "NaN in x, which is summed out" if manifest.missing else "none are taken"),
        ],
        "How good it is": measured,
        "Where it comes from": [
            ("exported from", f"keras-vae {versions.get('keras-vae')}, Keras on {manifest.export['backend']}"),
            ("versions at export", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ],
    }
    files = [
        (graph.file, f"{graph.precision}, {manifest.files[graph.file]['bytes']:,} bytes, {_parity(graph)}")
        for graph in manifest.graphs.values()
    ]
    tables_of = [f"## {title}\n\n{_table(rows)}" for title, rows in sections.items()]
    return "\n\n".join(
        [
            f"{front}\n# {name}",
            "A variational autoencoder as ONNX files, which onnxruntime runs without Keras. Losses are in nats per "
            "example: the negative ELBO is an upper bound of -log p(x), and a score for anomalies.",
            *tables_of,
            "## Files\n\nEach was run by onnxruntime and compared with the model when it was written.\n\n"
            + _table(files),
            f"## Use\n\n```python\n{_use(name, manifest)}\n```",
            "## To be said by its author\n\nWhat it is for and what not; whose data it was trained on, and with what "
            "right; what it gets wrong. No file of a bundle knows this.\n",
        ]
    )


def _use(name, manifest):
    """Lines of Python that run beside the folder of this bundle."""
    lines = [
        'from keras_vae_serving import Pipeline  # pip install "keras-vae[serving]"',
        f"\npipeline = Pipeline.load({json.dumps(name)})",
    ]
    takes = {tensor.name for graph in manifest.graphs.values() for tensor in graph.inputs}
    if "elbo" not in manifest.graphs or None in manifest.latent_shape:
        return "\n".join([*lines, "help(pipeline)"])
    given = ", condition=condition" if "condition" in takes else ""
    return "\n".join(
        [*lines, f"x = pipeline.sample(16, seed=0{given})", *([] if given else ["nats = pipeline.score(x)"])]
    )


def _measured(pipeline, given):
    """Terms of the bound on data, by the bundle's own files."""
    manifest = pipeline.manifest
    if "elbo" not in manifest.graphs or pipeline.inputs.is_conditional or manifest.parts is not None:
        raise ValueError("--data is for a bundle with a bound of x alone: leave it out for this one.")
    table = None if manifest.table is None else tables.Table.from_config(manifest.table)
    is_file = pathlib.Path(given.data).expanduser().exists()
    data = datasets.load(given.data, given.binarize, kinds=table, **({"test_fraction": 0} if is_file else {}))
    x = runs.fit_shape(data.train if is_file else data.test, manifest)
    found = pipeline.run(pipeline.verbs.score(x, NUM_SAMPLES, 0))
    terms = {name: found[name].astype("float64") for name in ("negative_elbo", "reconstruction", "kl")}
    rows = [("data", f"{given.data}, {len(x):,} examples, z drawn {NUM_SAMPLES} times for each")]
    for name, nats in terms.items():
        error = f" ± {nats.std(ddof=1) / math.sqrt(len(nats)):.3f} (standard error)" if len(nats) > 1 else ""
        words = {"negative_elbo": "negative ELBO", "kl": "KL"}.get(name, name)
        rows.append((f"{words}, nats", f"{nats.mean():.3f}{error}"))
    kind = manifest.likelihood and keras.saving.get_registered_object(f"keras_vae>{manifest.likelihood['name']}")
    if kind is not None and runs.is_code(kind.from_config(manifest.likelihood["config"]), x):
        bits = evaluation.bits_per_dim(terms["negative_elbo"].mean(), math.prod(x.shape[1:]))
        rows.append(("bits per dimension", f"{bits:.4f}"))
    if pipeline.threshold is not None:
        share = np.mean(pipeline.is_anomaly(x))
        rows.append(("beyond the threshold", f"{share:.2%}; it was fitted to {1 - pipeline.threshold.quantile:.2%}"))
    return rows


def _at_export(manifest):
    """What the manifest says of the data that were given at export."""
    if manifest.reference is None:
        return [("not measured", "export with data, or write the card with --data")]
    scores = np.asarray(manifest.reference["scores"])
    low, middle, high = np.quantile(scores, [0.05, 0.5, 0.95])
    rows = [
        ("data", f"{manifest.reference['examples']:,} examples that were given at export"),
        ("negative ELBO, nats", f"median {middle:.3f}, 5 % to 95 %: {low:.3f} to {high:.3f}"),
    ]
    if manifest.anomaly is not None:
        rows.append(("anomaly above", f"{manifest.anomaly.nats:.3f} nats"))
    return rows


def _columns(manifest):
    if manifest.table is not None:
        return [("columns", ", ".join(f"{column['name']} ({column['kind']})" for column in manifest.table))]
    if manifest.parts is not None:
        return [("parts", ", ".join(f"{name} {_shape(shape)}" for name, shape in manifest.parts["x"].items()))]
    return []


def _part(part: Any) -> str:
    if part is None:
        return "not known"
    config = {name: value for name, value in part["config"].items() if value is not None and name != "dtype"}
    words = json.dumps(config, ensure_ascii=False)
    return part["name"] + (f" {words if len(words) <= 200 else words[:200] + '...'}" if config else "")


def _short(config):
    """A config in which a list of one number over and over is that number."""
    return {
        name: value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value
        for name, value in config.items()
    }


def _range(manifest):
    if manifest.likelihood is None:
        return "of which no range is known"
    if manifest.data_range is None:
        return "real numbers"
    low, high = manifest.data_range
    return f"from {low:g} to {high:g}"


def _parity(graph):
    differences = [value for value in (graph.parity or {}).get("max_abs_diff", {}).values() if value is not None]
    return f"within {max(differences):.1e} of the model" if differences else "not compared"


def _shape(shape):
    sizes = ["any" if size is None else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _table(rows):
    cells = [(name, str(value).replace("|", "\\|").replace("\n", " ")) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
