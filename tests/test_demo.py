"""docs/demo, the page that tries the packaged model: in headless Chromium, with a file and with a fake microphone."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import json
import os
import re
import select
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
import soundfile
import soxr

from helpers import ROOT, syllables
from jax_reparam import manifest
from jax_reparam.export import card
from jax_reparam.frontend import audio
from jax_reparam.recognizer import Recognizer
from jax_reparam.runtime import litert

DEMO = ROOT / 'docs/demo'
CHROMIUM = shutil.which('chromium')
RATE = 16000


def test_limits_and_law_stand_on_the_page():
    found = re.search(r'<ul id="limits">(.*)</ul>', (DEMO / 'index.html').read_text(), re.DOTALL)[1]
    assert re.sub(r'<[^>]*>', '', found).split() == re.sub(r'^- |\*\*', '', card.LIMITS, flags=re.MULTILINE).split()


def script():
    """docs/demo/build.py as a module."""
    spec = importlib.util.spec_from_file_location('demo_build', DEMO / 'build.py')
    spec.loader.exec_module(build := importlib.util.module_from_spec(spec))
    return build


def test_without_npm_it_is_named(monkeypatch, capsys):
    monkeypatch.setenv('PATH', '')
    assert script().main() == 2
    assert capsys.readouterr().err == 'docs/demo/build.py: expected npm (Node.js), found none in PATH\n'


class Browser:
    """A page in headless Chromium, driven by its protocol over a pair of pipes."""

    def __init__(self, command):
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        # The protocol's pipes are descriptors 3 and 4.
        shell = ['bash', '-c', f'exec "$@" 3<&{read} 4>&{write}', 'bash', *command, '--remote-debugging-pipe']
        self.process = subprocess.Popen(shell, pass_fds=(read, write), stderr=subprocess.DEVNULL)
        os.close(read), os.close(write)
        self._id, self._rest, self._session, self.events = 0, b'', {}, []
        target = self('Target.createTarget', url='about:blank')['targetId']
        self._session = {'sessionId': self('Target.attachToTarget', targetId=target, flatten=True)['sessionId']}
        for domain in ('Network', 'Page', 'Runtime', 'Log', 'DOM'):
            self(f'{domain}.enable')

    def __call__(self, method, **params):
        """The answer to a command; events on the way are kept."""
        self._id += 1
        command = {'id': self._id, 'method': method, 'params': params, **self._session}
        os.write(self._out, json.dumps(command).encode() + b'\0')
        while True:
            while b'\0' not in self._rest:
                ready, _, _ = select.select([self._in], [], [], 60)
                self._rest += (ready and os.read(self._in, 1 << 16)) or pytest.fail(f'{method}: Chromium is silent')
            message, _, self._rest = self._rest.partition(b'\0')
            message = json.loads(message)
            if message.get('id') == self._id:
                assert 'error' not in message, message
                return message['result']
            self.events.append(message)

    def js(self, expression):
        found = self('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in found, found
        return found['result'].get('value')

    def wait(self, pattern, seconds=60):
        """Waits for a status that matches, and returns it."""
        end = time.monotonic() + seconds
        while not re.search(pattern, status := self.js('document.getElementById("status")?.textContent ?? ""')):
            assert time.monotonic() < end, f'expected {pattern!r}, found {status!r}; {self.problems()}'
            time.sleep(0.05)
        return status

    def problems(self):
        bad = ('Runtime.exceptionThrown', 'Log.entryAdded', 'Network.loadingFailed')
        return [event['params'] for event in self.events if event['method'] in bad]

    def key(self, key, text=''):
        for kind in ('keyDown', 'keyUp'):
            code = {'Tab': 9, 'Enter': 13}[key]
            self('Input.dispatchKeyEvent', type=kind, key=key, code=key, text=text, windowsVirtualKeyCode=code)

    def choose(self, path):
        """Chooses a file; returns the last status."""
        node = self('DOM.querySelector', nodeId=self('DOM.getDocument')['root']['nodeId'], selector='#file')['nodeId']
        self('DOM.setFileInputFiles', nodeId=node, files=[str(path)])
        return self.wait(rf'^{re.escape(path.name)}: ')

    def texts(self, selector):
        return self.js(f'[...document.querySelectorAll({json.dumps(selector)})].map(found => found.textContent)')

    def windows(self):
        """What the table holds: for each window its time and probabilities, zeros where it says "no speech"."""
        return self.js("""(() => {
          const rows = [...document.querySelectorAll('#rows tr')].map(row => [...row.querySelectorAll('data')]);
          const quiet = [...document.querySelectorAll('#rows .none')].length;
          return [...document.querySelectorAll('#times th')].map((th, i, all) => [th.textContent,
            quiet === all.length ? rows.map(() => 0) : rows.map(row => Number(row[i].value))]);
        })()""")


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Six seconds at the model's rate, as loud as 16 bits allow: browsers read loud samples otherwise."""
    path, samples = tmp_path_factory.mktemp('audio') / 'clip.wav', syllables(6)
    soundfile.write(path, samples / np.abs(samples.astype(float)).max(), RATE)
    return path


@pytest.fixture(scope='module')
def browser(tmp_path_factory, clip):
    """Chromium with the page; its microphone hears the clip."""
    if CHROMIUM is None:
        pytest.skip('expected chromium in PATH, found none')
    if not (DEMO / 'node_modules/@litertjs').is_dir():
        pytest.skip('the runtime is not there: python docs/demo/build.py gets it (npm)')
    folder = tmp_path_factory.mktemp('demo')
    script().build(folder / 'page')
    quiet = type('Quiet', (http.server.SimpleHTTPRequestHandler,), {'log_message': lambda *_: None})
    handler = functools.partial(quiet, directory=folder / 'page')
    flags = [
        *('--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={folder / "profile"}', '--mute-audio'),
        *('--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream'),
        f'--use-file-for-fake-audio-capture={clip}',
    ]
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server, contextlib.ExitStack() as stack:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        page = Browser([CHROMIUM, *flags])
        stack.callback(page.process.wait)
        stack.callback(page.process.kill)
        page('Page.navigate', url=f'http://127.0.0.1:{server.server_port}/')
        page.wait('^Ready$')
        yield page


def in_python(path):
    """The start of each window, as the page shows it, and its probabilities by the waveform form: `[W]`, `[W, C]`."""
    recognizer, samples = Recognizer.load(), audio.read(path)
    entry = recognizer.manifest.device.waveform
    starts = [part.start for part in recognizer.predict(samples, over_time=True).over_time]
    cuts = [samples[(first := round(RATE * start)) : first + entry.samples] for start in starts]
    probabilities = litert.load((manifest.PACKAGED / entry.file).read_bytes())(
        np.stack(cuts).astype(np.float32) / 32768
    )
    return [f'{start:.1f}' for start in starts], probabilities


@pytest.mark.slow
def test_a_file_is_decided_on_as_in_python(browser, clip):
    """1e-3 was asked for. Measured on 272 windows of EMO-DB: up to 8e-5."""
    told = browser.choose(clip)
    starts, expected = in_python(clip)
    assert starts == ['0.0', '2.0']
    times, found = zip(*browser.windows(), strict=True)
    assert [time.split('\u2013')[0] for time in times] == starts
    assert expected.any(axis=1).all()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    labels = list(manifest.load(manifest.PACKAGED).labels)
    assert browser.texts('#rows th') == labels
    tops = sorted(expected.argmax(axis=1))
    assert browser.texts('#rows tr:has(.top) th') == [labels[i] for i in sorted(set(tops))]
    assert len(browser.texts('#rows .top')) == len(tops)
    mean = expected.mean(axis=0)
    summary = f'on average {labels[mean.argmax()]}, {100 * mean.max():.0f}\xa0% (windows with speech: 2 of 2)'
    assert told == f'clip.wav: {summary}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'rate', 'tolerance'), [('a.flac', RATE, 1e-4), ('b.wav', 48000, 0.01), ('c.flac', 44100, 0.01)]
)
def test_other_files_are_read_as_in_python(browser, tmp_path, name, rate, tolerance):
    """0.01 is for the resampler. Measured on 60 clips of EMO-DB at 48 kHz: up to 0.003; with Chromium's own, 0.19."""
    # A few samples less, and the last window starts a tenth of a second earlier.
    sound = syllables(4.1755)
    sound = soxr.resample(sound / 32768 + 0.02 * np.random.default_rng(1).standard_normal(len(sound)), RATE, rate)
    soundfile.write(tmp_path / name, np.stack([sound, sound], axis=1), rate)
    starts, expected = in_python(tmp_path / name)
    assert starts == ['0.0', '0.2']
    browser.choose(tmp_path / name)
    times, found = zip(*browser.windows(), strict=True)
    assert [time.split('\u2013')[0] for time in times] == starts
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.slow
def test_the_microphone_works_by_keyboard_alone(browser):
    browser.js('document.activeElement.blur()')
    browser.key('Tab')
    assert browser.js('document.activeElement.id') == 'microphone'
    browser.key('Enter', '\r')
    browser.wait('^Listening')
    assert browser.js('document.activeElement.textContent') == 'Stop microphone'
    began = time.monotonic()
    assert re.search(r'^0\.0 to 4\.0 s: (?!no speech)', browser.wait(r'^\d'))
    assert 3.5 < time.monotonic() - began < 11  # samples of another rate make it 1.3 or 12 s
    browser.key('Enter', '\r')
    assert re.search(r'windows with speech: (\d) of \1', browser.wait('^Microphone: '))
    assert all(sum(probabilities) == pytest.approx(1, abs=1e-4) for _, probabilities in browser.windows())


@pytest.mark.slow
@pytest.mark.parametrize('seconds', [1, 7])
def test_without_speech_the_page_says_so(browser, tmp_path, rng, seconds):
    name, windows = f'noise{seconds}.wav', 1 if seconds < 4 else 3
    soundfile.write(tmp_path / name, 0.01 * rng.standard_normal(seconds * RATE), RATE)
    assert browser.choose(tmp_path / name) == f'{name}: no speech (windows with speech: 0 of {windows})'
    assert [probabilities for _, probabilities in browser.windows()] == windows * [7 * [0]]
    assert browser.js("[...document.querySelectorAll('#rows td')].map(cell => cell.textContent)") == windows * [
        'no speech'
    ]


@pytest.mark.slow
def test_what_is_no_audio_is_named(browser, tmp_path):
    (tmp_path / 'notes.wav').write_text('no audio')
    expected = 'notes.wav: expected audio that this browser decodes, found something else'
    assert browser.choose(tmp_path / 'notes.wav') == expected


@pytest.mark.slow
def test_a_screen_reader_finds_names_and_news(browser, clip):
    browser.choose(clip)
    nodes = browser('Accessibility.getFullAXTree')['nodes']
    found = {(node['role']['value'], node['name']['value']) for node in nodes if node.get('role') and node.get('name')}
    names = [('button', 'Start microphone'), ('region', 'Probability of each class, by window'), ('rowheader', 'anger')]
    names += [
        ('button', 'or choose a recording'),
        ('cell', f'{max(browser.windows()[0][1]):.0%}'.replace('%', '\xa0%')),
    ]
    assert {*names, ('table', 'Probability of each class, by window'), ('columnheader', '0.0\u20134.0 s')} <= found
    [live] = [node for node in nodes if node.get('role', {}).get('value') == 'status']
    assert {'name': 'live', 'value': {'type': 'token', 'value': 'polite'}} in live['properties']


@pytest.mark.slow
def test_nothing_leaves_the_page(browser):
    refused = browser.js("""new Promise(resolve => {
      document.addEventListener('securitypolicyviolation', event => resolve(event.effectiveDirective));
      fetch('https://example.invalid/', {method: 'POST', body: 'audio'}).catch(() => setTimeout(resolve, 1000, 'sent'));
    })""")
    assert refused == 'connect-src'
    asked = [event['params']['request'] for event in browser.events if event['method'] == 'Network.requestWillBeSent']
    asked = [request for request in asked if 'example.invalid' not in request['url']]
    own = browser.js('location.origin')
    assert f'{own}/model.tflite' in {request['url'] for request in asked}
    for request in asked:
        assert request['method'] == 'GET'
        assert request['url'].startswith((f'{own}/', 'data:'))
