"""Writes docs/results.md from the lines of benchmarks/results and from the code: python docs/results.py.

`tests/test_docs.py` holds the page to them.
"""

from __future__ import annotations

import collections
import json
import runpy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_reparam import config
from jax_reparam.commands import summary
from jax_reparam.field.changes import CHANGES, SILENCES
from jax_reparam.graph.cost import INT8, INT16, Price

ROOT = Path(__file__).parent.parent
PAGE, LINES = ROOT / 'docs/results.md', ROOT / 'benchmarks/results'
# Of the field test: the arm with all changes. Of the voice: the arm with the features of before.
ARM, BEFORE = 'A', 'base'
# Today's defaults, by corpus.
TODAY = {'emodb': 'F', 'ravdess': 'R'}
# The changes that should change nothing.
_HELD = (
    'level-20',
    'level-30',
    'level-40',
    'level-50',
    'dc',
    'zeros-before',
    'zeros-after',
    'zeros-around',
    'surround',
)
# Decisions that four models of 300 M parameters keep (wav2vec2-L, hubert-L, WavLM, data2vec), mean over their corpora:
# results that audEERING publishes for the same tests.
_LARGE = {
    'gain+2': '98 to 100%',
    'gain-2': '98 to 100%',
    'crop-begin': '92 to 95%',
    'zeros-before': '91 to 95%',
    'highpass': '96 to 99%',
    'lowpass': '96 to 99%',
    'white-35': '91 to 95%',
    'white-20': '78 to 90%',
    'babble-20': '78 to 90%',
    'environment-20': '78 to 90%',
    'music-20': '78 to 90%',
    'telephone': '72 to 80%',
    'tilt-down': '90 to 95%',
    'tilt-up': '83 to 90%',
    'room-0.3': '75 to 85%',
    'room-0.8': '75 to 85%',
}
# Histories of the arms that are not today's.
_SHORT = ('none', 'random 30', 'neutral 30')


def page() -> str:
    """The page, as Markdown."""
    parts = [
        _head(),
        _recipes(),
        _steps(),
        _exports(),
        _processors(),
        _boards(),
        _field(),
        _levels(),
        _voice(),
        _own(),
        _prices(),
        _faults(),
    ]
    return '\n\n'.join(parts) + '\n'


def _read(name: str) -> list[Any]:
    return [json.loads(line) for line in (LINES / name).read_text().splitlines()]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, cells)) + ' |' for cells in lines)


def _head() -> str:
    return """# Results

`python docs/results.py` writes this page from the files in `benchmarks/results` and from the code. UAR is
unweighted average recall, in percent.
[Evidence](evidence.md) has the comparison of HRF with plain training and with classical baselines.

```{image} _static/arena-light.svg
:class: only-light
:alt: UAR on EMO-DB against the arena of the int8 model, with peers
:width: 100%
```
```{image} _static/arena-dark.svg
:class: only-dark
:alt: UAR on EMO-DB against the arena of the int8 model, with peers
:width: 100%
```

UAR is the mean over the ten speakers of EMO-DB. `docs/figures.py` draws the plot from the lines in
`benchmarks/results`; `peers.jsonl` there names the sources of what was measured elsewhere. LIGHT-SERNET has no UAR
here, because the published one was chosen on the test clips. The baseline is that of [evidence](evidence.md)."""


def _recipes() -> str:
    rows = []
    for name in config.recipes():
        entry = summary.entry(Path(name).stem, config.load_recipe(name), 4, [])
        counts = (f'{entry["params"][kind]:,}' for kind in ('training', 'folded'))
        rows.append([f'`{entry["recipe"]}`', *counts, f'{entry["macs"] / 1e6:,.1f}'])
    return f"""## What recipes cost

Parameters in training and folded, and MACs of one window of 4 s, for 4 classes, as `jax-reparam summary` counts them.

{_table(['recipe', 'parameters in training', 'folded', 'M MACs'], rows)}"""


def _steps() -> str:
    rows = [
        [f'`{line["recipe"]}`', line['form'], f'{line["time"]:.2f}', f'{line["memory"]:.2f}']
        for line in _read('train_step.jsonl')
    ]
    return f"""## Cost of a training step

Time and memory of a step with batch 32, over those of the plain model in the same run. 2 CPU cores that other programs
shared, x86-64, jax 0.10.2. Inference costs nothing more.

```sh hours
python benchmarks/train_step.py configs/transformer_xs.py configs/conformer_xs.py
```

{_table(['recipe', 'form', 'time', 'memory'], rows)}"""


def _exports() -> str:
    rows = [
        [
            f'`{line["recipe"]}`',
            line['form'],
            f'{line["bytes"]:,}',
            f'{line["arena_bytes"]:,}',
            f'{line["device_arena_bytes"]:,}',
            line['nodes'],
            line['instructions_m'],
            f'{line["same"]} of {line["windows"]}',
            line['uar'],
            line['snr_db'],
        ]
        for line in _read('exports.jsonl')
    ]
    head = ['recipe', 'form', 'bytes', 'arena, 64-bit host', 'arena, Cortex-M4F', 'nodes', 'M instructions']
    head += ['same decision', 'UAR', 'SNR dB']
    return f"""## Exported models

One fold of EMO-DB per recipe (fold 0, seed 0; SpeechFormer S for 1,500 steps), run in TFLM on the windows of the test
speaker. One fold says little about accuracy; the other columns hardly depend on the fold. Instructions are
[estimated](verification.md#estimated-cost-on-a-cortex-m4f), and so is the arena of a Cortex-M4F.

```sh corpus
jax-reparam train --config NAME:emodb --config.data.source=EMODB --workdir RUN
jax-reparam fold RUN OUT --accept int8 --accept int16
python benchmarks/exports.py OUT --out benchmarks/results/exports.jsonl
```

{_table(head, rows)}

Measured on 2 CPU cores, x86-64, jax 0.10.2."""


def _processors() -> str:
    rows = [
        [
            f'`{line["recipe"]}`',
            line['form'],
            f'{line["macs"] / 1e6:.1f}',
            f'{line["instructions"] / 1e6:.1f}',
            f'{line["instructions"] / line["macs"]:.2f}',
            '; '.join(f'{op} {share:.0%}' for op, share in line['dearest'].items()),
            f'{line["placed"]:.0%}',
            f'{line["sram_bytes"]:,}',
            line['milliseconds'],
        ]
        for line in _read('processors.jsonl')
    ]
    head = ['recipe', 'form', 'M MACs', 'M instructions', 'per MAC', 'dearest', 'on NPU', 'SRAM', 'ms on NPU']
    return f"""## Estimated cost on processors

Instructions of one window on a Cortex-M4F with CMSIS-NN, and placement on an Ethos-U55-128 by Vela. Both are
estimates; weights are fresh, because they do not matter
here. Only `int8_npu` is meant for an NPU.

```sh hours
python benchmarks/processors.py configs/transformer_xs.py configs/transformer_s.py configs/conformer_xs.py \\
    configs/conformer_s.py configs/speechformer_xs.py configs/speechformer_s.py \\
    --out benchmarks/results/processors.jsonl
```

{_table(head, rows)}"""


def _boards() -> str:
    rows = []
    for line in _read('boards.jsonl'):
        ratio = f'{line["window_estimated"] / line["window"]:.3f}' if line['board'] == 'Cortex-M4F' else ''
        rows.append(
            [
                f'`{line["model"]}`',
                line['form'],
                line['board'],
                'PASS' if line['passed'] else 'FAIL',
                line['logits'],
                f'{line["frame"]:,}',
                f'{line["window"] / 1e6:.1f}',
                ratio,
                f'{line["model_used"]:,}',
                f'{line["model_reserved"]:,}',
                f'{line["model_reserved"] / line["model_used"] - 1:.1%}',
            ]
        )
    head = ['model', 'form', 'board', 'golden test', 'logits', 'per frame', 'M per window', 'estimated / counted']
    head += ['arena used', 'set aside', 'more']
    counted = [
        [
            f'`{line["model"]}`',
            line['form'],
            f'{line["counted"]:,}',
            f'{line["estimated"]:,}',
            f'{line["estimated"] / line["counted"]:.3f}',
        ]
        for line in _read('nodes.jsonl')
    ]
    return f"""## Emulated boards

The firmware's example on QEMU, with TFLM of August 2026, CMSIS-NN and GCC 12.2. Instructions are counted, on the golden
vectors. The Cortex-M55 has no estimate of its own. Models are of EMO-DB, fold 0. "Logits" are of an unknown and of
the known speaker.

```sh board
python benchmarks/boards.py --tflm TFLM OUT ... --out benchmarks/results/boards.jsonl
```

{_table(head, rows)}

All labels and all logits are those of the Python package, which is another version of TFLM.

The model alone, on the Cortex-M4F: instructions counted and estimated. The prices were fitted to these same models.
`kws_ref_model` is the keyword spotter of MLPerf Tiny, on noise.

```sh board
python benchmarks/boards.py --tflm TFLM --nodes OUT ... --out benchmarks/results/nodes.jsonl
```

{_table(['model', 'form', 'counted', 'estimated', 'estimated / counted'], counted)}"""


def _field() -> str:
    lines = [line for line in _read('field.jsonl') if Path(line['out']).name.startswith(f'emodb-{ARM}-transformer_xs_')]
    lines = [line for line in lines if line['part'] == 'test' and line['runtime'] == 'TFLM']
    rows = []
    for change in CHANGES:
        found = [row for line in lines for row in line['rows'] if row['change'] == change.name and row['clips']]
        threshold = '' if change.keep is None else f'{change.keep:.0%}'
        if change.uar_loss is not None:
            threshold += f', -{100 * change.uar_loss:.0f}'
        kept = points = passed = ''
        if found:
            share = _kept(found)
            lost = -float(np.mean([row['uar'] - row['uar_before'] for row in found]))
            kept, points = f'{share:.1%}', f'{-100 * lost:+.1f}'
            if change.keep is not None:
                passed = 'yes' if share >= change.keep and lost <= (change.uar_loss or 1) else 'no'
        large = _LARGE.get(change.name, '')
        clips = sum(row['clips'] for row in found)
        rows.append([f'`{change.name}`', change.description, clips, threshold, kept, points, passed, large])
    head = ['change', 'what it does', 'clips', 'published', 'kept', 'UAR points', 'passed', 'four large models']
    sounds = [[f'`{sound.name}`', sound.description] for sound in SILENCES]
    return f"""## In the field

ConvTransformer XS on EMO-DB, {len(lines)} folds, int8 in TFLM: the share of decisions that stay when a recording is
changed, and the change of UAR. "Published" is the
threshold of audEERING's tests (Derington et al., arXiv 2312.06270): decisions to keep, and points of UAR that may
be lost. Brackets say where our change differs from theirs. "Four large models" is what wav2vec2-L, hubert-L, WavLM and
data2vec keep of theirs, from the results published with those tests.

```sh hours
python benchmarks/field.py out/NAME_0 out/NAME_1 --out benchmarks/results/field.jsonl
```

{_table(head, rows)}

Steady sounds, of which no window may be called speech:

{_table(['sound', 'what it is'], sounds)}"""


def _kept(rows: Sequence[Any]) -> float:
    return float(sum(row['kept'] * row['clips'] for row in rows) / sum(row['clips'] for row in rows))


def _levels() -> str:
    of: dict[tuple[str, str, str], list[Any]] = collections.defaultdict(list)
    for line in _read('field.jsonl'):
        corpus, arm, recipe = Path(line['out']).name.rpartition('_')[0].split('-')
        if line['part'] == 'test' and line['runtime'] == 'TFLM':
            of[corpus, recipe, arm].append(line['rows'])
    rows = []
    for (corpus, recipe, arm), folds in sorted(of.items()):
        cells: list[object] = [f'`{recipe}:{corpus}`', arm, len(folds)]
        for change in _HELD:
            found = [row for own in folds for row in own if row['change'] == change and row['clips']]
            cells.append(f'{_kept(found):.1%}' if found else '')
        rows.append(cells)
    return f"""## Levels, offset and silence

int8 in TFLM, test clips pooled over folds: the share of decisions that stay. An empty cell has no clip: a recording
that would clip, or would be lowered by more than 20 dB, is left out. `benchmarks/results/README.md` says how each arm
was trained.

{_table(['recipe', 'arm', 'folds', *(f'`{change}`' for change in _HELD)], rows)}"""


def _voice() -> str:
    # By corpus, arm and history: UAR by seed and fold.
    scores: dict[str, dict[str, dict[str, dict[tuple[str, str], float]]]] = collections.defaultdict(dict)
    for line in _read('voice.jsonl'):
        *_, arm, run, fold = Path(line['run']).parts
        corpus, recipe, seed = run.split('-')
        if recipe == 'transformer_xs' and 'test' in line:
            for history, score in line['test'].items():
                if history != 'truth':
                    own = scores[corpus].setdefault(arm, {}).setdefault(history, {})
                    own[fold, seed] = 100 * score['uar']
    rows = []
    for corpus, arms in sorted(scores.items()):
        before = arms[BEFORE]['none']
        for arm in sorted(arms.keys() - {BEFORE}, key=lambda arm: (arm != TODAY[corpus], arm)):
            for history in sorted(arms[arm], key=_place):
                own = arms[arm][history]
                pairs = {pair: uar - before[pair] for pair, uar in own.items() if pair in before}
                if not pairs or (arm != TODAY[corpus] and history not in _SHORT):
                    continue
                # The seeds of a fold share its speakers: they are one value.
                folds = sorted({fold for fold, _ in pairs})
                each = [np.mean([value for (of, _), value in pairs.items() if of == fold]) for fold in folds]
                kind, _, seconds = history.partition(' ')
                name = 'nothing' if history == 'none' else f'{seconds} s, {kind}'
                seeds = len({seed for _, seed in pairs})
                uar = f'{np.mean([own[pair] for pair in pairs]):.1f}'
                error = np.std(each, ddof=1) / np.sqrt(len(each))
                rows.append([corpus, arm, name, len(folds), seeds, uar, f'{np.mean(each):+.1f} +- {error:.1f}'])
    return f"""## Knowing the voice

ConvTransformer XS, test speakers, last step: UAR by how much speech of the speaker is known, random clips or neutral
ones alone, and its paired difference from the features of before (no level removed, nothing known). The standard error
is over folds; seeds of a fold are averaged first. {' and '.join(TODAY.values())} are today's defaults.
B and C were trained with histories. `benchmarks/results/README.md` says how each arm was trained.

```sh hours
python benchmarks/voice.py runs/F/emodb-transformer_xs-0/fold_0 --out benchmarks/results/voice.jsonl --against base
```

{_table(['corpus', 'arm', 'known', 'folds', 'seeds', 'UAR', 'difference'], rows)}

Neutral speech, which is what a user mostly says, does not help in any arm. So a model does not learn the voice by
default."""


def _own() -> str:
    own = runpy.run_path(str(ROOT / 'benchmarks/own_clips.py'))
    head, *rows = own['rows'](_read('own_clips.jsonl'))
    return f"""## Fifty clips of one's own

RAVDESS (eight classes) stands for a user's recordings. {own['DRAWS']} times, {own['SPEAKERS']} speakers give
{own['CLIPS']} clips, and the model is tested on all clips of the others. Each arm starts from the packaged model or
from nothing. Intervals are 95 % t-intervals over the draws; the test sets overlap.

```sh corpus
python benchmarks/own_clips.py RAVDESS --out benchmarks/results/own_clips.jsonl
```

{_table(head, rows)}"""


def _place(history: str) -> tuple[str, int]:
    kind, _, seconds = history.partition(' ')
    return ('' if kind == 'none' else kind), int(seconds or 0)


def _prices() -> str:
    def price(found: Price | None) -> str:
        if found is None:
            return ''
        parts = [f'{found.instructions:g}']
        parts += [f'{found.per_output:g} per output'] if found.per_output else []
        parts += [f'{found.per_weight:g} per weight'] if found.per_weight else []
        parts += [f'{found.per_row:g} per row'] if found.per_row else []
        parts += [f'{found.spread:g} if one input is smaller'] if found.spread else []
        return ', '.join(parts) + {'measured': '', 'kernel': ' (alone)', 'assumed': ' (assumed)'}[found.source]

    rows = [[op, price(INT8.get(op)), price(INT16.get(op))] for op in dict.fromkeys([*INT8, *INT16])]
    return f"""## Prices of operators

Instructions per MAC where the operator has MACs, else per element, on a Cortex-M4F with CMSIS-NN.
`jax_reparam/graph/cost.py` uses these prices. They fit all nodes of a kind in the models of
[emulated boards](#emulated-boards); the command prints them. No such model has the operators marked "alone": each
kernel was built and counted by itself.

```sh board
python benchmarks/boards.py --tflm TFLM --nodes OUT ...
```

{_table(['operator', 'int8', 'int16'], rows)}"""


def _faults() -> str:
    text = (LINES / 'faults.md').read_text()
    return '## Damaged inputs\n\n' + text.split('\n', 2)[2].strip()


if __name__ == '__main__':
    PAGE.write_text(page())
