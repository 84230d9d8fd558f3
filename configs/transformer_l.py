"""ConvTransformer L (9.69 M parameters when folded) with HRF; `transformer_l.py:emodb` picks a corpus."""

from jax_reparam.config import ConvTransformerConfig, Recipe


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    model = ConvTransformerConfig(channels=32, width=256, layers=12, heads=8, ffn_width=1024, attention_dropout=0.0)
    return Recipe(model).for_corpus(corpus)
