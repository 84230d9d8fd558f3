"""The manifest: what is written is what is read."""

from __future__ import annotations

import numpy as np
import pytest

from jax_reparam import manifest
from jax_reparam.errors import InputError
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.windows import WindowConfig


def test_input_comes_back(rng):
    mean, std = rng.standard_normal((2, 64)).astype(np.float32)
    written = Input(FrontendConfig(fmin=50.0), WindowConfig(300, 150), mean, std)
    read = Input.from_json(written.as_json())
    assert (read.frontend, read.window) == (written.frontend, written.window)
    np.testing.assert_array_equal(read.mean, mean)
    np.testing.assert_array_equal(read.std, std)
    assert written.as_json()['window_seconds'] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'expected a folder that fold.py wrote, found no manifest.json'),
        ('{"format": 1', 'expected a manifest in JSON, found: '),
        ('[]', 'expected manifest format 1, found None'),
        ('{"format": 9}', 'expected manifest format 1, found 9'),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(InputError, match=message):
        manifest.read(tmp_path)


def test_a_number_that_json_does_not_know_is_not_written():
    with pytest.raises(ValueError, match='not JSON compliant'):
        manifest.dumps({'snr_db': float('inf')})


@pytest.mark.parametrize(
    ('forms', 'expected'),
    [
        ({'float32': {}, 'int16': {}, 'int8': {}}, 'int8'),
        ({'float32': {}, 'int16': {}}, 'int16'),
        ({'int8': {'accepted': ['x']}, 'int16': {}}, 'int16'),
        ({'int8': {'accepted': ['x']}, 'int16': {'accepted': ['x']}}, 'int8'),
        ({'float32': {}, manifest.NPU_FORM: {}}, None),
    ],
)
def test_what_passed_is_recommended_before_what_was_accepted(forms, expected):
    assert manifest.recommended(forms) == expected


def test_a_form_may_be_preferred_if_it_passed():
    assert [manifest.recommended({'int8': {}, 'int16': {}}, prefer) for prefer in ('int16', None)] == ['int16', 'int8']
    assert manifest.recommended({'int8': {}, 'int16': {'accepted': ['x']}}, 'int16') == 'int8'
