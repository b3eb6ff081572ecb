"""Outputs appear under their names only when complete, and nobody's file is lost."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SinkError
from pipeline.sinks._files import Output, check_folder
from pipeline.sinks._names import encodable, fixed_folder, path_for, safe_name


def test_a_complete_output_has_its_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    output = Output(tmp_path / "a" / "b" / "out.txt", overwrite=False)
    output.write(b"one\n")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["out.txt.partial"]
    output.write(b"two\n")
    assert output.complete() == tmp_path / "a" / "b" / "out.txt"
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["out.txt"]
    assert (tmp_path / "a" / "b" / "out.txt").read_bytes() == b"one\ntwo\n"


def test_an_existing_output_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("precious")
    with pytest.raises(SinkError, match=r"out\.txt: already exists .*overwrite: true"):
        Output(path, overwrite=False)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_overwrite_replaces_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    output = Output(path, overwrite=True)
    output.write(b"new")
    assert path.read_text() == "old"
    output.complete()
    assert path.read_text() == "new"


def test_an_output_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = Output(tmp_path / "out.txt", overwrite=False)
    output.write(b"ours")
    (tmp_path / "out.txt").write_text("theirs")
    with pytest.raises(SinkError, match="already exists"):
        output.complete()
    assert output.keep() == [tmp_path / "out.txt.partial"]
    assert (tmp_path / "out.txt").read_text() == "theirs"
    assert (tmp_path / "out.txt.partial").read_text() == "ours"


def test_a_folder_or_a_device_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SinkError, match="folder: is a folder"):
        Output(tmp_path / "folder", overwrite=True)
    with pytest.raises(SinkError, match="pipe: is not a regular file"):
        Output(tmp_path / "pipe", overwrite=True)
    with pytest.raises(SinkError, match="not a regular file"):
        Output(Path("/dev/null"), overwrite=True)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_link_is_kept_and_its_target_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("elsewhere/real.txt")
    output = Output(tmp_path / "link.txt", overwrite=True)
    output.write(b"new")
    output.complete()
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "elsewhere" / "real.txt").read_text() == "new"


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out.txt", tmp_path / "file" / "deeper" / "out.txt"):
        with pytest.raises(SinkError, match=r"a part of the path is a file"):
            Output(path, overwrite=False)
    with pytest.raises(SinkError, match="the file name is too long"):
        Output(tmp_path / ("x" * 250), overwrite=False)


def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    """As a user without root's rights, whoever runs the tests."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    tmp_path.chmod(0o755)
    program = (
        "import os, sys; from pathlib import Path\n"
        "from pipeline.sinks import _files; from pipeline.errors import SinkError\n"
        "path = Path(sys.argv[1])\n"
        "if os.geteuid() == 0:\n"
        "    for parent in path.parents[1:]:\n"
        "        if parent.stat().st_mode & 0o001 == 0 and parent.stat().st_uid == 0: parent.chmod(0o711)\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for action in (lambda: _files.check_folder(path.parent), lambda: _files.Output(path, overwrite=False)):\n"
        "    try: action()\n"
        "    except SinkError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "out.txt")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{folder}: no permission to write there")
    assert second.startswith(f"{folder}: no permission to write there")
    assert list(folder.iterdir()) == []


def test_the_second_of_two_writers_fails(tmp_path: Path) -> None:
    output = Output(tmp_path / "out.txt", overwrite=True)
    output.write(b"first")
    with pytest.raises(SinkError, match="another run or another sink is writing it"):
        Output(tmp_path / "out.txt", overwrite=True)
    output.complete()
    assert (tmp_path / "out.txt").read_text() == "first"


def test_a_writer_in_another_process_is_noticed_and_its_crash_too(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    program = (
        "import sys; from pathlib import Path; from pipeline.sinks._files import Output\n"
        "Output(Path(sys.argv[1]), overwrite=False).write(b'left behind'); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(SinkError, match="another run"):
            Output(path, overwrite=False)
        other.kill()
    assert (tmp_path / "out.txt.partial").read_text() == "left behind"
    output = Output(path, overwrite=False)
    output.write(b"fresh")
    output.complete()
    assert path.read_text() == "fresh"


def test_an_output_that_is_completed_while_we_wait_for_its_lock_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.txt"
    first = Output(path, overwrite=False)
    first.write(b"first")
    lock = Output._lock
    calls = []

    def complete_then_lock(self: Output, fd: int) -> None:
        if not calls:
            calls.append(first.complete())
        lock(self, fd)

    monkeypatch.setattr(Output, "_lock", complete_then_lock)
    with pytest.raises(SinkError, match="already exists"):
        Output(path, overwrite=False)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_keep_and_discard(tmp_path: Path) -> None:
    empty = Output(tmp_path / "empty.txt", overwrite=False)
    assert empty.keep() == []
    assert empty.keep() == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed"):
        empty.write(b"late")


def test_check_folder_makes_it(tmp_path: Path) -> None:
    check_folder(tmp_path / "x" / "y")
    assert (tmp_path / "x" / "y").is_dir()


IDS = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)


@given(st.sets(IDS, min_size=2, max_size=8))
def test_names_are_safe_and_never_collide(ids: set[str]) -> None:
    names = {safe_name(source_id) for source_id in ids}
    assert len(names) == len(ids)
    for name in names:
        assert len(name.encode()) <= 150
        assert "/" not in name
        assert name.isprintable()
        assert not name.startswith(".")


@pytest.mark.parametrize(
    ("source_id", "name"),
    [
        ("hall/cam 1.mp4", "hall%2Fcam 1.mp4"),
        ("hall%2Fcam 1.mp4", "hall%252Fcam 1.mp4"),
        ("..", "%2E."),
        ("Tür:7", "Tür%3A7"),
        ("a\nb\0", "a%0Ab%00"),
        ("\udc80", "%ED%B2%80"),
    ],
)
def test_names_stay_readable(source_id: str, name: str) -> None:
    assert safe_name(source_id) == name


def test_long_ids_that_differ_at_the_end_differ_as_names() -> None:
    assert safe_name("x" * 300 + "1") != safe_name("x" * 300 + "2")


def test_templates() -> None:
    assert path_for(Path("out/{source}/{source}.mp4"), "a/b") == Path("out/a%2Fb/a%2Fb.mp4")
    assert fixed_folder(Path("out/{source}/x.mp4")) == Path("out")
    assert fixed_folder(Path("{source}.mp4")) == Path()
    assert fixed_folder(Path("/{source}/x.mp4")) == Path("/")


def test_encodable_keeps_text_and_spells_out_lone_surrogates() -> None:
    assert encodable("Tür 自") == "Tür 自"
    assert encodable("a\udc80") == r"a\udc80"
