"""How near an exported form comes to the model that was trained, and what is near enough.

A form that loads and runs may still be silently wrong (docs/export.md), so every form runs on real windows, in every
runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_reparam import evaluation
from jax_reparam.evaluation import Windows
from jax_reparam.manifest import Score

# Largest difference of folded from training logits, for logits of size 1; they grow with the logits.
FOLD_TOLERANCE = 1e-5
# Largest difference of float32 logits from JAX's.
FLOAT_TOLERANCE = 1e-4
# Largest difference of the waveform model's probabilities. Measured on 500 windows each of EMO-DB and RAVDESS: 7e-6 and
# 2.8e-5; of a tenth of the windows a code or more is a step away (1 in 250,000), as float32 rounds otherwise.
WAVEFORM_TOLERANCE = 1e-4
# Share of windows in which a quantised form must decide as the model did, and UAR that it may lose. One window may
# always differ, whatever UAR makes of it: in some the trained model itself is undecided, of fewer than 100 windows one
# is more than a hundredth, and alone in its class it is worth all of that class's share of UAR (docs/export.md).
LEAST_AGREEMENT = 0.99
LARGEST_UAR_LOSS = 0.005
DIFFERING_ALLOWED = 1


def apart_allowed(windows: int) -> int:
    """Of so many windows, those whose probabilities may be further than `WAVEFORM_TOLERANCE` from float32's.

    In a small window one code that rounds to the other side changes more: 3.75e-4 in one of 78 windows of 64 frames of
    12 bands.
    """
    return max(DIFFERING_ALLOWED, int((1 - LEAST_AGREEMENT) * windows))


def uar(logits: np.ndarray, windows: Windows) -> float | None:
    """UAR over the decisions on `windows`: on clips, or on speakers; 0 to 1. None where the model has learned them."""
    return float(_metrics(logits, windows)['uar']) if windows.held_out else None


def confusion(logits: np.ndarray, windows: Windows) -> tuple[tuple[int, ...], ...] | None:
    """The decisions on `windows`, `[C][C + 1]` counts: a row for each true class, last those without a decision.

    None where the model has learned them.
    """
    if not windows.held_out:
        return None
    found = _metrics(logits, windows)
    supports = (of['support'] for of in found['per_class'].values())
    return tuple((*row, support - sum(row)) for row, support in zip(found['confusion'], supports, strict=True))


def _metrics(logits: np.ndarray, windows: Windows) -> dict[str, Any]:
    names = [str(index) for index in range(logits.shape[-1])]
    return evaluation.metrics(windows.truth, windows.decide(logits), names)


def score(reference: np.ndarray, logits: np.ndarray, windows: Windows) -> Score:
    """Compares logits `[W, C]` with those of the trained model."""
    noise = np.asarray(logits, np.float64) - reference
    power, signal = float((noise**2).sum()), float((np.asarray(reference, np.float64) ** 2).sum())
    finite = bool(np.isfinite(noise).all())
    same = logits.argmax(-1) == reference.argmax(-1)
    return Score(
        argmax_agreement=float(same.mean()),
        differing=int((~same).sum()),
        snr_db=evaluation.snr_db(signal, power),
        uar=uar(np.nan_to_num(logits), windows),
        max_abs_diff=float(np.abs(noise).max()) if finite else None,
    )


def fold_failure(reference: np.ndarray, folded: np.ndarray) -> str | None:
    """Why the folded model is not the trained one, in one line; None where it is. Both logits `[W, C]`."""
    allowed = FOLD_TOLERANCE * max(1.0, float(np.abs(reference).max()))
    difference = float(np.abs(folded - reference).max())
    if difference <= allowed:
        return None
    return f'folded model: expected logits within {allowed:.2g} of the trained model, found {difference:.3g}'


def failures(form: str, runtime: str, result: Score, reference_uar: float | None) -> list[str]:
    """Why a form is not the trained model in a runtime, a line each; empty where it passes.

    float32 is held to the logits, quantised forms to the decisions and, where there is one, to the UAR.
    """
    where = f'{form} in {runtime}'
    if result.max_abs_diff is None:
        return [f'{where}: expected finite logits, found others']
    if form == 'float32':
        if result.max_abs_diff <= FLOAT_TOLERANCE:
            return []
        return [f'{where}: expected logits within {FLOAT_TOLERANCE:g} of JAX, found {result.max_abs_diff:.3g}']
    if result.differing == DIFFERING_ALLOWED:
        return []
    reasons = []
    if result.argmax_agreement < LEAST_AGREEMENT:
        reasons.append(
            f'{where}: expected the same decision in at least {LEAST_AGREEMENT:.0%} of windows, '
            f'found {result.argmax_agreement:.1%} ({result.differing} differ)'
        )
    # Rounding must not decide where the loss is exactly what is allowed.
    if reference_uar is not None and result.uar is not None and reference_uar - result.uar > LARGEST_UAR_LOSS + 1e-9:
        reasons.append(
            f'{where}: expected a UAR of at least {100 * (reference_uar - LARGEST_UAR_LOSS):.1f} %, '
            f'found {100 * result.uar:.1f} %'
        )
    return reasons
