"""The folder `firmware/` beside the manifest: C++17 for TFLM around one exported model and its frontend.

The classes are in `sources/`, copied as they are; what depends on the model is written here.
"""

from __future__ import annotations

import importlib.resources
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jax_reparam import manifest
from jax_reparam.device import golden, registrations
from jax_reparam.frontend import features, speech, voice
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile
from jax_reparam.graph import cost, flatbuffer
from jax_reparam.graph.footprint import footprint
from jax_reparam.graph.graph import Graph
from jax_reparam.runtime import tflm

# Copied as they are; below `examples` and `zephyr` is what other build systems want.
SOURCES = (
    'CMakeLists.txt',
    'emotion_recognizer.cc',
    'emotion_recognizer.h',
    'golden_test.cc',
    'main.cc',
    'sample_queue.h',
    'tflm.h',
    'idf_component.yml',
    'examples/esp_idf/CMakeLists.txt',
    'examples/esp_idf/main/CMakeLists.txt',
    'examples/esp_idf/main/main.cc',
    'examples/esp_idf/sdkconfig.defaults',
    'examples/qemu/CMakeLists.txt',
    'examples/qemu/board.ld',
    'examples/qemu/main.cc',
    'examples/qemu/start.c',
    'examples/zephyr/CMakeLists.txt',
    'examples/zephyr/prj.conf',
    'examples/zephyr/src/main.cc',
    'zephyr/CMakeLists.txt',
    'zephyr/Kconfig',
    'zephyr/module.yml',
)
# Processor cycles that an instruction is taken to need, of a Cortex-M4F whose flash waits: a margin, not a measurement.
CYCLES_PER_INSTRUCTION = 1.5
# Of the queue of samples: seconds in which Run() need not be called, beside a window's time; and the clock that it is
# made for where the build says none, if the model keeps up at it.
QUEUE_SLACK, DEFAULT_MHZ = 0.1, 120
CLOCKS = (80, 120, 160, 240, 480)  # of the README's table, MHz
# Beside an arena that was counted, for versions of TFLM that keep more: that of November 2023 takes 448 bytes more for
# the frontend than that of August 2026.
MARGIN_PERCENT, MARGIN_BYTES = 1, 512
# Instructions of a Cortex-M4F beside the model's own, from whole programs on QEMU's mps2-an386 (docs/results.md). Of a
# window: of each code (speech, level, voice, quantisation). Of a frame: of each sample, each point of the transform by
# its logarithm, each band.
PER_CODE = 68
PER_SAMPLE, PER_POINT, PER_BAND = 26, 12.2, 400
_TYPES = {'int8': 'std::int8_t', 'int16': 'std::int16_t'}


def _arena(model: bytes, example: np.ndarray) -> manifest.Arena:
    """What TFLM's interpreter on this host took for a model, and what to set aside for it, in whole lines of 16 bytes.

    On a Cortex-M that is what `footprint` counts, and a margin. Elsewhere kernels and pointers are not known: it is
    what was measured on this 64-bit host, 15 % and 1 KB more, or still more where TFLM needs it to plan in.
    """
    measured = tflm.run(model, example).arena_bytes
    elsewhere = measured * 115 // 100 + 1024
    while not tflm.fits(model, elsewhere := _lines(elsewhere)):
        elsewhere += elsewhere // 8
    graph = flatbuffer.read(model)
    counted = {helium: footprint(graph, helium=helium).needed for helium in (False, True)}
    reserved = {helium: _lines(size * (100 + MARGIN_PERCENT) // 100 + MARGIN_BYTES) for helium, size in counted.items()}
    return manifest.Arena(
        measured=measured, reserved=reserved[False], reserved_helium=reserved[True], reserved_elsewhere=elsewhere
    )


def _lines(size: int) -> int:
    return -(-size // 16) * 16


def real_time(model: bytes, inputs: Input) -> manifest.RealTime:
    """What a Cortex-M4F with CMSIS-NN needs to keep up with speech: estimated instructions, with a margin in cycles."""
    config, window = inputs.frontend, inputs.window
    points = config.n_fft * math.log2(config.n_fft)
    frame = PER_SAMPLE * config.frame_length + PER_POINT * points + PER_BAND * config.n_mels
    each = cost.of_graph(flatbuffer.read(model)).instructions + PER_CODE * window.frames * config.n_mels
    second = (each + window.hop * frame) / (window.hop * config.hop_ms / 1000)
    return manifest.RealTime(
        window_instructions=each,
        frame_instructions=round(frame),
        cycles_per_instruction=CYCLES_PER_INSTRUCTION,
        mhz=math.ceil(CYCLES_PER_INSTRUCTION * second / 1e6),
    )


def write(
    place: Path, *, form: str, model: bytes, frontend: bytes, labels: Sequence[str], inputs: Input
) -> manifest.Firmware:
    """Writes `firmware/` into an exported folder.

    Args:
      place: the exported folder.
      form: name of the form that goes to the device; its input is int8 or int16.
      model: its .tflite file.
      frontend: likewise, of the same log-mel.
      labels: class names in the order of the logits.
      inputs: how audio becomes the model's input.

    Raises:
      registrations.OperatorError: an operator that TFLM's resolver is not known to have.
      tflm.TFLMError: TFLM could not run one of the models.
    """
    graph = flatbuffer.read(model)
    calls = {'Model': registrations.registrations(model), 'Frontend': registrations.registrations(frontend)}
    arenas = {
        'model': _arena(model, np.zeros(graph.input.shape, np.float32)),
        'frontend': _arena(frontend, np.zeros((1, inputs.frontend.frame_length), np.float32)),
    }
    keeps_up = real_time(model, inputs)
    vectors = golden.make(model, frontend, inputs)

    folder = place / manifest.FIRMWARE
    (folder / 'golden').mkdir(parents=True)
    for name in SOURCES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(_source(name))
    (folder / 'README.md').write_text(_readme(graph, inputs, arenas, keeps_up, len(model) + len(frontend)))
    (folder / 'model_data.h').write_text(_model_header(graph, labels, inputs, arenas, keeps_up))
    # JSON's escapes are C's, but for what is not ASCII, which stays as UTF-8.
    texts = ', '.join(json.dumps(label, ensure_ascii=False) for label in labels)
    names = f'const char* const kLabels[kClasses] = {{{texts}}};\n\n'
    names += ''.join(
        f'const float {name}[kBands] = {{\n{_floats(values)}}};\n\n'
        for name, values in (('kMean', inputs.mean), ('kStd', inputs.std), ('kVoiceMean', inputs.voice_mean))
    )
    names += f'const std::uint8_t kInputDigest[32] = {{\n{_numbers(bytes.fromhex(inputs.digest))}}};\n\n'
    (folder / 'model_data.cc').write_text(_array_file('kModel', model, names))
    (folder / 'frontend_data.cc').write_text(_array_file('kFrontend', frontend))
    (folder / 'op_resolver.h').write_text(resolver(calls))
    (folder / 'golden_data.h').write_text(_golden_header(vectors))
    (folder / 'golden_data.cc').write_text(_golden_source(vectors, voice.to_bytes(vectors.profile, inputs)))
    for name in ('pcm', 'codes', 'logits', 'known_logits', 'starts', 'stream_logits', 'speech', 'learned'):
        np.save(folder / 'golden' / f'{name}.npy', getattr(vectors, name))
    return manifest.Firmware(
        folder=manifest.FIRMWARE,
        form=form,
        arena_bytes=arenas,
        real_time=keeps_up,
        registrations={kind: tuple(names) for kind, names in calls.items()},
    )


def _source(name: str) -> str:
    return importlib.resources.files(__package__).joinpath('sources', *name.split('/')).read_text(encoding='utf-8')


def _queue_bytes(keeps_up: manifest.RealTime, mhz: int, config: FrontendConfig) -> int:
    """Of the queue of samples at a clock: as model_data.h has it."""
    samples = config.sample_rate * (QUEUE_SLACK + keeps_up.window_seconds(mhz))
    return 2 * (config.frame_length + int(samples) + 1)


def _readme(
    graph: Graph, inputs: Input, arenas: dict[str, manifest.Arena], keeps_up: manifest.RealTime, flash: int
) -> str:
    config, window = inputs.frontend, inputs.window
    seconds = config.hop_ms / 1000
    default = max(DEFAULT_MHZ, keeps_up.mhz)
    clocks = ''.join(
        f'| {mhz} MHz | {keeps_up.window_seconds(mhz):.2f} s | {keeps_up.mhz / mhz:.0%} '
        f'| {_queue_bytes(keeps_up, mhz, config):,} bytes |\n'
        for mhz in sorted({keeps_up.mhz, *(mhz for mhz in CLOCKS if mhz > keeps_up.mhz)})
    )
    esp_nn = 'Its kernels stay within their buffers with this model.'
    if faults := registrations.esp_nn_faults(graph):
        esp_nn = (
            '**This model does not run with ESP-NN**, whose softmax would write past its buffer: '
            f'{"; ".join(sorted(set(faults)))}. The build stops there; export with `fold.py --prefer int16`.'
        )
    values = {
        'window_seconds': f'{window.frames * seconds:g}',
        'hop_seconds': f'{window.hop * seconds:g}',
        'hop_frames': f'{window.hop}',
        'window_instructions': f'{keeps_up.window_instructions / 1e6:.1f}',
        'frame_instructions': f'{keeps_up.frame_instructions:,}',
        'cycles': f'{keeps_up.cycles_per_instruction:g}',
        'mhz': f'{keeps_up.mhz}',
        'default_mhz': f'{default}',
        'slack': f'{QUEUE_SLACK:g}',
        'clocks': clocks.rstrip('\n'),
        'sample_rate': f'{config.sample_rate:,}',
        'queue': f'{_queue_bytes(keeps_up, default, config):,}',
        'esp_nn': esp_nn,
        'oldest_tflm': registrations.oldest_tflm(graph),
        'margin': f'{MARGIN_PERCENT} % and {MARGIN_BYTES} bytes',
        **{
            f'{name}_arena{suffix}': f'{size:,}'
            for name, arena in arenas.items()
            for suffix, size in (
                ('', arena.reserved),
                ('_helium', arena.reserved_helium),
                ('_elsewhere', arena.reserved_elsewhere),
            )
        },
        'ring': f'{window.frames * config.n_mels:,}',
        'beside': f'{10 * window.frames:,}',
        'bands': f'{config.n_mels}',
        'profile': f'{len(voice.to_bytes(Profile.empty(config.n_mels), inputs)):,}',
        'most_seconds': f'{inputs.voice.most_seconds:g}',
        'adapts': 'on' if inputs.voice.history else 'off',
        'clipped_one_in': f'{speech.CLIPPED_ONE_IN:,}',
        'pcm': f'{2 * config.frame_length:,}',
        'flash': f'{flash:,}',
    }
    text = _source('README.md')
    for key, value in values.items():
        text = text.replace(f'{{{key}}}', value)
    return text


def _model_header(
    graph: Graph,
    labels: Sequence[str],
    inputs: Input,
    arenas: dict[str, manifest.Arena],
    keeps_up: manifest.RealTime,
) -> str:
    config, model, frontend, rule = inputs.frontend, arenas['model'], arenas['frontend'], inputs.rule
    # The first count of frames whose share is not 0; one that is never reached stands for none.
    most = inputs.most_frames
    after = next((frames for frames in range(1, most + 1) if inputs.share(frames) > 0), most + 1)
    return f"""// What one model fixes: lengths, labels, arenas. Written by fold.py.
#ifndef EMOTION_MODEL_DATA_H_
#define EMOTION_MODEL_DATA_H_

#include <cstddef>
#include <cstdint>

namespace emotion {{

constexpr int kSampleRate = {config.sample_rate};    // samples per second, 16-bit mono
constexpr int kFrameLength = {config.frame_length};     // samples in a frame
constexpr int kHopLength = {config.hop_length};       // samples between two frames
constexpr int kBands = {config.n_mels};            // mel bands of a frame
constexpr int kWindowFrames = {inputs.window.frames};    // frames in a window
constexpr int kWindowHop = {inputs.window.hop};       // frames between two windows
constexpr int kClasses = {len(labels)};

// Log-mel in steps: rint(log-mel * kStepsPerNat) + kZeroCode.
constexpr float kStepsPerNat = {_float(1 / features.STEP)};
constexpr int kZeroCode = {features.ZERO};
constexpr int kParts = {speech.PARTS};  // of a step, in which levels and profiles are stated

// What is speech (jax_reparam/frontend/speech.py): bands of its energy and of its level, as [first, end); percentiles
// of the background and of the loud part; how far above and below them speech is, and how much it varies, at least, in
// steps summed over the bands; its frames, at least; the steps below the level at which log-mel ends.
constexpr int kEnergyFirst = {rule.bands[0]}, kEnergyEnd = {rule.bands[1]};
constexpr int kLevelFirst = {rule.level_bands[0]}, kLevelEnd = {rule.level_bands[1]};
constexpr int kQuietPercent = {speech.QUIET}, kLoudPercent = {speech.LOUD};
constexpr std::int32_t kRise = {rule.rise}, kBelow = {rule.below}, kSpread = {rule.spread};
constexpr int kShortestSpeech = {rule.shortest};
constexpr int kClamp = {rule.clamp};
constexpr int kQuietestLevel = {speech.quietest(rule)};  // in steps; speech below it is too quiet
constexpr int kFullScale = {features.FULL_SCALE};  // of a sample
constexpr int kClippedOneIn = {speech.CLIPPED_ONE_IN};

// The voice (jax_reparam/frontend/voice.py), in frames of speech: after which half of its difference is taken off, from
// which any is, and after which no more is learned.
constexpr std::int32_t kProfileHalfFrames = {inputs.half_frames};
constexpr std::int32_t kProfileAfterFrames = {after};
constexpr std::int32_t kProfileMostFrames = {most};
constexpr bool kAdapts = {'true' if inputs.voice.history else 'false'};  // whether the model was trained to know voices
extern const float kVoiceMean[kBands];  // the training speakers', in steps
// SHA-256 of all that makes the model's input (`Input.digest` in Python), not of the model's file: models of the same
// input share profiles.
extern const std::uint8_t kInputDigest[32];

// Taken off a window, and then its divisor, in steps.
extern const float kMean[kBands];
extern const float kStd[kBands];

using Feature = {_TYPES[graph.input.dtype]};  // of the model's input
using Logit = {_TYPES[graph.output.dtype]};  // and of its output

// Arenas. For a Cortex-M they are counted, with the kernels of CMSIS-NN, which need more with Helium;
// {MARGIN_PERCENT} % and {MARGIN_BYTES} bytes are set aside beside. For any other processor they are what TFLM's
// interpreter took on a 64-bit host, {model.measured:,} and {frontend.measured:,} bytes, 15 % and 1 KB more.
// golden_test prints what was taken; where it does not fit, Begin() returns false.
// EMOTION_ARENA_BYTES and EMOTION_FRONTEND_ARENA_BYTES replace them.
#if defined(__arm__) && defined(__ARM_FEATURE_MVE)
#define EMOTION_ARENA_OF(cortex_m, helium, elsewhere) helium
#elif defined(__arm__)
#define EMOTION_ARENA_OF(cortex_m, helium, elsewhere) cortex_m
#else
#define EMOTION_ARENA_OF(cortex_m, helium, elsewhere) elsewhere
#endif
#ifndef EMOTION_ARENA_BYTES
#define EMOTION_ARENA_BYTES {_of_processor(model)}
#endif
#ifndef EMOTION_FRONTEND_ARENA_BYTES
#define EMOTION_FRONTEND_ARENA_BYTES {_of_processor(frontend)}
#endif
constexpr std::size_t kModelArenaBytes = EMOTION_ARENA_BYTES;
constexpr std::size_t kFrontendArenaBytes = EMOTION_FRONTEND_ARENA_BYTES;

// Instructions of a Cortex-M4F with CMSIS-NN, estimated: of a window and of a frame. With so many cycles an instruction
// (memories that wait, divisions, interrupts) it keeps up with speech from {keeps_up.mhz} MHz.
constexpr std::uint32_t kWindowInstructions = {keeps_up.window_instructions};
constexpr std::uint32_t kFrameInstructions = {keeps_up.frame_instructions};
constexpr double kCyclesPerInstruction = {keeps_up.cycles_per_instruction};

// Samples that wait while a window is computed: as many as come in that time, at this clock, and for {QUEUE_SLACK:g} s
// in which Run() is not called. EMOTION_QUEUE_SAMPLES replaces it, where a window's time was measured or the processor
// is another.
#ifndef EMOTION_CLOCK_MHZ
#define EMOTION_CLOCK_MHZ {max(DEFAULT_MHZ, keeps_up.mhz)}
#endif
#ifdef EMOTION_QUEUE_SAMPLES
constexpr std::size_t kQueueSamples = EMOTION_QUEUE_SAMPLES;
#else
constexpr std::size_t kQueueSamples =
    kFrameLength + static_cast<std::size_t>(
                       kSampleRate *
                       ({QUEUE_SLACK:g} + kWindowInstructions * kCyclesPerInstruction / (EMOTION_CLOCK_MHZ * 1e6)));
#endif

// Whether the kernels of ESP-NN stay within their buffers with the model (registrations.esp_nn_faults in Python).
constexpr bool kFitsEspNn = {'false' if registrations.esp_nn_faults(graph) else 'true'};

extern const char* const kLabels[kClasses];

// .tflite files, aligned to 16 bytes: constants are read in place.
extern const unsigned char kModel[];
extern const std::size_t kModelBytes;
extern const unsigned char kFrontend[];
extern const std::size_t kFrontendBytes;

}}  // namespace emotion

#endif  // EMOTION_MODEL_DATA_H_
"""


def _of_processor(arena: manifest.Arena) -> str:
    return f'EMOTION_ARENA_OF({arena.reserved}, {arena.reserved_helium}, {arena.reserved_elsewhere})'


def _array_file(name: str, content: bytes, before: str = '') -> str:
    return (
        f'#include "model_data.h"\n\nnamespace emotion {{\n\n{before}'
        f'alignas(16) const unsigned char {name}[] = {{\n{_numbers(content)}}};\n'
        f'const std::size_t {name}Bytes = sizeof({name});\n\n}}  // namespace emotion\n'
    )


def _numbers(values: Iterable[int], width: int = 24) -> str:
    texts = [str(int(value)) for value in values]
    return ''.join(f'    {",".join(texts[at : at + width])},\n' for at in range(0, len(texts), width))


def _float(value: float) -> str:
    return f'{np.float32(value):.9e}f'


def _floats(values: np.ndarray) -> str:
    return ''.join(f'    {", ".join(map(_float, values[at : at + 6]))},\n' for at in range(0, len(values), 6))


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

#include "emotion_recognizer.h"

namespace emotion {{

constexpr int kGoldenSamples = {len(vectors.pcm)};
constexpr int kGoldenFrames = {len(vectors.codes)};    // of the PCM heard once
// A stream: the PCM so often, so many zeros, and the PCM divided by kGoldenQuieter so often again; its speaker is
// learned.
constexpr int kGoldenRepeats = {vectors.repeats};
constexpr int kGoldenSilence = {vectors.silence};
constexpr int kGoldenQuieter = {golden.QUIETER};
constexpr int kGoldenWindows = {len(vectors.starts)};    // of that stream, the one that ends with it included

extern const std::int16_t kGoldenPcm[kGoldenSamples];
extern const std::int8_t kGoldenCodes[kGoldenFrames * kBands];
extern const Logit kGoldenLogits[kClasses];       // over the window of kGoldenCodes, of an unknown speaker
extern const Logit kGoldenKnownLogits[kClasses];  // and of the speaker of kGoldenProfile
extern const std::uint32_t kGoldenStarts[kGoldenWindows];
extern const Logit kGoldenStreamLogits[kGoldenWindows][kClasses];
extern const std::int32_t kGoldenSpeech[kGoldenWindows];   // frames of speech; 0: nobody speaks
extern const std::int32_t kGoldenLearned[kGoldenWindows];  // frames in the profile after the window
extern const std::uint8_t kGoldenProfile[Profile::kBytes];  // what the stream leaves

}}  // namespace emotion

#endif  // EMOTION_GOLDEN_DATA_H_
"""


def _golden_source(vectors: golden.Golden, profile: bytes) -> str:
    rows = ''.join(f'    {{{", ".join(map(str, row.tolist()))}}},\n' for row in vectors.stream_logits)
    arrays: list[tuple[str, str, Iterable[int]]] = [
        ('std::int16_t', 'Pcm[kGoldenSamples]', vectors.pcm),
        ('std::int8_t', 'Codes[kGoldenFrames * kBands]', vectors.codes.flat),
        ('Logit', 'Logits[kClasses]', vectors.logits),
        ('Logit', 'KnownLogits[kClasses]', vectors.known_logits),
        ('std::uint32_t', 'Starts[kGoldenWindows]', vectors.starts),
        ('std::int32_t', 'Speech[kGoldenWindows]', vectors.speech),
        ('std::int32_t', 'Learned[kGoldenWindows]', vectors.learned),
        ('std::uint8_t', 'Profile[Profile::kBytes]', profile),
    ]
    return (
        '#include "golden_data.h"\n\nnamespace emotion {\n\n'
        + ''.join(f'const {kind} kGolden{name} = {{\n{_numbers(values)}}};\n\n' for kind, name, values in arrays)
        + f'const Logit kGoldenStreamLogits[kGoldenWindows][kClasses] = {{\n{rows}}};\n\n'
        + '}  // namespace emotion\n'
    )
