"""DAIC-WOZ: English interviews of 189 participants, some of them depressed; the participants' turns alone.

Faults of the release that are known, and where from:

* The documentation that comes with the corpus (DAIC-WOZ Depression Database, "Included sessions with special notes")
  names sessions 342, 394, 398 and 460 as excluded, 373 and 444 as interrupted and 451, 458 and 480 as without the
  interviewer's transcript.
* Bailey and Plumbley, Gender Bias in Depression Detection Using Audio Features (EUSIPCO 2021, arXiv 2010.15120),
  publish with their code (github.com/adbailey1/DepAudioNet_reproduction, exp_run/config_process.py) which transcripts
  are shifted against their audio and by how much, the wrong label of 409, and the times of the interruptions. For 373
  they give 395 to 428 s, where the documentation says "around 5:52-7:00" (352 to 420 s): theirs is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from etils import epath

from jax_reparam.corpora.builder import Clip, Found, Part, Published, SpeechBuilder, by_id, first_missing, folder_of
from jax_reparam.errors import InputError
from jax_reparam.frontend.audio_files import listing, rows

LABELS = ('not depressed', 'depressed')
# Of the PHQ-8 questionnaire, 0 to 24.
DEPRESSED_SCORE = 10
EXCLUDED = (342, 394, 398, 460)
# Seconds of the recording in which others come in.
INTERRUPTED = {373: (395.0, 428.0), 444: (286.0, 387.0)}
NO_INTERVIEWER = (451, 458, 480)
# Seconds to add to the times of a transcript.
SHIFTED = {318: 34.319917, 321: 3.8379167, 341: 6.1892, 362: 16.8582}
# Participants whose PHQ8_Binary is known to contradict their score, which is right.
WRONG_BINARY = (409,)

SPLITS: dict[Part, str] = {
    'train': 'train_split_Depression_AVEC2017.csv',
    'validation': 'dev_split_Depression_AVEC2017.csv',
    'test': 'test_split_Depression_AVEC2017.csv',
}
# Scores of the test participants, published after the challenge.
TEST_SCORES = 'full_test_split.csv'
PARTICIPANTS = {'train': 107, 'validation': 35, 'test': 47}
LAYOUT = (
    f'SOURCE/{SPLITS["train"]}, dev_ and test_ likewise, {TEST_SCORES}, '
    'SOURCE/300_P/300_AUDIO.wav and SOURCE/300_P/300_TRANSCRIPT.csv'
)

# What is written for sounds that are no speech of the interview: the signal that synchronises, names taken out.
_NO_SPEECH = re.compile(r'[<\[](sync|synch|syncing|synching)[>\].]|scrubbed_entry', re.IGNORECASE)
_SESSION = re.compile(r'(\d{3})_P', re.ASCII)


class DaicWoz(SpeechBuilder):
    """Builds DAIC-WOZ from the folder that holds its split tables and the folders `300_P` to `492_P`.

    A clip is one line of the participant in the transcript, cut from the recording; the interviewer's are left out, for
    her questions tell the label. A speaker is a participant; the label is the participant's: a PHQ-8 score of 10 or
    more is `depressed`. Test participants are there if `full_test_split.csv` is.
    """

    LABELS = LABELS
    DESCRIPTION = 'Participants talk to an interviewer on a screen; their PHQ-8 scores say whether they are depressed.'
    HOMEPAGE = 'https://dcapswoz.ict.usc.edu'
    CITATION = """@inproceedings{gratch2014distress,
  author = {Gratch, Jonathan and Artstein, Ron and Lucas, Gale and Stratou, Giota and Scherer, Stefan and Nazarian,
    Angela and Wood, Rachel and Boberg, Jill and DeVault, David and Marsella, Stacy and Traum, David and Rizzo, Skip and
    Morency, Louis-Philippe},
  title = {The Distress Analysis Interview Corpus of human and computer interviews},
  booktitle = {LREC},
  year = {2014},
}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        'Ask for DAIC-WOZ with the agreement at its homepage and unpack it: MANUAL_DIR/300_P/300_AUDIO.wav, '
        f'MANUAL_DIR/300_P/300_TRANSCRIPT.csv, ..., and the tables MANUAL_DIR/{SPLITS["train"]}, '
        f'{SPLITS["validation"]}, {SPLITS["test"]} and {TEST_SCORES}.'
    )

    @classmethod
    def find(cls, source: str, config: str = '') -> Found:
        """Lists the participants' turns by the transcripts; no recording is opened."""
        top = folder_of(source, cls.name, LAYOUT)
        first_missing(top, 'DAIC-WOZ', tuple(SPLITS.values()), LAYOUT)
        if not any(_SESSION.fullmatch(path.name) for path in listing(top)):
            raise InputError(f'{source}: expected DAIC-WOZ ({LAYOUT}), found no folder 300_P in it')
        clips: list[Clip] = []
        skipped: dict[str, str] = {}
        conflicts: dict[str, str] = {}
        notes: list[str] = []
        tables: list[tuple[Part, epath.Path]] = [(part, top / name) for part, name in SPLITS.items()]
        published = dict(PARTICIPANTS)
        scored = (top / TEST_SCORES).is_file()
        if scored:
            tables[2] = 'test', top / TEST_SCORES
        elif not any(score is not None for _, score, _ in _scores(tables[2][1])):
            notes.append(f'Its test participants have no labels without {TEST_SCORES}, and are left out.')
            del tables[2], published['test']
        parts: dict[int, Part] = {}
        for part, table in tables:
            for participant, score, binary in _scores(table):
                if parts.setdefault(participant, part) != part:
                    raise InputError(f'{table}: expected a participant in one table, found {participant} in two')
                speaker = str(participant)
                folder = top / f'{participant}_P'
                transcript = folder / f'{participant}_TRANSCRIPT.csv'
                recording = folder / f'{participant}_AUDIO.wav'
                if participant in EXCLUDED:
                    skipped[speaker] = 'a session that the release excludes'
                elif score is None:
                    skipped[speaker] = f'no score in {table.name}'
                elif binary is not None and binary != (score >= DEPRESSED_SCORE) and participant not in WRONG_BINARY:
                    conflicts[speaker] = f'a score of {score}, and {int(binary)} as PHQ8_Binary'
                elif not transcript.is_file() or not recording.is_file():
                    lacking = recording if transcript.is_file() else transcript
                    skipped[speaker] = f'no such file: {folder.name}/{lacking.name}'
                else:
                    label = LABELS[score >= DEPRESSED_SCORE]
                    for id_, start, end, why in _turns(transcript, participant):
                        if why:
                            skipped[id_] = why
                        else:
                            clips.append(Clip(id_, label, speaker, recording, '', part, start, end, cut=True))
        return Found(LABELS, by_id(clips), skipped, conflicts, tuple(notes), Published(part_speakers=published))


def _scores(table: epath.Path) -> Iterator[tuple[int, int | None, bool | None]]:
    """Rows of a split table: participant, PHQ-8 score and binary, as far as they are given.

    The tables write their columns in several ways: Participant_ID and participant_ID, PHQ8_Score and PHQ_Score.
    """
    names = ('PHQ8_Score', 'PHQ_Score'), ('PHQ8_Binary', 'PHQ_Binary')
    for line, cells in rows(table, ('Participant_ID',), optional=(*names[0], *names[1])):
        values = cells[0], cells[1] or cells[2], cells[3] or cells[4]
        if not values[0]:
            continue
        try:
            participant, score, binary = (int(float(value)) if value else None for value in values)
        except (ValueError, OverflowError):
            raise InputError(f'{table}: expected numbers in line {line}, found {", ".join(values)}') from None
        assert participant is not None
        yield participant, score, None if binary is None else bool(binary)


def _turns(transcript: epath.Path, participant: int) -> Iterator[tuple[str, float, float, str]]:
    """The participant's turns: id, start and end in the recording in seconds, and why it cannot be used or ''.

    Raises:
      InputError: no transcript, or one without the interviewer that is not known to be so.
    """
    shift = SHIFTED.get(participant, 0.0)
    from_, to = INTERRUPTED.get(participant, (0.0, 0.0))
    speakers = set()
    columns = ('start_time', 'stop_time', 'speaker', 'value')
    for number, (_, cells) in enumerate(rows(transcript, columns, plain=True), 1):
        start_text, stop_text, speaker, value = cells
        speakers.add(speaker)
        if speaker != 'Participant':
            continue
        id_ = f'{participant}_{number:04d}'
        try:
            start, stop = float(start_text) + shift, float(stop_text) + shift
        except ValueError:
            yield id_, 0.0, 0.0, f'expected two times, found {start_text!r} and {stop_text!r}'
            continue
        why = ''
        if not (math.isfinite(start) and math.isfinite(stop)):
            why = f'expected two times, found {start_text!r} and {stop_text!r}'
            start = stop = 0.0
        elif stop <= start:
            why = f'ends at {stop_text} s and starts at {start_text} s'
        elif start < to and stop > from_:
            why = f'in the interruption of the session from {from_:g} to {to:g} s'
        elif _NO_SPEECH.search(value):
            why = f'no speech of the interview: {value}'
        yield id_, start, stop, why
    if 'Participant' not in speakers:
        raise InputError(f'{transcript}: expected turns of Participant, found those of {", ".join(sorted(speakers))}')
    if 'Ellie' not in speakers and participant not in NO_INTERVIEWER:
        # Her questions would then be in what counts as the participant's turns, or the file is not what it should be.
        raise InputError(f'{transcript}: expected turns of Ellie too, found those of Participant alone')
