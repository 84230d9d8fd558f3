"""The package's own names: there when asked for, and not paid for before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jax_reparam
from jax_reparam import layers, reparam


def test_names():
    assert jax_reparam.dehrf is reparam.dehrf
    assert jax_reparam.hrf_sites is reparam.hrf_sites
    assert jax_reparam.HRFDense is layers.HRFDense
    assert jax_reparam.HRFConfig is layers.HRFConfig
    for name in jax_reparam.__all__:
        assert hasattr(jax_reparam, name)
    with pytest.raises(AttributeError, match="has no attribute 'dehfr'"):
        jax_reparam.dehfr  # noqa: B018


def test_importing_the_package_loads_no_jax():
    code = "import sys, jax_reparam; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
