"""A file is written whole or not at all, and what cannot be written says why."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseplan import atomic
from sparseplan.errors import DataError, OutputError


def only(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_text_bytes_and_arrays_arrive_and_nothing_else_does(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a.json", "täg\n")
    atomic.write_bytes(str(tmp_path / "b.bin"), b"\0\1")
    atomic.write_npz(tmp_path / "c.npz", {"decoder0.conv1.weight": np.arange(6.0).reshape(2, 3), "file": np.arange(2)})
    assert (tmp_path / "a.json").read_bytes() == "täg\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\0\1"
    with np.load(tmp_path / "c.npz", allow_pickle=False) as data:
        assert sorted(data) == ["decoder0.conv1.weight", "file"]
        np.testing.assert_array_equal(data["decoder0.conv1.weight"], [[0, 1, 2], [3, 4, 5]])
    assert only(tmp_path) == ["a.json", "b.bin", "c.npz"]


def test_same_arrays_same_bytes(tmp_path: Path) -> None:
    arrays = {"w": np.arange(100, dtype=np.float32), "b": np.zeros((0, 3), np.int8)}
    atomic.write_npz(tmp_path / "1.npz", arrays)
    atomic.write_npz(tmp_path / "2.npz", arrays)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"array 'w': dtype=object cannot be stored"):
        atomic.write_npz(tmp_path / "w.npz", {"w": np.array([{}], dtype=object)})
    assert only(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_midway_leaves_the_old_file_and_no_debris(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")

    def fail_midway() -> None:
        with atomic.replacing(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail_midway()
    assert target.read_text() == "old"
    assert only(tmp_path) == ["plan.json"]


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "plan.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert only(tmp_path) == ["plan.png"]


def test_modes_follow_the_umask_and_the_file_that_was_there(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "new", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    atomic.write_text(tmp_path / "new", "again")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_devices_are_written_to_and_not_replaced() -> None:
    atomic.write_text(os.devnull, "gone")
    atomic.check_writable(os.devnull)
    assert not Path(os.devnull).is_file()


UNWRITABLE = {
    "absent folder": "{}/absent/plan.json",
    "file as folder": "{}/file/plan.json",
    "folder": "{}",
    "trailing slash": "{}/new/",
    "empty": "",
    "zero byte": "{}/a\0b",
    "lone surrogate": "{}/\ud800",
    "too long": "{}/" + "x" * 5000,
    "no such system": "/proc/absent/plan.json",
}


@pytest.mark.parametrize("case", UNWRITABLE)
@pytest.mark.parametrize("write", [atomic.check_writable, lambda path: atomic.write_text(path, "text")])
def test_unwritable_paths_give_one_clear_error(tmp_path: Path, case: str, write: Callable[[str], None]) -> None:
    (tmp_path / "file").write_text("")
    path = UNWRITABLE[case].format(tmp_path)
    with pytest.raises(OutputError, match=r"^(cannot write '|path=')") as caught:
        write(path)
    assert caught.value.exit_code == 2
    assert only(tmp_path) == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("old")
    (tmp_path / "plan.json").chmod(0o444)
    with pytest.raises(OutputError, match="Permission denied"):
        atomic.write_text(tmp_path / "plan.json", "new")
    assert (tmp_path / "plan.json").read_text() == "old"


def test_checking_first_leaves_no_trace(tmp_path: Path) -> None:
    atomic.check_writable(tmp_path / "plan.json")
    assert only(tmp_path) == []


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with atomic.together() as files:
        files.text(files.folder(tmp_path / "new" / "er") / "b", "b")
        files.text(tmp_path / "a", "a")
        files.npz(tmp_path / "c.npz", {"w": np.ones(3, np.float32)})
        assert (tmp_path / "a").read_text() == "old"
        assert only(tmp_path / "new" / "er")[0].startswith(".b.sparseplan-")
    assert only(tmp_path) == ["a", "c.npz", "new"]
    assert only(tmp_path / "new" / "er") == ["b"]
    assert (tmp_path / "a").read_text() == "a"


def _writes(folder: Path) -> None:
    with atomic.together() as files:
        where = files.folder(folder / "out" / "deep")
        files.text(folder / "a", "new a")
        files.text(where / "b", "new b" * 5000)
        files.npz(folder / "c.npz", {"w": np.ones(3, np.float32)})


@pytest.mark.parametrize("call", ["write", "open", "fsync", "replace", "mkdir", "close"])
def test_a_full_disk_leaves_all_or_none_wherever_it_strikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The n-th call fails with ENOSPC, for every n until none does."""
    struck = 0
    for n in range(1, 100):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "a").write_text("old a")
        count = 0

        def once() -> None:
            nonlocal count
            count += 1
            if count == n:  # noqa: B023
                raise OSError(28, "No space left on device")

        real, opened = getattr(os, call), Path.open

        class Full(io.BufferedWriter):
            def write(self, data: Any) -> int:
                once()
                return super().write(data)

        def open_(self: Path, mode: str = "r", opened: Any = opened, full: Any = Full) -> Any:
            return full(io.FileIO(self, "w")) if mode == "wb" else opened(self, mode)

        def system(*args: Any, real: Any = real, once: Any = once, **kept: Any) -> Any:
            once()
            return real(*args, **kept)

        with monkeypatch.context() as patch:
            if call == "write":
                patch.setattr(Path, "open", open_)
            else:
                patch.setattr(os, call, system)
            failed = _fails(folder)
        left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
        if failed:
            struck += 1
            assert left == ["a"]
            assert (folder / "a").read_text() == "old a"
        else:
            assert left == ["a", "c.npz", "out", "out/deep", "out/deep/b"]
            assert (folder / "a").read_text() == "new a"
        if count < n:
            break
    assert struck > 0


def _fails(folder: Path) -> bool:
    try:
        _writes(folder)
    except OutputError as error:
        return "No space left on device" in str(error)
    return False


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys\nfrom sparseplan import atomic\n"
        "with atomic.together() as files:\n"
        "    files.text(sys.argv[1] + '/plan.json', 'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    (left,) = only(tmp_path)
    assert left.startswith(".plan.sparseplan-")
    mine = left.split("-")
    others = left.replace(mine[1], "0" * 8)  # of another machine, whose processes cannot be asked for
    living = left.replace(f"-{mine[2]}-", f"-{os.getppid()}-")
    for name in (others, living, ".plan.json.swp", ".plan.sparseplan-notes.json"):
        (tmp_path / name).write_text("kept")
    again = "import sys\nfrom sparseplan import atomic\natomic.write_text(sys.argv[1] + '/other.json', 'whole')\n"
    subprocess.run([sys.executable, "-c", again, str(tmp_path)], check=True)
    assert only(tmp_path) == sorted([others, living, ".plan.json.swp", ".plan.sparseplan-notes.json", "other.json"])


def test_a_write_protected_file_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs this: root may write anywhere, so the answer of the system is made up."""
    path = tmp_path / "out.txt"
    path.write_text("old")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK and allowed(p, mode))
    with pytest.raises(OutputError, match="Permission denied"):
        atomic.write_text(path, "new")
    assert path.read_text() == "old"
