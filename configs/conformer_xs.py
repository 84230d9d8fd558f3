"""Conformer XS (0.100 M parameters when folded) with HRF; `conformer_xs.py:emodb` picks a corpus."""

from jax_reparam.config import ConformerConfig, Recipe


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    model = ConformerConfig(channels=8, width=48, layers=2, heads=4, ffn_width=128, kernel=15, attention_dropout=0.0)
    return Recipe(model).for_corpus(corpus, xs=True)
