from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import docs, models, postprocess, schema, sinks, sources, stages
from pipeline.config._generated import generate


def test_file_is_printed_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "file.txt"
    assert generate("some.module", path, "text\n", ["--check"]) == 1
    assert capsys.readouterr().err == "file.txt is not up to date: run python -m some.module --write\n"
    assert generate("some.module", path, "text\n", []) == 0
    assert capsys.readouterr().out == "text\n"
    assert not path.exists()
    assert generate("some.module", path, "text\n", ["--write"]) == 0
    assert path.read_text() == "text\n"
    assert generate("some.module", path, "text\n", ["--check"]) == 0
    assert generate("some.module", path, "other\n", ["--check"]) == 1
    with pytest.raises(SystemExit):
        generate("some.module", path, "text\n", ["--check", "--write"])


def test_reference_is_up_to_date_and_names_every_key() -> None:
    assert docs.main(["--check"]) == 0
    text = docs.dumps()
    sections = [models.Config, sources.Source, stages.Stages, stages.Preprocess, models.Runtime, models.Observe]
    for section in [*sections, *postprocess.FAMILIES.values(), *sinks.SINKS.values()]:
        for key in section.model_fields:
            assert f"`{key}`" in text or f"`{key}:" in text, key
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.replace("\\|", "").count("|") == 5, line


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main([]) == 0
    assert capsys.readouterr().out == schema.dumps()
