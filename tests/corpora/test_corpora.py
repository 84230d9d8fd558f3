"""Preparation once, whatever happens meanwhile, and reading without TensorFlow."""

import json
import os
import pickle
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from jax_reparam import corpora
from jax_reparam.corpora import builder
from jax_reparam.corpora.emodb import Emodb
from jax_reparam.corpora.folder import Folder
from jax_reparam.errors import InputError


@pytest.fixture
def prepare(tmp_path):
    def run(source, name='folder', **kwargs):
        return corpora.prepare(name, source=source, data_dir=tmp_path / 'data', **{'progress': False, **kwargs})

    return run


def in_child(code, *args):
    """Starts Python on `code` with `args` in sys.argv[1:]."""
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stderr=subprocess.PIPE, text=True)


def test_clips_are_in_the_order_of_their_ids(make_folder, prepare):
    source = make_folder(speakers=[f'speaker {n}' for n in range(12)])
    corpus = prepare(source)
    assert len(corpus) == len(corpus.id) == 48
    assert list(corpus.id) == sorted(corpus.id)
    assert corpus.labels == ('anger', 'joy')
    assert corpus.label.dtype == np.int64
    for i, id_ in enumerate(corpus.id):
        label, speaker, _ = id_.split('/')
        assert (corpus.labels[corpus.label[i]], corpus.speaker[i]) == (label, speaker)
        expected, _ = soundfile.read(source / id_, dtype='int16')
        np.testing.assert_array_equal(corpus.audio(i), expected)
    assert corpus.audio(np.int64(3)).dtype == np.int16
    assert not corpus.synthetic


def test_many_files_hold_the_same_records(make_folder, prepare, monkeypatch, tmp_path):
    """No file holds much more than `SHARD_SECONDS`, so memory does not grow with the corpus; the order stays."""
    source = make_folder(clips=4)
    whole = prepare(source)
    monkeypatch.setattr(builder, 'SHARD_SECONDS', 0.7)
    parts = corpora.prepare('folder', source=source, data_dir=tmp_path / 'parts', progress=False)
    files = sorted(path.name for path in parts.directory.glob('*.array_record*'))
    assert files == [f'folder-train.array_record-{n:05d}-of-00006' for n in range(6)]
    assert parts.id == whole.id
    for mine, theirs in zip(parts._records, whole._records, strict=True):
        for field in theirs:
            np.testing.assert_array_equal(mine[field], theirs[field])


def test_bad_clips_are_left_out_and_reported(make_folder, prepare, capsys):
    source = make_folder()
    bad = source / 'joy' / 'ann'
    silence = np.zeros(8000, np.int16)
    soundfile.write(bad / 'nan.wav', np.full(8000, np.nan), 16000, subtype='FLOAT')
    soundfile.write(bad / 'none.wav', silence[:0], 16000)
    soundfile.write(bad / 'short.wav', silence[:800] + 1, 16000)
    soundfile.write(bad / 'silence.wav', silence, 16000)
    (bad / 'text.wav').write_text('no audio')
    (bad / 'truncated.wav').write_bytes((bad / '0.wav').read_bytes()[:-100])
    (bad / 'twice.wav').write_bytes((bad / '0.wav').read_bytes())
    corpus = prepare(source, progress=True)
    assert len(corpus) == 12
    reasons = {id_.rpartition('/')[2]: reason for id_, reason in corpus.skipped}
    assert reasons == {
        'nan.wav': 'expected finite samples, found 8,000 that are NaN or infinite',
        'none.wav': 'expected audio, found 0 samples',
        'short.wav': 'expected at least 0.1 s, found 0.050 s',
        'silence.wav': 'expected sound, found silence',
        'text.wav': 'expected WAV, FLAC, MP3 or OGG audio, found something else (Format not recognised.)',
        'truncated.wav': 'expected the audio that its header promises, found 100 bytes too few',
        'twice.wav': 'the same audio as joy/ann/0.wav',
    }
    report = (corpus.directory / 'skipped.tsv').read_text().splitlines()
    assert report == ['id\treason', *('\t'.join(line) for line in corpus.skipped)]
    said = capsys.readouterr()
    assert said.out == ''
    assert 'preparing folder: 19/19' in said.err
    assert (
        'folder: 12 clips, 3 speakers, 2 labels (anger, joy); skipped 7, first joy/ann/nan.wav (expected finite'
        in said.err
    )
    assert str(corpus.directory / 'skipped.tsv') in said.err


def test_nothing_is_said_without_progress(make_folder, prepare, capfd):
    prepare(make_folder())
    assert capfd.readouterr() == ('', '')


def test_an_unreadable_file_is_left_out(make_folder, prepare):
    source = make_folder()
    (source / 'joy' / 'ann' / 'loop.wav').symlink_to('loop.wav')
    (source / 'joy' / 'ann' / 'gone.wav').symlink_to('nowhere.wav')
    corpus = prepare(source)
    assert [id_ for id_, _ in corpus.skipped] == ['joy/ann/gone.wav', 'joy/ann/loop.wav']
    assert all(reason.startswith('expected a readable file, found: ') for _, reason in corpus.skipped)


def test_a_pipe_or_a_device_is_left_out(make_folder, prepare):
    source = make_folder()
    os.mkfifo(source / 'joy' / 'ann' / 'pipe.wav')
    (source / 'joy' / 'ann' / 'zero.wav').symlink_to('/dev/zero')
    reason = 'expected a readable file, found: a pipe or a device'
    assert prepare(source).skipped == (('joy/ann/pipe.wav', reason), ('joy/ann/zero.wav', reason))


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems take no such name')
def test_names_are_on_one_line_wherever_they_stand(make_folder, prepare, write_clip, capsys):
    source = make_folder()
    write_clip(source / 'joy' / 'ann' / 'two\nlines\x1b[31m.wav')
    (source / 'joy' / 'ann' / 'bad\r\n\t.wav').touch()
    corpus = prepare(source, progress=True)
    assert 'joy/ann/two\\nlines\\x1b[31m.wav' in corpus.id
    skipped = 'joy/ann/bad\\r\\n\\t.wav\texpected WAV, FLAC, MP3 or OGG audio, found an empty file'
    assert (corpus.directory / 'skipped.tsv').read_text().split('\n')[1:] == [skipped, '']
    said = capsys.readouterr().err.splitlines()
    assert all(map(str.isprintable, said))
    assert corpus.report.read_text().replace('\n', '').isprintable()


@pytest.mark.parametrize('name', ['~nobody_of_that_name/x', 'a\0b'])
def test_a_source_that_cannot_be(prepare, name):
    with pytest.raises(InputError, match='expected the folder of folder'):
        prepare(name)


def test_an_unchanged_source_is_prepared_once(make_folder, prepare, monkeypatch):
    source = make_folder()
    first = prepare(source)
    os.utime(source / 'joy' / 'ann' / '0.wav', (1, 1))
    monkeypatch.setattr(Folder, 'load', None)
    second = prepare(source)
    assert (second.key, second.directory, second.id) == (first.key, first.directory, first.id)
    np.testing.assert_array_equal(second.audio(3), first.audio(3))


def test_the_place_of_the_source_is_not_part_of_the_key(make_folder, prepare, tmp_path):
    source = make_folder()
    first = prepare(source)
    source.rename(tmp_path / 'moved')
    assert prepare(tmp_path / 'moved').key == first.key


def _replace_samples(source, write_clip):
    write_clip(source / 'joy' / 'ann' / '0.wav')


def _rename_speaker(source, _):
    for label in source.iterdir():
        (label / 'ann').rename(label / 'anna')


def _rename_label(source, _):
    (source / 'joy').rename(source / 'zest')


def _add_clip(source, write_clip):
    write_clip(source / 'joy' / 'ann' / '2.wav')


@pytest.mark.parametrize('change', [_replace_samples, _rename_speaker, _rename_label, _add_clip])
def test_a_changed_source_is_prepared_anew(make_folder, prepare, write_clip, change):
    source = make_folder()
    before = prepare(source)
    change(source, write_clip)
    after = prepare(source)
    assert after.key != before.key
    assert after.directory != before.directory
    i = next(i for i, id_ in enumerate(after.id) if id_.endswith(('/ann/0.wav', '/anna/0.wav')) and 'anger' not in id_)
    np.testing.assert_array_equal(after.audio(i), soundfile.read(source / after.id[i], dtype='int16')[0])


def test_a_new_version_of_the_builder_prepares_anew(make_folder, prepare, monkeypatch):
    source = make_folder()
    before = prepare(source)
    monkeypatch.setattr(Folder, 'VERSION', tfds.core.Version('1.0.1'))
    after = prepare(source)
    assert after.key != before.key
    assert after.directory.name == '1.0.1'


def test_a_corpus_travels_to_another_process(make_folder, prepare):
    corpus = prepare(make_folder())
    expected = corpus.audio(4)
    copy = pickle.loads(pickle.dumps(corpus))
    assert '_records' not in vars(copy), 'the open files of the first process'
    np.testing.assert_array_equal(copy.audio(4), expected)


def test_tensorflow_is_not_imported(make_folder, tmp_path):
    code = """
import sys
from jax_reparam import corpora
from jax_reparam.data import protocols
corpus = corpora.prepare('folder', source=sys.argv[1], data_dir=sys.argv[2])
again = corpora.prepare('folder', source=sys.argv[1], data_dir=sys.argv[2])
assert all((corpus.audio(i) == again.audio(i)).all() for i in range(len(corpus)))
protocols.split(corpus)
loaded = {name.partition('.')[0] for name in sys.modules}
assert 'tensorflow_datasets' in loaded
assert not loaded & {'tensorflow', 'jax', 'flax', 'librosa'}, loaded
"""
    child = in_child(code, make_folder(), tmp_path / 'data')
    _, error = child.communicate()
    assert child.returncode == 0, error


def test_the_package_imports_nothing_heavy():
    code = """
import sys
from jax_reparam import corpora
from jax_reparam.data import protocols
from jax_reparam.frontend import audio
loaded = {name.partition('.')[0] for name in sys.modules}
assert not loaded & {'tensorflow_datasets', 'soundfile', 'soxr', 'tqdm', 'jax'}, loaded
"""
    child = in_child(code)
    _, error = child.communicate()
    assert child.returncode == 0, error


PREPARE = """
import sys
from jax_reparam import corpora
corpora.prepare('folder', source=sys.argv[1], data_dir=sys.argv[2])
"""

KILLED = """
import os, signal, sys
from etils import epath
from jax_reparam import corpora
from jax_reparam.frontend import audio
moment = sys.argv[3]

def killed_when(module, name, nth):
    inner, calls = getattr(module, name), []
    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)
    setattr(module, name, call)

if moment == 'decoding':
    killed_when(audio, 'check', 7)
elif moment == 'writing':
    from tensorflow_datasets.core import writer
    killed_when(writer.ExampleWriter, 'write', 1)
elif moment == 'renaming':
    killed_when(type(epath.Path('x')), 'rename', 1)
elif moment == 'reading':
    killed_when(corpora, '_load', 1)
corpora.prepare('folder', source=sys.argv[1], data_dir=sys.argv[2])
"""


@pytest.mark.parametrize('moment', ['decoding', 'writing', 'renaming', 'reading'])
def test_a_killed_preparation_leaves_all_or_nothing(make_folder, prepare, tmp_path, moment):
    source = make_folder()
    child = in_child(KILLED, source, tmp_path / 'data', moment)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    (folder,) = tmp_path.glob('data/folder-*/folder')
    left = [path.name for path in folder.iterdir()]
    if moment == 'reading':
        assert left == ['2.0.0']
    else:
        assert len(left) == 1
        assert left[0].startswith('incomplete.')
    corpus = prepare(source)
    assert [path.name for path in folder.iterdir()] == ['2.0.0']
    assert len(corpus) == 12
    for i in range(12):
        np.testing.assert_array_equal(corpus.audio(i), soundfile.read(source / corpus.id[i], dtype='int16')[0])


def test_of_two_preparations_the_second_waits(make_folder, prepare, tmp_path):
    source = make_folder(clips=8)
    children = [in_child(PREPARE, source, tmp_path / 'data') for _ in range(2)]
    said = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert sum('preparing folder: 48/48' in text for text in said) == 1
    assert all('folder: 48 clips' in text for text in said)
    assert len(prepare(source)) == 48


def test_an_interrupted_preparation_clears_up(make_folder, prepare, tmp_path, monkeypatch):
    source = make_folder()
    inner = Folder.load

    def load(cls, clips):
        yield from inner(clips[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr(Folder, 'load', classmethod(load))
    with pytest.raises(KeyboardInterrupt):
        prepare(source)
    assert list(tmp_path.glob('data/*/folder/*')) == []
    monkeypatch.undo()
    assert len(prepare(source)) == 12


@pytest.mark.parametrize(('name', 'hint'), [('emo-db', "; did you mean 'emodb'?"), ('xyz', '')])
def test_an_unknown_corpus(prepare, name, hint):
    with pytest.raises(InputError) as error:
        prepare('', name)
    assert str(error.value) == f'corpus: expected one of {", ".join(corpora.NAMES)}, found {name!r}{hint}'


def test_the_builders_serve_tfds_too(tmp_path, write_clip):
    labels = 'WLEAFNT'
    for letter in labels:
        write_clip(tmp_path / 'emodb' / 'wav' / f'03a01{letter}a.wav')
    builder = tfds.builder('emodb', data_dir=tmp_path / 'data', file_format='array_record', accept_mismatch=True)
    assert isinstance(builder, Emodb)
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / 'emodb')
    builder.download_and_prepare(download_config=config)
    records = builder.as_data_source('train')
    assert [record['id'] for record in records] == sorted(f'03a01{letter}a'.encode() for letter in labels)
    assert builder.info.features['label'].names[records[0]['label']] == 'fear'
    assert 'burkhardt2005database' in builder.info.citation
    assert json.loads((builder.data_path / 'metadata.json').read_text())['skipped'] == []


def test_synth_is_spoken_in_order_and_marked(prepare, monkeypatch, capsys):
    from jax_reparam.corpora import synth, synth_builder

    specs = [types.SimpleNamespace(id=f's{n}', label='ab'[n % 2], speaker=f'{n % 3}', pitch=n) for n in (3, 1, 4, 0)]
    spoken = []

    def render_all(clips):
        for spec in clips:
            spoken.append(spec.id)
            yield np.arange(2000, dtype=np.int16) * (spec.pitch + 1)

    monkeypatch.setattr(synth, 'specs', lambda: specs)
    monkeypatch.setattr(synth, 'render_all', render_all)
    monkeypatch.setattr(synth, 'versions', lambda: {'voice': '1'})
    monkeypatch.setattr(synth_builder.Synth, 'LABELS', ('a', 'b'))
    corpus = prepare('', 'synth', progress=True)
    assert spoken == ['s0', 's1', 's3', 's4']
    assert (corpus.id, corpus.label.tolist(), corpus.speaker) == (tuple(spoken), [0, 1, 1, 0], ('0', '1', '0', '1'))
    assert corpus.audio(2)[-1] == 4 * 1999
    assert corpus.synthetic
    assert 'no evidence about emotions' in capsys.readouterr().err

    assert prepare('', 'synth').key == corpus.key
    monkeypatch.setattr(synth, 'versions', lambda: {'voice': '2'})
    louder = prepare('', 'synth')
    specs[0].pitch = 7
    assert len({corpus.key, louder.key, prepare('', 'synth').key}) == 3


def test_synth_takes_no_source(prepare):
    with pytest.raises(InputError, match='synth: expected no source'):
        prepare('somewhere', 'synth')
