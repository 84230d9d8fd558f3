"""README and docs: every block of code runs on made audio, or says what it needs and has its flags parsed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from helpers import ROOT, SMALL, needs_tflm, syllables, tones
from jax_reparam import commands, config, manifest

markdown = pytest.importorskip('markdown_it', reason='needs the extra docs')

# What a block may need that a test does not have; docs/contributing.md says so too.
MARKERS = {'corpus', 'board', 'microphone', 'gpu', 'hours', 'install'}
SHOWN = {'text', 'json', 'yaml', 'ini', 'cpp'}  # of these nothing runs
# Flags that make the commands of a page quick.
QUICK = {
    'train': [*SMALL, '--config.train.steps=40', '--config.train.eval_every=40', '--config.train.learning_rate=0.003'],
    'fold': ['--accept', 'int8', '--accept', 'int16', '--quiet'],
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: the language, what it needs ('' if nothing), its lines, and where it starts."""

    language: str
    marker: str
    content: str
    line: int


def blocks(text):
    """The blocks of code of a page, in order.

    Raises:
      ValueError: one without a known language, or with another word behind it than a marker.
    """
    for token in markdown.MarkdownIt().parse(text):
        if token.type not in ('fence', 'code_block') or token.info.startswith('{'):
            continue
        line = token.map[0] + 1
        language, _, marker = token.info.strip().partition(' ')
        if language not in {'sh', 'python'} | SHOWN or marker not in MARKERS | {''}:
            raise ValueError(f'line {line}: expected a language and one of {sorted(MARKERS)}, found {token.info!r}')
        if language not in SHOWN:
            yield Block(language, marker, token.content, line)


def lines(content):
    """The commands of a shell block: what is set before each, and its words; comments and pipes are left out."""
    for line in content.replace('\\\n', ' ').splitlines():
        words = shlex.split(line.split(' | ')[0].removesuffix(' &'), comments=True)
        sets = [word for word in words if re.match(r'[A-Z_]+=', word)]
        if words:
            yield dict(word.split('=', 1) for word in sets), [word for word in words if word not in sets]


def own(words):
    """The command of this package that the words call, and its arguments; None if they call another program."""
    match words:
        case ['srun', *rest] | ['taskset', '-c', _, *rest]:
            return own(rest)
        case ['jax-reparam', name, *arguments]:
            return name, arguments
        case ['python', 'train.py' | 'fold.py' as door, *arguments]:
            return door.removesuffix('.py'), arguments
        case _:
            return None


def parse(name, arguments):
    """Has the command's parser read the arguments."""
    assert name in commands.COMMANDS
    if name != 'train':
        commands.module(name).parser().parse_args(arguments)
        return
    args, changes = commands.module(name).parse(arguments)
    recipe, _, corpus = args.config.partition(':')
    config.load_recipe('transformer_xs' if recipe == 'NAME' else recipe, corpus).with_changes(changes)


PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
RUNNABLE = [page for page in PAGES if any(not block.marker for block in blocks(page.read_text()))]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A folder with `clips/LABEL/SPEAKER/*.wav`, `clip.wav`, `my_voice/`, a run `runs/mine` and its export `out`."""
    folder = tmp_path_factory.mktemp('made')
    tones(folder / 'clips')
    soundfile.write(folder / 'clip.wav', syllables(1.5), 16000)
    (folder / 'my_voice').mkdir()
    for number in range(2):
        soundfile.write(folder / 'my_voice' / f'{number}.wav', syllables(2, number), 16000)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run('train', ['--config', 'transformer_xs:folder', '--source', 'clips', '--workdir', 'runs/mine'])
        run('fold', ['runs/mine', 'out'])
    return folder


def run(name, arguments):
    """Runs a command in this process, quickly."""
    quick = QUICK.get(name, [])
    if '--init' in arguments:  # of the same size as what it starts from
        quick = [flag for flag in quick if '.train.' in flag]
    assert commands.module(name).main([*arguments, *quick]) in (0, None), shlex.join([name, *arguments])


@needs_tflm
@pytest.mark.parametrize('page', RUNNABLE, ids=lambda page: page.name)
def test_blocks_run(page, made, tmp_path, monkeypatch):
    text = page.read_text()
    makes = {'runs': '--workdir runs/mine', 'out': 'fold runs/mine out'}
    whole = ''.join(block.content for block in blocks(text) if not block.marker)
    skipped = {name for name, command in makes.items() if command in whole}  # the page makes it
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, ignore=lambda path, _: skipped if Path(path) == made else ())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    names = {'__name__': '__main__'}
    for block in blocks(text):
        if block.marker:
            continue
        if block.language == 'python':
            exec(compile(block.content, f'{page.name}:{block.line}', 'exec'), names)
            continue
        for sets, words in lines(block.content):
            command = own(words)
            assert command, f'{page.name}:{block.line}: expected jax-reparam, found {shlex.join(words)}'
            parse(*command)
            with monkeypatch.context() as patch:
                for name, value in sets.items():
                    patch.setenv(name, value)
                run(*command)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_flags_of_marked_blocks_are_known(page):
    for block in blocks(page.read_text()):
        if block.language != 'sh' or not block.marker:
            continue
        for _, words in lines(block.content):
            if command := own(words):
                parse(*command)
            elif words[:1] == ['python'] and not words[1].startswith('-'):
                script = (ROOT / words[1]).read_text()
                for flag in re.findall(r'(?<= )--[\w-]+', ' '.join(words)):
                    assert f"'{flag}'" in script, f'{page.name}:{block.line}: {words[1]} has no {flag}'


def test_flags_named_in_the_text_are_known():
    keys = {f'--config.{key}' for _, key, _, _ in commands.module('train').recipe_keys()}
    others = {'--version'}  # of jax-reparam itself
    for name in commands.COMMANDS:
        others |= {flag for action in commands.module(name).parser()._actions for flag in action.option_strings}
    for page in PAGES:
        for span in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', page.read_text()):
            if span.startswith(('python ', 'tfds ')):
                continue  # another program
            for flag in re.findall(r'(?:^|(?<= ))--[a-z][\w.-]*', span):
                known = keys if flag.startswith('--config.') else others
                assert flag.rstrip('.') in known, f'{page.name}: {flag}'


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('```sh\nls\n```', None),
        ('```sh corpus\nls\n```', None),
        ('```text\nls\n```', None),
        ('```sh sometimes\nls\n```', 'sh sometimes'),
        ('```\nls\n```', "''"),
        ('An indented one:\n\n    ls\n', "''"),
        ('- in a list:\n\n  ```bash\n  ls\n  ```\n', 'bash'),
    ],
)
def test_a_block_says_what_it_is(text, found):
    if found is None:
        list(blocks(text))
        return
    with pytest.raises(ValueError, match=f'expected a language .* found .*{found}'):
        list(blocks(text))


@pytest.mark.parametrize(
    'line', ['jax-reparam fold W OUT --fats', 'jax-reparam train --config transformer_s --config.train.stesp=3']
)
def test_a_wrong_flag_is_found(line):
    [(_, words)] = lines(line)
    with pytest.raises((SystemExit, ValueError)):
        parse(*own(words))


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / 'README.md').read_text()
    for link in re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', text):
        target, _, anchor = ''.join(link).partition('#')
        if '://' in target:
            continue
        assert (ROOT / target).is_file(), target
        if anchor:
            heads = re.findall(r'^#+ (.+)$', (ROOT / target).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r'[^\w -]', '', head).strip().lower().replace(' ', '-') for head in heads}


def test_readme_fits_two_screens_and_its_two_commands_stand_alone():
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert len(lines) <= 100
    assert [line.startswith('python3 -m venv ') for line in lines].count(True) == 2


def test_every_field_of_the_manifest_is_described():
    text = (ROOT / 'docs/manifest.md').read_text()
    for kind in (manifest.Manifest, manifest.Form):
        for field in dataclasses.fields(kind):
            assert f'`{field.name}`' in text, field.name


def script(name):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f'docs_{name}', ROOT / 'docs' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as dataclasses ask for it
    spec.loader.exec_module(module)
    return module


def test_the_results_page_is_what_the_lines_say():
    results = script('results')
    assert results.page() == results.PAGE.read_text(), 'python docs/results.py writes it anew'


def test_the_figures_are_what_the_lines_say():
    figures = script('figures')
    made_by = lambda svg: re.search(r'Matplotlib v[\d.]+', svg)
    for path, svg in figures.figures():
        kept = path.read_text()
        if made_by(kept) and made_by(kept)[0] != made_by(svg)[0]:
            pytest.skip(f'drawn by {made_by(kept)[0]}')
        assert svg == kept, f'{path.name}: python docs/figures.py draws it anew'


@pytest.mark.parametrize('place', [0, -1])
def test_a_changed_number_changes_the_figure(place):
    figures = script('figures')
    found = figures.points()
    before = figures.peers(found, figures.PALETTES['light'])
    found[place]['uar'] += 0.1
    assert figures.peers(found, figures.PALETTES['light']) != before


FOREIGN = re.compile(
    r'<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*\b(?:src|srcset|href|data)="((?:https?:)?//[^"]+)"'
    r'|(?:url\(|@import )[\'"]?((?:https?:)?//[^\'")]+)'
)


def foreign(folder):
    """What the pages and styles below a folder load from other hosts."""
    files = [path for path in folder.rglob('*') if path.suffix in ('.html', '.css')]
    return sorted({f'{path.name}: {"".join(found)}' for path in files for found in FOREIGN.findall(path.read_text())})


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.html', '<script src="https://example.org/x.js"></script>'),
        ('a.html', '<link rel="stylesheet" href="//example.org/x.css">'),
        ('a.html', '<img alt="" src="http://example.org/x.png">'),
        ('a.css', '@font-face {src: url("https://example.org/x.woff2")}'),
        ('a.css', '@import "https://example.org/x.css"'),
    ],
)
def test_what_is_foreign_is_found(tmp_path, name, content):
    (tmp_path / 'links.html').write_text('<a href="https://example.org">a link</a><img src="_static/x.svg">')
    assert foreign(tmp_path) == []
    (tmp_path / name).write_text(content)
    assert len(foreign(tmp_path)) == 1


@needs_tflm
def test_the_site_builds_and_loads_nothing_from_other_hosts(tmp_path):
    pytest.importorskip('sphinx_book_theme', reason='needs the extra docs')
    built = tmp_path / 'site'
    command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', str(ROOT / 'docs'), str(built)]
    cache = {'JAX_REPARAM_CACHE': str(tmp_path / 'cache'), 'PYTHONPATH': str(ROOT)}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **cache})
    assert found.returncode == 0, found.stderr
    assert foreign(built) == []
    assert 'real time from' in (built / 'tutorial.html').read_text()
