"""A seeded campaign of damaged inputs over every reader: python benchmarks/faults.py W OUT [--out FILE].

W is a training folder, OUT what `fold.py` made of it. Every case damages an input that can be read, in one of the ways
that its reader is told of below, and reads it in this process. What then happens is one of

* refused: an error that the reader documents, on one line;
* no effect: the very result of the input that is whole (the damage lies where nothing is read, or is repaired);
* said: another result, and the damage is named in it (clips that are left out, doubts) or on standard error;
* another value: another result, and nothing that the reader could have known it by, as a word with a typing error;
* silent: another result, where a checksum, a length or the layout tells of the damage. A fault;
* traceback: any other error, or one of several lines. A fault;
* hang: longer than `SECONDS`. A fault.

A case depends on the seed, its reader and its number alone: `--only READER:NUMBER` repeats it.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jax_reparam import checkpoint, manifest
from jax_reparam.config import ConformerConfig, ConvTransformerConfig, ModelConfig, Recipe, SpeechFormerConfig
from jax_reparam.corpora import check
from jax_reparam.corpora.daic_woz import DaicWoz
from jax_reparam.corpora.emodb import Emodb
from jax_reparam.corpora.folder import Folder
from jax_reparam.corpora.found import Found, decode
from jax_reparam.corpora.iemocap import Iemocap
from jax_reparam.corpora.m3ed import M3ed
from jax_reparam.data import feature_store
from jax_reparam.data.export_data import Kept
from jax_reparam.errors import Error
from jax_reparam.frontend import audio, voice
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph import flatbuffer

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests'))
import trees  # type: ignore[import-not-found]  # the layouts of corpora that tests make

CASES, SECONDS = 1000, 10
OUTCOMES = ('refused', 'no effect', 'said', 'another value', 'silent', 'traceback', 'hang')
FAULTS = OUTCOMES[4:]


@dataclasses.dataclass(frozen=True)
class Case:
    """One damaged input.

    Attributes:
      damage: what was done, in words.
      read: reads it; a pair of the result and of what was said of the damage.
      tells: whether the input itself tells that it is damaged.
    """

    damage: str
    read: Callable[[], tuple[Any, str]]
    tells: bool


# Gives a case of a reader, and the result of its whole input.
Reader = Callable[[random.Random, Path], tuple[Case, Any]]


# Damage to bytes.


def flipped(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    place = rng.randrange(min(len(data), within or len(data)))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def overwritten(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    new = rng.choice([rng.randbytes(4), b'\0' * 4, b'\xff' * 4])
    return (data[:place] + new + data[place + 4 :])[: len(data)]


def lost(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randrange(1, 40) :]


def appended(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 4000))


BYTES = {'bit flipped': flipped, 'cut': cut, '4 bytes overwritten': overwritten, 'bytes lost': lost}


def broken(data: bytes, rng: random.Random, ways: Mapping[str, Callable[..., bytes]] = BYTES) -> tuple[str, bytes]:
    """The data with damage, and its name."""
    name = rng.choice(list(ways))
    while (new := ways[name](data, rng)) == data:
        pass
    return name, new


# Damage to JSON.
ODD: tuple[Any, ...] = (
    *('x', '', '../x', '/etc/passwd', '\x1b[31m', 'a\nb', -1, 0, 2**31, 10**30, 1e300, float('nan'), None),
    *([], {}, True, [[[]]], 'x' * 5000),
)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def odd_json(content: Any, rng: random.Random) -> tuple[str, bytes]:
    """JSON with a value replaced or taken out, or its text damaged."""
    text = json.dumps(content).encode()
    if rng.random() < 0.25:
        return broken(text, rng)
    new = json.loads(text)
    # By depth: most of a manifest are the numbers in its lists.
    every = list(places(new))
    *most, last = rng.choice([path for path in every if len(path) == len(rng.choice(every))])
    node = new
    for key in most:
        node = node[key]
    if rng.random() < 0.2:
        del node[last]
        return 'value taken out', json.dumps(new).encode()
    node[last] = rng.choice(ODD)
    return 'odd value', json.dumps(new).encode()


# Readers.


def audio_reader(file_format: str, subtype: str | None) -> Reader:
    @functools.cache
    def whole() -> bytes:
        file = io.BytesIO()
        time_ = np.arange(12000) / 16000
        sound = 0.4 * np.sin(2 * np.pi * 300 * time_) + 0.1 * np.random.default_rng(0).standard_normal(len(time_))
        soundfile.write(file, sound, 16000, subtype, format=file_format)
        return file.getvalue()

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        ways = dict(BYTES)
        if file_format == 'WAV':
            ways |= {'header flipped': functools.partial(flipped, within=44), 'bytes appended': appended}
        name, new = broken(whole(), rng, ways)
        # WAV has no checksum; FLAC and OGG have one of every frame or page.
        shorter = name in ('cut', 'bytes lost')
        tells = shorter if file_format in ('WAV', 'MP3') else True
        return Case(name, lambda: (audio.decode(new, 'clip'), ''), tells), audio.decode(whole(), 'clip')

    return reader


def of_found(found: Found, *, sounds: bool = False) -> tuple[Any, str]:
    """Clips and labels, and what is said of the rest."""
    left_out = {**found.skipped, **found.conflicts}
    clips, heard = list(found.clips), None
    if sounds:
        # As a preparation does, which also finds clips that are there twice.
        heard = [decode(clip) for clip in clips]
        review = check.review(found, [check.measure(one, clip.id) for one, clip in zip(heard, clips, strict=True)])
        left_out = dict(review.skipped)
        clips, heard = [clips[i] for i in review.kept], [heard[i] for i in review.kept]
    about = [(clip.id, clip.label, clip.speaker, clip.group, clip.part, clip.start, clip.end) for clip in clips]
    return (found.labels, about, heard), '; '.join([*left_out.values(), *found.notes, *found.doubts])


TABLE = 'path,label,speaker,note\n' + ''.join(
    f'{label}/{speaker}/{n}.wav,{label},{speaker},"well, you know"\n'
    for label in ('anger', 'joy')
    for speaker in ('ann', 'bob', 'cleo')
    for n in range(2)
)


def table(rng: random.Random, folder: Path) -> tuple[Case, Any]:
    for label in ('anger', 'joy'):
        for speaker in ('ann', 'bob', 'cleo'):
            for n in range(2):
                path = folder / label / speaker / f'{n}.wav'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b'')
    lines = TABLE.splitlines()
    row = rng.randrange(1, len(lines))
    cells = lines[row].split(',', 3)
    ways: dict[str, tuple[str, bool]] = {
        'quotation marks left out': (lines[row].replace('"', ''), True),
        'quotation mark not closed': (lines[row][:-1], True),
        'comma too many': (lines[row].replace('/', ',', 1), True),
        'cell left out': (','.join(cells[:2] + cells[3:]), True),
        'cell of 200,000 characters': (lines[row][:-1] + 'x' * 200_000 + '"', False),
        'control character': (lines[row].replace(cells[1] + ',', cells[1] + rng.choice('\0\x1b\x07\r') + ',', 1), True),
        'label empty': (','.join([cells[0], '', *cells[2:]]), True),
        'two labels': (lines[row] + '\n' + ','.join([cells[0], 'other', *cells[2:]]), True),
        'no such file': (','.join(['nowhere.wav', *cells[1:]]), True),
        'second column label': ('', True),
        'no column label': ('', True),
        'other encoding': ('', True),
        'bytes': ('', False),
    }
    name = rng.choice(list(ways))
    text, tells = ways[name]
    if name == 'second column label':
        lines[0] = 'path,label,speaker,label'
    elif name == 'no column label':
        lines[0] = 'path,emotion,speaker,note'
    elif text:
        lines[row] = text
    new = ('\n'.join(lines) + '\n').encode('utf-16' if name == 'other encoding' else 'utf-8')
    if name == 'bytes':
        name, new = broken(TABLE.encode(), rng)
    path = folder / 'table.csv'
    path.write_text(TABLE)
    whole, _ = of_found(Folder.find(str(path)))
    path.write_bytes(new)
    return Case(name, lambda: of_found(Folder.find(str(path))), tells), whole


def layout(rng: random.Random, folder: Path) -> tuple[Case, Any]:
    """A folder LABEL/SPEAKER/clip.wav with something odd in it."""
    source = folder / 'source'
    for seed, (label, speaker) in enumerate((a, b) for a in ('anger', 'joy') for b in ('ann', 'bob', 'cleo')):
        trees.write(source / label / speaker / 'x.wav', trees.sound(0.2, seed))
    whole, _ = of_found(Folder.find(str(source)), sounds=True)
    clip = source / rng.choice(('anger', 'joy')) / rng.choice(('ann', 'bob', 'cleo')) / 'x.wav'

    def gone(path: Path) -> Path:
        path.unlink()
        return path

    def moved() -> None:
        for path in sorted(source.glob('*/*/*')):
            label, speaker = path.relative_to(source).parts[:2]
            new = source / f'_{speaker}' / label / 'x.wav'
            new.parent.mkdir(parents=True, exist_ok=True)
            path.rename(new)
        for label in ('anger', 'joy'):
            shutil.rmtree(source / label)

    def parts() -> None:
        for part in ('train', 'test'):
            shutil.copytree(source / 'anger', source / part / 'anger')
        shutil.rmtree(source / 'anger')
        shutil.rmtree(source / 'joy')

    ways: dict[str, tuple[Callable[[], Any], bool]] = {
        'clip empty': (lambda: clip.write_bytes(b''), True),
        'clip cut': (lambda: clip.write_bytes(clip.read_bytes()[:2000]), True),
        'clip no audio': (lambda: clip.write_bytes(rng.randbytes(2000)), True),
        'clip a pipe': (lambda: os.mkfifo(gone(clip)), True),
        'clip a device': (lambda: gone(clip).symlink_to('/dev/zero'), True),
        'clip a broken link': (lambda: gone(clip).symlink_to('nowhere'), True),
        'clip a folder': (lambda: gone(clip).mkdir(), False),
        'link in a circle': (lambda: (clip.parent / 'again').symlink_to(source), False),
        'speaker and label exchanged': (moved, True),
        'parts for labels': (parts, True),
        'label with a line break': (lambda: (source / 'joy').rename(source / 'j\noy'), True),
        'label of markup': (lambda: (source / 'joy').rename(source / '<b>'), True),
        'speaker with an escape code': (lambda: clip.parent.rename(clip.parent.with_name('\x1b[31mx')), True),
        'name not UTF-8': (lambda: clip.rename(clip.with_name(os.fsdecode(b'\xff.wav'))), True),
        'name with a line break': (lambda: clip.rename(clip.with_name('a\nb.wav')), False),
        'clip beside the speakers': (lambda: clip.rename(clip.parents[1] / 'x.wav'), True),
        'what systems leave': (lambda: trees.write(source / '__MACOSX' / 'a' / 'x.wav', trees.sound(0.2, 9)), False),
        'one label': (lambda: shutil.rmtree(source / 'joy'), True),
        'nothing': (lambda: shutil.rmtree(source), True),
    }
    name = rng.choice(list(ways))
    change, tells = ways[name]
    change()
    return Case(name, lambda: of_found(Folder.find(str(source)), sounds=True), tells), whole


def corpus(find: Callable[[str], Found], make: Callable[[Path], Path], names: Sequence[str]) -> Reader:
    """A corpus's own tables and lists, damaged in their bytes, their words and their lines."""
    damaged: dict[Path, bytes] = {}

    @functools.cache
    def made() -> tuple[Path, tuple[Any, str]]:
        place = tempfile.TemporaryDirectory()
        atexit.register(place.cleanup)
        top = make(Path(place.name))
        return top, of_found(find(str(top)))

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        top, whole = made()
        for path, content in damaged.items():  # by the case before
            path.write_bytes(content)
        damaged.clear()
        files = sorted(path for name in names for path in top.glob(name))
        file = rng.choice(files)
        data = damaged[file] = file.read_bytes()
        if file.suffix == '.json' and rng.random() < 0.7:
            name, new = odd_json(json.loads(data), rng)
        else:
            lines = data.splitlines(keepends=True)
            line = rng.randrange(len(lines))
            ways = {
                'line left out': lines[:line] + lines[line + 1 :],
                'line twice': lines[: line + 1] + lines[line:],
                'odd word': [*lines[:line], rng.choice([b'inf', b'-1', b'\xff\xfe', b'1e999', b'x' * 9999]), b'\n'],
                'empty': [],
            }
            name = rng.choice([*ways, 'bytes', 'bytes'])
            name, new = broken(data, rng) if name == 'bytes' else (name, b''.join(ways[name]))
        file.write_bytes(new)

        def read() -> tuple[Any, str]:
            result, said = of_found(find(str(top)))
            return result, said if said != whole[1] else ''

        return Case(f'{name}', read, False), whole[0]

    return reader


def recipe(rng: random.Random, folder: Path) -> tuple[Case, Any]:
    models: tuple[ModelConfig, ...] = ConvTransformerConfig(), ConformerConfig(), SpeechFormerConfig()
    base = Recipe(rng.choice(models))
    whole = base.as_json()
    keys = [f'{section}.{name}' for section, values in whole.items() if isinstance(values, dict) for name in values]
    key = rng.choice([*keys, 'seed'])
    texts = ('', 'x', '-1', '0', 'nan', 'inf', '-inf', '1e999', '100000000000000000000', '1e-400', '5', '0.3', 'true')
    value = rng.choice((*texts, 'None', '[]', 'a\nb', '\0', *ODD))
    return Case('odd value', lambda: (base.with_changes({key: value}).as_json(), ''), False), whole


def manifest_reader(out: Path) -> Reader:
    content = json.loads((out / manifest.FILE).read_text())

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        name, new = odd_json(content, rng)
        shutil.copy(out / manifest.FILTERS, folder)
        (folder / manifest.FILE).write_bytes(new)
        return Case(name, lambda: (manifest.load(folder).as_json(), ''), False), manifest.load(out).as_json()

    return reader


def out_reader(out: Path) -> Reader:
    """A .tflite file of OUT, which its manifest has a digest of."""

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        loaded = manifest.load(out)
        form = rng.choice(sorted(loaded.forms))
        for file in (manifest.FILE, manifest.FILTERS):
            shutil.copy(out / file, folder)
        name, new = broken((out / loaded.forms[form].file).read_bytes(), rng)
        (folder / loaded.forms[form].file).write_bytes(new)
        return Case(name, lambda: (manifest.open_form(folder, form)[2], ''), True), manifest.open_form(out, form)[2]

    return reader


def tflite(out: Path) -> Reader:
    """A .tflite file alone, of which nothing has a digest."""
    loaded = manifest.load(out)
    data = (out / loaded.forms[loaded.recommended or 'float32'].file).read_bytes()

    def read(model: bytes) -> Any:
        graph = flatbuffer.read(model)
        return [(node.op, [flat(t and [t.shape, t.dtype, t.constant]) for t in node.inputs]) for node in graph.nodes]

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        name, new = broken(data, rng, {**BYTES, 'first 256 bytes flipped': functools.partial(flipped, within=256)})
        return Case(name, lambda: (read(new), ''), False), read(data)

    return reader


def profile(inputs: Input) -> Reader:
    whole = voice.Profile(np.arange(inputs.frontend.n_mels, dtype=np.int32) * 100, 50)
    data = voice.to_bytes(whole, inputs)

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        name, new = broken(data, rng, {**BYTES, 'bytes appended': appended})
        path = folder / 'voice'
        path.write_bytes(new)
        return Case(name, lambda: (voice.load(path, inputs), ''), True), whole

    return reader


def checkpoint_reader(workdir: Path) -> Reader:
    source = checkpoint.load(workdir).path

    def read(path: Path) -> tuple[Any, str]:
        trained = checkpoint.load(path)
        exported = trained.export()
        kept = None if exported is None else Kept.from_arrays(exported).arrays()
        # Resuming looks at all of them first, and says what it finds.
        said = '; '.join(map(str, checkpoint.damaged(path.parent).values()))
        return (trained.variables, trained.meta, kept), said

    whole = read(source)[0]

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        path = folder / 'checkpoints' / source.name
        shutil.copytree(source, path)
        file = rng.choice(sorted(one for one in path.rglob('*') if one.is_file()))
        data = file.read_bytes()
        name = 'file deleted'
        if data and rng.random() < 0.9:
            name, new = broken(data, rng)
            file.write_bytes(new)
        else:
            file.unlink()
        return Case(f'{name}', lambda: read(path), True), whole

    return reader


class _Clips:
    """What a cache of features wants of a corpus."""

    name, key = 'made', 'made'

    def __len__(self) -> int:
        return 6

    def audio(self, clip: int) -> np.ndarray:
        samples: np.ndarray = trees.sound(0.5, clip)
        return samples


def cache(inputs: Input) -> Reader:
    clips: Any = _Clips()

    def read(folder: Path) -> tuple[Any, str]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            found = feature_store.corpus_features(clips, inputs, folder, show_progress=False)
        rows = [found[clip] for clip in range(len(clips))]
        return (rows, found.lengths, found.voice_sums, found.voice_frames), said.getvalue()

    def reader(rng: random.Random, folder: Path) -> tuple[Case, Any]:
        whole, _ = read(folder)
        file = rng.choice(sorted(path for path in folder.rglob('*-of-*') if path.is_file()))
        name, new = broken(file.read_bytes(), rng, {**BYTES, 'bytes appended': appended})
        file.write_bytes(new)
        return Case(name, lambda: read(folder), True), whole

    return reader


def made_emodb(folder: Path) -> Path:
    for name in ('03a01Fa', '03a01Wa', '08b02Na', '09a05Ta'):
        trees.write(folder / 'wav' / f'{name}.wav', trees.sound(0.2, 0))
    return folder


def emodb(rng: random.Random, folder: Path) -> tuple[Case, Any]:
    """Names of EMO-DB."""
    top = made_emodb(folder)
    whole = of_found(Emodb.find(str(top)))
    path = rng.choice(sorted((top / 'wav').iterdir()))
    name = ''.join(rng.choice('03abFWxX_.\x1b\u00e9\n') if rng.random() < 0.2 else char for char in path.stem)
    path.rename(path.with_name(f'{name}.wav'))
    return Case('odd name', lambda: of_found(Emodb.find(str(top))), False), whole[0]


def readers(workdir: Path, out: Path) -> dict[str, tuple[int, Reader]]:
    """All readers, and of how many cases in a thousand each."""
    inputs = manifest.load(out).input
    return {
        'WAV': (120, audio_reader('WAV', 'PCM_16')),
        'FLAC': (80, audio_reader('FLAC', 'PCM_16')),
        'OGG': (60, audio_reader('OGG', 'VORBIS')),
        'MP3': (40, audio_reader('MP3', None)),
        'table': (100, table),
        'folder of clips': (60, layout),
        'EMO-DB': (20, emodb),
        'IEMOCAP': (30, corpus(Iemocap.find, trees.iemocap, ['Session*/dialog/EmoEvaluation/Ses*.txt'])),
        'M3ED': (60, corpus(M3ed.find, trees.m3ed, ['annotation.json', 'splitInfo/*.txt'])),
        'DAIC-WOZ': (40, corpus(DaicWoz.find, trees.daic_woz, ['*.csv', '*_P/*_TRANSCRIPT.csv'])),
        'recipe': (100, recipe),
        'manifest.json': (100, manifest_reader(out)),
        '.tflite of OUT': (30, out_reader(out)),
        '.tflite alone': (40, tflite(out)),
        'checkpoint': (50, checkpoint_reader(workdir)),
        'cache of features': (40, cache(inputs)),
        'profile of a voice': (30, profile(inputs)),
    }


# The campaign.


def flat(value: Any) -> str:
    """A digest of any result."""
    total = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, np.ndarray):
            total.update(f'{node.dtype}{node.shape}'.encode() + np.ascontiguousarray(node).tobytes())
        elif isinstance(node, Mapping):
            add(sorted(node.items(), key=str))
        elif isinstance(node, (list, tuple)):
            total.update(f'[{len(node)}'.encode())
            for item in node:
                add(item)
        elif dataclasses.is_dataclass(node) and not isinstance(node, type):
            add([getattr(node, field.name) for field in dataclasses.fields(node)])
        else:
            total.update(f'{type(node).__name__}{node!r}'.encode(errors='backslashreplace'))

    add(value)
    return total.hexdigest()


class Hang(BaseException):
    """A reader took too long."""


def outcome(case: Case, whole: Any) -> tuple[str, str]:
    """What happens with a case, and the message or traceback."""

    def late(number: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        result, said = case.read()
    except (Error, ValueError, OSError) as error:
        text = str(error)
        expected = isinstance(error, (Error, OSError)) or 'expected' in text
        return ('refused' if expected and '\n' not in text else 'traceback'), text
    except Hang:
        return 'hang', ''
    except Exception:
        return 'traceback', traceback.format_exc()
    finally:
        signal.alarm(0)
    if flat(result) == flat(whole):
        return 'no effect', said
    return ('said' if said else 'silent' if case.tells else 'another value'), said


def campaign(
    every: Mapping[str, tuple[int, Reader]], cases: int, seed: int, only: str | None
) -> dict[str, collections.Counter[str]]:
    """Counts of outcomes by reader; faults are printed, with all that is to be known of them."""
    counts = {}
    for name, (share, reader) in every.items():
        began, counts[name] = time.monotonic(), collections.Counter[str]()
        for number in range(max(1, round(share * cases / CASES))):
            if only is not None and only != f'{name}:{number}':
                continue
            with tempfile.TemporaryDirectory() as folder:
                case, whole = reader(random.Random(f'{seed} {name} {number}'), Path(folder))
                what, text = outcome(case, whole)
            counts[name][what] += 1
            if what in FAULTS or only is not None:
                print(f'{name}:{number}: {case.damage}: {what}: {text}', flush=True)
        print(f'{name}: {dict(counts[name])}, {time.monotonic() - began:.1f} s', file=sys.stderr, flush=True)
    return counts


def text(counts: Mapping[str, Mapping[str, int]], seed: int) -> str:
    """The table, Markdown."""
    total = collections.Counter[str]()
    for row in counts.values():
        total.update(row)
    lines = [
        '# Damaged inputs',
        '',
        f'`python benchmarks/faults.py W OUT --seed {seed}` damages {sum(total.values()):,} inputs that can be read;',
        'its first lines say what the columns mean. The last three are faults.',
        '',
        f'| reader | cases | {" | ".join(OUTCOMES)} |',
        '|---' * (len(OUTCOMES) + 2) + '|',
    ]
    for name, row in [*counts.items(), ('all', total)]:
        lines.append(f'| {name} | {sum(row.values())} | {" | ".join(str(row.get(one, 0)) for one in OUTCOMES)} |')
    return '\n'.join(lines) + '\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the campaign; exit code 1 where there was a fault."""
    command = argparse.ArgumentParser(description='Damaged inputs over every reader.')
    command.add_argument('workdir', type=Path, metavar='W', help='training folder')
    command.add_argument('out', type=Path, metavar='OUT', help='what fold.py made of it')
    command.add_argument('--cases', type=int, default=CASES)
    command.add_argument('--seed', type=int, default=0)
    command.add_argument('--only', metavar='READER:NUMBER', help='one case')
    command.add_argument('--reader', help='the cases of one reader')
    command.add_argument('--out', dest='file', type=Path, help='write the table')
    args = command.parse_args(argv)
    every = readers(args.workdir, args.out)
    if args.reader:
        every = {args.reader: every[args.reader]}
    counts = campaign(every, args.cases, args.seed, args.only)
    if args.file:
        args.file.write_text(text(counts, args.seed))
    return int(any(row[one] for row in counts.values() for one in FAULTS))


if __name__ == '__main__':
    sys.exit(main())
