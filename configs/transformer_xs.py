"""ConvTransformer XS (0.080 M parameters when folded) with HRF; `transformer_xs.py:emodb` picks a corpus."""

from jax_reparam.config import ConvTransformerConfig, Recipe


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    model = ConvTransformerConfig(channels=8, width=64, layers=2, heads=4, ffn_width=128, attention_dropout=0.0)
    return Recipe(model).for_corpus(corpus, xs=True)
