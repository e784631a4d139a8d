"""The documentation site: `make docs` builds docs/_build/html from these pages, the notebooks, and the docstrings.

The theme and MyST-NB are those of the documentation of JAX, Flax and Optax. A built page loads nothing from elsewhere:
formulas are MathML, which browsers draw by themselves, so there is no script for them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_DOCS = Path(__file__).parent
sys.path[:0] = [str(_DOCS), str(_DOCS.parent)]
# Notebooks run in processes of their own, which would import an installed gsjax: they run the code beside them.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_DOCS.parent), os.environ.get("PYTHONPATH")]))

import _api  # noqa: E402
import _formulas  # noqa: E402
import _site  # noqa: E402

project, author, copyright = "gsjax", "the authors of gsjax", "the authors of gsjax"
version = release = _site.version()

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_cache_path = _site.notebook_cache()
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove-warn"  # a warning of a cell becomes a warning of the build, and so an error
nb_merge_streams = True

default_role = "code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the types of fields are in the signature of the class
add_module_names = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "gsjax"
templates_path = ["_templates"]
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
html_context = {"default_mode": "auto"}
html_theme_options = {
    # Without a depth below the pages of the list: the theme's buttons that unfold it have no names.
    "max_navbar_depth": 1,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navigation_with_keys": False,
    "navbar_persistent": [],
}

_site.generate()
site_code = _site.digest(_DOCS.glob("_*.py"))  # pages are read anew if it changes


def setup(app):
    """What happens while the site is built, and formulas in MathML."""
    app.add_config_value("site_code", "", "env", str)
    app.connect("source-read", _site.relink)
    app.connect("autodoc-process-docstring", _api.docstring)
    app.connect("autodoc-process-signature", _api.signature)
    app.connect("autodoc-skip-member", _api.skip)
    app.connect("doctree-read", _api.annotations)
    app.connect("doctree-read", _site.enlargeable)
    app.connect("html-page-context", _site.accessible)
    app.add_html_math_renderer("mathml", (_formulas.inline, None), (_formulas.displayed, None))
    return {"parallel_read_safe": True}
