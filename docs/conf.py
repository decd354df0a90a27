"""The site: `sphinx-build -W -n --keep-going -c docs . build/site`.

Its sources are the whole repository and not this folder alone, so that a page may link to the README beside some code
as it does on GitHub, and the link leads to a page of the site.

Docstrings have Google's sections and one kind of markup, the backtick around code. It becomes a link where it names
something of the reference. The site is built without network, so names of other packages are no links.
"""

import os
import re

import latex2mathml.converter
from docutils import nodes
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
autodoc_member_order = "bysource"

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4  # GitHub's names of headings

html_math_renderer = "mathml"
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
    """Our docstrings in reStructuredText: what only looks like its markup is escaped, formulas are literal blocks."""
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


def read_page(app, doctree):
    """Code in the text of a page may name something of the reference; a folder has a listing on GitHub alone."""
    page = app.env.docname
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node["reftype"] == "myst" and (app.env.doc2path(page).parent / node["reftarget"]).is_dir():
            node.replace_self(node.children)
    for node in list(doctree.findall(nodes.literal)):
        if isinstance(node.parent, nodes.paragraph):
            target = {"refdomain": "py", "reftype": "obj", "reftarget": node.astext(), "refdoc": page}
            node.replace_self(addnodes.pending_xref("", node.deepcopy(), **target))


def link_names(app, env, node, contnode):
    """A link for a name in code or in a type, if it is clear which of ours it means; else code that is no link."""
    if node.get("refdomain") != "py":
        return None
    name, call = re.match(r"(?:([A-Za-z_][\w.]*)(\(.*\))?)?$|", node["reftarget"], flags=re.DOTALL).groups()
    if name is None:
        return contnode
    objects = env.domains.python_domain.objects
    shown = [full for full, entry in objects.items() if f".{full}".endswith(f".{name}") and not entry.aliased]
    found = [full for full in shown if full.rpartition(".")[0] == node.get("py:module")]
    if not found and (call or re.search("[A-Z_.]", name)):  # else it may be a word, such as `samples`
        kinds = ("class", "function", "exception")  # a method has many namesakes
        found = [full for full in shown if "." in name or objects[full].objtype in kinds]
    if len(found) != 1:
        must_be_found = node["reftype"] != "obj" and name.startswith("keras_vae") and "._" not in name
        return None if must_be_found else contnode
    entry = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


def show_formula(self, node):
    """A formula as MathML, which browsers draw themselves: no script, and nothing from another host."""
    is_inline = node.tagname == "math"
    text = re.sub(r"\\(log|max)\b", r"\\\1\\,", node.astext())  # browsers leave no room after them
    formula = latex2mathml.converter.convert(text, display="inline" if is_inline else "block")
    self.body.append(formula if is_inline else f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


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
    app.add_html_math_renderer("mathml", inline_renderers=(show_formula, None), block_renderers=(show_formula, None))
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("doctree-read", read_page)
    app.connect("missing-reference", link_names)
