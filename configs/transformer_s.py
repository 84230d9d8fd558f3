"""ConvTransformer S (0.484 M parameters when folded) with HRF; `transformer_s.py:emodb` picks a corpus."""

from jax_reparam.config import ConvTransformerConfig, Recipe


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    model = ConvTransformerConfig(channels=16, width=96, layers=4, heads=4, ffn_width=384, attention_dropout=0.0)
    return Recipe(model).for_corpus(corpus)
