"""Rounds one tensor of a trained model after another to int8, and prints how much of it reaches the logits.

python benchmarks/noise.py W [W ...]

W is what fold.py takes. The model is the float32 one, and of its tensors one alone is rounded, to the steps that the
int8 model has there; all behind it runs in float32. Printed is the noise in the logits of validation windows, in dB
below them, and each tensor's share in the sum: first the tensors that make most of it, then parts of the model. What is
the same in all windows is left out: bias correction takes that off. (LAYERS.md says something else: how far a tensor
of the int8 model lies from its float32 twin, with the noise of all before in it.)
"""

from __future__ import annotations

import argparse
import collections

import numpy as np
from absl import logging

from jax_reparam import checkpoint, deploy
from jax_reparam.data import pipeline
from jax_reparam.deploy import convert
from jax_reparam.export import folding
from jax_reparam.graph import flatbuffer
from jax_reparam.quantise import forms, ranges, tensor_report
from jax_reparam.runtime import observe

WINDOWS = 64
SHOWN = 12


def noise(float32: bytes, int8: bytes, windows: np.ndarray) -> dict[tuple[int, str], float]:
    """By place and operator of what makes a tensor (-1: the input), noise over signal in the logits, both as powers."""
    content, quantised = flatbuffer.tree(float32), flatbuffer.tree(int8)
    subgraph, ranges = content.subgraphs[0], quantised.subgraphs[0]
    source, sink, end = int(subgraph.inputs[0]), int(subgraph.outputs[0]), len(subgraph.operators)
    rounded = [(-1, 'input', source, int(ranges.inputs[0]))]
    for place, (name, node, other) in enumerate(observe.pairs(quantised, content)):
        if name not in tensor_report.MOVES:
            rounded.append((place, name, int(other.outputs[0]), int(node.outputs[0])))
    made = {source, *(int(node.outputs[0]) for node in subgraph.operators)}
    exact = [{source: window[None], **run} for window, run in zip(windows, everything(float32, windows), strict=True)]
    signal = sum(float(np.square(run[sink]).sum()) for run in exact)
    found = {}
    for place, name, tensor, steps in rounded:
        port = flatbuffer.port(ranges.tensors[steps])
        known = [{**run, tensor: port.decode(port.encode(run[tensor]))} for run in exact]
        if tensor != sink:
            read = {int(index) for node in subgraph.operators[place + 1 :] for index in node.inputs}
            before = read & made - {int(node.outputs[0]) for node in subgraph.operators[place + 1 :]}
            known = list(observe.run(flatbuffer.part(float32, place + 1, end, sorted(before)), known, [sink]))
        off = np.stack([got[sink] - run[sink] for got, run in zip(known, exact, strict=True)])
        found[place, name] = float(np.square(off - off.mean(axis=0)).sum()) / signal
    return found


def everything(model: bytes, windows: np.ndarray) -> list[dict[int, np.ndarray]]:
    """What each node makes, by tensor, for each window."""
    nodes = flatbuffer.tree(model).subgraphs[0].operators
    return list(observe.observe(model, [int(node.outputs[0]) for node in nodes], windows))


def parts(found: dict[tuple[int, str], float]) -> dict[str, float]:
    """The sums of the front, up to the first normalisation, of softmaxes, of the head, and of all between."""
    places = sorted(found)
    norm = next(i for i, (_, name) in enumerate(places) if name in ('L2_NORMALIZATION', 'RSQRT'))
    head = len(places)
    while places[head - 1][1] == 'FULLY_CONNECTED':
        head -= 1
    total: dict[str, float] = collections.defaultdict(float)
    for index, place in enumerate(places):
        inner = 'softmaxes' if place[1] == 'SOFTMAX' else 'all between'
        total['front' if index <= norm else 'head' if index >= head else inner] += found[place]
    return total


def study(source: str) -> None:
    """Prints one model's tensors and parts."""
    trained = checkpoint.load(source)
    data = folding.load_data(trained, show_progress=False)
    validation, (calibration, _) = pipeline.of_part(data, 'validation', WINDOWS), pipeline.calibration(data)
    _, function = folding.deployed(trained, folding.fold(trained, plain=True), frames=data.window.frames)
    bound = lambda features: function(features, deploy.unit(trained.recipe.model))
    float32 = convert.to_float32(bound, (1, *calibration.shape[1:]))
    int8 = forms.quantised(float32, calibration, ranges.measured(float32, calibration), 'int8')
    found = noise(float32, int8, validation.features)
    total = sum(found.values())
    line = lambda power: f'{-10 * np.log10(power):6.1f} dB  {power / total:6.1%}'
    print(f'{source}: {line(total)}  all {len(found)} tensors')
    for (place, name), power in sorted(found.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f'  {line(power)}  {name} {place if place >= 0 else ""}')
    for part, power in parts(found).items():
        print(f'  {line(power)}  {part}', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', nargs='+', metavar='W')
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    for source in args.sources:
        study(source)


if __name__ == '__main__':
    main()
