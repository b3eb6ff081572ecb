from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import SinkError
from pipeline.observe.report import check_report, write_report
from pipeline.observe.status import RunStatus
from pipeline.observe.summary import as_dict


def test_the_report_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path, status: RunStatus) -> None:
    path = tmp_path / "made" / "report.json"
    check_report(path)
    path.write_text("old")
    write_report(status, path)
    assert json.loads(path.read_text()) == json.loads(json.dumps(as_dict(status)))
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


def test_a_name_that_is_no_text_does_not_end_the_report(tmp_path: Path, status: RunStatus) -> None:
    status.outputs.append(Path("runs/\udcff.jsonl"))
    write_report(status, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["outputs"][-1] == r"runs/\udcff.jsonl"


def test_a_folder_in_the_way_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is a folder, not a file"):
        check_report(tmp_path)


def test_a_parent_that_is_a_file_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"observe\.report: cannot write .*report\.json"):
        check_report(tmp_path / "file" / "sub" / "report.json")


def test_a_folder_without_write_permission_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(SinkError, match="cannot write to the folder"):
        check_report(tmp_path / "report.json")


def test_a_failed_write_keeps_the_old_report(
    tmp_path: Path, status: RunStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="No space left on device"):
        write_report(status, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
