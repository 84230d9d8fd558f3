"""ConvTransformer L (9.69 M parameters when folded) with HRF; `transformer_l.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.base(
        name='conv_transformer',
        channels=32,
        width=256,
        layers=12,
        heads=8,
        ffn_width=1024,
        dropout=0.1,
        attention_dropout=0.0,
    )
    return config.for_corpus(recipe, corpus)
