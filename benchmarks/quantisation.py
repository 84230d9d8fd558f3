"""Quantises trained models step by step, and prints how far each step's logits lie from the trained model's.

python benchmarks/quantisation.py W [W ...]

W is what fold.py takes. Steps, each with those before: what the converter makes, with biases corrected
(`export.biases`), with weights rounded together (`export.rounding`), and in int8 with own ranges for the terms of sums
(`export.ranges`). All test windows run in LiteRT's reference kernels. A line a model, form and step, and at the end the
windows of all models together. SNR is of the logits; windows that decide otherwise are few, so that a difference of one
or two says nothing.
"""

from __future__ import annotations

import argparse
import collections
import functools
from collections.abc import Callable

import numpy as np
from absl import logging

from jax_reparam import checkpoint, deploy
from jax_reparam.deploy.ops import Norm
from jax_reparam.export import biases, convert, folding, gates, interpret, ranges, rounding, samples

# A quantised model, the float32 one and calibration windows to a quantised one.
Step = Callable[[bytes, bytes, np.ndarray], bytes]


def together(model: bytes, float32: bytes, windows: np.ndarray) -> bytes:
    return rounding.rounded(model, float32, rounding.covariances(float32, windows))


# In the order in which they are taken, which is not that in which they came.
STEPS: dict[str, tuple[Step, ...]] = {
    'converter': (),
    'biases corrected': (biases.corrected,),
    'weights together': (together, biases.corrected),
    'own ranges': (ranges.of_terms, together, biases.corrected),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', nargs='+', metavar='W')
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    total: dict[tuple[str, str], list[gates.Score]] = collections.defaultdict(list)
    windows = 0
    for source in args.sources:
        trained = checkpoint.load(source)
        folded = folding.fold(trained, plain=True)
        data = folding.load_data(trained, show_progress=False)
        test, (calibration, _) = samples.of_part(data, 'test', None), samples.calibration(data)
        windows += len(test.features)
        reference, _ = folding.compare(trained, folded, test.features)
        _, function = folding.deployed(trained, folded, frames=data.window.frames)
        norms: dict[convert.Activations, Norm] = {'int8': deploy.unit(trained.config['model']), 'int16': 'rsqrt'}
        for form, norm in norms.items():
            bound = functools.partial(function, norm=norm)
            float32 = convert.to_float32(bound, (1, *calibration.shape[1:]))
            made = convert.quantise(bound, calibration, form)
            for name, steps in STEPS.items():
                if form == 'int16' and ranges.of_terms in steps:
                    continue
                model = functools.reduce(lambda model, step: step(model, float32, calibration), steps, made)
                logits = interpret.load(model, reference=True)(test.features)
                score = gates.score(reference, logits, test)
                total[form, name].append(score)
                print(f'{source}  {form:5}  {name:16}  {score.snr_db:5.1f} dB  {score.differing} differ', flush=True)
    for (form, name), scores in total.items():
        mean, differing = np.mean([score.snr_db for score in scores]), sum(score.differing for score in scores)
        print(f'all  {form:5}  {name:16}  {mean:5.1f} dB on average  {differing} of {windows} differ')


if __name__ == '__main__':
    main()
