"""Listening: a file as a stream gives what prediction gives, a microphone the same, and it ends cleanly."""

from __future__ import annotations

import collections
import contextlib
import importlib.machinery
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers import needs_tflm, run_without, syllables
from jax_reparam import manifest
from jax_reparam.commands import listen, predict
from jax_reparam.errors import InputError
from jax_reparam.evaluation import softmax
from jax_reparam.frontend import audio, features, voice
from jax_reparam.frontend.features import FrontendConfig
from jax_reparam.frontend.inputs import Input
from jax_reparam.frontend.voice import Profile, VoiceConfig
from jax_reparam.frontend.windows import WindowConfig
from jax_reparam.recognizer import Recognizer, Stream
from jax_reparam.runtime import tflm

UNTRAINED = 'this model was not trained with histories: verify --field says what knowing a voice is worth\n'
# Windows of 0.8 s, every 0.3 s; 3 s of a voice are learned at most.
INPUTS = Input(
    FrontendConfig(n_mels=12),
    WindowConfig(80, 30),
    np.linspace(-60, -20, 12, dtype=np.float32),
    np.linspace(10, 30, 12, dtype=np.float32),
    np.linspace(-30, -60, 12, dtype=np.float32),
    VoiceConfig(half_seconds=1.0, most_seconds=3.0),
)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    """Clips of 0.1 s, of 0.5 s, of exactly one window (64 frames), and of 1.5 and 2.5 s."""
    folder, rng, paths = tmp_path_factory.mktemp('clips'), np.random.default_rng(0), []
    for pitch, samples in ((1500, 1700), (1500, 8000), (300, 63 * 160 + 400), (300, 24000), (700, 40001)):
        time = np.arange(samples) / 16000
        sound = np.sin(2 * np.pi * pitch * time) + rng.standard_normal(samples)
        sound *= 0.1 + 0.9 * np.abs(np.sin(2 * np.pi * 2 * time))
        paths.append(str(folder / f'{samples}.wav'))
        soundfile.write(paths[-1], sound / 8, 16000)
    return paths


def heard(capsys, *arguments):
    assert listen.main([str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@contextlib.contextmanager
def in_litert(folder, form):
    yield Recognizer.load(folder, form)


@needs_tflm
@pytest.mark.parametrize('runtime', ['tflm', 'litert'])
@pytest.mark.parametrize('form', ['int8', 'float32'])
def test_a_file_gives_window_by_window_what_prediction_gives(exported, clips, capsys, form, runtime):
    counts, spoken = [], 0
    start, flags = (Recognizer.in_tflm, ['--tflm']) if runtime == 'tflm' else (in_litert, [])
    with start(exported.path, form) as recognizer:
        for path in clips:
            found = heard(capsys, '--model', exported.path, '--file', path, '--form', form, '--json', *flags)
            prediction = recognizer.predict(audio.read(path), over_time=True)
            entry = predict.as_json(path, recognizer.manifest.labels, prediction, over_time=True)
            for window, part in zip(found, entry['over_time'], strict=True):
                assert [window[key] for key in ('start', 'end')] == [part[key] for key in ('start', 'end')]
                assert (window['label'], window['speech']) == (part['label'], part['speech'])
                if part['speech']:
                    assert window['probabilities'] == pytest.approx(part['probabilities'], abs=2e-6)
                spoken += part['speech']
            counts.append(len(found))
    assert counts == [1, 1, 1, 4, 7]
    assert spoken > 10


@needs_tflm
def test_the_recommended_form_is_heard_and_told(exported, clips, capsys):
    assert listen.main(['--model', str(exported.path), '--file', clips[3]]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        'int8 in LiteRT; a line after 0.64 s and then every 0.32 s; smoothed = 0.5 x smoothed before + 0.5 x window; '
        'of the voice 0 s are known, nothing is learned; Ctrl-C ends'
    ]
    header, *rows = out.splitlines()
    assert header.split() == ['seconds', 'window', 'smoothed', 'high', 'low']
    times = ['0.0 - 0.6 s', '0.3 - 1.0 s', '0.6 - 1.3 s', '0.8 - 1.5 s']
    assert [' '.join(row.split()[:4]) for row in rows] == times
    assert all(row.split()[4:6] == ['low', 'low'] for row in rows)
    assert len({len(line) for line in out.splitlines()}) == 1


@needs_tflm
def test_smoothing_is_of_the_windows_heard(exported, clips, capsys):
    found = heard(capsys, '--model', exported.path, '--file', clips[4], '--json', '--smoothing', 0.75)
    own = np.array([[*window['probabilities'].values()] for window in found])
    expected = own[0]
    for window, row in zip(found[1:], own[1:], strict=True):
        expected = 0.75 * expected + 0.25 * row
        np.testing.assert_allclose([*window['smoothed']['probabilities'].values()], expected, atol=1e-5)
    assert found[0]['smoothed']['probabilities'] == found[0]['probabilities']
    assert np.ptp(own, axis=0).max() > 0.01


def logits_of(window):
    """Of a window `[80, 12]`: such that its place, and each of its values, matter."""
    return 0.1 * (window * np.linspace(1, 2, 12)).sum(axis=1)[[3, 40, 70]]


def decisions(chunks, logits, *, profile=None, **options):
    """Of a stream in chunks, by a model of three classes."""
    exported = types.SimpleNamespace(input=INPUTS, labels=('a', 'b', 'c'))
    stream = Stream(Recognizer(exported, 'float32', logits, profile), **options)
    yield from itertools.chain.from_iterable(map(stream.feed, chunks))
    yield from stream.finish()


def spoken_and_silent():
    """Speech of a voice, 1.1 s of zeros, loud noise, DC of 0.05, speech that clips; 7.3 s and some samples."""
    rng = np.random.default_rng(3)
    clipping = np.clip(syllables(1.5, 5).astype(int) * 20, -32768, 32767)
    pieces = [syllables(2, 1), np.zeros(17600), 3000 * rng.standard_normal(8000), syllables(2.2, 2) + 1638, clipping]
    return np.concatenate([*pieces, np.zeros(77)]).clip(-32768, 32767).astype(np.int16)


def straight(samples, inputs, known, *, learn, smoothing):
    """What `Stream` must give, from the recording as a whole: (start, frames, probabilities, smoothed, profile)."""
    codes, heard, smoothed, rows = inputs.codes(samples), 0, None, []
    starts = [*range(0, len(codes) - 80, 30), max(0, len(codes) - 80)]
    for start in starts:
        cut = codes[start : start + 80]
        standardised, found = inputs.hear(cut, known)
        probabilities = np.zeros(3)
        if found.there:
            probabilities = softmax(logits_of(standardised))
            smoothed = probabilities if smoothed is None else smoothing * smoothed + (1 - smoothing) * probabilities
        if learn:
            new = start + len(cut) - heard
            known = known.learn(cut, found, inputs.rule, new=new, most=inputs.most_frames)
            heard = start + len(cut)
        rows.append((start, probabilities, np.zeros(3) if smoothed is None else smoothed, known))
    return rows


@pytest.mark.parametrize('size', [37, 1600, 200000])
@pytest.mark.parametrize('learn', [False, True])
@pytest.mark.parametrize('before', [0, 40])
def test_streaming_equals_batch(size, learn, before):
    """Window by window the decisions, smoothed ones and profiles of the whole recording, in chunks of any size."""
    samples = spoken_and_silent()
    known = Profile(np.arange(-12, 0, dtype=np.int32) * 16 * 40 * bool(before), before)
    expected = straight(samples, INPUTS, known, learn=learn, smoothing=0.3)
    found = list(
        decisions(
            [samples[at : at + size] for at in range(0, len(samples), size)],
            lambda cut: logits_of(cut[0])[None],
            profile=known if before else None,
            smoothing=0.3,
            learn=learn,
        )
    )
    assert [round(one.start * 100) for one in found] == [start for start, *_ in expected]
    for one, (_, probabilities, smoothed, profile) in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.probabilities, probabilities, rtol=1e-12)
        np.testing.assert_allclose(one.smoothed, smoothed, rtol=1e-12)
        np.testing.assert_array_equal(one.profile.sums, profile.sums)
        assert one.profile.frames == profile.frames
    spoken = [one.probabilities.any() for one in found]
    assert spoken[0]
    assert spoken[-1]
    assert not all(spoken)
    # While nobody speaks, smoothing and profile hold.
    for last, one in itertools.pairwise(found):
        if not one.probabilities.any():
            assert one.smoothed is last.smoothed
            assert one.profile is last.profile
            assert one.speech_share == 0
    assert found[-1].profile.frames == (300 if learn else before)
    assert [one.clipping for one in found] == [one.end > 5.8 for one in found]


def test_no_model_runs_where_nobody_speaks():
    def logits(window):
        raise AssertionError

    found = list(decisions([np.zeros(48000, np.int16)], logits, learn=True))
    assert len(found) == 9
    assert not any(one.probabilities.any() or one.smoothed.any() or one.profile.frames for one in found)
    printed = listen.as_json('abc', found[0], INPUTS)
    assert printed == {
        'start': 0.0,
        'end': 0.8,
        'label': None,
        'speech': False,
        'probabilities': None,
        'smoothed': None,
        'speech_share': 0.0,
        'too_quiet': False,
        'clipping': False,
        'learned_seconds': 0.0,
    }
    assert listen.as_row('abc', found[0]).split() == ['0.0', '-', '0.8', 's', 'no', 'speech', 'no', 'speech']


def test_real_time_is_as_fast_as_it_was_spoken(clips, monkeypatch):
    slept = []
    clock = types.SimpleNamespace(monotonic=lambda: 100 + sum(slept), sleep=slept.append)
    monkeypatch.setattr(listen, 'time', clock)
    chunks = list(listen.recording(clips[1], 16000, real_time=True))
    assert [len(chunk) for chunk in chunks] == [1600] * 5
    assert slept == pytest.approx([0.1] * 5)


@pytest.fixture
def sounddevice(monkeypatch):
    """A module in sounddevice's place whose microphone gives the samples that are put into it, and then none."""
    module = types.ModuleType('sounddevice')
    module.PortAudioError = type('PortAudioError', (Exception,), {})
    module.samples, module.opened, module.status = np.zeros(0, np.int16), {}, None
    module.query_devices = lambda device, kind: {'default_samplerate': 44100.0 if device == 8 else 16000.0}

    class RawInputStream:
        def __init__(self, **arguments):
            module.opened = arguments
            if arguments['device'] == 9:
                raise module.PortAudioError('Error querying device 9')
            if arguments['device'] == 8 and arguments['samplerate'] != 44100:
                raise module.PortAudioError('Invalid sample rate')

        def __enter__(self):
            size, block = module.opened['blocksize'], bytearray()
            for at in range(0, len(module.samples), size):
                block[:] = module.samples[at : at + size].tobytes()  # one memory for all, as PortAudio has
                module.opened['callback'](block, len(block) // 2, None, module.status)

        def __exit__(self, *_):
            module.opened['closed'] = True

    module.RawInputStream = RawInputStream
    module.__spec__ = importlib.machinery.ModuleSpec('sounddevice', None)
    monkeypatch.setitem(sys.modules, 'sounddevice', module)
    monkeypatch.setattr(listen, 'SILENT_SECONDS', 0.01)
    return module


@needs_tflm
def test_a_microphone_is_heard_like_a_file(exported, clips, sounddevice, capsys):
    sounddevice.samples = audio.read(clips[3])
    with pytest.raises(InputError, match=r'^microphone 3: expected samples, found none in 0\.01 s$'):
        listen.main(['--model', str(exported.path), '--device', '3', '--json'])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # The last window of the file is that of its end, which a microphone has not.
    assert found == heard(capsys, '--model', exported.path, '--file', clips[3], '--json')[:-1]
    wanted = {'samplerate': 16000, 'blocksize': 1600, 'device': 3, 'channels': 1, 'dtype': 'int16', 'closed': True}
    assert wanted.items() <= sounddevice.opened.items()


def chunks_of(device):
    """All chunks until the microphone falls silent."""
    found = []
    with pytest.raises(InputError, match='expected samples, found none'):
        collections.deque(map(found.append, listen.microphone(device, 16000)))
    return found


def test_a_microphone_of_another_rate_is_resampled(sounddevice):
    tone = lambda rate, seconds: np.rint(8000 * np.sin(2 * np.pi * 440 * np.arange(rate * seconds) / rate))
    sounddevice.samples = tone(44100, 2).astype(np.int16)
    found = np.concatenate(chunks_of('8'))
    assert sounddevice.opened['samplerate'] == 44100
    assert 15000 < len(found) - 16000 <= 16000  # the resampler keeps the last milliseconds
    np.testing.assert_allclose(found[1000:30000], tone(16000, 2)[1000:30000], atol=40)


def test_who_is_too_slow_is_told_and_goes_on_at_the_present(sounddevice, capsys):
    """The queue has an end: 12.5 s have come before the first chunk is taken."""
    sounddevice.samples = np.ones(200000, np.int16)
    assert chunks_of('3') == []
    assert capsys.readouterr().err == 'microphone 3: 12.5 s behind: dropped, it goes on at the present\n'
    sounddevice.samples = np.ones(96000, np.int16)
    assert sum(map(len, chunks_of('3'))) == 96000
    assert capsys.readouterr().err == ''


def test_samples_that_the_device_lost_are_told(sounddevice, capsys):
    sounddevice.samples, sounddevice.status = np.ones(3200, np.int16), types.SimpleNamespace(input_overflow=True)
    assert len(chunks_of('3')) == 2
    assert capsys.readouterr().err == 'microphone 3: samples were lost before they came here, 2 times so far\n'


def test_a_microphone_that_cannot_be_used_is_named(sounddevice):
    message = r'^microphone 9: expected one that records 16,000 Hz mono, found: Error querying device 9 \(python -m'
    with pytest.raises(InputError, match=message):
        next(listen.microphone('9', 16000))
    with pytest.raises(InputError, match=r'^microphone \(default\): expected samples, found none'):
        next(listen.microphone(None, 16000))
    assert sounddevice.opened['device'] is None


@pytest.mark.parametrize(
    ('broken', 'message'),
    [
        ({}, r"expected the package sounddevice of the extra 'listen', found none; pip install '\.\[listen\]' in "),
        ({'raise': 'OSError("PortAudio library not found")'}, r'expected the PortAudio library .* found: PortAudio'),
    ],
    ids=['package', 'library'],
)
def test_what_a_microphone_needs_is_named(monkeypatch, tmp_path, broken, message):
    monkeypatch.delitem(sys.modules, 'sounddevice', raising=False)
    if broken:
        (tmp_path / 'sounddevice.py').write_text(f'raise {broken["raise"]}')
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(InputError, match=rf'^microphone: {message}'):
        next(listen.microphone(None, 16000))


@needs_tflm
def test_ctrl_c_ends_with_one_line_and_nothing_left_running(exported, clips):
    # A shell that starts the tests in the background has Ctrl-C ignored.
    code = (
        'import signal, sys; from jax_reparam import errors; from jax_reparam.commands import listen\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'errors.run(lambda: listen.main(sys.argv[1:]))'
    )
    command = [
        sys.executable,
        '-c',
        code,
        '--model',
        str(exported.path),
        '--file',
        clips[4],
        '--real-time',
        '--json',
        '--tflm',
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    ) as child:
        assert json.loads(child.stdout.readline())['start'] == 0
        running = Path(f'/proc/{child.pid}/task/{child.pid}/children').read_text().split()
        assert len(running) == 2
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(timeout=20) == 130
        assert re.fullmatch(r'ended by Ctrl-C, windows: [1-9]\n', child.stderr.read())
    assert not any(Path(f'/proc/{process}').exists() for process in running)


def edit(folder, **reason):
    """Takes the frontend, and with it the firmware, out of a manifest."""
    content = manifest.read(folder)
    content['device'] |= {'frontend': None, 'firmware': None, **reason}
    (folder / manifest.FILE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: shutil.rmtree(folder), r'out: expected a folder that fold\.py wrote, found no manifest\.json$'),
        (lambda folder: (folder / 'frontend.tflite').write_bytes(b'x'), r'expected the file that was verified'),
        (
            lambda folder: edit(folder, reason='no such luck'),
            r'frontend, found none: no such luck$',
        ),
        (edit, r'expected a frontend, found none: it failed its check$'),
    ],
    ids=['folder', 'frontend', 'none', 'failed'],
)
@needs_tflm
def test_a_folder_that_cannot_listen_is_named(exported, clips, tmp_path, damage, message):
    shutil.copytree(exported.path, tmp_path / 'out')
    damage(tmp_path / 'out')
    with pytest.raises(InputError, match=message):
        listen.main(['--model', str(tmp_path / 'out'), '--tflm', '--file', clips[0]])


@needs_tflm
def test_a_clip_that_cannot_be_heard_is_all_that_is_said(exported, tmp_path, capsys):
    soundfile.write(tmp_path / 'short.wav', np.ones(1000), 16000)
    kept = tmp_path / 'p.bin'
    with pytest.raises(InputError, match=r'short\.wav: expected at least 0\.1 s, found 0\.062 s$'):
        listen.main(
            [
                '--model',
                str(exported.path),
                '--file',
                str(tmp_path / 'short.wav'),
                '--learn',
                '--save-profile',
                str(kept),
            ]
        )
    assert capsys.readouterr() == ('', UNTRAINED)
    assert not kept.exists()


@needs_tflm
def test_a_voice_is_learned_while_it_is_heard_and_kept(exported, inputs, tmp_path, capsys):
    """Off by default in a model that was not trained for it; `--profile` goes on with what was learned."""
    clip, kept = tmp_path / 'a.wav', tmp_path / 'p.bin'
    soundfile.write(clip, syllables(3), 16000)
    seconds = lambda found: [window['learned_seconds'] for window in found]
    assert inputs.voice.history == 0
    command = ['--model', exported.path, '--file', clip, '--json']
    assert set(seconds(heard(capsys, *command))) == {0}
    learned = heard(capsys, *command, '--learn', '--save-profile', kept)
    assert all(np.diff([0, *seconds(learned)]) > 0)
    with tflm.started((exported.path / manifest.FRONTEND).read_bytes()) as front:
        frames = features.frames(audio.read(clip), inputs.frontend)
        codes = features.encode(np.stack([front.run(frame) for frame in frames]))
    expected = inputs.learned(codes)
    found = voice.load(kept, inputs)
    assert found.frames == expected.frames == round(100 * seconds(learned)[-1])
    np.testing.assert_array_equal(found.sums, expected.sums)
    again = heard(capsys, *command, '--profile', kept, '--no-learn')
    assert set(seconds(again)) == {seconds(learned)[-1]}
    assert seconds(heard(capsys, *command, '--speaker', clip))[0] == pytest.approx(seconds(learned)[-1], abs=0.1)


@needs_tflm
def test_what_is_known_and_learned_is_said(exported, tmp_path, capsys):
    clip, kept = tmp_path / 'a.wav', tmp_path / 'p'
    soundfile.write(clip, syllables(3), 16000)
    seconds = heard(capsys, '--model', exported.path, '--file', clip, '--json', '--learn')[-1]['learned_seconds']
    command = ['--model', str(exported.path), '--file', str(clip), '--save-profile', str(kept)]
    assert listen.main([*command, '--learn']) == 0
    first, opening, learned, saved = capsys.readouterr().err.splitlines(keepends=True)
    assert first == UNTRAINED
    assert 'of the voice 0 s are known, more is learned; ' in opening
    assert (learned, saved) == (f'learned: {seconds:g} s of speech\n', f'saved: {seconds:g} s of speech\n')
    assert listen.main([*command[:4], '--profile', str(kept)]) == 0
    assert f'of the voice {seconds:g} s are known, nothing is learned; ' in capsys.readouterr().err


@needs_tflm
def test_a_profile_is_not_replaced_by_one_of_nothing(exported, tmp_path, capsys):
    clip, kept = tmp_path / 'a.wav', tmp_path / 'p'
    soundfile.write(clip, np.zeros(32000), 16000)
    kept.write_text('a good one')
    command = ['--model', str(exported.path), '--file', str(clip), '--save-profile', str(kept)]
    with pytest.raises(InputError, match=r'^--save-profile: expected a voice to save \(--speaker'):
        listen.main(command)
    assert listen.main([*command, '--learn']) == 1
    err = capsys.readouterr().err
    assert err.endswith(f'learned: 0 s of speech\n{kept}: not saved: no speech was heard\n')
    assert kept.read_text() == 'a good one'


def test_tflm_missing_is_said(exported, clips, monkeypatch):
    monkeypatch.setattr(tflm, 'PACKAGE', 'tflite_micro_that_is_not_there')
    with pytest.raises(InputError, match=r'^--tflm: expected TFLM, found: the package tflite-micro is not installed'):
        listen.main(['--model', str(exported.path), '--tflm', '--file', clips[0]])


@pytest.mark.parametrize(
    'arguments', [['--real-time'], ['--smoothing', '1'], ['--smoothing', '-0.1'], ['--file', 'x', '--device', '1']]
)
def test_arguments_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match='2'):
        listen.main(['--model', 'out', *arguments])
    assert 'error: ' in capsys.readouterr().err


@needs_tflm
def test_neither_tensorflow_nor_jax_is_imported(exported, clips):
    arguments = ['--model', str(exported.path), '--file', clips[1], '--json']
    printed = run_without('listen', arguments, ('jax', 'flax', 'tensorflow', 'sounddevice'))
    assert json.loads(printed)['end'] == 0.5
