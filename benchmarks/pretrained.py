"""Rebuilds the packaged model `jax_reparam/pretrained/emodb_xs`: python benchmarks/pretrained.py EMODB.

1. Trains the recipe (`configs/transformer_xs.py:emodb`) with each speaker held out: its score, and a step per speaker.
2. Trains it on all speakers, up to the median of these steps.
3. Folds and exports that model, and replaces the packaged folder by what a wheel carries of the export.

A run that is stopped goes on where it was. Ten runs on a CPU core take 20 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path

from absl import logging

from jax_reparam import config, manifest
from jax_reparam.errors import Error, run
from jax_reparam.export import card, folder, folding
from jax_reparam.manifest import PRETRAINED
from jax_reparam.train import loop, report

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


def main() -> int:
    """Rebuilds the packaged model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('emodb', metavar='EMODB', help='the folder of the corpus, as `prepare emodb` takes it')
    parser.add_argument('--work', type=Path, default=Path('runs/pretrained'), help='folder of the runs and the export')
    args = parser.parse_args()
    logging.set_verbosity(logging.FATAL)
    recipe = config.load_recipe('configs/transformer_xs.py', 'emodb').with_changes({'data.source': args.emodb})
    print(f'{PRETRAINED}: {ship(build(recipe, args.work), PRETRAINED):,} bytes')
    return 0


if __name__ == '__main__':
    run(main)
