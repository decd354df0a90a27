"""The site builds without a warning: every link and every name leads somewhere. What must not rot in it is complete."""

import dataclasses
import inspect
import pathlib
import re

import pytest
from sphinx.application import Sphinx

import keras_vae
import keras_vae.sklearn
import keras_vae_export
import keras_vae_serving
from keras_vae_serving import manifest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
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
    rooms = [keras_vae.callbacks, keras_vae.datasets, keras_vae.distributions, keras_vae.evaluation]
    rooms += [keras_vae.likelihoods, keras_vae.networks, keras_vae.objectives, keras_vae.plotting, keras_vae.posteriors]
    rooms += [keras_vae.priors, keras_vae.schedules, keras_vae.tables, keras_vae_export, keras_vae_serving]
    expected = {f"{room.__name__}.{name}" for room in rooms for name in public(room)}
    assert sorted(expected - set(documented) - {f"keras_vae.{name}" for name in INTERNAL}) == []


def public(module):
    """Classes and functions that a module shows: its own, and, of a package, those that it re-exports."""
    for name, value in vars(module).items():
        is_ours = getattr(value, "__module__", "").startswith(module.__name__)
        if is_ours and not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name


def test_the_specification_of_the_bundle_names_every_field():
    text = (ROOT / "docs" / "reference" / "bundle.md").read_text()
    for described in (manifest.Manifest, manifest.GraphSpec, manifest.PosteriorSpec, manifest.AnomalyThreshold):
        for field in dataclasses.fields(described):
            assert re.search(rf"[`\"]{field.name}[`\"]", text) or field.name == "name", field.name
    for name in manifest.draws._DRAWS:
        assert f"`{name}`" in text, name
