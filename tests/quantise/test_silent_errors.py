"""Ways to load, to run and to be silently wrong: each is made on purpose, and the gates of `fold.py` see it.

A small ConvTransformer, beside each fault the same model without it, which passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import TINY, drawn, float32
from jax_reparam import deploy, models, reparam
from jax_reparam.deploy import convert, ops
from jax_reparam.evaluation import Windows
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.graph import Graph
from jax_reparam.graph.passes import optimise
from jax_reparam.manifest import Made
from jax_reparam.quantise.quantise import Calibration, quantise
from jax_reparam.runtime import tflm
from jax_reparam.runtime.check import verify

pytestmark = [pytest.mark.slow, pytest.mark.skipif(tflm.missing() is not None, reason=str(tflm.missing()))]

FRAMES, BANDS = 61, 12


@dataclasses.dataclass(frozen=True)
class Case:
    """A function to export, and what it is verified on.

    Attributes:
      function: features to logits.
      test: windows on which it decides clearly, so that rounding changes nothing.
      logits: the function's, in JAX.
    """

    function: Callable[[jax.Array], jax.Array]
    test: Windows
    logits: np.ndarray

    def int8(self, windows: np.ndarray) -> Graph:
        """Its form of 8 bits; `windows` set the ranges."""
        return optimise(quantise(Calibration(float32(self.function, windows.shape), windows), {'': 8}).graph)

    def reasons(self, name: str, model: Graph | bytes) -> list[str]:
        """Why `fold.py` would leave the form out; empty where it would keep it."""
        model = flatbuffer.write(model) if isinstance(model, Graph) else model
        return verify(name, model, Made(), self.logits, self.test, show_progress=False)[1]


@pytest.fixture(scope='module')
def params():
    plain = models.build(TINY, n_classes=3)
    variables = drawn(jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 8, BANDS))))
    return reparam.in_float64(lambda tree: deploy.prepare(TINY, tree, FRAMES), variables)


@pytest.fixture(scope='module')
def windows():
    rng = np.random.default_rng(0)
    return 2 * (rng.standard_normal((60, FRAMES, BANDS)) + rng.standard_normal((60, 1, BANDS))).astype(np.float32)


def case(params, windows):
    """The deploy form as `ops` is now, its logits centred, so that no class is always chosen."""
    logits = lambda features: deploy.apply(TINY, params, features)
    found = np.concatenate([jax.jit(logits)(window[None]) for window in windows])
    offset = found.mean(axis=0)
    found = found - offset
    ordered = np.sort(found, axis=1)
    clear = np.argsort(ordered[:, -2] - ordered[:, -1])[:40]
    assert len(set(found[clear].argmax(axis=1))) == 3
    test = Windows(windows[clear], np.arange(40), found[clear].argmax(axis=1))
    return Case(lambda features: logits(features) - offset.reshape(1, -1), test, found[clear])


def missed(reasons, runtime):
    """Whether a gate says that a runtime decides otherwise."""
    return any(f' in {runtime}: expected the same decision' in reason for reason in reasons)


@pytest.mark.parametrize('wrong', [False, True])
def test_relu6_that_stands_alone(params, windows, monkeypatch, wrong):
    """TFLM's int8 kernel does not clip where it should; behind a product of two activations nothing fuses it."""
    softmax, bound = jax.nn.softmax, 6 if wrong else None
    monkeypatch.setattr(jax.nn, 'softmax', lambda scores: softmax(jnp.clip(scores, 0, bound)))
    found = case(params, windows)
    model = found.int8(windows)
    assert ('RELU6' if wrong else 'RELU') in model.ops
    reasons = found.reasons('int8', model)
    assert missed(reasons, 'TFLM') if wrong else reasons == []


@pytest.mark.parametrize('granularity', ['TENSORWISE', 'CHANNELWISE'])
def test_weights_alone_in_int8_with_a_scale_for_each_channel(params, windows, granularity):
    """TFLM's DEQUANTIZE reads one scale of them all. LiteRT's reads each, and sees nothing."""
    from litert_quantizer import quantizer, recipe

    found = case(params, windows)
    weights = recipe.weight_only_wi8_afp32()
    for entry in weights:
        entry['op_config']['weight_tensor_config']['granularity'] = granularity
    made = quantizer.Quantizer(convert.to_float32(found.function, (1, FRAMES, BANDS)), weights)
    reasons = found.reasons('int8', bytes(made.quantize(enable_progress_report=False).quantized_model))
    assert missed(reasons, 'TFLM') == (granularity == 'CHANNELWISE')
    assert not missed(reasons, 'LiteRT')


@pytest.mark.parametrize('wrong', [False, True])
def test_a_mean_written_as_a_sum_with_16_bit_activations(params, windows, monkeypatch, wrong):
    """With the scale of its input, as TensorFlow's quantiser gives it to SUM, it saturates; it has its own here."""
    monkeypatch.setattr(ops, 'mean_over_time', lambda x: jnp.mean(x, axis=0))
    found = case(params, windows)
    calibration = Calibration(float32(found.function, windows.shape), windows)
    [mean] = [node for node in calibration.graph.nodes if node.op == 'SUM']
    if wrong:
        calibration.ranges = {**calibration.ranges, mean.output: calibration.ranges[mean.input(0)]}
    reasons = found.reasons('int16', optimise(quantise(calibration, {'': 16}).graph))
    assert missed(reasons, 'TFLM') if wrong else reasons == []


@pytest.mark.parametrize(('mask', 'wrong'), [(-30.0, False), (-1e9, True)])
def test_a_mask_that_takes_the_whole_range(params, windows, monkeypatch, mask, wrong):
    softmax = jax.nn.softmax

    def masked(scores):
        hidden = np.arange(scores.shape[-1]) >= scores.shape[-1] - 4
        return softmax(scores + np.where(hidden, mask, 0).astype(np.float32).reshape(1, 1, -1))

    monkeypatch.setattr(jax.nn, 'softmax', masked)
    found = case(params, windows)
    reasons = found.reasons('int8', found.int8(windows))
    assert missed(reasons, 'TFLM') if wrong else reasons == []


@pytest.mark.filterwarnings('ignore:.*experimental_preserve_all_tensors')  # LiteRT's, about the quantizer, 2026-11
@pytest.mark.parametrize('stock', [False, True])
def test_the_quantizers_stock_calibration(params, windows, stock):
    """A moving average of each window's minimum and maximum: what is beyond it is clipped."""
    from litert_quantizer import calibrator, quantizer, recipe, recipe_manager
    from litert_quantizer.utils import qsv_utils

    found = case(params, windows)
    float32, static = convert.to_float32(found.function, (1, FRAMES, BANDS)), recipe.static_wi8_ai8()
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(static)
    ranges = calibrator.Calibrator(float32, 1, **({} if stock else {'qsv_update_func': qsv_utils.min_max_update}))
    ranges.calibrate({'serving_default': [{'features': window[None]} for window in windows]}, manager)
    made = quantizer.Quantizer(float32, static).quantize(ranges.get_model_qsvs(), enable_progress_report=False)
    reasons = found.reasons('int8', bytes(made.quantized_model))
    assert missed(reasons, 'TFLM') if stock else reasons == []
