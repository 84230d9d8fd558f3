"""Folds, exports and verifies a trained model: python fold.py W OUT; the same as `jax-reparam fold`."""

from jax_reparam.commands import main

if __name__ == '__main__':
    main(name='fold')
