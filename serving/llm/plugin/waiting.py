"""How a worker of vLLM waits for its next step: asleep, where others need the core.

vLLM's worker polls shared memory for a second after each step (0.32.0, with no option of its own): beside an image
encoder on two cores that took half of a core, and doubled the encoder's time. Knows that seam alone.
"""

from __future__ import annotations

import os
from functools import partial

from vllm.distributed.device_communicators import shm_broadcast

SPIN = "MEDIROUND_VLLM_SPIN"
"""Environment variable. 0: sleep soon."""
SOON = 0.02
"""Seconds. Not 0: of two steps within a millisecond the second's wake-up call can be lost (ZeroMQ's high-water
mark is 1, and the sender hears late that it may send again); a worker that sleeps then sleeps for five seconds.
"""


def obey() -> None:
    """Do as ``SPIN`` says, in this process's queues to come; idempotent."""
    if os.environ.get(SPIN) == "0" and not isinstance(shm_broadcast.SpinCondition, partial):
        shm_broadcast.SpinCondition = partial(shm_broadcast.SpinCondition, busy_loop_s=SOON)
