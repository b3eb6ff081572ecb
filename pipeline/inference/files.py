"""Which format a model has, told by its content, and the hash that identifies it."""

from __future__ import annotations

import difflib
import hashlib
import zipfile
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.inference.signature import Format

EXPECTED = "expected is a SavedModel folder, a .keras or .h5 file, or a frozen GraphDef (.pb)"

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_SAVED_MODEL = b"\x08\x01\x12"  # schema version 1, then a meta graph
_GRAPH_DEF = (0x0A, 0x12, 0x22)  # a node, a function library, or versions
_CHUNK_BYTES = 1 << 20
_HASH_DIGITS = 12


def find_format(path: Path) -> Format:
    """The format of the model at `path`.

    Raises:
        ModelError: nothing is there, or it is no model; the message says what is expected or near.
    """
    try:
        if path.is_dir():
            return _folder_format(path)
        if not path.exists():
            raise ModelError(f"{path}: no such model", remedy=_near(path))
        return _file_format(path)
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror or e}") from e


def content_hash(path: Path) -> str:
    """The first 12 hex digits of the sha256 of a model's content.

    Of a file its bytes; of a folder, for each file in the order of their paths: the path in it, NUL, the size in bytes
    as a decimal number, NUL, the bytes.
    """
    digest = hashlib.sha256()
    folder = path.is_dir()
    files = sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.as_posix()) if folder else [path]
    for file in files:
        with file.open("rb") as stream:
            if folder:
                digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:_HASH_DIGITS]


def _folder_format(path: Path) -> Format:
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    if (path / "saved_model.pbtxt").is_file():
        raise ModelError(f"{path}: the SavedModel is in text form", remedy="save it again as saved_model.pb")
    inside = sorted(p.parent for p in path.glob("*/saved_model.pb"))
    if len(inside) == 1:
        raise ModelError(f"{path}: not a SavedModel folder, but it holds one", remedy=f"did you mean {inside[0]}?")
    if (path / "model.json").is_file():
        raise ModelError(f"{path}: a TensorFlow.js model", remedy="convert it to a SavedModel first")
    if any(path.glob("*.index")):
        raise ModelError(f"{path}: a checkpoint: weights without the graph", remedy="export the model as a SavedModel")
    raise ModelError(f"{path}: not a model: the folder holds no saved_model.pb", remedy=EXPECTED)


def _file_format(path: Path) -> Format:
    with path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        raise ModelError(f"{path}: the file is empty")
    if head.startswith(_HDF5):
        return "keras_h5"
    if head.startswith(_ZIP):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if "config.json" in archive.namelist():
                    return "keras"
            raise ModelError(f"{path}: a ZIP archive, but not of Keras: it holds no config.json", remedy=EXPECTED)
        raise ModelError(f"{path}: the archive is damaged or incomplete", remedy="copy or download it again")
    if path.name == "saved_model.pb" or head.startswith(_SAVED_MODEL):
        raise ModelError(f"{path}: a part of a SavedModel", remedy=f"name its folder: {path.parent}")
    if head[4:8] == b"TFL3":
        raise ModelError(f"{path}: a TensorFlow Lite model, which TensorFlow itself does not run", remedy=EXPECTED)
    if path.suffix == ".keras":
        raise ModelError(f"{path}: not a Keras file: it is no ZIP archive", remedy=EXPECTED)
    if head[0] in _GRAPH_DEF and path.suffix != ".onnx":
        return "graphdef"
    raise ModelError(f"{path}: not a model", remedy=EXPECTED)


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = [p.name for p in folder.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1) or [n for n in names if Path(n).stem == path.stem]
    return f"did you mean {folder / near[0]}?" if near else EXPECTED
