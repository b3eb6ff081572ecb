"""A sink plug-in: what was found in a frame goes to a URL, or to a file, as one JSON object a frame.

sinks:
  - type: plugin
    use: webhook_sink:WebhookSink
    options: {url: "https://example.org/hook", labels: [person]}
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.plugins import Result, ResultBatch

TIMEOUT_S = 5.0


class WebhookSink:
    """Posts each frame that shows any of the labels.

    Args:
        url: Where to: http(s), or file:///... to try it out, which gets a line for each frame.
        labels: What is of interest; None: everything.
    """

    def __init__(self, url: str, labels: Sequence[str] | None = None) -> None:
        if not url.startswith(("http://", "https://", "file:///")):
            raise ValueError("url is http://, https:// or file:///")
        self._url = url
        self._labels = None if labels is None else set(labels)

    def write(self, batch: ResultBatch) -> None:
        """Called with every batch. An exception in here is counted, and logged; the next batch comes all the same."""
        for result in batch:
            found = self._of_interest(result)
            if found:
                self._post({"source": result.frame.source_id, "pts_s": result.frame.pts_s, "found": found})

    def _of_interest(self, result: Result) -> list[dict[str, Any]]:
        detections = result.detections
        if detections is None:  # the model is no detector
            return []
        found = [
            {"label": detections.label(int(class_id)), "score": round(float(score), 3), "box": box.tolist()}
            for box, score, class_id in zip(detections.boxes, detections.scores, detections.class_ids, strict=True)
        ]
        return [item for item in found if self._labels is None or item["label"] in self._labels]

    def _post(self, record: dict[str, Any]) -> None:
        body = json.dumps(record)
        if self._url.startswith("file://"):
            with Path(self._url.removeprefix("file://")).open("a", encoding="utf-8") as file:
                file.write(body + "\n")
            return
        request = urllib.request.Request(  # noqa: S310 - the constructor has looked at the scheme
            self._url, body.encode(), {"Content-Type": "application/json"}
        )
        # The run waits for its sinks: without a limit a silent server would hold up everything.
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
            pass
