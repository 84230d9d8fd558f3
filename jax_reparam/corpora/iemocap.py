"""IEMOCAP: acted and improvised English dialogues, 10 speakers in 5 sessions."""

from __future__ import annotations

import collections
import re

import tensorflow_datasets as tfds
from etils import epath

from jax_reparam.corpora.builder import Clip, Found, Published, SpeechBuilder, by_id, first_missing, folder_of
from jax_reparam.errors import InputError
from jax_reparam.frontend.audio_files import listing

# All labels of the release by their codes; xxx is what the raters did not agree on.
CODES = ('ang', 'dis', 'exc', 'fea', 'fru', 'hap', 'neu', 'oth', 'sad', 'sur', 'xxx')
# The set that results are published on counts excitement as happiness.
FOUR = {'ang': 'ang', 'exc': 'hap', 'hap': 'hap', 'neu': 'neu', 'sad': 'sad'}
PUBLISHED = {
    'four': Published(
        clips=5531,
        speakers=10,
        labels={'ang': 1103, 'hap': 1636, 'neu': 1708, 'sad': 1084},
        groups={'Ses01': 1085, 'Ses02': 1023, 'Ses03': 1151, 'Ses04': 1031, 'Ses05': 1241},
    ),
    'all': Published(
        clips=10039,
        speakers=10,
        labels=dict(zip(CODES, (1103, 2, 1041, 40, 1849, 595, 1708, 3, 1084, 107, 2507), strict=True)),
    ),
}
LAYOUT = (
    'SOURCE/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and '
    'SOURCE/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav, Session1 to Session5'
)

_SESSION = re.compile(r'Session([1-5])', re.ASCII)
_EVALUATION = re.compile(r'Ses0[1-5][FM]_\w+\.txt', re.ASCII)
# [start - end], name of the turn, label; behind them the mean ratings, which are not read.
_TURN = re.compile(r'\[(\d+\.?\d*) - (\d+\.?\d*)\]\t(Ses0[1-5][FM]_\w+_([FM])\w*)\t(\w+)\t', re.ASCII)


class Iemocap(SpeechBuilder):
    """Builds IEMOCAP from the folder of its release, `IEMOCAP_full_release`, or from the folder that holds it.

    `iemocap` has the four classes that results are published on, excitement counted as happiness; `iemocap/all` has
    every label of the release, also `xxx`, on which the raters did not agree. A speaker is the session and the first
    letter of the last part of a turn's name: the letter in `Ses01F` says who wears the markers, not who speaks. Start
    and end are those of the turn in its dialogue.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name='four', description='ang, hap (with exc), neu, sad'),
        tfds.core.BuilderConfig(name='all', description='every label of the release'),
    ]
    DESCRIPTION = 'Ten actors in five sessions of two speak scripted and improvised dialogues.'
    HOMEPAGE = 'https://sail.usc.edu/iemocap/'
    CITATION = """@article{busso2008iemocap,
  author = {Busso, Carlos and Bulut, Murtaza and Lee, Chi-Chun and Kazemzadeh, Abe and Mower, Emily and Kim, Samuel
    and Chang, Jeannette N. and Lee, Sungbok and Narayanan, Shrikanth S.},
  title = {{IEMOCAP}: interactive emotional dyadic motion capture database},
  journal = {Language Resources and Evaluation},
  volume = {42},
  pages = {335--359},
  year = {2008},
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Ask for IEMOCAP with the release form at https://sail.usc.edu/iemocap/iemocap_release.htm and unpack it: '
        'MANUAL_DIR/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt, '
        'MANUAL_DIR/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav, ..., Session1 to Session5.'
    )

    @classmethod
    def label_names(cls, config: str = '') -> tuple[str, ...]:
        """The codes of the classes, in alphabetical order."""
        return CODES if config == 'all' else tuple(sorted(set(FOUR.values())))

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips by the evaluation files of all sessions that are there."""
        top = folder_of(source, cls.name, LAYOUT)
        if (top / 'IEMOCAP_full_release').is_dir():
            top = top / 'IEMOCAP_full_release'
        sessions = [path for path in listing(top) if _SESSION.fullmatch(path.name) and path.is_dir()]
        if not sessions:
            first_missing(top, 'IEMOCAP', ['Session1'], LAYOUT)
        below = ('dialog/EmoEvaluation', 'sentences/wav')
        first_missing(top, 'IEMOCAP', [f'{session.name}/{path}' for session in sessions for path in below], LAYOUT)

        labels = {code: code for code in CODES} if config == 'all' else FOUR
        clips: dict[str, Clip] = {}
        codes: dict[str, str] = {}
        conflicts: dict[str, str] = {}
        skipped: dict[str, str] = {}
        for session in sessions:
            for id_, letter, code, start, end in _turns(session / 'dialog' / 'EmoEvaluation'):
                if code != codes.setdefault(id_, code):
                    conflicts[id_] = f'evaluated as {codes[id_]} and as {code}'
                elif code not in CODES:
                    skipped[id_] = f'its label {code!r} is none of {", ".join(CODES)}'
                elif code in labels:
                    path = session / 'sentences' / 'wav' / id_.rpartition('_')[0] / f'{id_}.wav'
                    group = id_[:5]
                    if path.is_file():
                        clips[id_] = Clip(id_, labels[code], f'{group}{letter}', path, group, start=start, end=end)
                    else:
                        skipped[id_] = 'no such file'
        if not codes:
            raise InputError(f'{source}: expected IEMOCAP ({LAYOUT}), found no evaluated turn in {sessions[0].name}')
        others = collections.Counter(code for code in codes.values() if code in CODES and code not in labels)
        notes = [f'Turns with other labels, not used: {", ".join(f"{c} {n:,}" for c, n in sorted(others.items()))}.']
        return Found(
            cls.label_names(config),
            by_id(clips.values(), without=conflicts),
            {id_: reason for id_, reason in skipped.items() if id_ not in conflicts},
            conflicts,
            tuple(notes if others else ()),
            PUBLISHED[cls.config_of(config)],
        )


def _turns(folder: epath.Path) -> list[tuple[str, str, str, float, float]]:
    """The turns of all evaluation files of a session: name, letter of the speaker, label, start and end in seconds.

    Sub-folders hold what each rater wrote and are passed over, as is what macOS leaves behind.
    """
    turns = []
    for path in listing(folder):
        if not _EVALUATION.fullmatch(path.name) or path.is_dir():
            continue
        # Some files are Latin-1 and some are damaged UTF-8; what is read of them is ASCII, and Latin-1 takes any byte.
        for line in path.read_bytes().decode('latin-1').splitlines():
            if match := _TURN.match(line):
                turns.append((match[3], match[4], match[5], float(match[1]), float(match[2])))
    return turns
