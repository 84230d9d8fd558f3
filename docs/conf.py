"""Builds the pages: sphinx-build -W docs build/docs. Nothing is loaded from another host."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jax_reparam import __version__

# The notebook runs the command of this environment, active or not.
os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')])

project = 'jax_reparam'
version = release = __version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinxarg.ext', 'sphinx_copybutton']
exclude_patterns = ['_build', 'figures.py', '**.ipynb_checkpoints']
nitpick_ignore_regex = [('py:.*', '.*')]

# The docstrings are plain text: single backticks are code, types stand in the signature.
default_role = 'code'
autodoc_typehints = 'signature'
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'show-inheritance': False}
napoleon_use_ivar = True

myst_enable_extensions = ['colon_fence', 'attrs_block', 'attrs_inline']
myst_heading_anchors = 3
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 300

html_theme = 'sphinx_book_theme'
html_title = 'jax_reparam'
html_static_path = ['_static']
html_theme_options = {'home_page_in_toc': False, 'show_toc_level': 2, 'use_download_button': True}
html_show_sourcelink = False
