"""Conformer S (0.429 M parameters when folded) with HRF; `conformer_s.py:emodb` picks a corpus."""

from jax_reparam.config import ConformerConfig, Recipe


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    model = ConformerConfig(channels=16, width=64, layers=4, heads=4, ffn_width=256, kernel=15, attention_dropout=0.0)
    return Recipe(model).for_corpus(corpus)
