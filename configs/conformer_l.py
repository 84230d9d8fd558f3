"""Conformer L (9.74 M parameters when folded) with HRF; `conformer_l.py:emodb` picks a corpus."""

from jax_reparam.config import ConformerConfig, Recipe


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    model = ConformerConfig(channels=32, width=256, layers=6, heads=4, ffn_width=1024, kernel=31, attention_dropout=0.0)
    return Recipe(model).for_corpus(corpus)
