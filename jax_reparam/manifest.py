"""manifest.json: what an exported folder holds, what goes in and comes out, and how each form was verified.

The contract of all that write or read such a folder; the names of its files are here too. docs/manifest.md describes
every field. Imports neither TensorFlow nor JAX: prediction reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, cast

from jax_reparam import schema
from jax_reparam.config import ModelConfig
from jax_reparam.errors import InputError, known
from jax_reparam.field.robustness import Row
from jax_reparam.frontend.features import Filters
from jax_reparam.frontend.inputs import Input
from jax_reparam.graph.cost import Cost
from jax_reparam.graph.graph import Port
from jax_reparam.schema import Amount, Bound, Count, Positive, Share, Size

FORMAT = 5
# The files of the folder.
FILE = 'manifest.json'
CHECKPOINT = 'checkpoint'
SAFETENSORS = 'model.safetensors'
LABELS = 'labels.txt'
FILTERS = 'filters.npz'
CARD = 'MODEL_CARD.md'
LAYERS = 'LAYERS.md'
FRONTEND = 'frontend.tflite'
WAVEFORM = 'model_waveform_float32.tflite'
FIRMWARE = 'firmware'
# int8 of operators that an Ethos-U has; what Vela compiles.
NPU_FORM = 'int8_npu'
FORM_FILES = {name: f'model_{name}.tflite' for name in ('float32', 'int8', 'int16', NPU_FORM)}
NPU_FILES = {
    f'ethos-{name}': f'model_ethos-{name}_vela.tflite'
    for name in ('u55-32', 'u55-64', 'u55-128', 'u55-256', 'u65-256', 'u65-512')
}
# The model that the package carries, such a folder; benchmarks/pretrained.py makes it.
PACKAGED = Path(__file__).parent / 'pretrained' / 'emodb_xs'
# Forms for a microcontroller, the one that needs the least memory first.
QUANTISED = ('int8', 'int16')
# Forms that are held to the trained model's decisions, and may be accepted although they miss them.
GATED = (*QUANTISED, NPU_FORM)


def _inside(text: str) -> bool:
    path = PureWindowsPath(text)  # knows the separators of all systems
    return bool(path.parts) and not path.anchor and '..' not in path.parts and text.isprintable()


Name = Annotated[str, Bound('a path in the folder', _inside)]
Digest = Annotated[str, Bound('64 hexadecimal digits', re.compile('[0-9a-f]{64}').fullmatch)]
Lines = tuple[str, ...]
Ops = Mapping[str, Size]


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """A file of the folder, as it was when it was verified."""

    file: Name
    bytes: Count
    sha256: Digest


def file_of(name: str, content: bytes) -> File:
    """The entry of a file, `name` in the folder."""
    return File(file=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def read_file(folder: str | Path, entry: File) -> bytes:
    """The content of a file of the folder.

    Raises:
      InputError: missing, or not the one that was verified.
    """
    path = Path(folder) / entry.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: expected a file of the model, found: {error.strerror}') from error
    present = file_of(entry.file, content)
    if (present.bytes, present.sha256) != (entry.bytes, entry.sha256):
        raise InputError(f'{path}: expected the file that was verified (SHA-256 {entry.sha256[:12]}), found another')
    return content


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One run of one form, against the trained model on the same windows: decisions, logits, UAR (0 to 1).

    There is no UAR on clips that the model has learned.
    """

    argmax_agreement: Share
    differing: Count
    snr_db: float | None  # None: nothing differs, or nothing is finite
    uar: Share | None
    max_abs_diff: Amount | None  # of the logits; None: not finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFLMScore(Score):
    """And the arena that TFLM took, on a 64-bit host."""

    arena_bytes: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price:
    """What a form takes on a Cortex-M4F: `cost.of_graph`."""

    arena_bytes: Count
    instructions: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """How a form was made of the folded model; None throughout for float32.

    Attributes:
      bits: that each part computes in, by the part's scope (`deploy.widths`).
      windows: of calibration.
      validation: its score on validation windows.
      prices: of int8 as `fold.py` makes it, '', and with `--fast`, where these differ; else None.
    """

    bits: dict[str, Count] | None = None
    windows: Count | None = None
    validation: Score | None = None
    prices: dict[str, Price] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One tensor of a quantised form beside its float32 twin; the error of all layers before is in it."""

    node: Count
    op: str
    module: str
    shape: tuple[Count, ...]
    snr_db: float | None
    scale: Positive  # real value of one step
    low: float
    high: float
    seen_low: float
    seen_high: float
    clipped: Share  # of the float32 values, beyond low and high by more than half a step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form(File):
    """A form of the model, `[1, frames, n_mels]` to logits `[1, C]`.

    `layers` are the tensors with the lowest SNR. `confusion` is of the runtime that decides, `[C][C + 1]` counts: a row
    for each true class, last those without a decision.
    """

    ops: Ops
    input: Port
    output: Port
    cost: Cost | None = None
    litert: Score | None
    tflm: TFLMScore | None
    tflm_reason: str | None = None
    confusion: tuple[tuple[Count, ...], ...] | None = None
    made: Made
    layers: tuple[Layer, ...] | None = None
    accepted: Lines | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrontendCheck:
    """`frontend.tflite` on some frames: TFLM's arena, 64-bit host, and what differs from training.

    That is the largest difference of log-mel in nats, and the share of codes that differ.
    """

    frames: Count
    max_abs_diff: Amount
    differing_codes: Share
    arena_bytes: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frontend(FrontendCheck, File):
    """`frontend.tflite`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveformCheck:
    """The waveform model on some windows: largest difference of a probability from those of the folded model."""

    ops: Ops
    samples: Size
    windows: Count
    max_abs_diff: Amount


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waveform(WaveformCheck, File):
    """`model_waveform_float32.tflite`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arena:
    """Bytes of one model's arena.

    Attributes:
      measured: that TFLM took on this 64-bit host.
      reserved: that the firmware sets aside on a Cortex-M: counted (`graph/footprint.py`), and a margin.
      reserved_helium: likewise on one with Helium, as a Cortex-M55; 0 where the manifest is older than this key.
      reserved_elsewhere: on any other processor; likewise 0.
    """

    measured: Count
    reserved: Count
    reserved_helium: Count = 0
    reserved_elsewhere: Count = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealTime:
    """From which clock a Cortex-M4F with CMSIS-NN keeps up with speech, estimated.

    A frame and a window cost so many instructions, the window's own are the model's and what comes before it. `mhz` is
    for one window a hop with its frames, and an instruction of `cycles_per_instruction`.
    """

    window_instructions: Count
    frame_instructions: Count
    cycles_per_instruction: Amount
    mhz: Count

    def window_seconds(self, mhz: int) -> float:
        """What a window takes at a clock."""
        return self.window_instructions * self.cycles_per_instruction / (mhz * 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Firmware:
    """The folder `firmware/`: around which form, arenas of `model` and `frontend`, calls that add their operators."""

    folder: Name
    form: str
    arena_bytes: Mapping[str, Arena]
    real_time: RealTime
    registrations: Mapping[str, Lines]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """What a device wants beside the model; each is None where it is not in the folder, and `reason` may say why."""

    frontend: Frontend | None
    waveform: Waveform | None
    firmware: Firmware | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """What Vela made of a model: memory in bytes, time of a window as Vela estimates it."""

    accelerator: str
    npu_ops: Count
    cpu_ops: Count
    left: tuple[tuple[str, str], ...]
    sram_bytes: Count
    flash_bytes: Count
    milliseconds: Amount
    macs: Count
    mac_share: Share  # of the model's MACs, on the NPU
    share: Share  # of the operators, on the NPU


@dataclasses.dataclass(frozen=True, kw_only=True)
class NPU(Placement, File):
    """The compiled file of the form `form`."""

    form: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """What is not in the folder: why, a line each, and as far as it was made and measured, the part of an entry."""

    reasons: Lines
    found: Form | FrontendCheck | WaveformCheck | Placement | None = None

    def as_json(self) -> dict[str, Any]:
        """All in one object."""
        return {**schema.to_json(self.found or {}), 'reasons': list(self.reasons)}

    @classmethod
    def from_json(cls, content: Any, key: str) -> Failed:
        """Reads what `as_json` gave; the last part of `key` tells what it is."""
        schema.expect(isinstance(content, dict), key, 'an object', content)
        kinds = {'frontend': FrontendCheck, 'waveform': WaveformCheck, 'npu': Placement}
        kind: type[Any] = kinds.get(key.rpartition('.')[2], Form)
        entry = {name: item for name, item in content.items() if name != 'reasons'}
        failed = {name: content[name] for name in content.keys() - entry.keys()}
        return schema.from_json(cls, {**failed, 'found': schema.from_json(kind, entry, key) if entry else None}, key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """Largest absolute value, kurtosis (3 for a normal distribution), SNR in int8; None where rounding does nothing."""

    largest: Amount
    kurtosis: Amount
    int8_snr_db: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """One HRF site: its path, the factors, and the kernel that they fold into."""

    path: str
    kernel_u: Kernel
    kernel_v: Kernel
    kernel: Kernel


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParamCount:
    """Number of parameters."""

    training: Count
    folded: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fold:
    """The folded model against the trained one, on test and validation windows: logits, and the share decided alike."""

    sites: Count
    windows: Count
    max_abs_diff: Amount
    argmax_agreement: Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """The split that the model was trained on, and what is decided; see `data.protocols.Split.info`."""

    name: str
    fold: Count
    folds: Size
    seed: int
    unit: Literal['clip', 'speaker']
    join: Literal['mean', 'vote']
    turns: Count
    metric: str
    train_speakers: Lines
    validation_speakers: Lines
    test_speakers: Lines
    counts: Mapping[str, Mapping[str, Count]]
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """The corpus, and the key of its content."""

    name: str
    key: str
    synthetic: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Test:
    """What the forms were verified on: so many windows of `clips` of all `of_clips` test clips, and of decisions.

    Where every clip trains, these are training clips (`part`).
    """

    windows: Count
    clips: Count
    of_clips: Count
    decisions: Count
    part: Literal['test', 'train'] = 'test'


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What runs of the same recipe scored on speakers they had not heard, for a model that all clips have trained.

    Attributes:
      protocol: how these were split.
      folds: number of runs.
      seed: of them.
      steps: that each of them chose; the model has their median (the lower one).
      clips: that were decided.
      scores: pooled over all decisions: `uar`, `wa`, `wf1`, `macro_f1`.
      mean: of the folds' UAR.
      std: of the folds' UAR.
      confusion: their decisions, `[C][C + 1]` counts as of a form.
    """

    protocol: str
    folds: Size
    seed: int
    steps: tuple[Count, ...]
    clips: Count
    scores: Mapping[str, Share]
    mean: Share
    std: Amount
    confusion: tuple[tuple[Count, ...], ...]

    @property
    def step(self) -> int:
        """The median of the steps: one that was chosen."""
        return sorted(self.steps)[(len(self.steps) - 1) // 2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Init:
    """The model that training has started from.

    Attributes:
      path: where it lay.
      digest: of its variables (`checkpoint.digest`).
      step: of its own training.
      corpus: that it was trained on.
      speakers: who have trained it.
      new: layers that were not taken from it.
    """

    path: str
    digest: Digest
    step: Count
    corpus: str
    speakers: Lines
    new: Lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json holds."""

    format: int = FORMAT
    model: Mapping[str, Any]
    labels: Lines
    input: Input
    filters: File
    params: ParamCount
    fold: Fold
    forms: Mapping[str, Form]
    recommended: str | None
    failed: Mapping[str, Failed]
    device: Device
    npu: NPU | None
    kernels: tuple[Site, ...]
    reference_uar: Share | None
    field: tuple[Row, ...]
    protocol: Protocol
    corpus: Corpus
    test: Test
    calibration: tuple[tuple[str, Count], ...]
    step: Count
    versions: Mapping[str, Mapping[str, str]]
    recipe: Mapping[str, Any] | None = None  # as trained, less the places of its data; None: of an older export
    held_out: HeldOut | None = None
    init: Init | None = None

    def __post_init__(self) -> None:
        self.architecture  # noqa: B018  (refuses what is none)
        features, logits = (1, self.input.window.frames, self.input.frontend.n_mels), (1, len(self.labels))
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ValueError(f'labels: expected names, no two the same, found {list(self.labels)}')
        for name, form in self.forms.items():
            known('forms', name, tuple(FORM_FILES))
            for key, port, shape in (('input', form.input, features), ('output', form.output, logits)):
                if port.shape != shape:
                    raise ValueError(f'forms.{name}.{key}.shape: expected {shape}, found {port.shape}')
            classes = len(self.labels)
            if form.confusion is not None and [*map(len, form.confusion)] != [classes + 1] * classes:
                raise ValueError(f'forms.{name}.confusion: expected {classes} rows of {classes + 1}, found others')
        firmware = self.device.firmware
        for key, named in (
            ('recommended', self.recommended),
            ('device.firmware.form', firmware and firmware.form),
            ('npu.form', self.npu and self.npu.form),
        ):
            if named is not None and named not in self.forms:
                raise ValueError(f'{key}: expected one of the forms ({", ".join(self.forms)}), found {named!r}')

    @property
    def architecture(self) -> ModelConfig:
        """`model` with its defaults."""
        model: ModelConfig = schema.from_json(cast(Any, ModelConfig), self.model, 'model')
        return model

    def as_json(self) -> dict[str, Any]:
        """What manifest.json holds."""
        content: dict[str, Any] = schema.to_json(self)
        return content

    @classmethod
    def from_json(cls, content: Any) -> Manifest:
        """Reads what `as_json` gave; a ValueError says `KEY: expected ..., found ...`."""
        return schema.from_json(cls, content)

    def text(self) -> str:
        """manifest.json; a number that JSON does not know is a fault of ours."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False) + '\n'


def recommended(forms: Mapping[str, Form], prefer: str | None = None) -> str | None:
    """Of the forms the one for a microcontroller: one that passed before one that was accepted."""
    names = [name for name in QUANTISED if name in forms]
    return min(names, key=lambda name: (forms[name].accepted is not None, name != prefer), default=None)


def read(folder: str | Path, *, older: bool = False) -> dict[str, Any]:
    """Reads manifest.json of a folder, and no more of it than that it is one; with `older`, of an earlier format too.

    Raises:
      InputError: none there, no JSON, or of another format.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f'{folder}: expected a folder that fold.py wrote, found no {FILE}') from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{path}: expected a manifest in JSON, found: {error}') from error
    if not isinstance(content, dict):
        raise InputError(f'{path}: expected an object, found {type(content).__name__}')
    found = content.get('format')
    if found != FORMAT and not (older and found in range(1, FORMAT)):
        raise InputError(f'{path}: expected format {FORMAT} (export it anew with fold.py), found {found!r}')
    return content


def load(folder: str | Path) -> Manifest:
    """Reads a folder's manifest.

    Raises:
      InputError: see `read`; or it, or the file of the frontend's filters, is damaged: the message names the key.
    """
    content = read(folder)
    try:
        manifest = Manifest.from_json(content)
    except ValueError as error:
        raise InputError(f'{Path(folder) / FILE}: {error}') from error
    filters = read_file(folder, manifest.filters)
    try:
        arrays = Filters.from_bytes(filters, manifest.input.frontend)
    except ValueError as error:
        raise InputError(f'{Path(folder) / manifest.filters.file}: {error}') from error
    return dataclasses.replace(manifest, input=dataclasses.replace(manifest.input, filters=arrays))


def open_form(folder: str | Path, name: str | None = None) -> tuple[Manifest, str, bytes]:
    """Reads a folder's manifest, and the .tflite file of one form with its name.

    None is the form that is recommended, or float32 where none is.

    Raises:
      InputError: see `load` and `read_file`; or there is no such form.
    """
    manifest = load(folder)
    name = name or manifest.recommended or 'float32'
    if name not in manifest.forms:
        raise InputError(f'{folder}: expected form {name}, found {", ".join(manifest.forms) or "none"}')
    return manifest, name, read_file(folder, manifest.forms[name])
