"""What choosing a checkpoint by one validation speaker costs: python benchmarks/selection.py RUN...

RUN is the folder of `train.py ... --config.data.fold=all`. Each fold has a validation speaker of its own and validates
at the same steps. Of a speaker's curve of validation UAR are shown, in percent, averaged over folds: its best (which no
other speaker would get), what it has at the step where another speaker's is best, averaged over all pairs of folds, and
what it has at the last step. Test speakers are not looked at.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from jax_reparam.train import report


def curves(run: Path) -> np.ndarray:
    """Validation UAR, `[folds, evaluations]`."""
    found = []
    for fold in sorted(run.glob('fold_*')):
        lines = map(json.loads, (fold / report.METRICS_FILE).read_text().splitlines())
        found.append([line['validation_uar'] for line in lines if 'validation_uar' in line])
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    for run in parser.parse_args().runs:
        uar = 100 * curves(run)
        at_steps_of_others = uar[:, uar.argmax(axis=1)][~np.eye(len(uar), dtype=bool)]
        print(
            f'{run}  {len(uar)} folds  own best {uar.max(axis=1).mean():.1f}  '
            f"another's best {at_steps_of_others.mean():.1f}  last {uar[:, -1].mean():.1f}"
        )


if __name__ == '__main__':
    main()
