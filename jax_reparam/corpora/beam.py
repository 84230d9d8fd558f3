"""Preparation on Apache Beam, for corpora beyond one machine: the same clips, records and order as without.

Beam is an optional dependency (extra `beam`); only here is it imported. The runner's workers must see the source and
the folder of prepared corpora.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from typing import Any

from etils import epath

from jax_reparam.corpora import check
from jax_reparam.corpora.found import Clip, decode
from jax_reparam.errors import need


def options(flags: Sequence[str]) -> Any:
    """Beam's options from flags of its own, `--direct_num_workers=2`.

    Raises:
      InputError: Beam is not installed.
    """
    beam = _import()
    return beam.options.pipeline_options.PipelineOptions(list(flags))


def measure(clips: Sequence[Clip], folder: epath.Path, runner: Any, pipeline_options: Any) -> list[check.Measured]:
    """Measures the clips, in their order, in a pipeline of its own; audio never comes here.

    The workers leave what they find in `folder`, which is gone afterwards.
    """
    beam = _import()
    folder.mkdir(parents=True)
    with beam.Pipeline(runner=runner, options=pipeline_options) as pipeline:
        (
            pipeline
            | beam.Create(list(enumerate(clips)))
            | beam.Reshuffle()
            | beam.Map(_measured_line)
            | beam.io.WriteToText(str(folder / 'clips'))
        )
    lines = [line for path in folder.glob('clips*') for line in path.read_text().splitlines()]
    shutil.rmtree(folder)
    return [check.Measured(**fields) for _, fields in sorted(map(json.loads, lines), key=lambda row: row[0])]


def _measured_line(numbered: tuple[int, Clip]) -> str:
    i, clip = numbered
    return json.dumps([i, dataclasses.asdict(check.measure(decode(clip), clip.id))])


def _import() -> Any:
    need('beam', 'beam')
    import apache_beam

    return apache_beam
