"""SpeechFormer XS (0.143 M parameters when folded) with HRF; `speechformer_xs.py:emodb` picks a corpus."""

from jax_reparam.config import Recipe, SpeechFormerConfig


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = Recipe(
        # The authors' dropout of 0.5 in the head holds the small ones back for long (docs/models.md).
        SpeechFormerConfig(layers=(1, 1, 2, 2), expand=(1, 1, 1), head_dropout=0.1),
    )
    return recipe.for_corpus(corpus, xs=True)
