"""A volume as people have it: links, folders that cannot be read, names that are no UTF-8."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import AccessDeniedError
from mochi_trainer.storage import Store, open_store
from mochi_trainer.storage.walking import Walk, volume_of
from tests.trainer.work import lines

ANOTHER_USER = 10001
"""As whom the pods run."""

LISTING = """
import json, logging, os, sys
from mochi_api.spec import S3Spec
from mochi_trainer.errors import TrainerError
from mochi_trainer.storage import open_store
logging.basicConfig(level="WARNING", stream=sys.stderr, format="%(message)s")
if os.getuid() == 0:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
store = open_store(f"file://{sys.argv[1]}", S3Spec())
try:
    print(json.dumps([info.key for info in store.list()]))
except TrainerError as error:
    print(json.dumps([type(error).__name__, error.action]))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def another_volume() -> Iterator[Path]:
    """A folder on a file system of its own, as a claim is."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def opened(root: Path) -> Store:
    return open_store(f"file://{root}", S3Spec())


def keys(root: Path, prefix: str = "") -> list[str]:
    return [info.key for info in opened(root).list(prefix)]


def write(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def listed_as_another_user(root: Path) -> tuple[object, str]:
    """What the user of the pods lists below `root`, or the name of the error; and what is logged."""
    child = subprocess.run(
        [sys.executable, "-c", LISTING, str(root), str(ANOTHER_USER)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(child.stdout), child.stderr


class TestWhatCannotBeRead:
    def test_lost_and_found_is_left_out_and_named(self, shared: Path) -> None:
        write(shared / "a.mp4")
        write(shared / "lost+found" / "#123.mp4")
        (shared / "lost+found").chmod(0o700)
        found, said = listed_as_another_user(shared)
        assert found == ["a.mp4"]
        assert said.splitlines() == [
            f"left out file://{shared}/lost+found: it is the file system's own",
        ]

    @pytest.mark.parametrize("mode", [0o000, 0o700, 0o744])
    def test_a_folder_of_somebody_else_is_left_out_and_named(self, shared: Path, mode: int) -> None:
        write(shared / "a.mp4")
        for name in ("b.mp4", "c.mp4"):
            write(shared / "theirs" / "deep" / name)
        (shared / "theirs" / "deep").chmod(mode if os.getuid() == 0 else 0o000)
        try:
            found, said = listed_as_another_user(shared)
        finally:
            (shared / "theirs" / "deep").chmod(0o755)
        assert found == ["a.mp4"]
        assert said.splitlines() == [
            f"left out file://{shared}/theirs/deep: there is no permission to read it",
        ]

    def test_the_folder_that_was_asked_for_is_no_such_folder(self, shared: Path) -> None:
        write(shared / "named" / "a.mp4")
        (shared / "named").chmod(0o700 if os.getuid() == 0 else 0o000)
        found, _ = listed_as_another_user(shared / "named")
        (shared / "named").chmod(0o700)
        user = ANOTHER_USER if os.getuid() == 0 else os.getuid()
        assert found == [
            AccessDeniedError.__name__,
            f"let the user {user}, as whom this process runs, read (and where results go, write) it",
        ]

    def test_what_is_left_out_is_said_once_for_all_listings(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(root / "lost+found" / "x")
        store = opened(root)
        assert [*store.list(), *store.list()] == []
        assert len(caplog.records) == 1


class TestLinks:
    def test_linked_folders_and_files_inside_the_volume_are_followed(self, root: Path) -> None:
        write(root.parent / "elsewhere" / "set" / "a.mp4")
        write(root.parent / "b.mp4")
        (root / "linked").symlink_to("../elsewhere")
        (root / "b.mp4").symlink_to(root.parent / "b.mp4")
        assert keys(root) == ["b.mp4", "linked/set/a.mp4"]
        assert opened(root).read_bytes("linked/set/a.mp4") == b"x"
        assert keys(root, "linked/se") == ["linked/set/a.mp4"]

    def test_loops_end(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        write(root / "sub" / "a.mp4")
        (root / "sub" / "again").symlink_to(root)
        (root / "up").symlink_to("..")
        (root / "self").symlink_to("self")
        (root / "x").symlink_to("y")
        (root / "y").symlink_to("x")
        assert keys(root) == ["sub/a.mp4"]
        said = caplog.text
        assert f"left out file://{root}/up: it is a link back to {root.parent}" in said
        assert f"left out file://{root}/sub/again: it is a link back to {root}, which it lies in" in said
        assert said.count("it is a link to nothing") == 3

    def test_a_folder_counts_once_and_under_its_own_name(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(root / "z" / "a.mp4")
        (root / "b").symlink_to("z")
        assert keys(root) == ["z/a.mp4"]
        assert f"left out file://{root}/b: it leads to a folder that is listed already" in caplog.text

    def test_a_hidden_folder_counts_under_the_name_that_people_see(self, root: Path) -> None:
        write(root / ".worktrees" / "abc" / "a.mp4")
        (root / "current").symlink_to(".worktrees/abc")
        assert keys(root) == ["current/a.mp4"]

    def test_links_out_of_the_volume_are_left_out(
        self, another_volume: Path, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(root / "a.mp4")
        assert volume_of(another_volume) == "/dev/shm"
        write(another_volume / "clips" / "b.mp4")
        (another_volume / "clips" / "linked").symlink_to(root)
        (another_volume / "clips" / "a.txt").symlink_to("/proc/self/environ")
        assert keys(another_volume / "clips") == ["b.mp4"]
        assert f"clips/linked: it is a link out of the volume, to {root}" in caplog.text
        assert "clips/a.txt: it is a link out of the volume, to /proc/" in caplog.text

    def test_by_hand_a_file_may_be_linked_from_another_disk_but_no_folder(
        self, another_volume: Path, root: Path
    ) -> None:
        write(another_volume / "a.mp4")
        (root / "a.mp4").symlink_to(another_volume / "a.mp4")
        (root / "disk").symlink_to(another_volume)
        assert [key for key, _ in Walk(root, volume="/").files(root)] == ["a.mp4"]

    def test_what_is_no_file_is_not_listed(self, root: Path) -> None:
        os.mkfifo(root / "a.mp4")
        assert keys(root) == []


class TestNames:
    def test_bytes_that_are_no_utf8_are_written_out_and_read_back(self, root: Path, tmp_path: Path) -> None:
        folder = os.fsencode(root) + b"/stra\xdfe"
        os.mkdir(folder)  # noqa: PTH102
        Path(os.fsdecode(folder + b"/caf\xe9 \xff.mp4")).write_bytes(b"one")
        write(root / "x.mp4")
        (key, plain) = keys(root)
        assert (key, plain) == (r"stra\xdfe/caf\xe9 \xff.mp4", "x.mp4")
        json.dumps(key, ensure_ascii=False).encode()
        store = opened(root)
        assert store.read_bytes(key) == b"one"
        assert store.head(key) == next(store.list())
        store.get(key, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"one"
        assert keys(root, "stra\\xdfe/ca") == [key]

    def test_a_name_that_is_written_so_is_that_file(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(root / r"caf\xe9.mp4", b"written")
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.mp4")).write_bytes(b"one byte")
        assert keys(root) == [r"caf\xe9.mp4"]
        assert opened(root).read_bytes(r"caf\xe9.mp4") == b"written"
        assert "its name is not UTF-8" in caplog.text

    @pytest.mark.parametrize(
        "name",
        ["my%20clip.mp4", "a b.mp4", "é.mp4", "e\u0301.mp4", "#1?.mp4", "a\\b.mp4", "x" * 250 + ".mp4"],
    )
    def test_other_names_are_their_own_keys(self, root: Path, name: str) -> None:
        write(root / name)
        assert keys(root) == [name]
        assert opened(root).read_bytes(name) == b"x"


def test_ten_times_the_files_cost_about_ten_times_the_work(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def work(count: int) -> int:
        for number in range(count):
            (root / f"{number:05d}.mp4").touch()
        return lines(lambda: found.append(len(keys(root))))

    found: list[int] = []
    few = work(300)
    assert work(3_000) < 11 * few
    assert found == [300, 3_000]
