"""What tests of training share."""

from __future__ import annotations

import pytest

from helpers import tones


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Five speakers of tones."""
    return tones(tmp_path_factory.mktemp('tones') / 'source')
