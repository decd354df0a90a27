"""The site: `sphinx-build -W -n --keep-going -c docs . build/site`.

Its sources are the whole repository and not this folder alone, so that a page may link to the README beside some code
as it does on GitHub, and the link leads to a page of the site.

Docstrings have Google's sections and one kind of markup, the backtick around code. It becomes a link where it names
something of the reference. The site is built without network, so names of other packages are no links.
"""

import os
import re

from sphinx import addnodes
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util import inspect
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from keras_vae_cli import options
from keras_vae_serving import __main__ as serving

os.environ.setdefault("KERAS_BACKEND", "torch")  # the reference is read from the imported packages

project = "keras_vae"
root_doc = "docs/index"
include_patterns = ["docs/**", "export/README.md", "serving/README.md", "benchmarks/README.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "runs"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
nitpicky = True
default_role = "py:obj"

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4  # GitHub's names of headings

html_theme = "furo"
html_title = "keras_vae"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
pygments_dark_style = "github-dark"
html_extra_path = ["_root"]  # sends / to the first page
html_show_sourcelink = False


class Docstring(GoogleDocstring):
    def _consume_returns_section(self, preprocess_types=False):
        """What is returned is said in a sentence, whose first words are no type."""
        return [("", "", self._dedent(self._consume_to_next_section()))]


def read_docstring(app, what, name, obj, options, lines):
    """Our docstrings in reStructuredText: what only looks like its markup is escaped, formulas become literal blocks."""
    text = re.sub(r"(?m)^(?=\w)(.*)\n\n((?:    .*\n?)+)", r"\1\n\n::\n\n\2\n", "\n".join(lines))
    pieces = re.split(r"(`[^`]*`|^>>> .*$|^::\n\n(?:    .*\n?)+)", text, flags=re.MULTILINE)
    pieces[::2] = [re.sub(r"[*|\\]|(?<=\w)_(?!\w)|^(?=\w)", r"\\\g<0>", piece) for piece in pieces[::2]]
    pieces[1::2] = [re.sub(r"^`(?=\.)", ":code:`", piece) for piece in pieces[1::2]]
    lines[:] = "".join(pieces).split("\n")
    if what not in ("property", "attribute"):  # of which it would read the words before a colon as the type
        lines[:] = Docstring(lines, Config(), app, what, name, obj, options).lines()


def read_signature(app, what, name, obj, options, signature, return_annotation):
    """The arguments of `__init__` where Keras's `__new__`, which takes any, hides them."""
    if what == "class" and signature == "(*args, **kwargs)":
        found = inspect.signature(obj.__init__, bound_method=True)
        signature = inspect.stringify_signature(found, show_return_annotation=False, unqualified_typehints=True)
    return signature, return_annotation


def unlink_folders(app, doctree):
    """A link to a folder of code leads to its listing on GitHub, and nowhere here."""
    here = app.env.doc2path(app.env.docname).parent
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node["reftype"] == "myst" and (here / node["reftarget"]).is_dir():
            node.replace_self(node.children)


def link_names(app, env, node, contnode):
    """A link for a name in code or in a type, if it is clear which of ours it means; else code that is no link."""
    if node.get("refdomain") != "py":
        return None
    name = re.match(r"([A-Za-z_][\w.]*)(\(.*\))?$|", node["reftarget"], flags=re.DOTALL)[1]
    if name is None:
        return contnode
    objects = env.domains.python_domain.objects
    is_ours = name.startswith("keras_vae") and "._" not in name
    prefix, _, last = name.rpartition(".")
    found = [full for full in objects if full == name or full.endswith(f".{name}")]
    if is_ours and not found:  # the module that defines a class is another than the one that shows it
        found = [f for f in objects if f.endswith(f".{last}") and f"{prefix}.".startswith(f.removesuffix(last))]
    if not prefix:  # `mean` may be a word of many methods
        found = [full for full in found if objects[full].objtype in ("class", "function", "exception")]
    near = [full for full in found if full.rpartition(".")[0] == node.get("py:module")]
    found = found if len(found) == 1 else near
    if len(found) != 1:
        return None if is_ours and node["reftype"] != "obj" else contnode
    entry = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


class Commands(SphinxDirective):
    """A section for each verb of the command line with its options, as the parsers state them."""

    def run(self):
        (verbs,) = (action.choices for action in options.parser()._actions if isinstance(action.choices, dict))
        text = []
        for name, parser in {**verbs, "serve": serving._parser("keras-vae serve")}.items():
            text += [f"## {name}", "", parser.description, "", "| | |", "|---|---|"]
            for action in parser._actions[1:]:  # the first is --help
                value = action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else action.dest.upper())
                words = [", ".join(action.option_strings), *([] if action.nargs == 0 else [value])]
                text.append(f"| `{' '.join(words).strip()}` | {(action.help or '') % vars(action)} |")
            text.append("")
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def setup(app):
    app.add_directive("commands", Commands)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("doctree-read", unlink_folders)
    app.connect("missing-reference", link_names)
