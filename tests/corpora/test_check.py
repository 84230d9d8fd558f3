"""The self-check: what it trusts, what it counts, and what its report says."""

import numpy as np
import pytest
import soundfile

import trees
from jax_reparam import corpora
from jax_reparam.commands import prepare
from jax_reparam.corpora import check
from jax_reparam.corpora.found import Clip, Found, Published
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio


def clip(id_, label='joy', speaker='ann', **kwargs):
    return Clip(id_, label, speaker, **kwargs)


def heard(digest, seconds=1.0, **kwargs):
    return check.Measured(digest=digest, seconds=seconds, **kwargs)


def found(*clips, **kwargs):
    return Found(('anger', 'joy'), clips, **kwargs)


def test_copies_are_used_once_and_label_conflicts_never():
    clips = [
        clip('a'),
        clip('b'),
        clip('c', speaker='bob'),
        clip('d', label='anger'),
        clip('e', label='anger', speaker='bob'),
        clip('f'),
        clip('g'),
    ]
    measured = [heard(digest) for digest in ('1', '1', '1', '2', '3', '2', '4')]
    result = check.review(found(*clips, skipped={'x': 'no such file'}, conflicts={'y': 'two labels'}), measured)
    assert [clips[i].id for i in result.kept] == ['a', 'e', 'g']
    assert result.skipped == {
        'b': 'the same audio as a',
        'c': 'the same audio as a, though of another speaker (bob, ann)',
        'd': 'labelled anger, and the same audio is joy as f',
        'f': 'labelled joy, and the same audio is anger as d',
        'x': 'no such file',
        'y': 'two labels',
    }
    assert list(result.conflicts) == ['d', 'f', 'y']
    assert list(result.across) == ['c']


def test_counts_are_those_of_all_that_can_be_read():
    clips = [
        clip('a', group='s1', part='train'),
        clip('b', group='s1', part='train'),
        clip('c', 'anger', 'bob', group='s2', part='test'),
        clip('d', 'anger', 'cleo', group='s2', part='test'),
    ]
    measured = [
        heard('1'),
        heard('1'),
        heard('2', error='expected sound, found silence'),
        check.Measured(error='no audio', decoded=False),
    ]
    published = Published(
        clips=4,
        speakers=2,
        labels={'anger': 2, 'joy': 2},
        groups={'s1': 2, 's3': 1},
        parts={'train': 2},
        part_speakers={'train': 1, 'test': 2},
        part_groups={'train': 1, 'test': 1},
    )
    result = check.review(found(*clips, published=published), measured)
    assert ('label joy', 2, 2, 1) in result.counts
    assert result.mismatches == (
        'clips 3 (published 4)',
        'label anger 1 (published 2)',
        'group s2 1 (published 0)',
        'group s3 0 (published 1)',
        'part test 1 (published 0)',
        'speakers of test 1 (published 2)',
    )
    assert result.silent == ('c',)


def test_without_published_counts_nothing_differs():
    result = check.review(found(clip('a'), clip('b', 'anger')), [heard('1'), heard('2')])
    assert result.mismatches == ()
    assert ('clips', None, 2, 2) in result.counts


@pytest.mark.parametrize(
    ('samples', 'clipped'),
    [
        ([32767] * 3, True),
        ([-32768] * 3, True),
        ([32767, -32768, 32767], True),
        ([32767] * 2 + [0] + [32767] * 2, False),
        ([30000] * 9, False),
    ],
)
def test_clipping_is_a_run_at_the_limit(samples, clipped):
    samples = np.concatenate([np.arange(4000), samples, np.zeros(9)]).astype(np.int16)
    assert check.measure(samples, 'x').clipped is clipped


def test_measures():
    sound = trees.sound(0.25, 0)
    measured = check.measure(sound, 'x')
    assert (measured.seconds, measured.error, measured.decoded) == (0.25, '', True)
    assert measured.digest != check.measure(sound[::-1].copy(), 'x').digest
    assert check.measure(np.zeros(8000, np.int16), 'x').error == 'expected sound, found silence'
    assert check.measure(audio.AudioError('x: gone'), 'x') == check.Measured(error='gone', decoded=False)


def test_the_report_shows_what_is_wrong_first():
    clips = [clip('a|b'), clip('c', speaker='bob'), clip('d', 'anger'), clip('e', 'anger')]
    here = found(*clips, notes=('A note.',), published=Published(clips=9))
    measured = [heard('1', 0.2), heard('1', 0.2), heard('2', 2.5, clipped=True), heard('3', 2.5)]
    text = check.report('corpus', here, measured, check.review(here, measured))
    lines = text.splitlines()
    assert lines[0].startswith('# corpus: 3 clips')
    assert lines[2] == '**This copy differs from the published one:** clips 4 (published 9).'
    assert 'A note.' in lines
    assert '| clips | 9 | **4** | 3 |' in lines
    assert '- c: the same audio as a\\|b, though of another speaker (bob, ann)' in lines
    assert f' 0.0 -  0.3 s       1 {"#" * 20}' in lines
    assert f' 2.0 -  3.0 s       2 {"#" * 40}' in lines
    assert lines[lines.index('## Used though under 0.3 s: 1') + 2] == '- a\\|b'
    clipped = next(i for i, line in enumerate(lines) if line.startswith('## Used though clipped'))
    assert lines[clipped + 2] == '- d'
    assert text.index('another speaker') < text.index('## Counts')


def test_long_lists_are_cut_in_the_report():
    clips = [clip(f'{n:02d}', label='anger' if n % 2 else 'joy') for n in range(30)]
    measured = [heard(str(n), 0.2) for n in range(30)]
    here = found(*clips)
    text = check.report('corpus', here, measured, check.review(here, measured))
    assert '- 19\n- ... and 10 more\n' in text
    assert '- 20\n' not in text


@pytest.fixture
def emodb(tmp_path):
    for n, letter in enumerate('WLEAFNT'):
        trees.write(tmp_path / 'emodb' / 'wav' / f'03a01{letter}a.wav', trees.sound(0.35, n))
    return tmp_path / 'emodb'


def test_a_refused_copy_leaves_its_report_and_nothing_prepared(tmp_path, emodb):
    arguments = {'source': emodb, 'data_dir': tmp_path / 'data', 'progress': False}
    with pytest.raises(
        InputError, match=r'clips 7 \(published 535\), speakers 1 \(published 10\), label anger 1'
    ) as error:
        corpora.prepare('emodb', **arguments)
    (report,) = tmp_path.glob('data/emodb-*/report.md')
    assert str(error.value).endswith(f'the report is {report}')
    assert '| clips | 535 | **7** | 7 |' in report.read_text()
    assert list(tmp_path.glob('data/emodb-*/emodb/*')) == []


def test_what_was_accepted_once_is_not_accepted_for_good(tmp_path, emodb):
    arguments = {'source': emodb, 'data_dir': tmp_path / 'data', 'progress': False}
    corpus = corpora.prepare('emodb', **arguments, accept_mismatch=True)
    assert corpus.report.is_file()
    assert corpora.prepare('emodb', **arguments, accept_mismatch=True).directory == corpus.directory
    with pytest.raises(InputError, match=r'clips 7 \(published 535\).*--accept-mismatch.*; the report is .*report\.md'):
        corpora.prepare('emodb', **arguments)


def test_the_command(tmp_path, emodb, capsys):
    arguments = ['emodb', str(emodb), '--cache', str(tmp_path / 'cache')]
    with pytest.raises(InputError, match='published 535'):
        prepare.main(arguments)
    assert prepare.main([*arguments, '--accept-mismatch']) == 0
    said = capsys.readouterr()
    (report,) = tmp_path.glob('cache/emodb-*/emodb/*/report.md')
    assert said.out == f'{report}\n'
    assert report.read_text().startswith('# emodb: 7 clips')


def test_audio_with_two_labels_is_in_no_record(tmp_path, capsys):
    source = tmp_path / 'source'
    for n, path in enumerate(('joy/ann/0', 'joy/bob/0', 'fear/ann/0', 'fear/bob/0')):
        trees.write(source / f'{path}.wav', trees.sound(0.35, n))
    for path in ('joy/ann/twice', 'fear/bob/twice'):
        trees.write(source / f'{path}.wav', trees.sound(0.35, 9))
    soundfile.write(source / 'joy' / 'ann' / 'loud.wav', np.full(8000, 1.0) * np.sign(trees.sound(0.5, 8)), 16000)
    corpus = corpora.prepare('folder', source=source, data_dir=tmp_path / 'data')
    assert 'fear/bob/twice.wav' not in corpus.id
    assert 'joy/ann/twice.wav' not in corpus.id
    for i, id_ in enumerate(corpus.id):
        assert corpus.audio(i).tolist() == soundfile.read(source / id_, dtype='int16')[0].tolist()
    assert 'clips 2 with two labels, 1 clipped: see ' in capsys.readouterr().err
