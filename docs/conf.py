"""The site: `sphinx-build -W -n --keep-going -c docs . build/site`.

Its sources are the whole repository and not this folder alone, so that a page may link to the README beside some code
as it does on GitHub, and the link leads to a page of the site.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # the reference is read from the imported package

project = "keras_vae"
root_doc = "docs/index"
include_patterns = ["docs/**", "export/README.md", "serving/README.md", "benchmarks/README.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "runs"]
extensions = ["myst_parser", "sphinx_copybutton"]
nitpicky = True

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # GitHub's names of headings

html_theme = "furo"
html_title = "keras_vae"
