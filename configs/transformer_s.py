"""ConvTransformer S (0.484 M parameters when folded) with HRF; `transformer_s.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.base()
    recipe.model.update(channels=16, width=96, layers=4, heads=4, ffn_width=384)
    return config.for_corpus(recipe, corpus)
