"""The folder `firmware/` beside the manifest: C++17 for TFLM around one exported model and its frontend.

The classes are in `sources/`, copied as they are; what depends on the model is written here.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jax_reparam import manifest
from jax_reparam.device import golden, registrations
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer
from jax_reparam.runtime import tflm

SOURCES = ('CMakeLists.txt', 'emotion_recognizer.cc', 'emotion_recognizer.h', 'golden_test.cc', 'main.cc', 'tflm.h')
_TYPES = {'int8': 'std::int8_t', 'int16': 'std::int16_t'}


def _arena(model: bytes, example: np.ndarray) -> manifest.Arena:
    """What TFLM's interpreter on this host took for a model, and what to set aside for it.

    15 % and 1 KB more, in whole lines of 16 bytes: pointers are smaller on a 32-bit device, but optimised kernels take
    scratch buffers that the reference kernels do not (on a Cortex-M55 CMSIS-NN's FULLY_CONNECTED keeps 4 bytes for each
    output of its row). More where TFLM needs more to plan in. Not measured on a device: `golden_test` prints what was
    taken.
    """
    measured = tflm.run(model, example).arena_bytes
    size = measured * 115 // 100 + 1024
    while not tflm.fits(model, size := -(-size // 16) * 16):
        size += size // 8
    return manifest.Arena(measured=measured, reserved=size)


def write(
    place: Path, *, form: str, model: bytes, frontend: bytes, labels: Sequence[str], inputs: Input
) -> manifest.Firmware:
    """Writes `firmware/` into an exported folder.

    Args:
      place: the exported folder.
      form: name of the form that goes to the device; its input is int8 or int16.
      model: its .tflite file.
      frontend: likewise, of the same features.
      labels: class names in the order of the logits.
      inputs: how audio becomes the model's input.

    Raises:
      registrations.OperatorError: an operator that TFLM's resolver is not known to have.
      tflm.TFLMError: TFLM could not run one of the models.
    """
    graph = flatbuffer.graph(model)
    calls = {'Model': registrations.registrations(model), 'Frontend': registrations.registrations(frontend)}
    arenas = {
        'model': _arena(model, np.zeros(graph.input.shape, np.float32)),
        'frontend': _arena(frontend, np.zeros((1, inputs.frontend.frame_length), np.int16)),
    }
    vectors = golden.make(model, frontend, inputs)

    folder = place / manifest.FIRMWARE
    (folder / 'golden').mkdir(parents=True)
    for name in SOURCES:
        (folder / name).write_text(_source(name))
    (folder / 'README.md').write_text(_readme(inputs, arenas, len(model) + len(frontend), graph.input.dtype))
    (folder / 'model_data.h').write_text(_model_header(graph, labels, inputs, arenas))
    # JSON's escapes are C's, but for what is not ASCII, which stays as UTF-8.
    texts = ', '.join(json.dumps(label, ensure_ascii=False) for label in labels)
    names = f'const char* const kLabels[kClasses] = {{{texts}}};\n\n'
    (folder / 'model_data.cc').write_text(_array_file('kModel', model, names))
    (folder / 'frontend_data.cc').write_text(_array_file('kFrontend', frontend))
    (folder / 'op_resolver.h').write_text(resolver(calls))
    (folder / 'golden_data.h').write_text(_golden_header(vectors))
    (folder / 'golden_data.cc').write_text(_golden_source(vectors))
    for name in ('pcm', 'features', 'logits', 'starts', 'stream_logits'):
        np.save(folder / 'golden' / f'{name}.npy', getattr(vectors, name))
    return manifest.Firmware(
        folder=manifest.FIRMWARE,
        form=form,
        arena_bytes=arenas,
        registrations={kind: tuple(names) for kind, names in calls.items()},
    )


def _source(name: str) -> str:
    return importlib.resources.files(__package__).joinpath('sources', name).read_text(encoding='utf-8')


def _readme(inputs: Input, arenas: dict[str, manifest.Arena], flash: int, dtype: str) -> str:
    seconds, width = inputs.frontend.hop_ms / 1000, np.dtype(dtype).itemsize
    values = {
        'window_seconds': f'{inputs.window.frames * seconds:g}',
        'hop_seconds': f'{inputs.window.hop * seconds:g}',
        'model_arena': f'{arenas["model"].reserved:,}',
        'frontend_arena': f'{arenas["frontend"].reserved:,}',
        'ring': f'{inputs.window.frames * inputs.frontend.n_mels * width:,}',
        'pcm': f'{2 * inputs.frontend.frame_length:,}',
        'flash': f'{flash:,}',
    }
    text = _source('README.md')
    for key, value in values.items():
        text = text.replace(f'{{{key}}}', value)
    return text


def _model_header(
    graph: flatbuffer.Graph, labels: Sequence[str], inputs: Input, arenas: dict[str, manifest.Arena]
) -> str:
    config, model, frontend = inputs.frontend, arenas['model'], arenas['frontend']
    return f"""// What one model fixes: lengths, labels, arenas. Written by fold.py.
#ifndef EMOTION_MODEL_DATA_H_
#define EMOTION_MODEL_DATA_H_

#include <cstddef>
#include <cstdint>

namespace emotion {{

constexpr int kSampleRate = {config.sample_rate};    // samples per second, 16-bit mono
constexpr int kFrameLength = {config.frame_length};     // samples in a frame
constexpr int kHopLength = {config.hop_length};       // samples between two frames
constexpr int kBands = {config.n_mels};            // features of a frame
constexpr int kWindowFrames = {inputs.window.frames};    // frames in a window
constexpr int kWindowHop = {inputs.window.hop};       // frames between two windows
constexpr int kClasses = {len(labels)};

using Feature = {_TYPES[graph.input.dtype]};  // of the model's input
using Logit = {_TYPES[graph.output.dtype]};  // and of its output

// TFLM's interpreter with its reference kernels, on a 64-bit host, took
// {model.measured:,} and {frontend.measured:,} bytes ("Arena allocation total" of print_allocations() in the
// Python package tflite-micro). Optimised kernels may take scratch buffers, so 15 % and 1 KB more are set aside, or
// what it takes to plan: with these sizes that interpreter does load the models.
// golden_test prints what was taken; where it does not fit, Begin() returns false.
constexpr std::size_t kModelArenaBytes = {model.reserved};
constexpr std::size_t kFrontendArenaBytes = {frontend.reserved};

extern const char* const kLabels[kClasses];

// .tflite files, aligned to 16 bytes: constants are read in place.
extern const unsigned char kModel[];
extern const std::size_t kModelBytes;
extern const unsigned char kFrontend[];
extern const std::size_t kFrontendBytes;

}}  // namespace emotion

#endif  // EMOTION_MODEL_DATA_H_
"""


def _array_file(name: str, content: bytes, before: str = '') -> str:
    return (
        f'#include "model_data.h"\n\nnamespace emotion {{\n\n{before}'
        f'alignas(16) const unsigned char {name}[] = {{\n{_numbers(content)}}};\n'
        f'const std::size_t {name}Bytes = sizeof({name});\n\n}}  // namespace emotion\n'
    )


def _numbers(values: Iterable[int], width: int = 24) -> str:
    texts = [str(int(value)) for value in values]
    return ''.join(f'    {",".join(texts[at : at + width])},\n' for at in range(0, len(texts), width))


def resolver(registrations: dict[str, list[str]]) -> str:
    """The C++ of `op_resolver.h`: for each model, by name, what adds its operators (`registrations`)."""
    parts = []
    for kind, calls in registrations.items():
        body = ' &&\n         '.join(_add(call) for call in calls)
        parts.append(
            f'using {kind}OpResolver = tflm::MicroMutableOpResolver<{len(calls)}>;\n\n'
            f'inline bool Add{kind}Ops({kind}OpResolver& resolver) {{\n  return {body};\n}}\n'
        )
    return f"""// Exactly the operators of the two models. Written by fold.py.
//
// Register_..._INT8() and _INT16() are kernels for that type alone, without those for others. They exist for CMSIS-NN:
// CMSIS_NN must be defined where this file is compiled, or they are the generic kernels.
#ifndef EMOTION_OP_RESOLVER_H_
#define EMOTION_OP_RESOLVER_H_

#include "tflm.h"

namespace emotion {{

#define EMOTION_ADD(method, registration)                                                               \\
  (tflm::Add(resolver, registration, [](auto& to, const auto&... with) -> decltype(to.method(with...)) {{ \\
     return to.method(with...);                                                                         \\
   }}) == kTfLiteOk)

{chr(10).join(parts)}
#undef EMOTION_ADD

}}  // namespace emotion

#endif  // EMOTION_OP_RESOLVER_H_
"""


def _add(call: str) -> str:
    """`AddPad()` or `AddPad(tflm::Register_PAD_INT8())` as a condition in C++."""
    method, _, registration = call.removesuffix(')').partition('(')
    return f'EMOTION_ADD({method}, {registration})' if registration else f'resolver.{method}() == kTfLiteOk'


def _golden_header(vectors: golden.Golden) -> str:
    return f"""// Golden vectors, from TFLM's Python interpreter. Written by fold.py.
#ifndef EMOTION_GOLDEN_DATA_H_
#define EMOTION_GOLDEN_DATA_H_

#include <cstdint>

#include "model_data.h"

namespace emotion {{

constexpr int kGoldenSamples = {len(vectors.pcm)};
constexpr int kGoldenFrames = {len(vectors.features)};    // of the PCM heard once
constexpr int kGoldenRepeats = {vectors.repeats};    // of the PCM, as a stream
constexpr int kGoldenWindows = {len(vectors.starts)};    // of that stream, the one that ends with it included

extern const std::int16_t kGoldenPcm[kGoldenSamples];
extern const Feature kGoldenFeatures[kGoldenFrames * kBands];
extern const Logit kGoldenLogits[kClasses];  // over kGoldenFeatures, repeated to a window
extern const std::uint32_t kGoldenStarts[kGoldenWindows];
extern const Logit kGoldenStreamLogits[kGoldenWindows][kClasses];

}}  // namespace emotion

#endif  // EMOTION_GOLDEN_DATA_H_
"""


def _golden_source(vectors: golden.Golden) -> str:
    rows = ''.join(f'    {{{", ".join(map(str, row.tolist()))}}},\n' for row in vectors.stream_logits)
    return (
        '#include "golden_data.h"\n\nnamespace emotion {\n\n'
        f'const std::int16_t kGoldenPcm[kGoldenSamples] = {{\n{_numbers(vectors.pcm)}}};\n\n'
        f'const Feature kGoldenFeatures[kGoldenFrames * kBands] = {{\n{_numbers(vectors.features.flat)}}};\n\n'
        f'const Logit kGoldenLogits[kClasses] = {{\n{_numbers(vectors.logits)}}};\n\n'
        f'const std::uint32_t kGoldenStarts[kGoldenWindows] = {{\n{_numbers(vectors.starts)}}};\n\n'
        f'const Logit kGoldenStreamLogits[kGoldenWindows][kClasses] = {{\n{rows}}};\n\n'
        '}  // namespace emotion\n'
    )
