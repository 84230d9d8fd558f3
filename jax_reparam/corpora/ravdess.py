"""RAVDESS, speech part: acted English emotional speech, 24 actors, 1,440 clips."""

from __future__ import annotations

import re

from jax_reparam.corpora.builder import Clip, Found, Published, SpeechBuilder, by_id, folder_of
from jax_reparam.errors import InputError
from jax_reparam.frontend import audio
from jax_reparam.frontend.audio_files import listing

# In the order of the codes 01 to 08.
LABELS = ('neutral', 'calm', 'happy', 'sad', 'angry', 'fearful', 'disgust', 'surprised')
LAYOUT = 'SOURCE/Actor_01/03-01-05-01-02-01-01.wav'
PUBLISHED = Published(clips=1440, speakers=24, labels={label: 96 if label == 'neutral' else 192 for label in LABELS})

_FOLDER = re.compile(r'Actor_(0[1-9]|1\d|2[0-4])', re.ASCII)
# Modality, vocal channel, emotion, intensity, statement, repetition, actor.
_NAME = re.compile(r'(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])', re.ASCII)


class Ravdess(SpeechBuilder):
    """Builds the speech of RAVDESS from the folder that holds `Actor_01` to `Actor_24`; WAV or FLAC.

    One clip of the release is there twice (actor 07, happy, both repetitions of one sentence): the first is kept, so
    the whole release gives 1,439 clips.
    """

    LABELS = LABELS
    DESCRIPTION = 'Twenty-four North American actors (odd numbers male) speak two sentences in eight emotions.'
    HOMEPAGE = 'https://zenodo.org/records/1188976'
    CITATION = """@article{livingstone2018ryerson,
  author = {Livingstone, Steven R. and Russo, Frank A.},
  title = {The {Ryerson} Audio-Visual Database of Emotional Speech and Song ({RAVDESS})},
  journal = {PLoS ONE},
  volume = {13},
  number = {5},
  pages = {e0196391},
  year = {2018},
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Download Audio_Speech_Actors_01-24.zip from the homepage and unpack it: '
        'MANUAL_DIR/Actor_01/03-01-05-01-02-01-01.wav, ...'
    )

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips; the third number of a name is the emotion, the last the speaker."""
        folder = folder_of(source, cls.name, LAYOUT)
        actors = [path for path in listing(folder) if _FOLDER.fullmatch(path.name) and path.is_dir()]
        if not actors:
            raise InputError(f'{source}: expected RAVDESS ({LAYOUT}), found no folder Actor_01 in it')
        clips: dict[str, Clip] = {}
        skipped: dict[str, str] = {}
        for path in (path for actor in actors for path in listing(actor)):
            if path.suffix.lower() not in audio.SUFFIXES:
                continue
            match = _NAME.fullmatch(path.stem)
            name = f'{path.parent.name}/{path.name}'
            if not match:
                skipped[name] = 'not named by seven numbers, as 03-01-05-01-02-01-01 is'
            elif match[1] != '03' or match[2] != '01':
                skipped[name] = 'not speech alone (its name begins with 03-01)'
            elif f'Actor_{match[7]}' != path.parent.name:
                skipped[name] = f'its name says actor {match[7]}'
            elif path.stem in clips:
                skipped[name] = 'a second file of this clip'
            else:
                clips[path.stem] = Clip(path.stem, LABELS[int(match[3]) - 1], match[7], path)
        if not clips:
            raise InputError(f'{source}: expected RAVDESS ({LAYOUT}), found no clip named so in {actors[0].name}')
        return Found(LABELS, by_id(clips.values()), skipped, published=PUBLISHED)
