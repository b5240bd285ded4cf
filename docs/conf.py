"""Sphinx configuration; `make docs` builds the site into docs/_build/html."""

import shutil
import sys
from pathlib import Path

import hrseg

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# Sphinx reads sources below its own folder only
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", ignore=shutil.ignore_patterns(".*", "README*"))

project = "hrseg"
author = "The hrseg authors"
copyright = "the hrseg authors, MIT licence"
release = version = hrseg.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "generated",  # docs/_ext
]
exclude_patterns = ["_build", "_ext", "_templates"]
nitpicky = True
default_role = "code"  # docstrings put code between single backticks

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # what is committed is shown; tests/notebooks runs them
suppress_warnings = ["mystnb.unknown_mime_type"]

python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False  # tables alone; the entries stand below them
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# other projects' inventories are not fetched, so that the site builds offline
nitpick_ignore_regex = [
    (r"py:.*", r"(?!hrseg\b).*"),
    (r"py:class", r".*"),  # of annotations, some of which are not public; pages refer to classes by py:obj
]

html_theme = "furo"
html_title = f"hrseg {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"

copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

llms_summary = (
    "hrseg trains, scores and runs semantic segmentation networks of the HRNet family on PyTorch Lightning: "
    "the papers' recipes in YAML, scores equal to the official evaluators', one command and a Python interface. "
    "MIT licence."
)
