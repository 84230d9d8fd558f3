"""Trains a recipe: see jax_reparam/train/__main__.py, and `python train.py --help`."""

from jax_reparam.errors import run
from jax_reparam.train.__main__ import INTERRUPTED, main

if __name__ == '__main__':
    run(main, interrupted=INTERRUPTED)
