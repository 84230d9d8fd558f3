"""Conformer L (9.74 M parameters when folded) with HRF; `conformer_l.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.base(
        name='conformer',
        channels=32,
        width=256,
        layers=6,
        heads=4,
        ffn_width=1024,
        kernel=31,
        positions='relative',
        activation='swish',
        dropout=0.1,
        attention_dropout=0.0,
    )
    return config.for_corpus(recipe, corpus)
