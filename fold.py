"""Folds, exports and verifies a trained model: python fold.py W OUT [options]; jax_reparam.export has the command."""

from jax_reparam.errors import run
from jax_reparam.export.__main__ import main

if __name__ == '__main__':
    run(main)
