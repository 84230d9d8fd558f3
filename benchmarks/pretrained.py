"""Rebuilds the packaged model `jax_reparam/pretrained/emodb_xs`: python benchmarks/pretrained.py EMODB.

1. Trains the recipe (`configs/transformer_xs.py:emodb`) with each speaker held out: its score, and a step per speaker.
2. Trains it on all speakers, up to the median of these steps.
3. Folds and exports that model, and replaces the packaged folder by what a wheel carries of the export.
4. Writes what it decides on a generated clip to `benchmarks/results/pretrained.json`, to which a test holds it.

A run that is stopped goes on where it was. Ten runs on a CPU core take 20 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
from absl import logging

from jax_reparam import config, manifest
from jax_reparam.errors import Error, run
from jax_reparam.export import card, folder, folding
from jax_reparam.manifest import PACKAGED
from jax_reparam.recognizer import Recognizer
from jax_reparam.train import loop, report

RECIPE, CORPUS = 'configs/transformer_xs.py', 'emodb'
DECIDED = Path('benchmarks/results/pretrained.json')
# A wheel is to stay small.
MOST_BYTES = 2_000_000
# What is large, or for boards; `fold.py` makes it of any trained model.
LEFT_OUT = (manifest.FIRMWARE, manifest.CHECKPOINT)


def build(recipe: config.Recipe, work: Path) -> Path:
    """Trains a recipe with speakers held out and on all, and exports the latter.

    Args:
      recipe: of a corpus with speakers to hold out.
      work: gets the runs `loso` and `all`, and the export `out`, whose path is returned.
    """
    apart = recipe.with_changes({'data.fold': 'all'})
    print(report.headline(loop.train_folds(apart, work / 'loso')))
    everyone = recipe.with_changes({'data.protocol': config.ALL, 'train.step_from': str(work / 'loso')})
    print(report.headline(loop.train(everyone, work / 'all')))
    exported = folding.fold_and_export(work / 'all', work / 'out')
    for line in (*card.summary(exported.path, exported.manifest), *exported.failures):
        print(line)
    return exported.path


def ship(out: Path, packaged: Path, most: int = MOST_BYTES) -> int:
    """Replaces a packaged folder by an export, less what a wheel does not carry; returns its bytes.

    Raises:
      Error: it would be larger than `most`; the packaged folder is then as it was.
    """
    content = manifest.load(out)
    device = dataclasses.replace(content.device, firmware=None, reason='firmware: not packaged; fold.py makes it')
    with folder.replaced(packaged) as place:
        shutil.copytree(out, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        (place / manifest.FILE).write_text(dataclasses.replace(content, device=device).text())
        size = sum(file.stat().st_size for file in place.rglob('*'))
        if size > most:
            raise Error(f'{packaged}: expected at most {most:,} bytes, found {size:,}')
    return size


def clip() -> np.ndarray:
    """Three seconds that count as speech, `[N]` int16: a buzz in syllables."""
    time = np.arange(48000) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time + k * k) / k for k in range(1, 40))
    sound = buzz * (0.02 + 0.98 * np.sin(2 * np.pi * 1.7 * time) ** 2)
    samples: np.ndarray = np.rint(3000 * sound / sound.std()).clip(-32768, 32767).astype(np.int16)
    return samples


def decided(folder: Path) -> dict[str, dict[str, float]]:
    """The probability of each class on the generated clip, by each form."""
    models = {form: Recognizer.load(folder, form) for form in manifest.load(folder).forms}
    found = {form: model.predict(clip()) for form, model in models.items()}
    return {
        form: {label: round(float(p), 6) for label, p in zip(one.labels, one.probabilities, strict=True)}
        for form, one in found.items()
    }


def main() -> int:
    """Rebuilds the packaged model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('emodb', metavar='EMODB', help='the folder of the corpus, as `prepare emodb` takes it')
    parser.add_argument('--work', type=Path, default=Path('runs/pretrained'), help='folder of the runs and the export')
    args = parser.parse_args()
    logging.set_verbosity(logging.FATAL)
    recipe = config.load_recipe(RECIPE, CORPUS).with_changes({'data.source': args.emodb})
    print(f'{PACKAGED}: {ship(build(recipe, args.work), PACKAGED):,} bytes')
    DECIDED.write_text(json.dumps(decided(PACKAGED), indent=2) + '\n')
    return 0


if __name__ == '__main__':
    run(main)
