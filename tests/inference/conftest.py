"""Tiny models, made once: every answer they give can be worked out by hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_cupy
import numpy as np
import pytest

from pipeline.config.stages import ModelSource
from pipeline.inference import TensorFlowModel, load_model
from pipeline.inference._tensorflow import import_tensorflow
from pipeline.inference.frozen import FrozenGraph, frozen_graph
from pipeline.inference.shared_stream import SharedStream
from pipeline.inference.shared_stream.build import LIBRARY_VARIABLE, build
from pipeline.inference.shared_stream.library import stream_ops


@pytest.fixture(scope="session")
def tf() -> Any:
    return import_tensorflow()


@pytest.fixture(scope="session")
def save(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a function of one tensor named `image` as a SavedModel."""

    def save(function: Any, shape: list[int | None], dtype: str = "float32", name: str = "model", **owned: Any) -> Path:
        module = tf.Module()
        for key, value in owned.items():
            setattr(module, key, value)
        module.serve = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype, name="image")])
        path = tmp_path_factory.mktemp("saved") / name
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve.get_concrete_function()})
        return path

    return save


@pytest.fixture(scope="session")
def freeze(tf: Any) -> Callable[..., FrozenGraph]:
    """The graph of a function of one tensor."""

    def freeze(
        body: Callable[[Any], Any], shape: tuple[int | None, ...] = (None, 8, 8, 3), dtype: str = "float32"
    ) -> FrozenGraph:
        spec = tf.TensorSpec(shape, dtype, "pixels")
        flat = tf.function(lambda x: tuple(tf.nest.flatten(body(x))), input_signature=[spec], autograph=False)
        graph = frozen_graph(flat.get_concrete_function())
        assert graph is not None
        return graph

    return freeze


@pytest.fixture(scope="session")
def weighted(tf: Any, save: Callable[..., Path]) -> SimpleNamespace:
    """A SavedModel with variables; `path`, and `expected(images)` in float64."""
    kernel = np.random.default_rng(7).normal(size=(3, 3, 3, 5)).astype(np.float32)
    variable = tf.Variable(kernel)

    def serve(image: Any) -> dict[str, Any]:
        features = tf.nn.conv2d(image, variable, 1, "VALID")
        return {"features": features, "mean": tf.reduce_mean(features, [1, 2])}

    def expected(images: np.ndarray) -> dict[str, np.ndarray]:
        windows = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (3, 3), (1, 2))
        features = np.einsum("nhwcij,ijco->nhwo", windows, kernel.astype(np.float64))
        return {"features": features, "mean": features.mean((1, 2))}

    return SimpleNamespace(path=save(serve, [None, 8, 6, 3], variable=variable), expected=expected)


@pytest.fixture(scope="session")
def load() -> Callable[..., TensorFlowModel]:
    """`load_model`, with less to write."""

    def load(path: Path, batch_size: int | None = None, preprocess: Any = None, **settings: Any) -> TensorFlowModel:
        source = ModelSource(path=str(path), **settings)
        return load_model(path, source, name="tiny", batch_size=batch_size, preprocess=preprocess)

    return load


@pytest.fixture(scope="session")
def stream_library(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The op library, built here once; skips where there is no compiler."""
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    path = tmp_path_factory.mktemp("op") / "op.so"
    build(tf, path)
    return path


@pytest.fixture(scope="session")
def stream(tf: Any, stream_library: Path) -> SharedStream:
    """The stream's place on the CPU, where there is none: its handle is 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LIBRARY_VARIABLE, str(stream_library))
        return SharedStream(tf, stream_ops(tf), fake_cupy, "/device:CPU:0")
