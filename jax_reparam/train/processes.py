"""Training by several processes, on one machine or many: the same program in each, the first of them writes."""

from __future__ import annotations

import os
from collections.abc import Callable

import jax

from jax_reparam.errors import InputError

# JAX itself reads JAX_COORDINATOR_ADDRESS.
COUNT, INDEX = 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'

# Seconds that a process which failed waits for the others, which then end too; those that succeed end together anyway.
GRACE = 10


def start() -> None:
    """Joins the other processes, before anything else of JAX is used.

    Slurm, Open MPI, Kubernetes and Cloud TPU tell JAX all it needs; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the
    first process), JAX_NUM_PROCESSES and JAX_PROCESS_ID do.

    Raises:
      InputError: neither is the case.
    """
    try:
        count, index = (int(os.environ[name]) if name in os.environ else None for name in (COUNT, INDEX))
        jax.distributed.initialize(num_processes=count, process_id=index, shutdown_timeout_seconds=GRACE)
    except ValueError as error:
        raise InputError(
            '--distributed: expected a cluster that JAX knows, or JAX_COORDINATOR_ADDRESS (host:port), '
            f'{COUNT} and {INDEX} (from 0), found: {error}'
        ) from error


def first() -> bool:
    """Whether this is the process that writes and reports."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Waits until all processes are at the point `what`."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def in_turn(action: Callable[[], None], what: str) -> None:
    """Runs `action` in the first process, and then in the others."""
    if first():
        action()
    wait(what)
    if not first():
        action()
