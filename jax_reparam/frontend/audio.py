"""Audio in: WAV, FLAC, MP3 or OGG of any rate and channel count becomes int16 mono at one rate."""

from __future__ import annotations

import errno
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

READABLE = 'WAV, FLAC, MP3 or OGG'
# Of the files that are looked for in folders; the second row is audio that no reader here decodes, and that says so.
SUFFIXES = (
    *('.wav', '.flac', '.mp3', '.ogg', '.oga', '.opus'),
    *('.m4a', '.aac', '.mp4', '.wma', '.amr', '.webm', '.aif', '.aiff', '.au', '.caf', '.w64', '.sph', '.3gp'),
)
SHORTEST_SECONDS = 0.1
# Dither alone moves a sample by one step to either side; a clip that never leaves this span holds no sound.
SILENT_SPAN = 2

_FORMATS = ('WAV', 'WAVEX', 'RF64', 'FLAC', 'MP3', 'OGG')
_RATES = (1000, 768000)
# Samples that are read, and that are mixed and resampled, at a time.
_READ, _BLOCK = 1 << 17, 1 << 16
# Programs that write WAV to a pipe cannot go back to fill in the length, and leave a number near the largest there is.
_LENGTH_UNKNOWN = 0x7FFF0000
# Samples beyond it (24 dB above full scale) are no recording's: they are those of integers, or damaged.
_LOUDEST_FLOAT = 16.0
# Of the loudest channel's power (7 dB). A voice in one of two channels with noise loses 6 dB in their mean; what loses
# more cancels, or lies in few of many.
_LEAST_MEAN = 0.2
# Bytes that programs leave behind the audio: padding, or an ID3 tag of 128 bytes.
_TRAILING = 1024
# What libsndfile gives for FLAC that was written to a pipe, and then cannot read (1.2.2).
_NO_LENGTH = 1 << 62


class AudioError(InputError):
    """A file is not the audio it should be; the message is `file: expected ..., found ...`."""


def open_file(path: Path) -> BinaryIO:
    """Opens a file to read it; `path` may also be epath's.

    Raises:
      OSError: there is none, or it is a pipe or a device, which may never end.
    """
    # By pathlib: epath takes all that is no folder for a file, and a path in a cloud is none of a device.
    here = Path(os.fspath(path))
    if here.exists() and not here.is_file() and not here.is_dir():
        raise OSError(errno.EINVAL, 'a pipe or a device', str(path))
    return path.open('rb')


def read(path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Reads one audio file as mono int16.

    Args:
      path: the file: WAV, FLAC, MP3 or OGG (Vorbis, Opus), whatever its name.
      sample_rate: samples per second of the result; other rates are resampled (soxr, high quality).

    Returns:
      `[N]` int16, of the channels what `mono` says. 16-bit mono at `sample_rate` comes back bit for bit.

    Raises:
      AudioError: the file is missing, unreadable, a pipe or a device, of another format, of another length than its
        header says, empty, or holds samples that are no audio.
    """
    try:
        with open_file(Path(path)) as file:
            data = file.read()
    except FileNotFoundError:
        raise AudioError(f'{path}: expected a {READABLE} file, found nothing there') from None
    except (OSError, ValueError) as error:  # of a name with a zero byte, a ValueError
        found = error.strerror if isinstance(error, OSError) else error
        raise AudioError(f'{path}: expected a readable {READABLE} file, found: {found}') from None
    return decode(data, str(path), sample_rate)


def decode(data: bytes, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decodes the bytes of one audio file; see `read`, which gives them. `name` stands in the errors."""
    import soundfile

    if not data:
        raise AudioError(f'{name}: expected {READABLE} audio, found an empty file')
    if data[:4] in (b'RIFF', b'RF64'):
        data = _whole(data, name)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.format not in _FORMATS:
                raise AudioError(f'{name}: expected {READABLE} audio, found {file.format_info}')
            if file.frames >= _NO_LENGTH:
                raise AudioError(f'{name}: expected FLAC that says its length, found a stream; write it to a file anew')
            return _mono(file, 0, file.frames, name, sample_rate)
    except soundfile.LibsndfileError as error:
        known = data[:4] in (b'RIFF', b'RF64', b'fLaC', b'OggS') or data[:3] == b'ID3'
        found = 'a damaged or truncated one' if known else 'something else'
        raise AudioError(f'{name}: expected {READABLE} audio, found {found} ({error.error_string})') from None


def decode_cut(file: BinaryIO, name: str, start: float, end: float | None) -> np.ndarray:
    """Decodes a part of a long audio file, reading that part alone.

    Args:
      file: the opened file.
      name: what to call the cut in errors.
      start: where it begins, in seconds.
      end: where it ends; None, or an end beyond the file: where the file ends.

    Returns:
      `[N]` int16 at `SAMPLE_RATE`, as `read` makes it.

    Raises:
      AudioError: another format, no audio at `start`, or samples that are no audio.
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
            return _mono(sound, first, last, name, SAMPLE_RATE)
    except soundfile.LibsndfileError as error:
        raise AudioError(f'{name}: expected {READABLE} audio, found something else ({error.error_string})') from None


def _mono(file: SoundFile, first: int, last: int, name: str, sample_rate: int) -> np.ndarray:
    """Samples `first` to `last` of an opened file, as `read` gives them."""
    file.seek(first)
    samples, loudest = _mixed(_blocks(file, last - first), file.samplerate, name, sample_rate)
    # A header may promise more than a truncated file holds.
    if (count := file.tell() - first) < last - first:
        raise AudioError(f'{name}: expected {last - first:,} samples, found {count:,}')
    if loudest is not None:
        file.seek(first)
        alone = (block[:, loudest : loudest + 1] for block in _blocks(file, last - first))
        samples, _ = _mixed(alone, file.samplerate, name, sample_rate)
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
      would else lose 15.6 dB. `read` and `decode_cut` take the loudest channel alone where the mean is more than 7 dB
      below it: where one channel is the other upside down, or one of many holds the voice and the others noise.

    Raises:
      AudioError: no sample, a rate that no recording has, or samples that are not finite, or far beyond full scale.
    """
    return _mixed(blocks, rate, name, sample_rate)[0]


def samples_of(array: np.ndarray, rate: int | None, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """One channel in memory, as `read` gives a file: int16 at `sample_rate`.

    Args:
      array: `[N]` int16, or float32 or float64 with a full scale of 1.
      rate: samples per second of `array`; None: `sample_rate`.
      name: what to call it in errors.
      sample_rate: samples per second of the result; other rates are resampled as `read` does.

    Raises:
      AudioError: no such array, no sample, samples that are not finite or far beyond full scale, or a rate that no
        recording has.
    """
    kinds = (np.int16, np.float32, np.float64)
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype not in kinds:
        found = f'{list(array.shape)} {array.dtype}' if isinstance(array, np.ndarray) else type(array).__name__
        raise AudioError(f'{name}: expected [N] int16, or float with a full scale of 1, found {found}')
    if array.dtype == np.int16 and rate in (None, sample_rate) and len(array):
        return array
    wide = array if array.dtype == np.int16 else array.astype(np.float32)
    return mono([wide[:, None]], sample_rate if rate is None else rate, name, sample_rate)


def _mixed(blocks: Iterable[np.ndarray], rate: int, name: str, sample_rate: int) -> tuple[np.ndarray, int | None]:
    """What `mono` gives, and the loudest channel if the mean has lost most of it."""
    import soxr

    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f'{name}: expected a sample rate of {_RATES[0]:,} to {_RATES[1]:,} Hz, found {rate:,}')
    # As soxr.resample gives it, bit for bit, but in pieces that stay in the processor's cache.
    stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1)
    done: list[np.ndarray] = []
    count, bad, used, peak = 0, 0, np.zeros(1, bool), 0.0
    power, mixed_power = np.zeros(1), 0.0
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
        else:
            peak = max(peak, float(np.abs(block).max(initial=0)))
        mixed = block[:, 0]
        if block.shape[1] > 1:
            # As block.mean(axis=1), which takes longer than the resampling: its axis is short.
            mixed = sum(block.T[1:], start=mixed) / block.shape[1]
            power = power + [np.dot(one, one) for one in block.T.astype(np.float64)]
            mixed_power += float(np.dot(mixed, mixed.astype(np.float64)))
        done.append(mixed if stream is None else stream.resample_chunk(mixed))
    if not count:
        raise AudioError(f'{name}: expected audio, found 0 samples')
    if bad:
        raise AudioError(f'{name}: expected finite samples, found {bad:,} that are NaN or infinite')
    if peak > _LOUDEST_FLOAT:
        raise AudioError(
            f'{name}: expected float samples with a full scale of 1, found up to {peak:.6g} '
            '(16-bit samples saved as float: divide them by 32,768)'
        )
    if stream is not None:
        done.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    # Which channels are silent is known at the end alone.
    gain = np.float32(len(used) / max(1, used.sum()))
    samples = np.concatenate([piece if piece.dtype == np.int16 else _pcm(piece, gain) for piece in done])
    lost = mixed_power * float(gain) ** 2 < _LEAST_MEAN * power.max()
    return samples, int(power.argmax()) if lost else None


def _blocks(file: SoundFile, count: int) -> Iterator[np.ndarray]:
    """Reads on, at most `count` samples, and gives them in blocks as `mono` takes them."""
    # libsndfile's own conversion of integers to float takes as long as the resampling.
    dtype = 'int16' if file.subtype == 'PCM_16' else 'float32'
    # Not all at once, because a damaged header may promise more than fits in memory.
    while len(samples := file.read(min(count, _READ), dtype=dtype, always_2d=True)):
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


def _whole(data: bytes, name: str) -> bytes:
    """The bytes of a RIFF or RF64 file; libsndfile takes one that is longer or shorter than its `data` chunk says.

    A length of 0, or of nearly 4 GB, is what a recorder leaves that could not go back to write it: then all that
    follows is the audio, as it is where RF64 says no other length.

    Raises:
      AudioError: the audio ends before the header says, or goes on after it.
    """
    at, long = 12, None
    while at + 8 <= len(data):
        chunk, length = struct.unpack_from('<4sI', data, at)
        start = at + 8
        if chunk == b'ds64' and start + 16 <= len(data):
            (long,) = struct.unpack_from('<Q', data, start + 8)
        if chunk == b'data':
            if length == 0xFFFFFFFF and long:
                length = long
            elif length >= _LENGTH_UNKNOWN:
                return data
            rest = len(data) - start
            if length == 0 and rest and not _are_chunks(data, start):
                return data[: at + 4] + struct.pack('<I', min(rest, _LENGTH_UNKNOWN)) + data[start:]
            if length > rest:
                raise AudioError(
                    f'{name}: expected the audio that its header promises, found {length - rest:,} bytes too few'
                )
            behind = rest - length
            if behind > _TRAILING and not _are_chunks(data, start + length + length % 2):
                raise AudioError(
                    f'{name}: expected the {length:,} bytes of audio that its header promises, found {behind:,} more '
                    'behind them; write it to a file anew'
                )
            return data
        at = start + length + length % 2
    return data


def _are_chunks(data: bytes, at: int) -> bool:
    """Whether the file goes on as a RIFF file does: with a chunk whose name is text and that ends within the file."""
    if at + 8 > len(data):
        return True
    chunk, length = struct.unpack_from('<4sI', data, at)
    return all(32 <= byte < 127 for byte in chunk) and at + 8 + length <= len(data) + 1
