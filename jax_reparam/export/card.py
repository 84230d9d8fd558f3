"""What people read about an export: MODEL_CARD.md, and the lines that `fold.py` prints; both from the manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from jax_reparam.config import Recipe
from jax_reparam.corpora import terms
from jax_reparam.corpora.synth import NOTICE
from jax_reparam.field.robustness import SUMMARY
from jax_reparam.manifest import Form, Manifest, Placement, Score, TFLMScore
from jax_reparam.runtime import gates
from jax_reparam.train.report import METRICS

# What everybody who is handed a model is told: in each card, in README and in the docs, word for word.
LIMITS = """\
- **Not feelings.** A model tells how speech sounds. Most corpora are acted speech, and what an actor plays in a studio
  is not what a person feels.
- **No decisions about people.** Base no decision about a person on what a model says.
- **Law.** In the European Union it is prohibited to infer the emotions of people at work or in education, except for
  medical or safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f)). Other rules may apply to your use. This is no
  legal advice."""
TAGS = ('speech-emotion-recognition', 'audio', 'tflite', 'litert', 'microcontroller', 'tinyml', 'jax')


def summary(path: Path, manifest: Manifest) -> list[str]:
    """The outcome, a line a form and one for the folder."""
    lines = []
    for form in manifest.forms.values():
        tflm = form.tflm
        where = 'not run in TFLM' if tflm is None else f'ran in TFLM: {_score(tflm)}, arena {_kb(tflm.arena_bytes)}'
        cost = ''
        if form.cost:
            device = f'{form.cost.instructions / 1e6:.1f} M instructions and {_kb(form.cost.arena_bytes)} of arena'
            cost = f'; {device} on a Cortex-M4F (estimated)'
        lines.append(f'{path / form.file}  {_kb(form.bytes)}, {where}{cost}')
    if npu := manifest.npu:
        lines.append(f'{path / npu.file}  {_kb(npu.bytes)}, {_placed(npu)}')
    lines += [f'TFLM: {reason}' for reason in _reasons(manifest)]
    if manifest.reference_uar is None:
        told = [f'{path}: verified on {_test(manifest)}', *_elsewhere(manifest)]
    else:
        told = [f'{path}: trained model UAR {_percent(manifest.reference_uar)} on {_test(manifest)}']
    return [*lines, '; '.join([*told, *_notes(manifest)])]


def text(manifest: Manifest, recipe: Recipe) -> str:
    """MODEL_CARD.md of an export, and of the recipe that it was trained with."""
    return f"""---
{yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True, width=1000)}---

# Speech emotion recognition: {manifest.architecture.name}

Decides between {len(manifest.labels)} classes ({', '.join(manifest.labels)}).
{_origin(manifest)}

## How good it is

{_measured_on(manifest)}

{_table(manifest)}

Agreement is the share of windows decided as the trained model decides them, SNR that of the logits. The arena was
measured on a 64-bit host. That of a Cortex-M4F with CMSIS-NN is counted, and its instructions of a window are
estimated. A form is in this folder only if
{_gates(manifest)}. LAYERS.md has the tensors of each quantised form, worst first.
{_npu(manifest)}
## Which classes it confuses

{_confusion(manifest)}

## In the field

{_field(manifest)}

## What goes in and comes out

{_interface(manifest)}

    jax-reparam predict --model THIS_FOLDER clip.wav --json

## Limits and law

- **What was measured.** The model knows the voices, the language and the recordings of `{manifest.corpus.name}`, and
  the classes above. Nothing else was measured.
{LIMITS}

## Licence

{_licence(manifest)}

Recipe: seed {recipe.seed}, checkpoint of step {manifest.step}. manifest.json has the versions and the list of
calibration windows.
"""


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """What model hubs read of a card, by the keys that they know.

    `model-index` has results only where they are evidence: people speak in the corpus, and no test speaker was heard
    in training.
    """
    about = terms.of(manifest.corpus.name)
    other = about.licence_id == 'other'
    found: dict[str, Any] = {
        'language': list(about.languages),
        'license': about.licence_id,
        'license_name': '-'.join(re.findall(r'[a-z0-9.]+', about.licence.lower())) if other else '',
        'license_link': about.source if other else '',
        'library_name': 'jax-reparam',
        'pipeline_tag': 'audio-classification',
        'tags': [*TAGS, manifest.architecture.name],
        'datasets': [about.hub_id] if about.hub_id else [],
        'metrics': ['recall'],
        'model-index': _model_index(manifest),
    }
    return {key: value for key, value in found.items() if value}


def _model_index(manifest: Manifest) -> list[dict[str, Any]]:
    protocol, decisive = manifest.protocol, _decisive(manifest)
    unheard = not {*protocol.test_speakers} & {*protocol.train_speakers, *protocol.validation_speakers}
    if (
        decisive is None
        or (uar := decisive[2].uar) is None
        or manifest.corpus.synthetic
        or not protocol.test_speakers
        or not unheard
    ):
        return []
    form, runtime, _ = decisive
    fold = f'protocol {protocol.name}, fold {protocol.fold} of {protocol.folds}'
    heard = f'{manifest.test.decisions} decisions; speakers not heard in training: {len(protocol.test_speakers)}'
    result = {
        'task': {'type': 'audio-classification', 'name': 'Speech emotion recognition'},
        'dataset': {
            'type': manifest.corpus.name,
            'name': terms.of(manifest.corpus.name).title,
            'config': f'{fold}: {heard}',
            'split': 'test',
        },
        'metrics': [
            {
                'type': 'recall',
                'name': f'Unweighted average recall (UAR) of {form} in {runtime}',
                'value': round(uar, 4),
                'args': {'average': 'macro'},
            }
        ],
    }
    return [{'name': f'{manifest.architecture.name} {manifest.corpus.name}', 'results': [result]}]


def _decisive(manifest: Manifest) -> tuple[str, str, Score] | None:
    """The form that a user is given, the runtime that decides about it, and its score there."""
    name = manifest.recommended or 'float32'
    form = manifest.forms.get(name)
    if form is None:
        return None
    runtime, score = ('LiteRT', form.litert) if form.tflm is None else ('TFLM', form.tflm)
    return None if score is None else (name, runtime, score)


def _confusion(manifest: Manifest) -> str:
    decisive, held_out = _decisive(manifest), manifest.held_out
    if not _scored(manifest):
        table = held_out and held_out.confusion
        whose = held_out and f'the {held_out.folds} models that held speakers out'
    else:
        table = decisive and manifest.forms[decisive[0]].confusion
        whose = decisive and f'`{decisive[0]}` in {decisive[1]}, {_test(manifest)}'
    if not table:
        return 'No form passed.' if _scored(manifest) else 'That was not measured.'
    undecided = any(row[-1] for row in table)
    columns = [*manifest.labels, *(['no speech'] if undecided else [])]
    lines = [
        f'Decisions of {whose}. A row has what one class was taken for;',
        'its recall is the share that is right.',
        '',
        f'| true class | {" | ".join(columns)} | recall |',
        f'|---|{"---:|" * (len(columns) + 1)}',
    ]
    for index, (label, row) in enumerate(zip(manifest.labels, table, strict=True)):
        total = sum(row)
        recall = f'{_percent(row[index] / total)} of {total}' if total else 'none there'
        lines.append(f'| {label} | {" | ".join(map(str, row[: len(columns)]))} | {recall} |')
    return '\n'.join(lines)


def _licence(manifest: Manifest) -> str:
    about = terms.of(manifest.corpus.name)
    where = f', <{about.source}>' if about.source else ''
    cite = f' Please cite {about.reference}.' if about.reference else ''
    return f"""- The corpus: {about.title}. Its licence: {about.licence}{where}.{cite}
- The model: the front matter names the licence of the corpus. Whoever publishes the model states its own,
  within those terms.
- The code: Apache-2.0. The firmware's operators are those of TensorFlow Lite for Microcontrollers."""


def _origin(manifest: Manifest) -> str:
    params, fold, init = manifest.params, manifest.fold, manifest.init
    began = '' if init is None else f'\nIt began as the model `{init.path}`, trained on corpus `{init.corpus}`.'
    if not fold.sites:
        return f'It was trained as it is, without High-Rank Factorization: {params.folded:,} parameters.{began}'
    return (
        f'It was trained with High-Rank Factorization at {fold.sites} layers, {params.training:,} parameters,\n'
        f'and folded into the plain model, {params.folded:,}: logits differ by at most {fold.max_abs_diff:.1e}.{began}'
    )


def _gates(manifest: Manifest) -> str:
    accepted = [name for name, form in manifest.forms.items() if form.accepted]
    return (
        f'float32 comes within {gates.FLOAT_TOLERANCE:g} of the logits in each runtime, and a quantised form,\n'
        f'in TFLM, agrees in at least {gates.LEAST_AGREEMENT:.0%} of the windows, or all but one'
        + (f', and loses at most {100 * gates.LARGEST_UAR_LOSS:g} points of UAR' if _scored(manifest) else '')
        + (f'; except {" and ".join(accepted)}, see above' if accepted else '')
    )


def _measured_on(manifest: Manifest) -> str:
    protocol = manifest.protocol
    if not _scored(manifest):
        return _agreement_on(manifest)
    assert manifest.reference_uar is not None
    lines = [
        f'Unweighted average recall (UAR) on {_test(manifest)} of corpus `{manifest.corpus.name}`, protocol',
        f'`{protocol.name}`, fold {protocol.fold} (of {protocol.folds}, counted from 0); test speakers '
        f'{", ".join(protocol.test_speakers)}.',
        f'The trained model, in JAX: {_percent(manifest.reference_uar)}.',
    ]
    return _with_remarks(manifest, lines)


def _scored(manifest: Manifest) -> bool:
    """Whether there were clips that the model had not learned."""
    return manifest.test.part == 'test'


def _agreement_on(manifest: Manifest) -> str:
    held_out = manifest.held_out
    lines = [f'All clips of corpus `{manifest.corpus.name}` have trained this model, so it has no score of its own.']
    if held_out is None:
        lines += ['What it is worth on speakers it has not heard was not measured.']
    else:
        scores = ', '.join(f'{METRICS[name]} {_percent(score)}' for name, score in held_out.scores.items())
        lines += [
            f'The same recipe, trained {held_out.folds} times with speakers held out (protocol `{held_out.protocol}`, '
            f'seed {held_out.seed}),',
            f'scored on them, pooled over {held_out.clips} clips: {scores};',
            f'by fold UAR {_percent(held_out.mean)}, standard deviation {100 * held_out.std:.1f} points. '
            f'This model stops at the median of the steps',
            f'that these runs chose on validation speakers ({held_out.step}).',
        ]
    lines += [
        '',
        f'The table below holds each form against the trained model on {_test(manifest)}.',
        'It tells that a form is this model, and nothing of how good the model is.',
    ]
    return _with_remarks(manifest, lines)


def _elsewhere(manifest: Manifest) -> list[str]:
    held_out = manifest.held_out
    if held_out is None:
        return []
    return [f'the same recipe, {held_out.protocol}: UAR {_percent(held_out.scores["uar"])}']


def _with_remarks(manifest: Manifest, lines: list[str]) -> str:
    notes = [f'- Limits of these numbers: {note}.' for note in _notes(manifest)]
    failed = [f'- Left out: {reason}.' for failed in manifest.failed.values() for reason in failed.reasons]
    unverified = [f'- TFLM: {reason}.' for reason in _reasons(manifest)]
    accepted = [f'- Kept on request: {reason}.' for form in manifest.forms.values() for reason in form.accepted or ()]
    remarks = [*notes, *failed, *accepted, *unverified]
    return '\n'.join([*lines, '', *remarks] if remarks else lines)


def _interface(manifest: Manifest) -> str:
    frontend, window = manifest.input.frontend, manifest.input.window
    seconds = frontend.hop_ms / 1000
    voice = (
        'trained with histories' if manifest.input.voice.history else 'not trained with histories: adaptation is off'
    )
    return f"""- Audio: {frontend.sample_rate} Hz, one channel, full scale 1.0.
- Features: log-mel, {frontend.n_mels} bands (Slaney), {frontend.fmin:g} to {frontend.fmax:g} Hz,
  Hann frames of {frontend.frame_ms} ms every {frontend.hop_ms} ms, {frontend.n_fft}-point transform,
  ln(power + {frontend.floor:g}); frame t starts at sample t * hop, its mean taken off. Then int8 in steps of 0.1 nat.
- Speech: a window without any has no decision. The level of its speech is taken off, and what lies more than
  {frontend.clamp_nats:g} nats below it is clamped; then `(x - mean) / std`: see manifest.json, and docs/frontend.md
  of jax_reparam.
- Voice: {voice}.
- In: [1, {window.frames}, {frontend.n_mels}], {window.frames * seconds:g} s. A clip is cut to its speech; a longer
  one becomes windows {window.hop * seconds:g} s apart, the last one ending with it; in a shorter one, and where
  a window begins or ends without speech, what there is is repeated until it is full. There is no mask.
- Out: [1, {len(manifest.labels)}], logits in the order of labels.txt. Softmax, then the mean over windows.
- int8 tensors hold q for the value scale * (q - zero_point): see manifest.json."""


def _field(manifest: Manifest) -> str:
    part = 'test' if _scored(manifest) else 'training'
    names = [f'{part} clips as', 'clips', 'decisions kept', *(['UAR before', 'UAR after'] if _scored(manifest) else [])]
    cells = [*names, 'published threshold']
    rows = [f'| {" | ".join(cells)} |', f'|{"---|" * len(cells)}']
    for row in manifest.field:
        if row.kept is None:
            continue
        threshold = ''
        if row.keep is not None:
            loss = '' if row.uar_loss is None else f', at most {100 * row.uar_loss:.0f} points lost'
            threshold = f'{100 * row.keep:.0f} % kept{loss}: {"passed" if row.passed else "missed"}'
        shares = [_percent(share) for share in (row.kept, row.uar_before, row.uar) if share is not None]
        cells = [SUMMARY.get(row.change, row.change), str(row.clips), *shares, threshold]
        rows.append(f'| {" | ".join(cells)} |')
    return f"""{part.capitalize()} clips as other microphones, rooms and lines would have given them, decided by the
recommended form in LiteRT. Thresholds are those of audEERING's test suite (arXiv 2312.06270). docs/results.md of
jax_reparam says what each is exactly ({', '.join(f'`{row.change}`' for row in manifest.field)}).
All changes, on your own recordings:

    jax-reparam verify THIS_FOLDER --clips CLIPS --field

{chr(10).join(rows)}"""


def _npu(manifest: Manifest) -> str:
    npu = manifest.npu
    if npu is None:
        return ''
    return f"""
`{npu.file}` is the form `{npu.form}`,
{_placed(npu)}.
Time and memory are Vela's estimates. The compiled file itself was not run.
"""


def _placed(npu: Placement) -> str:
    return (
        f'compiled by Vela for {npu.accelerator}: {_percent(npu.share)} of the operators and '
        f'{_percent(npu.mac_share)} of the MACs on the NPU, SRAM {_kb(npu.sram_bytes)}, '
        f'flash {_kb(npu.flash_bytes)}, {npu.milliseconds:.1f} ms a window'
    )


def _table(manifest: Manifest) -> str:
    names = ['form', 'bytes', 'ops', 'M instructions', 'runtime', *(['UAR'] if _scored(manifest) else [])]
    names += ['agreement', 'SNR dB', 'arena, 64-bit host', 'arena, Cortex-M4F']
    rows = [f'| {" | ".join(names)} |', f'|{"---|" * len(names)}']
    for name, form in manifest.forms.items():
        for runtime, score in (('LiteRT', form.litert), ('TFLM', form.tflm)):
            if score is None:
                continue
            arena = f'{score.arena_bytes:,}' if isinstance(score, TFLMScore) else ''
            snr = '' if score.snr_db is None else f'{score.snr_db:.1f}'
            cells = [name, f'{form.bytes:,}', sum(form.ops.values()), _millions(form), runtime]
            cells += [] if score.uar is None else [_percent(score.uar)]
            device = f'{form.cost.arena_bytes:,}' if arena and form.cost else ''
            cells += [_percent(score.argmax_agreement), snr, arena, device]
            rows.append(f'| {" | ".join(map(str, cells))} |')
    int8 = manifest.forms.get('int8')
    if int8 is not None and int8.made.prices:
        points = (
            f'`{f"fold.py {flag}".strip()}` {price.instructions / 1e6:.1f} M instructions in {_kb(price.arena_bytes)}'
            for flag, price in int8.made.prices.items()
        )
        rows += ['', f'int8 has two points, on a Cortex-M4F: {", ".join(points)}.']
    return '\n'.join(rows)


def _reasons(manifest: Manifest) -> list[str]:
    """Why TFLM was not there."""
    entries = [*manifest.forms.values(), *(failed.found for failed in manifest.failed.values())]
    return sorted({entry.tflm_reason for entry in entries if isinstance(entry, Form) and entry.tflm_reason})


def _notes(manifest: Manifest) -> list[str]:
    note = manifest.protocol.note
    return [*([note] if note else []), *([NOTICE] if manifest.corpus.synthetic else [])]


def _test(manifest: Manifest) -> str:
    test, protocol = manifest.test, manifest.protocol
    clips = f'{test.clips}' if test.clips == test.of_clips else f'{test.clips} of {test.of_clips}'
    text = f'{test.windows} windows of {clips} {"test" if _scored(manifest) else "training"} clips'
    if protocol.unit == 'speaker':
        text += f', a decision for each of {test.decisions} speakers by {protocol.join}'
    return text


def _score(score: Score) -> str:
    uar = '' if score.uar is None else f', UAR {_percent(score.uar)}'
    return f'agreement {_percent(score.argmax_agreement)}{uar}'


def _millions(form: Form) -> str:
    return '' if form.cost is None else f'{form.cost.instructions / 1e6:.1f}'


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'


def _kb(size: int) -> str:
    return f'{size / 1000:.1f} kB'
