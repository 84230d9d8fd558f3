"""ConvTransformer XS (0.080 M parameters when folded) with HRF; `transformer_xs.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.base(
        name='conv_transformer',
        channels=8,
        width=64,
        layers=2,
        heads=4,
        ffn_width=128,
        dropout=0.1,
        attention_dropout=0.0,
    )
    return config.for_corpus(recipe, corpus, xs=True)
