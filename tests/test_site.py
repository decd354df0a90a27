"""The site builds without a warning: every link and every name leads somewhere. What must not rot in it is complete."""

import contextlib
import dataclasses
import doctest
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
from keras import ops
from sphinx.application import Sphinx

import keras_vae
import keras_vae.sklearn
import keras_vae_export
import keras_vae_serving
from keras_vae_serving import manifest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = (
    *(keras_vae.callbacks, keras_vae.datasets, keras_vae.distributions, keras_vae.evaluation, keras_vae.likelihoods),
    *(keras_vae.networks, keras_vae.objectives, keras_vae.plotting, keras_vae.posteriors, keras_vae.priors),
    *(keras_vae.schedules, keras_vae.sequences, keras_vae.tables, keras_vae_export, keras_vae_serving),
)
# What the packages ask of each other, and a user needs not.
INTERNAL = {
    *("distributions.check_density", "distributions.flatten_event", "likelihoods.check_finite", "posteriors.checked"),
    *("objectives.compute_terms", "plotting.is_image", "plotting.require_one_tensor", "posteriors.check_prior"),
    *("priors.check", "priors.checked", "schedules.get", "schedules.varies"),
}


@pytest.mark.filterwarnings("ignore:::sphinx", "ignore:::myst_parser")  # deprecations among Sphinx's own
def test_the_site_builds_strictly_and_its_reference_is_complete(tmp_path):
    """All but the writing of pages, which takes as long as the rest."""
    app = Sphinx(ROOT, ROOT / "docs", tmp_path, tmp_path, "dummy", warningiserror=True, status=None)
    app.build()
    assert app.statuscode == 0
    documented = app.env.domains.python_domain.objects
    expected = {f"{room.__name__}.{name}" for room in ROOMS for name in public(room)}
    assert sorted(expected - set(documented) - {f"keras_vae.{name}" for name in INTERNAL}) == []


def public(module):
    """Classes and functions that a module shows: its own, and, of a package, those that it re-exports."""
    for name, value in vars(module).items():
        is_ours = getattr(value, "__module__", "").startswith(module.__name__)
        if is_ours and not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name


def test_examples_of_docstrings_that_stand_alone_run():
    """What they say to be printed, or in nats, is so. The others are about a model or data that a reader has."""
    library = [room for room in ROOMS if room.__name__.startswith("keras_vae.")]
    shown = {name: getattr(room, name) for room in library for name in public(room)}
    run = 0
    for item in shown.values():
        local = {"np": np, "keras": keras, "ops": ops, "keras_vae": keras_vae, **shown}
        with contextlib.suppress(NameError):
            for example in doctest.DocTestParser().get_examples(item.__doc__ or ""):
                value = evaluate(example.source, local)
                nats = re.search(r"#.*?(-?[\d.]+) nats$", example.source.strip())
                if nats and ops.is_tensor(value):
                    assert float(ops.sum(value)) == pytest.approx(float(nats[1]), abs=0.05), item
                assert example.want in ("", f"{value!r}\n")
                run += 1
    assert run >= 25


def evaluate(source, names):
    """The value of a line; None if it has none."""
    try:
        return eval(source, names)
    except SyntaxError:
        return exec(source, names)


def test_the_specification_of_the_bundle_names_every_field():
    text = (ROOT / "docs" / "reference" / "bundle.md").read_text()
    for described in (manifest.Manifest, manifest.GraphSpec, manifest.PosteriorSpec, manifest.AnomalyThreshold):
        for field in dataclasses.fields(described):
            assert re.search(rf"[`\"]{field.name}[`\"]", text) or field.name == "name", field.name
    for name in manifest.draws._DRAWS:
        assert f"`{name}`" in text, name
