"""The C++ of firmware/: it compiles for a Cortex-M without a heap, and streams as Python does, on this host."""

from __future__ import annotations

import dataclasses
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from helpers import needs_tflm
from jax_reparam.device import firmware, registrations
from jax_reparam.evaluation import softmax
from jax_reparam.frontend import features, speech, stream, voice
from jax_reparam.frontend.voice import Profile
from jax_reparam.graph import flatbuffer
from jax_reparam.graph.footprint import footprint
from jax_reparam.graph.graph import Port
from jax_reparam.runtime import tflm

pytestmark = pytest.mark.slow

# Compiled only: the C library's headers are musl's, any other would do.
HERE = Path(__file__).parent
PORTS = {  # of host.cc
    'int8': Port((1, 48, 12), 'int8', scale=1 / 16, zero_point=3),
    'int16': Port((1, 48, 12), 'int16', scale=1 / 2048, zero_point=0),
}
CORTEX_M4 = ['-target', 'thumb-linux-musleabihf', '-mcpu=cortex_m4', '-Os', '-fno-unwind-tables']
# QEMU's boards, their processors, and where their large memory is.
BOARDS = {'mps2-an386': ('cortex-m4', 0x21000000), 'mps3-an547': ('cortex-m55', 0x60000000)}
BOARD = Path('examples/qemu')  # in the firmware: its start-up code and linker script
SOURCES = ['emotion_recognizer.cc', 'model_data.cc', 'frontend_data.cc', 'golden_data.cc', 'golden_test.cc', 'main.cc']
HEAP = ('_Zn', '_Zdl', '_Zda', 'malloc', 'calloc', 'realloc', 'free', '__cxa_throw', '__cxa_guard', '_ZNSt')


@pytest.fixture(scope='module', params=['int8', 'int16'])
def form(request):
    return request.param


@pytest.fixture(scope='module')
def folder(form, request):
    """`firmware/` around the model of that form."""
    return request.getfixturevalue({'int8': 'written', 'int16': 'written16'}[form])[1]


@pytest.fixture(scope='module')
def on_host(build, zig, tmp_path_factory):
    """Compiles a firmware for this host, with models of host.cc.

    Gives what feeds PCM through its stream and returns the lines that it prints.
    """

    def compiled(folder):
        place = tmp_path_factory.mktemp('host')
        objects = []
        for source in (HERE / 'host.cc', folder / 'emotion_recognizer.cc', *folder.glob('[mf]*_data.cc')):
            objects.append(place / f'{source.stem}.o')
            # What C++ does not define stops the program.
            build(folder, source, objects[-1], '-O1', '-fsanitize=undefined', '-fsanitize-trap=undefined')
        # Linked as C: the firmware needs no C++ library, and zig would build one.
        zig('cc', '-O2', '-o', place / 'host', *objects, '-lm')

        def run(samples, chunk, *arguments):
            command = [place / 'host', str(chunk), *arguments]
            done = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
            return done.stdout.decode().splitlines()

        return run

    return compiled


@pytest.fixture(scope='module')
def host(folder, on_host):
    """The firmware of that form on this host."""
    return on_host(folder)


@pytest.fixture(params=BOARDS)
def board(request, folder, flags, tmp_path):
    """The same as `host`, on an emulated board."""
    compiler, emulator = (shutil.which(name) for name in ('arm-none-eabi-g++', 'qemu-system-arm'))
    if compiler is None or emulator is None:
        pytest.skip('needs arm-none-eabi-g++, newlib for it, and qemu-system-arm')
    processor, memory = BOARDS[request.param]
    chip = [f'-mcpu={processor}', '-mthumb', '-mfloat-abi=hard', '-mfpu=auto', '-O2']
    start = [compiler, *chip, '-x', 'c', '-c', folder / BOARD / 'start.c', '-o', tmp_path / 'start.o']
    sources = ['emotion_recognizer.cc', 'model_data.cc', 'frontend_data.cc']
    program = [compiler, *flags, *chip, '-I', folder, '-o', tmp_path / 'program']
    program += [HERE / 'host.cc', *(folder / name for name in sources), tmp_path / 'start.o', '--specs=rdimon.specs']
    program += ['-T', folder / BOARD / 'board.ld', f'-Wl,--defsym=RAM_AT={memory}', '-lm']
    for command in (start, program):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def run(samples, chunk, *arguments):
        words = ['enable=on', 'target=native', 'arg=host', f'arg={chunk}', *(f'arg={word}' for word in arguments)]
        machine = [emulator, '-M', request.param, '-display', 'none', '-serial', 'none', '-monitor', 'none']
        command = [*machine, '-semihosting-config', ','.join(words), '-kernel', tmp_path / 'program']
        done = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True, timeout=60)
        return done.stdout.decode().splitlines()

    return run


def expected(samples, inputs, form, labels, *, finish, profile=None, adapts=True, learns=True):
    """The lines of host.cc by Python's own stream, with its models written in NumPy; and the profile at the end."""
    config, port, rule = inputs.frontend, PORTS[form], inputs.rule
    bands = 7 * np.arange(config.n_mels) % config.frame_length

    def codes(frame):
        [centred] = features.frames(frame, config)
        return features.encode(centred[bands] / np.float32(2000) - np.float32(5))

    cutter, profile = stream.Windows(inputs, codes), profile or Profile.empty(config.n_mels)
    lines = []
    for window in (*cutter.feed(samples), *(cutter.finish() if finish else [])):
        heard, found = inputs.hear(window.codes, profile if adapts else None)
        if adapts and learns:
            profile = profile.learn(window.codes, found, rule, new=window.new, most=inputs.most_frames)
        label, shown, given, share = (
            '-',
            np.zeros(len(labels)),
            np.zeros((inputs.window.frames, config.n_mels), int),
            0.0,
        )
        if found.there:
            given = port.encode(heard)
            logits = given[0, : len(labels)].astype(np.float32)
            label, [shown] = labels[int(np.argmax(logits))], softmax(logits[None] * np.float32(0.125))
            share = float(np.float32(found.mask.sum() / window.frames))
        flags = speech.too_quiet(found, rule), speech.clipping(found, window.full_scale, config)
        head = [window.start, window.frames, label, share, *map(int, flags), profile.frames / 100, *shown]
        lines.append((head, given.ravel().tolist()))
    return lines, profile


def parsed(lines, classes):
    found = []
    for line in lines:
        words = line.split()
        head = [int(words[0]), int(words[1]), words[2], *map(float, words[3 : 7 + classes])]
        found.append((head, [int(word) for word in words[7 + classes :]]))
    return found


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for (head, given), (wanted_head, wanted_given) in zip(found, wanted, strict=True):
        assert head[:3] == wanted_head[:3]
        np.testing.assert_allclose(head[3:], wanted_head[3:], atol=1e-6)
        assert given == wanted_given


def babble(loud, rng):
    """Samples that host.cc's frontend hears as so loud in each hop, with noise, and some halfway between two steps."""
    halves = np.repeat(np.stack([loud, -loud], axis=1).ravel(), 80)
    samples = halves + rng.integers(-5000, 5000, len(halves))
    return np.where(rng.random(len(samples)) < 0.3, samples // 100 * 100, samples)


@pytest.fixture(scope='module')
def noise():
    """What is heard as speech, nobody, the same quieter, and with a part that clips; 2.5 s."""
    rng = np.random.default_rng(3)
    samples = babble(rng.integers(4000, 14000, 250), rng)
    samples[9000:20000] = 7  # a microphone's DC
    samples[20000:30000] //= 2
    samples[31000:31100] = 32767
    return samples.astype(np.int16)


@pytest.fixture
def labels():
    return ('anger', 'Überraschung', 'neutral')


def test_the_size_of_chunks_does_not_matter(host, noise, fresh_inputs, form, labels):
    first, *others = [host(noise, chunk) for chunk in (1, 160, 399, 1000, len(noise))]
    assert all(other == first for other in others)
    wanted, profile = expected(noise, fresh_inputs, form, labels, finish=False)
    assert_equal(parsed(first, 3), wanted)
    # The ring, of 48 frames, goes round several times; somebody speaks, in parts, or nobody; it clips, or not.
    assert len(first) == 11
    kinds = [{head[place] for head, _ in wanted} for place in range(2, 7)]
    assert [len(kind) > 1 for kind in kinds] == [True, True, False, True, True]
    assert '-' in kinds[0]
    # Learning has ended.
    assert profile.frames == fresh_inputs.most_frames


def test_the_firmware_ends_features_at_the_clamp_of_the_recipe(on_host, write, model, noise, fresh_inputs, labels):
    inputs = dataclasses.replace(fresh_inputs, frontend=dataclasses.replace(fresh_inputs.frontend, clamp_nats=3.0))
    _, folder = write('int8', model, inputs)
    found = parsed(on_host(folder)(noise, 160), 3)
    wanted, _ = expected(noise, inputs, 'int8', labels, finish=False)
    assert_equal(found, wanted)
    # Something reaches it: with a clamp of 8 the model is given other numbers.
    other, _ = expected(noise, fresh_inputs, 'int8', labels, finish=False)
    assert [given for _, given in wanted] != [given for _, given in other]


@pytest.mark.parametrize('samples', [0, 1, 399, 400, 559, 560, 7919, 7920, 7921, 8080, 11120, 11280, 24321])
def test_the_end_of_a_stream_is_that_of_a_recording(host, noise, fresh_inputs, form, labels, samples):
    """And the stream after it knows nothing of it, but its speaker."""
    first, profile = expected(noise[:samples], fresh_inputs, form, labels, finish=True)
    second, _ = expected(noise[:samples], fresh_inputs, form, labels, finish=True, profile=profile)
    for chunk in (399, 1000):
        assert_equal(parsed(host(noise[:samples], chunk, 'finish'), 3), first + second)
    assert_equal(parsed(host(noise[:samples], 399, 'finish', 'reset'), 3), first + first)
    if samples > 7000:
        assert first != second


def test_emulated_processors_stream_alike(board, noise, fresh_inputs, form, labels):
    for samples in (300, 24321):
        wanted, _ = expected(noise[:samples], fresh_inputs, form, labels, finish=True)
        assert_equal(parsed(board(noise[:samples], 399, 'finish', 'reset'), 3), 2 * wanted)


@pytest.mark.parametrize(('loud', 'too_quiet'), [(-20000, 0), (-24000, 1)])
def test_speech_that_is_too_quiet_is_said_to_be(host, fresh_inputs, form, labels, loud, too_quiet):
    rng = np.random.default_rng(0)
    samples = babble(rng.integers(loud, loud + 5000, 60), rng).clip(-32768, 32767).astype(np.int16)
    wanted, _ = expected(samples, fresh_inputs, form, labels, finish=False)
    assert_equal(parsed(host(samples, 399), 3), wanted)
    assert [(head[2] == '-', head[4]) for head, _ in wanted] == [(False, too_quiet)]


def sounding(codes, full=None):
    """Samples of which host.cc's frontend makes these codes `[T, 12]`, or lower ones than int8 has.

    In no frame is there any DC. `full`: samples at full scale in a hop, where no band looks; below 0: that many at -1.
    """
    hops = np.zeros((len(codes) + 2, 160), int)
    bands, others = 7 * np.arange(12), np.setdiff1d(np.arange(80), 7 * np.arange(12))
    hops[:-2, bands] = 200 * (codes - 29)
    for hop, count in {} if full is None else full.items():
        hops[hop, 80 : 80 + abs(count)] = 32767 * np.sign(count)
    for half, places in ((hops[:, :80], others), (hops[:, 80:], np.arange(40, 80))):
        missing = -half.sum(axis=1)[:, None]
        half[:, places] = missing // len(places) + (np.arange(len(places)) < missing % len(places))
    return hops.ravel()[:-80].astype(np.int16)


def frames_of(energies, rule):
    """Codes `[T, 12]` of frames with these energies."""
    energies, (first, end) = np.asarray(energies)[:, None], rule.bands
    codes = np.repeat(energies // (end - first), 12, axis=1)
    codes[:, first:end] += np.arange(end - first) < energies % (end - first)
    return codes


def talk(frames, bands, low=0, high=30):
    return [bands * low, bands * high] * (frames // 2)


# Energies of a window of 48 frames, by n bands and the rule; frames of it that are speech; whether that is too quiet.
WINDOWS = {
    'noise that begins': (lambda n, rule: 18 * [-100 * n] + 30 * [0], 0, 0),
    'just above the background': (lambda n, rule: 23 * [0] + 22 * [rule.rise] + 3 * [rule.rise + 10 * n], 25, 0),
    'a step less': (lambda n, rule: 23 * [0] + 22 * [rule.rise - 1] + 3 * [rule.rise + 10 * n], 0, 0),
    'just enough change': (lambda n, rule: 8 * [-100 * n] + 20 * [0, rule.spread], 40, 0),
    'a step less of it': (lambda n, rule: 8 * [-100 * n] + 20 * [0, rule.spread - 1], 0, 0),
    # The third loudest frame of the speech, and only the fourth with the murmur before it, is what is 17 dB too loud.
    'a murmur before': (
        lambda n, rule: 5 * [-100 * n] + 13 * [-80 * n] + 9 * [20 * n] + 3 * [0, 58 * n] + 15 * [20 * n],
        27,
        0,
    ),
    'lower than a code': (lambda n, rule: 8 * [-134 * n] + talk(40, n), 40, 0),
    'just loud enough': (lambda n, rule: 8 * [-100 * n] + talk(40, n, -56, -40), 40, 0),
    'too quiet': (lambda n, rule: 8 * [-100 * n] + talk(40, n, -57, -41), 40, 1),
}


@pytest.mark.parametrize('name', WINDOWS)
def test_a_window_at_the_rule_s_edge_is_heard_as_in_python(host, fresh_inputs, form, labels, name):
    energies, spoken, too_quiet = WINDOWS[name]
    rule = fresh_inputs.rule
    codes = frames_of(energies(rule.bands[1] - rule.bands[0], rule), rule)
    samples = sounding(codes)
    wanted, _ = expected(samples, fresh_inputs, form, labels, finish=False)
    [(head, _)] = wanted
    assert (round(48 * head[3]), head[4]) == (spoken, too_quiet)
    assert_equal(parsed(host(samples, 399), 3), wanted)
    # And by itself: nothing clips, nothing is learned.
    head[5:7] = 0, 0
    assert_equal(parsed(host(codes.clip(-128, 127).astype(np.int8), 'window'), 3), wanted)


@pytest.mark.parametrize(('hop', 'full', 'clips'), [(40, 4, 0), (40, 5, 1), (40, -5, 1), (54, 5, 1), (23, 30, 0)])
def test_the_speech_s_samples_at_full_scale_are_counted(host, fresh_inputs, form, labels, hop, full, clips):
    """Of 40 frames 8 samples may be; a hop's are in two frames. The second window begins amid the ring."""
    rule = fresh_inputs.rule
    bands = rule.bands[1] - rule.bands[0]
    samples = sounding(frames_of(28 * [-100 * bands] + talk(40, bands), rule), {hop: full})
    wanted, _ = expected(samples, fresh_inputs, form, labels, finish=False)
    assert [(head[0], round(48 * head[3])) for head, _ in wanted] == [(0, 0), (20, 40)]
    assert wanted[1][0][5] == clips
    assert_equal(parsed(host(samples, 399), 3), wanted)


def test_a_profile_is_used_from_its_time_on_if_at_all(host, noise, fresh_inputs, form, labels):
    samples, inputs, run = noise[:9000], (fresh_inputs, form, labels), {}
    for frames in (19, 20, 60):
        profile = Profile(np.full(12, 16 * 30 * frames, np.int32), frames)
        content = np.concatenate([np.frombuffer(voice.to_bytes(profile, fresh_inputs), np.int16), samples])
        run[frames], _ = expected(samples, *inputs, finish=True, profile=profile)
        assert_equal(parsed(host(content, 399, 'known'), 3), run[frames][:1])
        # Not adapting, it is neither used nor changed; frozen, it is used, until it is forgotten.
        off, _ = expected(samples, *inputs, finish=False, profile=profile, adapts=False)
        assert_equal(parsed(host(content, 399, 'known', 'off'), 3), off)
        frozen, _ = expected(samples, *inputs, finish=True, profile=profile, learns=False)
        anew, _ = expected(samples, *inputs, finish=True)
        assert_equal(parsed(host(content, 399, 'known', 'frozen', 'finish', 'reset'), 3), frozen + anew)
        assert off[0][0][6] == frozen[-1][0][6] == frames / 100 < run[frames][-1][0][6]
        assert (off[0][1] != run[frames][0][1]) == (frames >= 20)


def test_a_stream_that_is_dropped_leaves_its_speaker_alone(host, noise, fresh_inputs, form, labels):
    first, profile = expected(noise[:9000], fresh_inputs, form, labels, finish=False)
    second, _ = expected(noise[:9000], fresh_inputs, form, labels, finish=True, profile=profile)
    assert [len(first), len(second)] == [1, 2]
    assert_equal(parsed(host(noise[:9000], 399, 'drop'), 3), first + second)


def packed(digest, frames, sums):
    body = bytes.fromhex(digest) + struct.pack(f'<{1 + len(sums)}i', frames, *sums)
    return body + struct.pack('<I', zlib.crc32(body))


def test_a_profile_goes_from_python_to_the_firmware_and_back(host, fresh_inputs, rng):
    """And each refuses what the other does: damage to any byte, and numbers that no speech gives."""
    digest, most, sums = fresh_inputs.digest, fresh_inputs.most_frames, [5] * 12
    good = [Profile(rng.integers(-1280 * n, 4081 * n, 12).astype(np.int32), n) for n in (1, 7, most)]
    good += [Profile.empty(12), *(Profile(np.full(12, each * most, np.int32), most) for each in (-1280, 4080))]
    right = [voice.to_bytes(profile, fresh_inputs) for profile in good]
    assert right[0] == packed(digest, 1, good[0].sums.tolist())
    wrong = [packed('0' * 64, 3, sums), packed(digest, most + 1, sums), packed(digest, -1, sums)]
    wrong += [packed(digest, 0, [*sums[1:], 1]), packed(digest, 2, [*sums[1:], 8161])]
    wrong += [packed(digest, 2, [-2561, *sums[1:]]), packed(digest, 2, [-(2**31), *sums[1:]])]
    for content in right[:1] + right[2:3]:
        flips = [(at, bit) for at in range(len(content)) for bit in range(8)]
        wrong += [content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :] for at, bit in flips]
        torn = [content[:at] + rest * (len(content) - at) for at in range(len(content)) for rest in (b'\xff', b'\0')]
        torn += [content[:at] + right[1][at:] for at in range(len(content))]  # over another one
        wrong += [each for each in torn if each not in right]
    printed = host(np.frombuffer(b''.join(right + wrong), np.uint8), 'profiles')
    assert printed == [content.hex() for content in right] + ['refused'] * len(wrong)
    for profile, line in zip(good, printed, strict=False):
        found = voice.from_bytes(bytes.fromhex(line), fresh_inputs)
        assert found.frames == profile.frames
        np.testing.assert_array_equal(found.sums, profile.sums)
    for content in wrong:
        with pytest.raises(ValueError, match='expected '):
            voice.from_bytes(content, fresh_inputs)


# TFLM from its first version with SignalRfft to the newest; see stubs/tensorflow/lite/micro/micro_common.h.
VERSIONS = {
    '2023': ['-DTFLM_2023'],
    'before 2026': ['-DTFLM_BEFORE_2026'],
    '2026': [],
    'without aliases': ['-DTFLM_NO_GLOBAL_C_ALIASES'],
}


@pytest.mark.parametrize('kernels', [(), ('-DCMSIS_NN',)], ids=['reference', 'cmsis_nn'])
@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('source', SOURCES)
def test_it_compiles_for_a_cortex_m_without_a_heap(folder, build, tmp_path, version, kernels, source):
    output = tmp_path / 'out.o'
    assert build(folder, folder / source, output, *CORTEX_M4, *VERSIONS[version], *kernels) == ''
    assert heap(output) == []


def test_the_schema_may_lie_in_its_new_place(folder, zig, flags, tmp_path):
    """Late in 2026 schema_generated.h moved to tensorflow/lite/micro/."""
    stubs = tmp_path / 'stubs'
    shutil.copytree(flags[-1], stubs)
    lite = stubs / 'tensorflow' / 'lite'
    (lite / 'schema').rename(lite / 'micro' / 'schema')
    for header in (lite / 'micro').glob('*.h'):
        header.write_text(header.read_text().replace('lite/schema/', 'lite/micro/schema/'))
    source = folder / 'emotion_recognizer.cc'
    said = zig('c++', *flags[:-1], stubs, *CORTEX_M4, '-I', folder, '-c', '-o', tmp_path / 'out.o', source)
    assert said == ''


@pytest.mark.parametrize('version', VERSIONS)
def test_every_operator_can_be_added(written, build, tmp_path, version):
    calls = [f'{method}()' for method in registrations.METHODS.values()]
    for kind, names in (('INT8', registrations.INT8_ONLY), ('INT16', registrations.INT16_ONLY)):
        calls += [f'{registrations.METHODS[name]}(tflm::Register_{name}_{kind}())' for name in sorted(names)]
    source = tmp_path / 'all.cc'
    text = firmware.resolver({'Every': calls})
    source.write_text(f'{text}bool Every(emotion::EveryOpResolver& all) {{ return emotion::AddEveryOps(all); }}\n')
    assert build(written[1], source, tmp_path / 'all.o', *CORTEX_M4, *VERSIONS[version]) == ''


@pytest.mark.parametrize('version', VERSIONS)
def test_kernels_for_one_type_are_registered_where_tflm_has_them(written_narrow, build, tmp_path, version):
    folder, output = written_narrow[1], tmp_path / 'out.o'
    defines = [*VERSIONS[version], '-DCMSIS_NN', '-DTFLM_LINKED']
    build(folder, folder / 'emotion_recognizer.cc', output, *CORTEX_M4, *defines)
    taken = {name for mangled in symbols(output.read_bytes()) for name in re.findall(r'Register_(\w+)Ev$', mangled)}
    generic = {'BATCH_MATMUL', 'TRANSPOSE'} if version == '2023' else set()
    model = {'ADD', 'AVERAGE_POOL_2D', 'CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED', 'MUL', 'SOFTMAX'}
    model |= {'BATCH_MATMUL', 'TRANSPOSE'}
    frontend = {'CONCATENATION', 'FULLY_CONNECTED', 'LOG', 'MUL', 'SLICE', 'RFFT_FLOAT'}
    one_type = {f'{name}_INT8' for name in model - generic}
    assert taken == one_type | generic | frontend | {'RESHAPE', 'RSQRT'}


def test_the_look_for_a_heap_sees_one(build, tmp_path):
    source = tmp_path / 'heap.cc'
    source.write_text(
        '#include <cstdlib>\n#include <vector>\n'
        'int* a() { return new int; }\nvoid b(int* p) { delete p; }\nvoid* c() { return std::malloc(3); }\n'
        'void d(void* p) { std::free(p); }\nvoid e(std::vector<int>& v) { v.push_back(1); }\n'
    )
    build(tmp_path, source, tmp_path / 'heap.o', *CORTEX_M4)
    found = heap(tmp_path / 'heap.o')
    assert {'_Znwj', 'malloc', 'free'} <= set(found)
    assert any(name.startswith('_Zdl') for name in found)


def heap(path):
    """The symbols of an object file that stand for a heap, exceptions or the C++ library."""
    return [name for name in symbols(path.read_bytes()) if name.startswith(HEAP)]


def symbols(content):
    """The names that an ELF file of 32 bits takes from elsewhere."""
    assert content[:5] == b'\x7fELF\x01'
    sections_at, entry, count = *struct.unpack_from('<I', content, 32), *struct.unpack_from('<HH', content, 46)
    sections = [struct.unpack_from('<10I', content, sections_at + entry * index) for index in range(count)]
    names = []
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        for at in range(offset + 16, offset + size, 16):
            name, _, _, _, _, section = struct.unpack_from('<IIIBBH', content, at)
            if section == 0:
                start = sections[link][4] + name
                names.append(content[start : content.index(b'\0', start)].decode())
    return names


@needs_tflm
def test_arenas_are_what_was_counted_for_a_cortex_m_and_elsewhere_what_tflm_took_and_a_margin(written, model, front):
    entry, folder = written
    names = {'model': ('EMOTION_ARENA_BYTES', model), 'frontend': ('EMOTION_FRONTEND_ARENA_BYTES', front)}
    for name, (macro, content) in names.items():
        sizes, graph = entry.arena_bytes[name], flatbuffer.read(content)
        for reserved, helium in ((sizes.reserved, False), (sizes.reserved_helium, True)):
            needed = footprint(graph, helium=helium).needed
            assert reserved % 16 == 0
            assert needed + 512 <= reserved < 1.01 * needed + 512 + 16
        assert sizes.reserved_elsewhere % 16 == 0
        assert sizes.reserved_elsewhere >= 1.15 * sizes.measured + 1000
        of_all = f'{sizes.reserved}, {sizes.reserved_helium}, {sizes.reserved_elsewhere}'
        assert f'#define {macro} EMOTION_ARENA_OF({of_all})\n' in (folder / 'model_data.h').read_text()
    taken = tflm.run(model, np.zeros((1, 48, 12), np.float32)).arena_bytes
    assert entry.arena_bytes['model'].measured == taken


# This compiler's cortex_m55 has no Helium of its own.
@pytest.mark.parametrize('processor', ['cortex_m4', 'cortex_m55+mve_fp', ''], ids=['M4', 'M55', 'host'])
def test_the_compilers_target_chooses_the_arena(written, build, tmp_path, processor):
    entry, folder = written
    source = tmp_path / 'arena.cc'
    field = {'cortex_m4': 'reserved', 'cortex_m55+mve_fp': 'reserved_helium', '': 'reserved_elsewhere'}[processor]
    checks = (
        f'static_assert(emotion::k{name.title()}ArenaBytes == {getattr(sizes, field)}, "");\n'
        for name, sizes in entry.arena_bytes.items()
    )
    source.write_text('#include "model_data.h"\n' + ''.join(checks))
    target = [flag.replace('cortex_m4', processor) for flag in CORTEX_M4] if processor else []
    build(folder, source, tmp_path / 'arena.o', *target)


def test_what_a_model_fixes_is_in_the_header(written, fresh_inputs):
    text = (written[1] / 'model_data.h').read_text()
    facts = {'SampleRate': 16000, 'FrameLength': 400, 'HopLength': 160, 'Bands': 12, 'WindowFrames': 48}
    for name, value in {**facts, 'WindowHop': 20, 'Classes': 3, 'Clamp': 80, 'QuietestLevel': -48}.items():
        assert f'constexpr int k{name} = {value};' in text
    after = int(re.search(r'kProfileAfterFrames = (\d+);', text)[1])
    assert fresh_inputs.share(after - 1) == 0 < fresh_inputs.share(after)
    for name, value in {'Half': 30, 'Most': 110}.items():
        assert f'constexpr std::int32_t kProfile{name}Frames = {value};' in text
    assert 'constexpr bool kAdapts = true;' in text
    assert 'using Feature = std::int8_t;' in text
    assert 'using Logit = std::int16_t;' in text
    assert '{"anger", "Überraschung", "neutral"}' in (written[1] / 'model_data.cc').read_text()


def test_the_resolver_holds_the_models_operators_and_no_more(written):
    text = (written[1] / 'op_resolver.h').read_text()
    for kind, calls in written[0].registrations.items():
        assert f'using {kind}OpResolver = tflm::MicroMutableOpResolver<{len(calls)}>;' in text
    added = text.count(' resolver.Add') + text.count(' EMOTION_ADD(Add')
    assert added == sum(map(len, written[0].registrations.values()))


def test_no_place_in_the_readme_is_left_open(written):
    text = (written[1] / 'README.md').read_text()
    assert not re.search(r'\{[a-z_]+\}', text)
    assert 'complete after 0.48 s and one comes every 0.2 s' in text
    made = ['README.md', 'model_data.h', 'model_data.cc', 'frontend_data.cc', 'op_resolver.h', 'golden']
    made += ['golden_data.h', 'golden_data.cc']
    assert {path.name for path in written[1].iterdir()} == {*(name.split('/')[0] for name in firmware.SOURCES), *made}
    assert all((written[1] / name).is_file() for name in firmware.SOURCES)
