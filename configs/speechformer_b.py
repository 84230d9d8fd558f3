"""SpeechFormer B (2.10 M parameters when folded) with HRF; `speechformer_b.py:emodb` picks a corpus."""

from jax_reparam.config import Recipe, SpeechFormerConfig, TrainConfig
from jax_reparam.frontend.features import FrontendConfig


def get_config(corpus: str = '') -> Recipe:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = Recipe(
        # The authors' dropout of 0.5 in the head holds the small ones back for long (docs/models.md).
        SpeechFormerConfig(layers=(2, 2, 4, 4), expand=(1, 1, 2), head_dropout=0.1),
        frontend=FrontendConfig(n_mels=128, n_fft=1024),  # 128 bands are narrower than the bins of 512 points
        train=TrainConfig(learning_rate=1e-4),
    )
    return recipe.for_corpus(corpus)
