"""The builders as TensorFlow Datasets' own test case sees them."""

# ruff: noqa: RUF012 (the test case reads its class attributes)

from __future__ import annotations

import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

import trees
from jax_reparam.corpora.daic_woz import DaicWoz
from jax_reparam.corpora.emodb import Emodb
from jax_reparam.corpora.iemocap import Iemocap
from jax_reparam.corpora.m3ed import M3ed
from jax_reparam.corpora.nemo import Nemo
from jax_reparam.corpora.ravdess import Ravdess


def emodb(folder):
    for n, letter in enumerate('WLEAFNT'):
        trees.write(folder / 'wav' / f'03a01{letter}a.wav', trees.sound(0.35, n))
    return folder


def ravdess(folder):
    for n in range(1, 9):
        trees.write(folder / 'Actor_01' / f'03-01-{n:02d}-01-01-01-01.wav', trees.sound(0.35, n))
    return folder


class _Case(tfds.testing.DatasetBuilderTestCase):
    """Builds from a made source in place of `dummy_data`."""

    MAKE = None

    @classmethod
    def setUpClass(cls):
        cls._folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = str(cls.MAKE(Path(cls._folder.name) / 'source'))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls._folder.cleanup()

    def _make_builder(self, config=None):
        return self.dataset_class(data_dir=self.tmp_dir, config=config, version=self.VERSION, accept_mismatch=True)


class TestEmodb(_Case):
    DATASET_CLASS = Emodb
    MAKE = staticmethod(emodb)
    SPLITS = {'train': 7}


class TestRavdess(_Case):
    DATASET_CLASS = Ravdess
    MAKE = staticmethod(ravdess)
    SPLITS = {'train': 8}


class TestIemocap(_Case):
    DATASET_CLASS = Iemocap
    MAKE = staticmethod(trees.iemocap)
    SPLITS = {'train': 50}
    BUILDER_CONFIG_NAMES_TO_TEST = ['four']


class TestM3ed(_Case):
    DATASET_CLASS = M3ed
    MAKE = staticmethod(trees.m3ed)
    SPLITS = {'train': 33}


class TestDaicWoz(_Case):
    DATASET_CLASS = DaicWoz
    MAKE = staticmethod(trees.daic_woz)
    SPLITS = {'train': 34}


class TestNemo(_Case):
    DATASET_CLASS = Nemo
    MAKE = staticmethod(trees.nemo)
    SPLITS = {'train': 12}


del _Case
