"""Audio in: WAV or FLAC of any rate and channel count becomes int16 mono at one rate."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from jax_reparam.errors import InputError

if TYPE_CHECKING:
    from soundfile import SoundFile

SAMPLE_RATE = 16000

# Of the files that are looked for in folders.
SUFFIXES = ('.wav', '.flac')
SHORTEST_SECONDS = 0.1
# Dither alone moves a sample by one step to either side; a clip that never leaves this span holds no sound.
SILENT_SPAN = 2

_FORMATS = ('WAV', 'WAVEX', 'RF64', 'FLAC')
_RATES = (1000, 768000)
# Samples that are read, and that are mixed and resampled, at a time.
_READ, _BLOCK = 1 << 17, 1 << 16
# Programs that write WAV to a pipe cannot go back to fill in the length, and leave a number near the largest there is.
_LENGTH_UNKNOWN = 0x7FFF0000
# What libsndfile gives for FLAC that was written to a pipe, and then cannot read (1.2.2).
_NO_LENGTH = 1 << 62


class AudioError(InputError):
    """A file is not the audio it should be; the message is `file: expected ..., found ...`."""


def read(path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Reads one WAV or FLAC file as mono int16.

    Args:
      path: the file.
      sample_rate: samples per second of the result; other rates are resampled (soxr, high quality).

    Returns:
      `[N]` int16, the mean of the channels in which there is anything. 16-bit mono at `sample_rate` comes back bit for
      bit.

    Raises:
      AudioError: the file is missing, unreadable, not WAV or FLAC, shorter than its header says, empty, or holds NaN or
        infinite samples.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise AudioError(f'{path}: expected a WAV or FLAC file, found nothing there') from None
    except OSError as error:
        raise AudioError(f'{path}: expected a readable WAV or FLAC file, found: {error.strerror}') from None
    return decode(data, str(path), sample_rate)


def decode(data: bytes, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decodes the bytes of one WAV or FLAC file; see `read`, which gives them. `name` stands in the errors."""
    import soundfile

    if not data:
        raise AudioError(f'{name}: expected WAV or FLAC audio, found an empty file')
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            if file.format not in _FORMATS:
                raise AudioError(f'{name}: expected WAV or FLAC audio, found {file.format_info}')
            if file.frames >= _NO_LENGTH:
                raise AudioError(f'{name}: expected FLAC that says its length, found a stream; write it to a file anew')
            if data[:4] == b'RIFF' and (missing := _missing_bytes(data)):
                raise AudioError(
                    f'{name}: expected the audio that its header promises, found {missing:,} bytes too few'
                )
            return mono(_blocks(file), rate, name, sample_rate)
    except soundfile.LibsndfileError as error:
        found = 'a damaged or truncated one' if data[:4] in (b'RIFF', b'RF64', b'fLaC') else 'something else'
        raise AudioError(f'{name}: expected WAV or FLAC audio, found {found} ({error.error_string})') from None


def decode_cut(file: BinaryIO, name: str, start: float, end: float | None) -> np.ndarray:
    """Decodes a part of a long WAV or FLAC file, reading that part alone.

    Args:
      file: the opened file.
      name: what to call the cut in errors.
      start: where it begins, in seconds.
      end: where it ends; None, or an end beyond the file: where the file ends.

    Returns:
      `[N]` int16 at `SAMPLE_RATE`, as `read` makes it.

    Raises:
      AudioError: not WAV or FLAC, no audio at `start`, or samples that are not finite.
    """
    import soundfile

    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            first = round(start * rate)
            last = sound.frames if end is None else min(round(end * rate), sound.frames)
            if not 0 <= first < last:
                raise AudioError(
                    f'{name}: expected audio from {start:.3f} s on, found {sound.frames / rate:.3f} s of it in all'
                )
            sound.seek(first)
            samples = mono(_blocks(sound, last - first), rate, name)
            count = sound.tell() - first
    except soundfile.LibsndfileError as error:
        raise AudioError(f'{name}: expected WAV or FLAC audio, found something else ({error.error_string})') from None
    if count < last - first:
        # A header may promise more than a truncated file holds.
        raise AudioError(f'{name}: expected {last - first:,} samples, found {count:,}')
    return samples


def mono(blocks: Iterable[np.ndarray], rate: int, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Mixes and resamples decoded audio; see `read`.

    Args:
      blocks: the audio in pieces, `[N, channels]` int16, or float32 with a full scale of 1.
      rate: samples per second of `blocks`.
      name: what to call it in errors.
      sample_rate: samples per second of the result.

    Returns:
      `[M]` int16, the mean of the channels, without those that hold nothing but zeros: a voice in one channel of 5.1
      would else lose 15.6 dB.

    Raises:
      AudioError: no sample, a rate that no recording has, or samples that are not finite.
    """
    import soxr

    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f'{name}: expected a sample rate of {_RATES[0]:,} to {_RATES[1]:,} Hz, found {rate:,}')
    # As soxr.resample gives it, bit for bit, but in pieces that stay in the processor's cache.
    stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1)
    done: list[np.ndarray] = []
    count, bad, used = 0, 0, np.zeros(1, bool)
    for block in blocks:
        count += len(block)
        used = used | block.any(axis=0)
        if block.dtype == np.int16:
            if block.shape[1] == 1 and stream is None:
                done.append(block[:, 0])
                continue
            block = block * np.float32(1 / 32768)
        elif wrong := int(np.sum(~np.isfinite(block))):
            bad += wrong
            continue
        mixed = block[:, 0]
        if block.shape[1] > 1:
            # As block.mean(axis=1), which takes longer than the resampling: its axis is short.
            mixed = sum(block.T[1:], start=mixed) / block.shape[1]
        done.append(mixed if stream is None else stream.resample_chunk(mixed))
    if not count:
        raise AudioError(f'{name}: expected audio, found 0 samples')
    if bad:
        raise AudioError(f'{name}: expected finite samples, found {bad:,} that are NaN or infinite')
    if stream is not None:
        done.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    # Which channels are silent is known at the end alone.
    gain = np.float32(len(used) / max(1, used.sum()))
    return np.concatenate([piece if piece.dtype == np.int16 else _pcm(piece, gain) for piece in done])


def _blocks(file: SoundFile, count: float = float('inf')) -> Iterator[np.ndarray]:
    """Reads on, at most `count` samples, and gives them in blocks as `mono` takes them."""
    # libsndfile's own conversion of integers to float takes as long as the resampling.
    dtype = 'int16' if file.subtype == 'PCM_16' else 'float32'
    # Not all at once, because a damaged header may promise more than fits in memory.
    while len(samples := file.read(int(min(count, _READ)), dtype=dtype, always_2d=True)):
        count -= len(samples)
        for start in range(0, len(samples), _BLOCK):
            yield samples[start : start + _BLOCK]


def _pcm(samples: np.ndarray, gain: np.float32) -> np.ndarray:
    scaled = np.rint(samples * (gain * np.float32(32768)))
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def check(audio: np.ndarray, name: str, sample_rate: int = SAMPLE_RATE, *, sound: bool = False) -> None:
    """Refuses a clip that is too short to be heard.

    Args:
      audio: `[N]` int16.
      name: what to call the clip in the error.
      sample_rate: samples per second.
      sound: also refuse silence, which nobody can have labelled: all samples within two steps of one another.

    Raises:
      AudioError: no sample, less than 0.1 s, or silence where sound is asked for.
    """
    if not len(audio):
        raise AudioError(f'{name}: expected audio, found 0 samples')
    if len(audio) < SHORTEST_SECONDS * sample_rate:
        raise AudioError(f'{name}: expected at least {SHORTEST_SECONDS} s, found {len(audio) / sample_rate:.3f} s')
    if sound and int(audio.max()) - int(audio.min()) <= SILENT_SPAN:
        raise AudioError(f'{name}: expected sound, found silence')


def _missing_bytes(data: bytes) -> int:
    """How many bytes of its `data` chunk a RIFF file lacks; libsndfile refuses short FLAC, but not short WAV."""
    at = 12
    while at + 8 <= len(data):
        chunk, length = struct.unpack_from('<4sI', data, at)
        if chunk == b'data':
            return 0 if length >= _LENGTH_UNKNOWN else max(0, at + 8 + length - len(data))
        at += 8 + length + length % 2
    return 0
