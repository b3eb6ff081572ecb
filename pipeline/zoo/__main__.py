"""One conversion in a process of its own: `python -m pipeline.zoo MODEL.json OUT CONVERT ERROR`; see `pipeline.zoo.obtain`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline.config.cards import Convert
from pipeline.errors import VramlineError
from pipeline.zoo.tfjs import convert_tfjs


def main(model_json: str, out: str, convert: str, error: str) -> int:
    """Converts; what goes wrong is written to the file `error` as JSON, for the parent to raise."""
    try:
        convert_tfjs(Path(model_json), Path(out), Convert.model_validate_json(convert))
    except VramlineError as e:
        Path(error).write_text(json.dumps({"message": e.message, "remedy": e.remedy}), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
