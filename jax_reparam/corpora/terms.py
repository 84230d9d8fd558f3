"""The terms of each corpus: licence, where it is stated, languages. Data alone, for builders, model cards and docs."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Terms:
    """Under which terms a corpus is to be had.

    Attributes:
      title: the corpus, as its authors call it.
      licence: its licence in words, or how it is to be had.
      licence_id: the licence as model hubs spell it; 'other' for one of its own, 'unknown' where the user knows it.
      source: the page that states the licence; '' where there is none.
      languages: those that are spoken, ISO 639-1.
      reference: whom to cite; '' where nobody is.
      hub_id: the corpus's own name on the model hub; '' where its authors did not put it there.
    """

    title: str
    licence: str
    licence_id: str = 'other'
    source: str = ''
    languages: tuple[str, ...] = ()
    reference: str = ''
    hub_id: str = ''


SIGNED = 'by signed agreement, for research'
TERMS = {
    'synth': Terms(
        'the embedded synthetic corpus', 'Apache-2.0, made by this package', 'apache-2.0', languages=('en', 'de')
    ),
    'emodb': Terms(
        'EMO-DB',
        'CC0-1.0',
        'cc0-1.0',
        source='https://audeering.github.io/datasets/datasets/emodb.html',
        languages=('de',),
        reference='Burkhardt et al. 2005',
    ),
    'ravdess': Terms(
        'RAVDESS',
        'CC BY-NC-SA 4.0',
        'cc-by-nc-sa-4.0',
        source='https://zenodo.org/records/1188976',
        languages=('en',),
        reference='Livingstone and Russo 2018',
    ),
    'iemocap': Terms(
        'IEMOCAP',
        SIGNED,
        source='https://sail.usc.edu/iemocap/iemocap_release.htm',
        languages=('en',),
        reference='Busso et al. 2008',
    ),
    'm3ed': Terms(
        'M3ED',
        SIGNED,
        source='https://github.com/AIM3-RUC/RUCM3ED',
        languages=('zh',),
        reference='Zhao et al. 2022',
    ),
    'daic_woz': Terms(
        'DAIC-WOZ',
        SIGNED,
        source='https://dcapswoz.ict.usc.edu',
        languages=('en',),
        reference='Gratch et al. 2014',
    ),
    'nemo': Terms(
        'nEMO',
        'CC BY-NC-SA 4.0',
        'cc-by-nc-sa-4.0',
        source='https://huggingface.co/datasets/amu-cai/nEMO',
        languages=('pl',),
        reference='Christop 2024',
        hub_id='amu-cai/nEMO',
    ),
    'crema_d': Terms(
        'CREMA-D',
        'Open Database License 1.0',
        'odbl',
        source='https://github.com/CheyneyComputerScience/CREMA-D',
        languages=('en',),
        reference='Cao et al. 2014',
    ),
    'savee': Terms(
        'SAVEE',
        'by registration, for research',
        source='http://kahlan.eps.surrey.ac.uk/savee/',
        languages=('en',),
        reference='Haq and Jackson 2010',
    ),
    'folder': Terms('recordings of your own', 'known to whoever made the recordings', 'unknown'),
}


def of(corpus: str) -> Terms:
    """The terms of a corpus by its name, with or without a configuration (`iemocap/all`)."""
    return TERMS.get(corpus.partition('/')[0], TERMS['folder'])
