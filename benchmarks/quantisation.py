"""Quantises trained models step by step, and prints how far each step's logits lie from the trained model's.

python benchmarks/quantisation.py W [W ...]

W is what fold.py takes. Steps, each with those before: what TensorFlow's quantisers make, with biases corrected
(`export.biases`), with weights rounded together (`export.rounding`); int8 in both ways to write normalisations
(`deploy.ops.unit`). All validation windows run in LiteRT's reference kernels. A line a model, form and step, and at the
end the windows of all models together. SNR is of the logits; windows that decide otherwise are few, so that a
difference of one or two says nothing.
"""

from __future__ import annotations

import argparse
import collections
import functools
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from jax_reparam import checkpoint
from jax_reparam.data import export_data
from jax_reparam.deploy import convert
from jax_reparam.deploy.ops import Norm
from jax_reparam.export import folding
from jax_reparam.manifest import Score
from jax_reparam.quantise import bias_correction, forms, gptq, ranges
from jax_reparam.runtime import gates, litert

FORMS: tuple[tuple[convert.Activations, Norm], ...] = (('int8', 'l2'), ('int8', 'rsqrt'), ('int16', 'rsqrt'))
# A quantised model, the float32 one and calibration windows to a quantised one.
Step = Callable[[bytes, bytes, np.ndarray], bytes]


def together(model: bytes, float32: bytes, windows: np.ndarray) -> bytes:
    return gptq.rounded(model, float32, gptq.covariances(float32, windows))


# In the order in which they are taken, which is not that in which they came.
STEPS: dict[str, tuple[Step, ...]] = {
    'quantiser': (),
    'biases corrected': (bias_correction.corrected,),
    'weights together': (together, bias_correction.corrected),
}


def stepwise(
    function: forms.Deployed, norm: Norm, calibration: np.ndarray, form: convert.Activations
) -> Iterator[tuple[str, bytes]]:
    """The model behind each step."""
    float32 = convert.to_float32(lambda features: function(features, norm), (1, *calibration.shape[1:]))
    made = forms.quantised(float32, calibration, ranges.measured(float32, calibration), form)
    for name, steps in STEPS.items():
        yield name, functools.reduce(lambda model, step: step(model, float32, calibration), steps, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', nargs='+', metavar='W')
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    total: dict[str, list[Score]] = collections.defaultdict(list)
    windows = 0
    for source in args.sources:
        trained = checkpoint.load(source)
        folded = folding.fold(trained, plain=True)
        data = export_data.load_data(trained, show_progress=False)
        validation, (calibration, _) = export_data.of_part(data, 'validation', None), export_data.calibration(data)
        windows += len(validation.features)
        reference, _ = folding.compare(trained, folded, validation.features)
        _, function = folding.deployed(trained, folded, frames=data.window.frames)
        for form, norm in FORMS:
            for name, model in stepwise(function, norm, calibration, form):
                logits = litert.load(model, reference=True)(validation.features)
                score = gates.score(reference, logits, validation)
                step = f'{form:5} {norm:5}  {name:16}'
                total[step].append(score)
                print(f'{source}  {step}  {score.snr_db:5.1f} dB  {score.differing} differ', flush=True)
    for step, scores in total.items():
        mean, differing = np.mean([score.snr_db for score in scores]), sum(score.differing for score in scores)
        print(f'all  {step}  {mean:5.1f} dB on average  {differing} of {windows} differ')


if __name__ == '__main__':
    main()
