"""The report: each tensor beside its float32 one, the ranges of the file, and what folding does to kernels."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import quantise, windows_of
from jax_reparam import checkpoint, deploy, reparam
from jax_reparam.deploy import convert
from jax_reparam.graph import flatbuffer
from jax_reparam.manifest import Kernel
from jax_reparam.quantise import tensor_report
from jax_reparam.runtime import litert


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((16, 6, 8)).astype(np.float32)


def apply(x):
    kernel = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    y = jax.nn.softmax(x[0] @ kernel) * 3 + 1
    return y[:1] - 2 * y[1:2]


@pytest.fixture(scope='module')
def forms(windows):
    return quantise(apply, windows), convert.to_float32(apply, (1, 6, 8))


def test_each_tensor_is_compared_with_the_float32_one(forms, windows):
    rows = tensor_report.report(*forms, windows)
    by_op = {row.op: row for row in rows}
    assert {'FULLY_CONNECTED', 'SOFTMAX', 'SUB'} <= set(by_op)
    # 8 bits of well spread values leave about 40 dB; against another tensor nothing would be left.
    assert min(row.snr_db for row in rows if row.snr_db is not None) > 25
    kernel = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    truth = windows @ kernel
    linear = by_op['FULLY_CONNECTED']
    assert (linear.seen_low, linear.seen_high) == pytest.approx((truth.min(), truth.max()), abs=1e-4)
    assert (linear.low, linear.high) == pytest.approx((truth.min(), truth.max()), abs=0.1)
    assert by_op['SOFTMAX'].low == 0
    assert by_op['SOFTMAX'].high == pytest.approx(255 / 256)


def test_the_snr_of_the_output_is_that_of_the_logits(forms, windows):
    found = {row.op: row for row in tensor_report.report(*forms, windows)}['SUB']
    expected, logits = (litert.load(form, reference=True)(windows) for form in reversed(forms))
    noise = np.square(logits.astype(np.float64) - expected).sum()
    assert found.snr_db == pytest.approx(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise), abs=1e-6)


def test_worst_first(forms, windows):
    found = [row.snr_db for row in tensor_report.report(*forms, windows) if row.snr_db is not None]
    assert found == sorted(found)


def test_what_lies_beyond_the_range_is_counted(forms, windows):
    rows = tensor_report.report(*forms, windows)
    assert all(row.clipped == 0 for row in rows)
    linear = next(row for row in tensor_report.report(*forms, 3 * windows) if row.op == 'FULLY_CONNECTED')
    truth = 3 * windows @ np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    beyond = (truth < linear.low) | (truth > linear.high)
    assert linear.clipped == pytest.approx(beyond.mean(), abs=0.02)
    assert linear.clipped > 0.1


def test_int8_and_float32_of_an_export_are_the_same_graph(exported, data):
    found = checkpoint.load(exported.path / 'checkpoint')
    params, function = deploy.build(found.recipe.model, found.variables, 64)
    bound = lambda features: function(features, 'l2')
    files = (
        quantise(bound, windows_of(data, 'train')[0][:8]),
        convert.to_float32(bound, (1, 64, found.recipe.frontend.n_mels)),
    )
    rows = tensor_report.report(*files, windows_of(data, 'test')[0][:3], params=params)
    # Each layer is found by its kernel; what has none belongs to the layer before.
    named = [row.module for row in sorted(rows, key=lambda row: row.node) if row.op == 'FULLY_CONNECTED']
    assert named[0] == 'stem/project'
    assert sorted(named[1:4]) == ['layers/0/key', 'layers/0/query', 'layers/0/value']
    assert named[4:7] == ['layers/0/out', 'layers/0/ffn_in', 'layers/0/ffn_out']
    assert named[-2:] == ['head/hidden_0', 'head/classifier']
    assert [row.module for row in rows if row.op == 'CONV_2D'] == ['stem/conv_1']
    assert [row.module for row in rows if row.op == 'DEPTHWISE_CONV_2D'] == ['stem/conv_0']
    [softmax] = [row for row in rows if row.op == 'SOFTMAX']
    assert softmax.module in ('layers/0/key', 'layers/0/query')
    assert (softmax.scale, {row.module for row in rows if row.op == 'PAD'} <= {'', 'stem/conv_0'}) == (1 / 256, True)
    assert len(rows) == sum(flatbuffer.graph(files[0]).ops.values())
    lines = tensor_report.table(rows)
    assert len(lines) == len(rows) + 1
    assert lines[1].split()[:2] == [str(rows[0].node), rows[0].op]


def test_the_text_leaves_out_what_only_moves_values(forms, windows):
    rows = tensor_report.report(*forms, windows)
    moves = {row.op for row in rows} - {row.op for row in tensor_report.computed(rows)}
    assert moves & {'SLICE', 'STRIDED_SLICE'}
    text = tensor_report.text([], {'int8': rows})
    assert 'deHRF' not in text
    assert text.index('## int8') < text.index('SOFTMAX')
    assert not any(f' {op} ' in text for op in moves)


def test_another_graph_is_refused(forms, windows):
    other = convert.to_float32(lambda x: x.mean(axis=1), (1, 6, 8))
    with pytest.raises(ValueError, match='expected the operators of the float32 graph'):
        tensor_report.report(forms[0], other, windows)


def test_sites():
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((4, 64)).astype(np.float32), rng.standard_normal((64, 3)).astype(np.float32)
    u[0, 0] = 50
    [site] = tensor_report.sites({'params': {'ffn': {'hrf': {'kernel_u': u, 'kernel_v': v}}, 'head': {'kernel': v}}})
    assert site.path == 'params/ffn'
    folded = np.asarray(reparam.compose({'kernel_u': u, 'kernel_v': v})['kernel'])
    largest = [kernel.largest for kernel in (site.kernel_u, site.kernel_v, site.kernel)]
    assert largest == pytest.approx([np.abs(kernel).max() for kernel in (u, v, folded)], rel=1e-5)
    # One large weight takes the steps of all others.
    assert site.kernel_u.kurtosis > 30 > 5 > site.kernel_v.kurtosis
    step = np.abs(v).max() / 127
    noise = np.square(np.rint(v / step) * step - v).sum()
    assert site.kernel_v.int8_snr_db == pytest.approx(10 * np.log10(np.square(v).sum() / noise), abs=1e-3)


def test_a_kernel_that_rounding_leaves_alone_has_an_infinite_snr():
    kernel = np.array([[127.0, -1.0]], np.float32)
    [site] = tensor_report.sites({'hrf': {'kernel_u': np.ones((1, 1), np.float32), 'kernel_v': kernel}})
    assert site.kernel == Kernel(largest=127, kurtosis=1, int8_snr_db=None)
    assert site.path == ''
    assert ' inf' in tensor_report.text([site], {})
