"""File names from source ids."""

from __future__ import annotations

import hashlib
from pathlib import Path

PLACEHOLDER = "{source}"
_KEPT = frozenset("._- +,=@()[]")
_LONGEST_BYTES = 150


def safe_name(source_id: str) -> str:
    """A file name for a source id; two ids never get the same one.

    Letters, digits and `._- +,=@()[]` stay, every other character becomes the %XX of its UTF-8 bytes, as in a URL:
    `hall/cam 1.mp4` -> `hall%2Fcam 1.mp4`. A leading dot is escaped too, and a very long name ends in `~` and a hash.
    """
    parts = [c if c.isalnum() or c in _KEPT else _escape(c) for c in source_id]
    if parts and parts[0] == ".":
        parts[0] = _escape(".")
    name = "".join(parts)
    if len(name.encode()) <= _LONGEST_BYTES:
        return name
    digest = hashlib.sha256(_encode(source_id)).hexdigest()[:16]
    return name.encode()[: _LONGEST_BYTES - 17].decode(errors="ignore") + "~" + digest


def path_for(template: Path, source_id: str) -> Path:
    """The template with every `{source}` replaced by the safe name of the source."""
    name = safe_name(source_id)
    return Path(*(part.replace(PLACEHOLDER, name) for part in template.parts))


def fixed_folder(template: Path) -> Path:
    """The deepest folder of the template that does not depend on the source."""
    folders = [folder for folder in template.parents if PLACEHOLDER not in str(folder)]
    return folders[0] if folders else Path()


def encodable(text: str) -> str:
    r"""The text with undecodable bytes (lone surrogates) written as `\udcXX`, so that it can be stored as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _escape(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in _encode(character))
