"""Sources with exactly the layouts of licensed corpora, and what is odd about them; the audio and labels are made."""

from __future__ import annotations

import json

import numpy as np
import soundfile


def sound(seconds, seed, sample_rate=16000):
    """Noise of a seed that swells as syllables do (what does not is no speech), `[N]` int16."""
    noise = np.random.default_rng(seed).integers(-8000, 8000, round(seconds * sample_rate))
    return (noise * (0.05 + 0.95 * np.sin(2 * np.pi * 3 * np.arange(len(noise)) / sample_rate) ** 2)).astype(np.int16)


def write(path, samples, sample_rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate, subtype='PCM_16')


# Turn, label, start and end; every session also has the other six labels, below.
IEMOCAP_TURNS = (
    ('impro01_F000', 'neu', 6.2901, 8.2357),
    ('impro01_M000', 'ang', 10.01, 11.399),
    ('impro01_F001', 'exc', 14.8872, 18.02),
    ('impro01_M001', 'hap', 19.2900, 20.7875),
    ('script02_2_M002', 'sad', 21.3257, 24.7400),
    ('script02_2_FXX0', 'xxx', 27.0, 28.5),
    ('script02_2_M003', 'fru', 30.0, 31.0),
    ('script02_2_M004', 'sur', 32.0, 33.0),
)


def iemocap(folder, sessions=range(1, 6)):
    """Makes `folder/IEMOCAP_full_release` and returns it: both wearers in each session, 8 turns a wearer."""
    top = folder / 'IEMOCAP_full_release'
    for session in sessions:
        evaluations = top / f'Session{session}' / 'dialog' / 'EmoEvaluation'
        for wearer in 'FM':
            prefix = f'Ses{session:02d}{wearer}_'
            texts = {}
            for n, (turn, label, start, end) in enumerate(IEMOCAP_TURNS):
                id_ = prefix + turn
                dialog = id_.rpartition('_')[0]
                seed = 1000 * session + 100 * (wearer == 'M') + n
                write(top / f'Session{session}/sentences/wav/{dialog}/{id_}.wav', sound(0.35, seed))
                texts.setdefault(dialog, ['% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\r\n\r\n']).append(
                    f'[{start:.4f} - {end:.4f}]\t{id_}\t{label}\t[2.5000, 2.5000, 2.5000]\r\n'
                    'C-E2:\tNeutral;\t()\r\n'
                    f'C-E4:\tAnger;\t(caf\xe9 [1.0 - 2.0] Ses01F_impro01_F000 ang)\r\n'
                    'A-E3:\tval 3; act 2; dom  3;\t()\r\n\r\n'
                )
            for dialog, text in texts.items():
                # One of them as damaged UTF-8: a sequence that is cut off.
                encoded = ''.join(text).encode('latin-1')
                path = evaluations / f'{dialog}.txt'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded.replace(b'\xe9', b'\xe2\x80') if wearer == 'M' else encoded)
                (evaluations / f'._{dialog}.txt').write_bytes(b'\x00\x05\x16\x07' + encoded)
                for inner in ('Attribute', 'Categorical', 'Self-evaluation'):
                    rater = evaluations / inner / f'{dialog}_e1.txt'
                    rater.parent.mkdir(exist_ok=True)
                    rater.write_bytes(encoded.replace(b'\tang\t', b'\tsad\t'))
                wavs = top / f'Session{session}/sentences/wav/{dialog}'
                (wavs / f'._{dialog}_F000.wav').write_bytes(b'\x00\x05\x16\x07')
    return top


M3ED_LABELS = ('Happy', 'Neutral', 'Sad', 'Disgust', 'Anger', 'Fear', 'Surprise')
M3ED_SERIES = {'train': ('anjia', 'fendou'), 'val': ('qinaide',), 'test': ('xiaohuanxi', 'zhihuo')}


def m3ed(folder):
    """Makes M3ED in `folder`, a turn of each label by two speakers in each of five series; returns it."""
    annotation = {}
    for s, series in enumerate(name for names in M3ED_SERIES.values() for name in names):
        dialog = {}
        for n, label in enumerate(M3ED_LABELS):
            role = 'AB'[n % 2]
            id_ = f'{series}_1_{n + 1}'
            dialog[id_] = {
                'StartTime': f'00:0{s}:0{n}:01',
                'EndTime': f'00:0{s}:0{n + 1}:142' if n == 6 else f'  00:0{s}:0{n + 1}:05',
                'Text': '\u4f60\u597d',
                'Speaker': role,
                'EmoAnnotation': {
                    'EmoAnnotator1': 'Neutral',
                    'EmoAnnotator2': 'Sad',
                    'EmoAnnotator3': label,
                    'final_mul_emo': f'{label},Neutral',
                    'final_main_emo': label,
                },
            }
            write(folder / 'modality_speech' / f'{role}_{id_}.wav', sound(0.35, 50 * s + n))
        roles = {
            'A': {'Name': '\u623f\u4f3c\u9526', 'Age': 'mid', 'Gender': 'female', 'OtherName': []},
            'B': {'Name': '\u5f90\u6587\u660c', 'Age': 'mid', 'Gender': 'male', 'OtherName': ['\u8001\u5f90']},
        }
        annotation[series] = {f'{series}_1': {'SpeakerInfo': roles, 'Dialog': dialog}}
    (folder / 'annotation.json').write_text(json.dumps(annotation, ensure_ascii=False), encoding='utf-8')
    for part, names in M3ED_SERIES.items():
        path = folder / 'splitInfo' / f'movie_list_{part}.txt'
        path.parent.mkdir(exist_ok=True)
        path.write_text('\n'.join(names))
    # Two clips are not there.
    (folder / 'modality_speech' / 'A_fendou_1_1.wav').unlink()
    (folder / 'modality_speech' / 'B_zhihuo_1_2.wav').unlink()
    return folder


# Participant, score, binary; 409's binary is wrong in the release.
DAIC_TABLES = {
    'train': ((303, 0, 0), (318, 12, 1), (373, 9, 0), (409, 10, 0), (480, 4, 0)),
    'dev': ((321, 11, 1), (444, 7, 0), (451, 15, 1)),
    'test': ((300, 2, 0), (362, 21, 1)),
}
DAIC_SHIFTS = {318: 34.319917, 321: 3.8379167, 341: 6.1892, 362: 16.8582}
DAIC_NO_INTERVIEWER = (451, 458, 480)
DAIC_INTERRUPTED = {373: (395, 428), 444: (286, 387)}


def daic_times(participant):
    """(start, stop) in the recording of the participant's usable turns."""
    times = [(8.25, 9.5), (12.0, 12.75), (20.5, 24.125)]
    if participant in DAIC_INTERRUPTED:
        first, last = DAIC_INTERRUPTED[participant]
        times += [(first - 3.0, first - 0.5), (last + 0.5, last + 2.0)]
    return [(start + DAIC_SHIFTS.get(participant, 0), stop + DAIC_SHIFTS.get(participant, 0)) for start, stop in times]


def daic_recording(participant):
    """The recording of a session, `[N]` int16; no two seconds of it are alike."""
    seconds = 70 if participant not in DAIC_INTERRUPTED else DAIC_INTERRUPTED[participant][1] + 5
    n = np.arange(16000 * seconds, dtype=np.int64)
    noise = (n * n % 30011 + n * participant) % 16001 - 8000
    return (noise * (0.05 + 0.95 * np.sin(2 * np.pi * 3 * n / 16000) ** 2)).astype(np.int16)


def daic_woz(folder, *, test_scores=True):
    """Makes DAIC-WOZ of ten participants in `folder`; returns it."""
    for part, rows in DAIC_TABLES.items():
        columns = 'Participant_ID,PHQ8_Binary,PHQ8_Score,Gender,PHQ8_NoInterest'
        lines = [f'{i},{binary},{score},1,0' for i, score, binary in rows]
        if part == 'test':
            columns, lines = 'participant_ID,Gender', [f'{i},1' for i, *_ in rows]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{part}_split_Depression_AVEC2017.csv').write_bytes('\r\n'.join([columns, *lines, '']).encode())
        for participant, *_ in rows:
            session = folder / f'{participant}_P'
            recording = daic_recording(participant)
            write(session / f'{participant}_AUDIO.wav', recording)
            shift = DAIC_SHIFTS.get(participant, 0)
            turns = [(start - shift, stop - shift, 'yeah "um" i') for start, stop in daic_times(participant)]
            turns += [(2.0, 3.0, '<sync>'), (30.0, 31.0, 'i live in scrubbed_entry'), (27.0, 26.0, 'no')]
            if participant in DAIC_INTERRUPTED:
                first, last = DAIC_INTERRUPTED[participant]
                turns += [
                    (first - 1, first + 1, 'what'),
                    (first + 10, first + 12, 'oh'),
                    (last - 1, last + 0.2, 'okay'),
                ]
            lines = [(*turn[:2], 'Participant', turn[2]) for turn in turns]
            if participant not in DAIC_NO_INTERVIEWER:
                lines += [(4.0, 7.5, 'Ellie', "hi i'm ellie"), (26.0, 27.5, 'Ellie', 'how are you (how_doingV)')]
            text = ['start_time\tstop_time\tspeaker\tvalue']
            for start, stop, speaker, value in sorted(lines):
                text.append(f'{start:.6f}\t{stop:.6f}\t{speaker}\t{value}')
            text.insert(3, '')
            (session / f'{participant}_TRANSCRIPT.csv').write_text('\n'.join(text) + '\n')
            (session / f'._{participant}_TRANSCRIPT.csv').write_bytes(b'\x00\x05\x16\x07\xb0')
    if test_scores:
        lines = [f'{i},{binary},{score},1' for i, score, binary in DAIC_TABLES['test']]
        (folder / 'full_test_split.csv').write_text('\n'.join(['Participant_ID,PHQ_Binary,PHQ_Score,Gender', *lines]))
    return folder


NEMO_LABELS = ('neutral', 'sadness', 'anger', 'happiness', 'fear', 'surprised')


def nemo(folder):
    """Makes nEMO of two speakers in `folder`, at 24 kHz; returns it."""
    rows = ['file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage']
    for s, speaker in enumerate(('KW', 'SB')):
        for n, label in enumerate(NEMO_LABELS):
            name = f'{speaker}_{label}_{n + 1}'
            write(folder / 'samples' / f'{name}.wav', sound(0.35, 10 * s + n, 24000), 24000)
            rows.append(f'{name}\t{label}\t"Tak", rzek\u0142.\ttak rzek\u0142\t  {speaker}\tfemale\t21')
    (folder / 'data.tsv').write_text('\n'.join(rows) + '\n', encoding='utf-8')
    return folder
