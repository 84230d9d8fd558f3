"""SpeechFormer S (1.06 M parameters when folded) with HRF; `speechformer_s.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.speech_former(learning_rate=1e-4, n_mels=128, layers=(2, 2, 4, 4), expand=(1, 1, 1))
    return config.for_corpus(recipe, corpus)
