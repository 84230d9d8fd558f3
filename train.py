"""Trains a recipe: python train.py --config configs/transformer_s.py; the same as `jax-reparam train`."""

from jax_reparam.commands import main

if __name__ == '__main__':
    main(name='train')
