"""Every command but `run`, in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.cli.configs import find_config
from pipeline.cli.main import app, main
from pipeline.config.cards import Convert, card_names, data_dir
from pipeline.config.schema import json_schema
from pipeline.errors import AssetError, ConfigError
from pipeline.inference import ModelDescription
from pipeline.inference.signature import Format
from pipeline.stages import TensorInfo

WriteConfig = Callable[..., Path]
EXIT_CODES = ("0    done", "1    ", "2    ", "3    nothing could run", "130  interrupted")


def exit_code(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run", "validate", "schema", "doctor", "models", "streams", "--version", *EXIT_CODES]),
        (["run"], ["CONFIG", "--set KEY=VALUE", "--device", "--max-frames", "--dry-run", *EXIT_CODES]),
        (["validate"], ["CONFIG", "--set KEY=VALUE"]),
        (["plan"], ["CONFIG", "--set KEY=VALUE", "--json", "without a GPU"]),
        (["schema"], ["--check"]),
        (["models"], ["list", "get", "inspect", "convert"]),
        (["models", "list"], []),
        (["models", "get"], ["NAME"]),
        (["models", "inspect"], ["PATH_OR_CARD"]),
        (["models", "convert"], ["MODEL.json", "OUT", "--free-batch"]),
        (
            ["streams"],
            ["list", "show", "add", "remove", "pause", "resume", "restart", "priority", "stop", "VRAMLINE_TOKEN"],
        ),
        (["streams", "list"], ["--url URL", "--token-file FILE", "--json", "VRAMLINE_URL"]),
        (["streams", "show"], ["ID", "--url URL", "--token-file FILE", "--json"]),
        (["streams", "add"], ["SOURCE", "--set KEY=VALUE", "${NAME}", "--url URL", "--token-file FILE"]),
        (["streams", "remove"], ["ID", "--url URL", "--token-file FILE"]),
        (["streams", "pause"], ["ID", "--url URL", "--token-file FILE"]),
        (["streams", "resume"], ["ID", "--url URL", "--token-file FILE"]),
        (["streams", "restart"], ["ID", "--url URL", "--token-file FILE"]),
        (["streams", "priority"], ["ID", "N", "1 to 100", "--url URL", "--token-file FILE"]),
        (["streams", "stop"], ["--url URL", "--token-file FILE"]),
        (["doctor"], ["--json"]),
    ],
)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(arguments: list[str], words: list[str], option: str) -> None:
    result = CliRunner().invoke(app, [*arguments, option], prog_name="vramline", terminal_width=80)
    assert result.exit_code == 0
    assert result.output.startswith(" ".join(["Usage: vramline", *arguments]))
    for word in words:
        assert word in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "..." not in re.sub(r"\[ARGS\]\.\.\.|\.\.\.$", "", result.output.splitlines()[0])
    assert not [line for line in result.output.splitlines()[1:] if line.endswith("...")]  # nothing is cut off


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"vramline {__version__}\n"


def test_validate_says_ok_or_everything_that_is_wrong(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_config(name="good.yaml")
    bad = write_config("runtime: {batch_size: 0}\nobserve: {log_level: loud}\n", name="bad.yaml")
    assert exit_code("validate", good) == 0
    assert capsys.readouterr() == (f"OK  {good}\n", "")
    assert exit_code("validate", bad, good) == 2
    out, err = capsys.readouterr()
    assert out == f"OK  {good}\n"
    first, second = err.splitlines()
    assert first.startswith(f"error: {bad}:7:")
    assert "runtime.batch_size" in first
    assert second.startswith(f"error: {bad}:8:")


def test_validate_applies_settings(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config()
    assert exit_code("validate", config, "--set", "runtime.batch_size=4") == 0
    assert exit_code("validate", config, "--set", "runtime.batch_size=none") == 2
    assert "runtime.batch_size" in capsys.readouterr().err


def test_the_ready_configurations_are_valid_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = [path.stem for path in data_dir("configs").glob("*.yaml")]
    assert "quickstart" in names
    assert exit_code("validate", *names) == 0
    assert capsys.readouterr().out == "".join(f"OK  {name}\n" for name in names)


def test_a_config_is_a_file_or_the_name_of_a_ready_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ready = data_dir("configs") / "quickstart.yaml"
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml", "configs/quickstart"):
        assert find_config(name) == ready
    (tmp_path / "quickstart.yaml").write_text("mine")
    assert find_config("quickstart.yaml") == Path("quickstart.yaml")
    with pytest.raises(ConfigError, match=r"elsewhere/quickstart\.yaml: no such file"):
        find_config("elsewhere/quickstart.yaml")
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        find_config("quikstart.yaml")
    with pytest.raises(ConfigError, match=r"ready ones are: .*quickstart"):
        find_config("zzz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder: this is a folder"):
        find_config("folder")


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("schema") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_schema_check_compares_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("schema", "--check") == 0
    monkeypatch.setattr("pipeline.config.cards.data_dir", lambda _: tmp_path)
    assert exit_code("schema", "--check") == 2
    (tmp_path / "schema.json").write_text("{}\n")
    assert exit_code("schema", "--check") == 2
    err = capsys.readouterr().err
    assert "is not here" in err
    assert "is not what the models of pipeline.config say" in err


def test_models_list_names_every_card(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.zoo.is_cached", lambda name: name == "nanodet")
    assert exit_code("models", "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "TASK", "LICENCE", "HERE", "TITLE"]
    assert [line.split()[0] for line in lines] == card_names("model")
    assert [line.split()[0] for line in lines if line.split()[3] == "yes"] == ["nanodet"]


def test_models_get_obtains_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def obtain(name: str, progress: Callable[[str, int, int | None], None]) -> Path:
        progress(f"fetching {name}", 1000, 1000)
        return Path("cache") / name

    monkeypatch.setattr("pipeline.zoo.obtain_model", obtain)
    assert exit_code("models", "get", "coco-ssd", "nanodet") == 0
    out, err = capsys.readouterr()
    assert out == "coco-ssd  cache/coco-ssd\nnanodet  cache/nanodet\n"
    assert "fetching nanodet: done, 1.0 kB" in err


def test_models_get_checks_all_names_before_the_first_download(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.zoo.obtain_model", lambda *_: pytest.fail("began to fetch"))
    assert exit_code("models", "get", "coco-ssd", "nanodett") == 3
    assert capsys.readouterr().err == "error: no model card is named 'nanodett'\n       did you mean 'nanodet'?\n"


def test_models_get_that_fails_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def obtain(*_: object) -> Path:
        raise AssetError("npm: https://user:hunter2@registry.example/x: 403", remedy="log in")

    monkeypatch.setattr("pipeline.zoo.obtain_model", obtain)
    assert exit_code("models", "get", "coco-ssd") == 3
    err = capsys.readouterr().err
    assert err.endswith("error: npm: https://***@registry.example/x: 403\n       log in\n")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that were described, without TensorFlow."""
    asked: list[Path] = []

    def describe(path: Path) -> ModelDescription:
        asked.append(path)
        image = TensorInfo("image", "float32", (None, 640, 640, 3))
        outputs = (TensorInfo("boxes", "float32", (None, 100, 4)), TensorInfo("scores", "float32", (None, 100, 80)))
        return ModelDescription("saved_model", path, (image,), outputs, "serving_default", ("serving_default", "raw"))

    monkeypatch.setattr("pipeline.inference.describe_model", describe)
    return asked


def test_models_inspect_shows_a_model_and_a_yaml_that_is_valid(
    described: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code("models", "inspect", "models/mine") == 0
    out = capsys.readouterr().out
    assert described == [Path("models/mine")]
    assert out.startswith("models/mine: SavedModel, signature serving_default\nother signatures: raw\n")
    assert "inputs\n  image  float32 [N, 640, 640, 3]\n" in out
    assert "outputs\n  boxes   float32 [N, 100, 4]\n  scores  float32 [N, 100, 80]\n" in out
    (tmp_path / "suggested.yaml").write_text(out[out.index("version: 1") :])
    assert exit_code("validate", tmp_path / "suggested.yaml") == 0


@pytest.mark.parametrize("kind", get_args(Format))
def test_models_inspect_names_every_format(
    kind: Format, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = TensorInfo("image", "float32", (None, 64, 64, 3))
    found = ModelDescription(kind, Path("mine"), (image,), (TensorInfo("scores", "float32", (None, 10)),))
    monkeypatch.setattr("pipeline.inference.describe_model", lambda _: found)
    assert exit_code("models", "inspect", "mine") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("mine: ")
    assert "_" not in first  # words, not the program's own names


def test_models_inspect_takes_a_card(
    described: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.zoo.obtain_model", lambda name, _: Path("cache") / name)
    assert exit_code("models", "inspect", "nanodet") == 0
    assert described == [Path("cache/nanodet")]
    assert "`model: nanodet` is enough" in capsys.readouterr().out


@pytest.mark.parametrize("free", [True, False])
def test_models_convert(free: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, Path, Convert]] = []
    monkeypatch.setattr("pipeline.zoo.tfjs.convert_tfjs", lambda *arguments: calls.append(arguments))
    assert exit_code("models", "convert", "web/model.json", "out", *(["--free-batch"] if free else [])) == 0
    assert calls == [(Path("web/model.json"), Path("out"), Convert(format="tfjs", free_batch=free))]
    assert capsys.readouterr().out == "out\n"
