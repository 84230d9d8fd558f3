"""The diagnostics: the plain model's gradient from that of the factors, and a figure from lines alone."""

from __future__ import annotations

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np

from helpers import ROOT, TINY, drawn
from jax_reparam import models, reparam
from jax_reparam.config import SITES, HRFConfig

spec = importlib.util.spec_from_file_location('diagnostics', ROOT / 'benchmarks' / 'diagnostics.py')
diagnostics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(diagnostics)


def test_the_plain_gradient_is_that_of_the_folded_model(rng):
    trained, plain = (models.build(TINY, hrf, n_classes=3) for hrf in (HRFConfig(sites=SITES[:4]), None))
    x = rng.standard_normal((4, 32, 12))
    with jax.enable_x64(True):
        variables = drawn(jax.eval_shape(trained.init, jax.random.key(0), jnp.zeros((1, 32, 12))))
        folded = reparam.dehrf(variables)

        def gradient(model, tree):
            loss = lambda params: jnp.square(model.apply({**tree, 'params': params}, x)).sum()
            return jax.jit(jax.grad(loss))(tree['params'])

        got = diagnostics.plain_gradient(gradient(trained, variables), variables['params'])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), got, gradient(plain, folded))


def test_a_figure_is_drawn_from_the_lines(tmp_path):
    lines = [{'config': 'c'}, {'t': 0.0, 'train': 1.0, 'validation': 2.0}, {'t': 1.0, 'train': 1.5, 'validation': 2.0}]
    for arm in ('plain', 'hrf'):
        more = {'cosine': 0.5, 'condition_u': 2.0, 'condition_v': 3.0} if arm == 'hrf' else {}
        for step in (100, 200):
            line = {'arm': arm, 'site': 'layer_0', 'step': step, 'move': 0.1, 'weight': 2.0, 'stable_rank': 3.0}
            lines.append({**line, 'singular_values': [2.0, 1.0], **more})
    path = tmp_path / 'lines.jsonl'
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    diagnostics.draw(path)
    text = path.with_suffix('.svg').read_text()
    assert 'stable rank of W' in text
    assert 'hrf layer_0' in text
