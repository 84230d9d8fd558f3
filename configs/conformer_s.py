"""Conformer S (0.429 M parameters when folded) with HRF; `conformer_s.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.base(
        name='conformer',
        channels=16,
        width=64,
        layers=4,
        heads=4,
        ffn_width=256,
        kernel=15,
        positions='relative',
        activation='swish',
        dropout=0.1,
        attention_dropout=0.0,
    )
    return config.for_corpus(recipe, corpus)
