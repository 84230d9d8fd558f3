"""Audio in: WAV, FLAC, MP3 or OGG of any rate and channel count becomes int16 mono at one rate."""

from __future__ import annotations

import errno
import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from jax_reparam.errors import InputError
from jax_reparam.progress import Progress

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
# From here on work on a recording reports how far it is.
LONG_SECONDS = 600.0
# Dither alone moves a sample by one step to either side; a clip that never leaves this span holds no sound.
SILENT_SPAN = 2

_FORMATS = ('WAV', 'WAVEX', 'RF64', 'FLAC', 'MP3', 'OGG')
_RATES = (1000, 768000)
# Samples that are read, and that are mixed and resampled, at a time.
_READ, _BLOCK = 1 << 17, 1 << 16
# Bytes that are read ahead.
_BUFFER = 1 << 16
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
# The first bytes of a layer III frame, MPEG-1 to 2.5.
_MP3 = (b'\xff\xfb', b'\xff\xfa', b'\xff\xf3', b'\xff\xf2', b'\xff\xe3', b'\xff\xe2')
# Bytes by which an MP3 seems longer that does not say its length; no guess of the samples is then less than a quarter
# of it (at most 320 kbit/s, at least 32,000 samples a second in MPEG-1: 1.25 bytes a sample).
_LONGER = 1 << 40
# Where a Xing tag can be in an MP3 frame: after a header of 4 bytes, and 9, 17 or 32 of side information.
_XING_AT = (13, 21, 36)
# Bytes of an ID3 tag at the end of a file.
_ID3 = 128


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
        header says, empty, shorter than 0.1 s, or holds samples that are no audio.
    """
    return np.concatenate(list(blocks(path, sample_rate)))


def blocks(
    path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE, *, show_progress: bool = False
) -> Iterator[np.ndarray]:
    """Reads one audio file as `read` does, a block at a time: a recording of any length takes the same memory.

    Some faults of a file show at its end, after the blocks before it.

    Args:
      path: see `read`.
      sample_rate: see `read`.
      show_progress: report on standard error how far a long file is read.

    Yields:
      The samples in order, `[n]` int16, any n.

    Raises:
      AudioError: see `read`.
    """
    try:
        file = open_file(Path(path))
    except FileNotFoundError:
        raise AudioError(f'{path}: expected a {READABLE} file, found nothing there') from None
    except (OSError, ValueError) as error:  # of a name with a zero byte, a ValueError
        found = error.strerror if isinstance(error, OSError) else error
        raise AudioError(f'{path}: expected a readable {READABLE} file, found: {found}') from None
    count = 0
    with file:
        for block in _decoded(file, str(path), sample_rate, show_progress=show_progress):
            count += len(block)
            if len(block):
                yield block
    _check_length(count, str(path), sample_rate)


def decode(data: bytes, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decodes the bytes of one audio file of any length; see `read`. `name` stands in the errors."""
    return np.concatenate(list(_decoded(io.BytesIO(data), name, sample_rate)))


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
    return np.concatenate(list(_decoded(file, name, SAMPLE_RATE, start, end)))


def _decoded(
    file: BinaryIO,
    name: str,
    sample_rate: int,
    start: float = 0.0,
    end: float | None = None,
    *,
    show_progress: bool = False,
) -> Iterator[np.ndarray]:
    """The blocks of a part of an opened file, in seconds."""
    import soundfile

    seen = _Seen(file)
    head = seen.read(4)
    seen.check(name)
    if not head:
        raise AudioError(f'{name}: expected {READABLE} audio, found an empty file')
    if head in (b'RIFF', b'RF64'):
        _whole(seen, name)
    try:
        source = _Source(seen, name, start, end, show_progress=show_progress)
        yield from _mixed(source, source.channels, source.rate, name, sample_rate)
    except soundfile.LibsndfileError as error:
        seen.check(name)
        known = head in (b'RIFF', b'RF64', b'fLaC', b'OggS') or head[:3] == b'ID3' or head[:2] in _MP3
        found = 'a damaged or truncated one' if known else 'something else'
        raise AudioError(f'{name}: expected {READABLE} audio, found {found} ({error.error_string})') from None


class _Source:
    """The samples of a part of an audio file, in blocks as `mono` takes them; each pass over them opens it anew.

    Attributes:
      rate: samples per second.
      channels: their number.
    """

    def __init__(self, file: _Seen, name: str, start: float, end: float | None, *, show_progress: bool = False) -> None:
        # libsndfile reads some formats by bytes.
        self._seen, self._file = file, io.BufferedReader(file, _BUFFER)
        self._name, self._show_progress = name, show_progress
        sound = self._opened()
        if sound.format == 'MP3' and not _counted(self._file):
            file.longer(_LONGER)
            sound = self._opened()
        with sound:
            if sound.format not in _FORMATS:
                raise AudioError(f'{name}: expected {READABLE} audio, found {sound.format_info}')
            if sound.frames >= _NO_LENGTH:
                raise AudioError(f'{name}: expected FLAC that says its length, found a stream; write it to a file anew')
            self.rate, self.channels, frames = sound.samplerate, sound.channels, sound.frames
        self._known = frames < _LONGER >> 2
        self._first = round(start * self.rate)
        self._last = frames if end is None else min(round(end * self.rate), frames)
        if not 0 <= self._first < max(1, self._last):
            raise AudioError(
                f'{name}: expected audio from {start:.3f} s on, found {frames / self.rate:.3f} s of it in all'
            )

    def _opened(self) -> SoundFile:
        import soundfile

        self._file.seek(0)
        return soundfile.SoundFile(self._file)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields `[n, channels]` int16, or float32 with a full scale of 1.

        Raises:
          AudioError: the file ends before its header says.
        """
        count, told = self._last - self._first, 0
        minutes = count // self.rate // 60
        bar = Progress(
            minutes,
            f'{self._name}: reading',
            unit='min',
            enabled=self._show_progress and self._known and 60 * minutes >= LONG_SECONDS,
        )
        # Opened anew, because an MP3 gives other samples after a step back than from its beginning.
        with self._opened() as sound:
            sound.seek(self._first)
            # libsndfile's own conversion of integers to float takes as long as the resampling.
            dtype = 'int16' if sound.subtype == 'PCM_16' else 'float32'
            # Not all at once, because a damaged header may promise more than fits in memory.
            while len(samples := sound.read(min(count, _READ), dtype=dtype, always_2d=True)):
                count -= len(samples)
                for start in range(0, len(samples), _BLOCK):
                    yield samples[start : start + _BLOCK]
                while told < (self._last - self._first - count) // self.rate // 60:
                    told += 1
                    bar.update()
        bar.close()
        self._seen.check(self._name)
        if count and self._known:
            promised = self._last - self._first
            raise AudioError(f'{self._name}: expected {promised:,} samples, found {promised - count:,}')


def mono(blocks: Sequence[np.ndarray], rate: int, name: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Mixes and resamples decoded audio; see `read`.

    Args:
      blocks: the audio in pieces, `[N, channels]` int16, or float32 with a full scale of 1.
      rate: samples per second of `blocks`.
      name: what to call it in errors.
      sample_rate: samples per second of the result.

    Returns:
      `[M]` int16, the mean of the channels, without those that hold nothing but zeros: a voice in one channel of 5.1
      would else lose 15.6 dB. The loudest channel alone where the mean is more than 7 dB below it: where one channel
      is the other upside down, or one of many holds the voice and the others noise.

    Raises:
      AudioError: no sample, a rate that no recording has, or samples that are not finite, or far beyond full scale.
    """
    return np.concatenate(list(_mixed(blocks, blocks[0].shape[1], rate, name, sample_rate)))


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


def _mixed(blocks: Iterable[np.ndarray], channels: int, rate: int, name: str, sample_rate: int) -> Iterator[np.ndarray]:
    """What `mono` gives, in blocks; of several channels it goes through `blocks` twice."""
    import soxr

    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f'{name}: expected a sample rate of {_RATES[0]:,} to {_RATES[1]:,} Hz, found {rate:,}')
    gain, loudest = np.float32(1), None
    if channels > 1:
        gain, loudest = _heard(_checked(blocks, name))
    else:
        blocks = _checked(blocks, name)
    # As soxr.resample gives it, bit for bit, but in pieces that stay in the processor's cache.
    stream = None if rate == sample_rate else soxr.ResampleStream(rate, sample_rate, 1)
    for block in blocks:
        alone = block if loudest is None else block[:, loudest : loudest + 1]
        if alone.dtype == np.int16 and alone.shape[1] == 1 and stream is None:
            yield alone[:, 0]
            continue
        mixed = _mean(alone)
        yield _pcm(mixed if stream is None else stream.resample_chunk(mixed), gain)
    if stream is not None:
        yield _pcm(stream.resample_chunk(np.zeros(0, np.float32), last=True), gain)


def _checked(blocks: Iterable[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """The blocks that are audio; in the end it refuses what was not."""
    count, bad, peak = 0, 0, 0.0
    for block in blocks:
        count += len(block)
        if block.dtype != np.int16:
            if wrong := int(np.sum(~np.isfinite(block))):
                bad += wrong
                continue
            peak = max(peak, float(np.abs(block).max(initial=0)))
        yield block
    if not count:
        raise AudioError(f'{name}: expected audio, found 0 samples')
    if bad:
        raise AudioError(f'{name}: expected finite samples, found {bad:,} that are NaN or infinite')
    if peak > _LOUDEST_FLOAT:
        raise AudioError(
            f'{name}: expected float samples with a full scale of 1, found up to {peak:.6g} '
            '(16-bit samples saved as float: divide them by 32,768)'
        )


def _heard(blocks: Iterable[np.ndarray]) -> tuple[np.float32, int | None]:
    """By how much the mean of all channels is that of those which hold sound; and the loudest, if the mean lost most.

    That can be known at the end alone.
    """
    used, power, mixed_power = np.zeros(1, bool), np.zeros(1), 0.0
    for block in blocks:
        used = used | block.any(axis=0)
        power = power + [np.dot(one, one) for one in _scaled(block).T.astype(np.float64)]
        mixed = _mean(block)
        mixed_power += float(np.dot(mixed, mixed.astype(np.float64)))
    gain = np.float32(len(used) / max(1, used.sum()))
    lost = mixed_power * float(gain) ** 2 < _LEAST_MEAN * power.max()
    return (np.float32(1), int(power.argmax())) if lost else (gain, None)


def _mean(block: np.ndarray) -> np.ndarray:
    """Of all channels, `[n]` float32."""
    first, *others = _scaled(block).T
    # As block.mean(axis=1), which takes longer than the resampling: its axis is short.
    mean: np.ndarray = sum(others, start=first) / len(block.T) if others else first
    return mean


def _scaled(block: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = block * np.float32(1 / 32768) if block.dtype == np.int16 else block
    return scaled


def _pcm(samples: np.ndarray, gain: np.float32) -> np.ndarray:
    scaled = np.rint(samples * (gain * np.float32(32768)))
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def _check_length(count: int, name: str, sample_rate: int) -> None:
    if not count:
        raise AudioError(f'{name}: expected audio, found 0 samples')
    if count < SHORTEST_SECONDS * sample_rate:
        raise AudioError(f'{name}: expected at least {SHORTEST_SECONDS} s, found {count / sample_rate:.3f} s')


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
    _check_length(len(audio), name, sample_rate)
    if sound and int(audio.max()) - int(audio.min()) <= SILENT_SPAN:
        raise AudioError(f'{name}: expected sound, found silence')


def _whole(file: _Seen, name: str) -> None:
    """Refuses a RIFF or RF64 file that is cut; libsndfile takes one longer or shorter than its `data` chunk says.

    A length of 0, or of nearly 4 GB, is what a recorder leaves that could not go back to write it: then all that
    follows is the audio, as it is where RF64 says no other length.

    Raises:
      AudioError: the audio ends before the header says, or goes on after it.
    """
    size = file.seek(0, io.SEEK_END)
    at, long = 12, None
    while (found := _chunk(file, at)) is not None:
        chunk, length = found
        start = at + 8
        if chunk == b'ds64' and start + 16 <= size:
            file.seek(start + 8)
            (long,) = struct.unpack('<Q', file.read(8))
        if chunk == b'data':
            if length == 0xFFFFFFFF and long:
                length = long
            elif length >= _LENGTH_UNKNOWN:
                return
            rest = size - start
            if length == 0 and rest and not _are_chunks(file, start, size):
                file.change(at + 4, struct.pack('<I', min(rest, _LENGTH_UNKNOWN)))
                return
            if length > rest:
                raise AudioError(
                    f'{name}: expected the audio that its header promises, found {length - rest:,} bytes too few'
                )
            behind = rest - length
            if behind > _TRAILING and not _are_chunks(file, start + length + length % 2, size):
                raise AudioError(
                    f'{name}: expected the {length:,} bytes of audio that its header promises, found {behind:,} more '
                    'behind them; write it to a file anew'
                )
            return
        at = start + length + length % 2


def _chunk(file: _Seen, at: int) -> tuple[bytes, int] | None:
    """The name and the length of the chunk that begins at a place; None: too little is there."""
    file.seek(at)
    header = file.read(8)
    return struct.unpack('<4sI', header) if len(header) == 8 else None


def _are_chunks(file: _Seen, at: int, size: int) -> bool:
    """Whether the file goes on as a RIFF file does: with a chunk whose name is text and that ends within the file."""
    if (found := _chunk(file, at)) is None:
        return True
    chunk, length = found
    return all(32 <= byte < 127 for byte in chunk) and at + 8 + length <= size + 1


def _counted(file: io.BufferedReader[Any]) -> bool:
    """Whether an MP3 file says how many frames it has, in a Xing or Info tag after any ID3 tag.

    Of others libsndfile takes the first frame's bit rate for that of all, and reads so much; of one with a variable
    bit rate it may be a tenth.
    """
    file.seek(0)
    head = file.read(10)
    if head[:3] == b'ID3':
        # Seven bits a byte.
        file.seek(10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:]))))
        head = b''
    frame = head + file.read(64)
    return any(frame[at : at + 4] in (b'Xing', b'Info') and frame[at + 7] & 1 for at in _XING_AT)


class _Seen(io.RawIOBase):
    """A file as libsndfile is to see it: it may have other bytes in its header, or seem longer than it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at, self._new = file, 0, dict[int, int]()
        self._end = self._size = file.seek(0, io.SEEK_END)
        self._error: OSError | None = None

    def change(self, at: int, new: bytes) -> None:
        """Puts bytes in place of those that are there."""
        self._new = {at + i: byte for i, byte in enumerate(new)}

    def longer(self, count: int) -> None:
        """Adds to the length that it seems to have."""
        self._size += count

    def check(self, name: str) -> None:
        """Raises an `AudioError` if the file could not be read."""
        if self._error:
            raise AudioError(f'{name}: expected a readable {READABLE} file, found: {self._error.strerror}')

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place, and says which; before the file there is none."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Reads what is there; zeros where, at the end of a longer file, an ID3 tag is looked for."""
        found = bytearray()
        if self._at < self._end:
            try:
                self._file.seek(self._at)
                found += self._file.read(len(buffer))
            except OSError as error:  # libsndfile, which has called this, can tell nobody
                self._error = error
        elif self._size - _ID3 <= self._at < self._size:
            found = bytearray(min(len(buffer), self._size - self._at))
        for place, byte in self._new.items():
            if self._at <= place < self._at + len(found):
                found[place - self._at] = byte
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
