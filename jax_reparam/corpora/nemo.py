"""nEMO: acted Polish emotional speech, 9 speakers, 4,481 clips."""

from __future__ import annotations

from jax_reparam.corpora.builder import Clip, Found, Published, SpeechBuilder, by_id, first_missing, folder_of
from jax_reparam.frontend.audio_files import rows

LABELS = ('neutral', 'sadness', 'anger', 'happiness', 'fear', 'surprised')
PUBLISHED = Published(clips=4481, speakers=9)
LAYOUT = 'SOURCE/data.tsv and SOURCE/samples/SPEAKER_EMOTION_SENTENCE.wav'
COLUMNS = ('file_id', 'emotion', 'speaker_id')


class Nemo(SpeechBuilder):
    """Builds nEMO from the folder that holds `data.tsv` and `samples`; label and speaker are those of the table."""

    LABELS = LABELS
    DESCRIPTION = 'Nine actors speak Polish sentences in six emotions.'
    HOMEPAGE = 'https://huggingface.co/datasets/amu-cai/nEMO'
    CITATION = """@inproceedings{christop2024nemo,
  author = {Christop, Iwona},
  title = {{nEMO}: Dataset of Emotional Speech in {Polish}},
  booktitle = {LREC-COLING},
  year = {2024},
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Download nEMO from its homepage: MANUAL_DIR/data.tsv, MANUAL_DIR/samples/SPEAKER_EMOTION_SENTENCE.wav, ...'
    )

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the clips of the table; those whose file is missing are skipped."""
        top = folder_of(source, cls.name, LAYOUT)
        first_missing(top, 'nEMO', ['data.tsv', 'samples'], LAYOUT)
        clips: dict[str, Clip] = {}
        labels: dict[str, str] = {}
        skipped: dict[str, str] = {}
        conflicts: dict[str, str] = {}
        # Sentences hold quotation marks of their own.
        for _, (file, label, speaker) in rows(top / 'data.tsv', COLUMNS, plain=True):
            id_ = file.removesuffix('.wav')
            path = top / 'samples' / f'{id_}.wav'
            named = [other for other in LABELS if f'_{other}_' in id_]
            if label != labels.setdefault(id_, label):
                conflicts[id_] = f'listed as {labels[id_]} and as {label}'
            elif named and named != [label]:
                conflicts[id_] = f'listed as {label}, and named {named[0]}'
            elif label not in LABELS or not speaker:
                skipped[id_] = f'expected one of {", ".join(LABELS)} and a speaker, found {label!r} and {speaker!r}'
            elif not path.is_file():
                skipped[id_] = 'no such file'
            else:
                clips[id_] = Clip(id_, label, speaker, path)
        return Found(LABELS, by_id(clips.values(), without=conflicts), skipped, conflicts, published=PUBLISHED)
