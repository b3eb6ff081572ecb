"""Postprocess plug-ins of the `cuda` engine, on the stand-in for CuPy: copied to the host, or given the device's arrays."""

from __future__ import annotations

import logging

import numpy as np
import postprocess_on_host as on_host
import pytest
from postprocess_cases import Case, make_batch

from pipeline.plugins.guard import PluginError

SHAPE = (3, 2, 4)  # rows of the model, one more than there are frames


def build(use, **options):
    """The postprocessor, its plug-in, what the plug-in is counted in, and a batch."""
    rng = np.random.default_rng(0)
    outputs = {"a": rng.random(SHAPE, np.float32), "b": np.ones((3, 1), np.float16)}
    section = {"family": "plugin", "use": f"own_plugins:{use}", "options": options}
    case = Case(section, outputs, make_batch(rng, 2, 3))
    device = on_host.Device(None)  # no kernel of ours runs
    post = device.build(case)
    return device, post, post._loaded.plugin, post._loaded.status, case


def sums(case):
    return case.outputs["a"][:2].sum(axis=(1, 2))[:, None]


def test_outputs_are_copied_for_one_that_takes_numpy(caplog):
    device, post, plugin, status, case = build("Sums")
    with caplog.at_level(logging.INFO, "pipeline"):
        for _ in range(2):
            pending = post(on_host.on_device(case.outputs), case.batch)
            assert device.stream.waits == status.calls
            np.testing.assert_allclose(pending.result().embeddings, sums(case), rtol=1e-6)
    assert plugin.seen == [("ndarray", (2, 2, 4), True)] * 2
    assert (status.calls, status.errors) == (2, 0)
    assert status.copied_bytes == 2 * (2 * 2 * 4 * 4 + 2 * 2)
    assert [r.getMessage() for r in caplog.records if "copied" in r.getMessage()] == [
        "pipeline.postprocess: own_plugins:Sums takes NumPy arrays, so 0.0 KiB a frame are copied from the device"
    ]


def test_one_that_wants_the_devices_arrays_gets_them_and_the_stream():
    device, post, plugin, status, case = build("DeviceSums")
    pending = post(on_host.on_device(case.outputs), case.batch)
    assert len(device.stream.queue) == 1, "something was done at once"
    np.testing.assert_allclose(pending.result().embeddings, sums(case), rtol=1e-6)
    assert plugin.stream is device.stream
    assert plugin.seen[0][:2] == ("Array", (2, 2, 4))
    assert (status.calls, status.errors, status.copied_bytes) == (1, 0, 0)
    assert device.cupy.copies == []


def test_an_error_comes_with_the_result():
    _, post, _, status, case = build("Sums", fails=True)
    pending = post(on_host.on_device(case.outputs), case.batch)
    with pytest.raises(PluginError, match="no sums"):
        pending.result()
    assert (status.calls, status.errors) == (1, 1)


def test_a_late_result_that_does_not_fit_is_an_error():
    _, post, _, status, case = build("DeviceSums", fails=True)
    pending = post(on_host.on_device(case.outputs), case.batch)
    with pytest.raises(PluginError, match="embeddings are of 5 frames, but the batch has 2"):
        pending.result()
    assert (status.calls, status.errors) == (1, 1)
