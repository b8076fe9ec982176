"""Settings of the documentation site: `make docs` builds it into docs/_build/html."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "fastegnn_md"
author = "fastegnn_md developers"
version = release = version_of("fastegnn-md")
language = "en"

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "outside",
    "written",
]
exclude_patterns = ["_build", "_ext"]

# The notebooks come with what they print; tests/test_site.py executes them.
nb_execution_mode = "off"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_typehints = "none"  # docstrings have them
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autosummary_generate = False  # a page for each face, see _ext/written.py
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"fastegnn_md {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"code-font-size": "78%"},
    "dark_css_variables": {"color-background-primary": "#0d1117"},  # that of the pictures
}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False  # the licence says it
