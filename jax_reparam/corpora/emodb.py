"""EMO-DB: acted German emotional speech, 10 speakers, 535 clips."""

from __future__ import annotations

import re

from jax_reparam.corpora.builder import Clip, Found, Published, SpeechBuilder, by_id, folder_of
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio
from jax_reparam.frontend.audio_files import listing

# The letter in a file's name is the first of the German word; the classes are numbered in this order.
LETTERS = {
    'W': 'anger',  # Wut
    'L': 'boredom',  # Langeweile
    'E': 'disgust',  # Ekel
    'A': 'fear',  # Angst
    'F': 'happiness',  # Freude
    'N': 'neutral',
    'T': 'sadness',  # Trauer
}
LAYOUT = 'SOURCE/wav/03a01Fa.wav'
PUBLISHED = Published(
    clips=535,
    speakers=10,
    labels=dict(zip(LETTERS.values(), (127, 81, 46, 69, 71, 79, 62), strict=True)),
)

# Speaker, text, emotion, version.
_NAME = re.compile(r'(\d\d)([a-z]\d\d)([A-Z])([a-z])', re.ASCII)


class Emodb(SpeechBuilder):
    """Builds EMO-DB from the folder that holds its `wav` folder, or from that folder itself; WAV or FLAC."""

    LABELS = tuple(LETTERS.values())
    DESCRIPTION = 'Ten actors speak ten German sentences in seven emotions; clips kept by a listening test.'
    HOMEPAGE = 'http://emodb.bilderbar.info'
    CITATION = """@inproceedings{burkhardt2005database,
  author = {Burkhardt, Felix and Paeschke, Astrid and Rolfes, Miriam and Sendlmeier, Walter F. and Weiss, Benjamin},
  title = {A database of {German} emotional speech},
  booktitle = {Interspeech},
  pages = {1517--1520},
  year = {2005},
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'Download EMO-DB from its homepage and unpack it: MANUAL_DIR/wav/03a01Fa.wav, ...'

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips; the first two digits of a name are the speaker, its sixth character is the emotion."""
        folder = folder_of(source, cls.name, LAYOUT)
        where = 'in it'
        if (folder / 'wav').is_dir():
            folder, where = folder / 'wav', 'in its folder wav'
        clips: dict[str, Clip] = {}
        skipped: dict[str, str] = {}
        for path in listing(folder):
            if path.suffix.lower() not in audio.SUFFIXES:
                continue
            match = _NAME.fullmatch(path.stem)
            if not match or match[3] not in LETTERS:
                skipped[path.name] = 'not named speaker, text, emotion, version, as 03a01Fa is'
            elif path.stem in clips:
                skipped[path.name] = 'a second file of this clip'
            else:
                clips[path.stem] = Clip(path.stem, LETTERS[match[3]], match[1], path)
        if not clips:
            raise InputError(f'{source}: expected EMO-DB ({LAYOUT}), found no clip named so {where}')
        return Found(cls.LABELS, by_id(clips.values()), skipped, published=PUBLISHED)
