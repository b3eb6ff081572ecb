"""TensorFlow's share of the GPU's memory: set once per process, before TensorFlow starts the GPU."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)

# Without it TensorFlow takes its whole share at once. It cannot be asked for together with a limit in any other way.
_GROWTH_VARIABLE = "TF_FORCE_GPU_ALLOW_GROWTH"
_MIB = 1 << 20

_limit_bytes: int | None = None
_tf: Any = None


def request(tf: Any, gpus: Sequence[Any], limit_bytes: int) -> None:
    """Sets the share, of the first GPU alone; where TensorFlow already runs it stays as it is."""
    global _limit_bytes, _tf
    os.environ.setdefault(_GROWTH_VARIABLE, "true")
    try:
        # One GPU: others would be opened, and their memory taken, too.
        tf.config.set_visible_devices(gpus[:1], "GPU")
        configuration = tf.config.LogicalDeviceConfiguration(memory_limit=max(1, limit_bytes // _MIB))
        tf.config.set_logical_device_configuration(gpus[0], [configuration])
    except RuntimeError:
        log.info("TensorFlow already runs in this process; its share of the GPU's memory stays as it is")
        return
    _limit_bytes, _tf = limit_bytes, tf


def fixed_bytes() -> int | None:
    """The share, once it is set; None before, and where somebody else has started TensorFlow in this process."""
    return _limit_bytes


def used_bytes() -> int:
    """What TensorFlow has taken of it at most; it keeps that for later runs of the process."""
    if _tf is None:
        return 0
    with contextlib.suppress(Exception):  # TensorFlow has not started the GPU after all
        return int(_tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return 0
