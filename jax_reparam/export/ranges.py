"""Own ranges for the terms of a sum: the converter gives a layer in front of an addition the range of the sum.

What a block adds to its stream may be a small part of it, as each half-step FFN of a Conformer is: of 256 steps it
would use a few, and its rounding would be as large as that of the sum. So it is with a product of products: rows of
length 1 would have the range that they have behind a normalisation's scale. Kernels take a scale for each input of a
sum or product, so the range that a term itself has costs nothing. With 16-bit activations nothing is gained: the
rounding of the stream is no longer what counts.
"""

from __future__ import annotations

import numpy as np

from jax_reparam.export import flatbuffer, twin

# Kernels that take a scale for each input, and have none for constants that follows from it.
TAKERS = {'ADD', 'SUB', 'MUL'}
# Of the range that a term has: where its own is wider, little is gained, and a sum of equal steps rounds less.
NARROW = 0.5


def of_terms(quantised: bytes, float32: bytes, windows: np.ndarray) -> bytes:
    """Gives terms and factors the range that they have in the float32 model, if far less: see above.

    They are what linear layers, convolutions and multiplications make for additions and multiplications alone.

    Args:
      quantised: the .tflite file, in int8.
      float32: the same graph in float32.
      windows: those that set all ranges, `[W, frames, n_mels]`.

    Raises:
      ValueError: the two are not the same graph.
    """
    content = flatbuffer.tree(quantised)
    names, readers = flatbuffer.operator_names(content), flatbuffer.readers(content)
    terms = {
        int(node.outputs[0]): int(other.outputs[0])
        for name, node, other in twin.pairs(content, flatbuffer.tree(float32))
        if name in {*twin.LINEAR, 'MUL'} and set() < {names[place] for place in readers[int(node.outputs[0])]} <= TAKERS
    }
    least, greatest = dict.fromkeys(terms.values(), 0.0), dict.fromkeys(terms.values(), 0.0)
    for seen in twin.observe(float32, sorted(least), windows):
        for tensor, values in seen.items():
            least[tensor] = min(least[tensor], float(values.min()))
            greatest[tensor] = max(greatest[tensor], float(values.max()))
    for term, other in terms.items():
        tensor = content.subgraphs[0].tensors[term]
        scale = (greatest[other] - least[other]) / 255
        if 0 < scale <= NARROW * tensor.quantization.scale[0]:
            tensor.quantization.scale = np.array([scale], np.float32)
            tensor.quantization.zeroPoint = np.array([round(-128 - least[other] / scale)], np.int64)
    return flatbuffer.pack(content)
