"""The report: each tensor beside its float32 one, the ranges of the file, and what folding does to kernels."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from helpers import drawn_calibration, float32
from jax_reparam import reparam
from jax_reparam.manifest import Kernel
from jax_reparam.quantise import tensor_report
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import observe


@pytest.fixture(scope='module')
def windows():
    return np.random.default_rng(0).standard_normal((16, 6, 8)).astype(np.float32)


def apply(x):
    kernel = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    y = jax.nn.softmax(x[0] @ kernel) * 3 + 1
    return y[:1] - 2 * y[1:2]


@pytest.fixture(scope='module')
def made(windows):
    return quantise(Calibration(float32(apply, (6, 8)), windows), {'': 8})


def test_each_tensor_is_compared_with_the_float32_one(made, windows):
    rows = tensor_report.report(made, windows)
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


def test_the_snr_of_the_output_is_that_of_the_logits(made, windows):
    found = {row.op: row for row in tensor_report.report(made, windows)}['SUB']
    expected, logits = (observe.logits(graph, windows) for graph in (made.float32, made.graph))
    noise = np.square(logits.astype(np.float64) - expected).sum()
    assert found.snr_db == pytest.approx(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise), abs=1e-6)


def test_what_lies_beyond_the_range_is_counted(made, windows):
    rows = tensor_report.report(made, windows)
    assert all(row.clipped == 0 for row in rows)
    linear = next(row for row in tensor_report.report(made, 3 * windows) if row.op == 'FULLY_CONNECTED')
    truth = 3 * windows @ np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    beyond = (truth < linear.low) | (truth > linear.high)
    assert linear.clipped == pytest.approx(beyond.mean(), abs=0.02)
    assert linear.clipped > 0.1


def test_each_tensor_has_its_part_also_between_conversions():
    windows, _, calibration = drawn_calibration('conv_transformer')
    made = quantise(calibration, {'': 8, 'layers/0': 16})
    rows = tensor_report.report(made, windows[:3])
    conversions = sum(made.graph.ops.get(op, 0) for op in ('CAST', 'QUANTIZE'))
    assert len(rows) == len(calibration.graph.nodes) == len(made.graph.nodes) - conversions
    assert conversions > 0
    assert all(made.graph.nodes[row.node].op == row.op for row in rows)
    modules = {row.module for row in rows if row.op == 'FULLY_CONNECTED'}
    assert modules == {
        'front',
        *(f'layers/{layer}/{part}' for layer in '01' for part in ('attention', 'ffn')),
        'head',
        '',
    }
    assert {row.module for row in rows if row.op in ('CONV_2D', 'DEPTHWISE_CONV_2D')} == {'stem'}
    scales = {row.module: row.scale for row in rows if row.op == 'SOFTMAX'}
    assert scales == {'layers/0/attention/softmax': 2**-15, 'layers/1/attention/softmax': 2**-8}
    lines = tensor_report.table(rows)
    assert len(lines) == len(rows) + 1
    assert lines[1].split()[:2] == [str(rows[0].node), rows[0].op]


def test_the_text_leaves_out_what_only_moves_values(made, windows):
    rows = tensor_report.report(made, windows)
    moves = {row.op for row in rows} - {row.op for row in tensor_report.computed(rows)}
    assert moves & {'SLICE', 'STRIDED_SLICE'}
    text = tensor_report.text([], {'int8': rows})
    assert 'deHRF' not in text
    assert text.index('## int8') < text.index('SOFTMAX')
    assert not any(f' {op} ' in text for op in moves)


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


def test_branches_have_no_factors_to_report():
    norm = {name: np.ones(2, np.float32) for name in ('scale', 'bias', 'mean', 'var')}
    conv = {
        'hrf': {'kernels': np.ones((1, 3, 1, 2), np.float32)},
        'norm': {name: norm[name] for name in list(norm)[:2]},
    }
    running = {'norm': {name: norm[name] for name in list(norm)[2:]}}
    assert tensor_report.sites({'params': {'net': {'conv': conv}}, 'batch_stats': {'net': {'conv': running}}}) == []


def test_a_kernel_that_rounding_leaves_alone_has_an_infinite_snr():
    kernel = np.array([[127.0, -1.0]], np.float32)
    [site] = tensor_report.sites({'hrf': {'kernel_u': np.ones((1, 1), np.float32), 'kernel_v': kernel}})
    assert site.kernel == Kernel(largest=127, kurtosis=1, int8_snr_db=None)
    assert site.path == ''
    assert ' inf' in tensor_report.text([site], {})
