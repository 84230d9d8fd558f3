"""Builds the pages: sphinx-build -W docs build/docs. Nothing is loaded from another host."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax_reparam
from jax_reparam import commands
from jax_reparam.commands import train

# The notebook runs the command of this environment, active or not.
os.environ['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')])

project = author = 'jax_reparam'
version = release = jax_reparam.__version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinxarg.ext', 'sphinx_copybutton']
exclude_patterns = ['_build', '**.ipynb_checkpoints', 'demo']
suppress_warnings = ['myst.domains']  # sphinxarg's domain

# The docstrings are plain text: single backticks are code.
default_role = 'code'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
napoleon_use_ivar = True

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = 'remove'

html_theme = 'sphinx_book_theme'
html_title = 'jax_reparam'
html_static_path = ['_static']
html_theme_options = {'show_toc_level': 2, 'navbar_persistent': [], 'use_download_button': False}
html_show_sourcelink = False
html_show_copyright = False


def _commands() -> Iterator[str]:
    for name in commands.COMMANDS:
        yield f"""
## {name}

```{{eval-rst}}
.. argparse::
   :module: jax_reparam.commands.{name}
   :func: parser
   :prog: jax-reparam {name}
   :nodescription:
   :noepilog:
   :nodefaultconst:
```
"""


def _keys() -> Iterator[str]:
    last = None
    for section, key, default, meaning in train.recipe_keys():
        if section != last:
            yield f'\n## {section or "seed"}\n\n| key | default | meaning |\n|---|---|---|'
        yield f'| `{key}` | {f"`{default}`" if default else ""} | {meaning} |'
        last = section


def _names() -> Iterator[str]:
    for name in jax_reparam.__all__:
        if name.startswith('_'):
            continue
        found: Any = getattr(jax_reparam, name)
        kind = 'autoclass' if inspect.isclass(found) else 'autofunction'
        members = '\n   :members:' if inspect.isclass(found) else ''
        yield f'\n## {name}\n\n```{{eval-rst}}\n.. {kind}:: jax_reparam.{name}{members}\n```'


GENERATED = {'cli': _commands, 'recipe': _keys, 'api': _names}


def setup(app: Any) -> None:
    """Appends to a page what the code says."""

    def append(_: Any, page: str, source: list[str]) -> None:
        if page in GENERATED:
            source[0] += '\n'.join(GENERATED[page]())

    app.connect('source-read', append)
