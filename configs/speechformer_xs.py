"""SpeechFormer XS (0.143 M parameters when folded) with HRF; `speechformer_xs.py:emodb` picks a corpus."""

from ml_collections import ConfigDict

from jax_reparam import config


def get_config(corpus: str = '') -> ConfigDict:
    """The recipe for one corpus; '' is the embedded synthetic one."""
    recipe = config.speech_former(learning_rate=1e-3, n_mels=64, layers=(1, 1, 2, 2), expand=(1, 1, 1))
    return config.for_corpus(recipe, corpus, xs=True)
