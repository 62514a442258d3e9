"""Names, the state folder, its lock, and processes by identity."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from devcluster import cluster, processes, state

SELF = processes.Identity(1, 1)


@pytest.fixture
def sleeper():
    """A process that would run for a minute."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


@pytest.mark.parametrize("name", ["", "Upper", "-a", "a-", "a/b", "..", "a" * 41])
def test_a_name_that_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(state.StateError, match="cluster name must be 1 to 40"):
        state.default_dir(name)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    part = state.Part(name="etcd", process=processes.Identity(7, 8), address="socket file", since=1.5)
    s3 = state.S3(endpoint="http://e", pod_endpoint="http://p", access_key="a", secret_key="s")
    written = state.State(
        name="n", supervisor=SELF, since=1.0, parts=(part,), s3=s3, binaries={"etcd": "/e"}, ready=True
    )
    state.write(tmp_path, written)
    assert state.read(tmp_path) == written
    assert (tmp_path / state.MARKER).stat().st_mode & 0o077 == 0


def test_a_folder_that_is_not_a_clusters_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("x")
    with pytest.raises(state.StateError, match="not a cluster's folder"):
        cluster.down(tmp_path)
    assert precious.exists()


def test_down_without_a_cluster_says_so_and_makes_nothing(tmp_path: Path) -> None:
    assert not cluster.down(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_down_removes_what_a_crash_left(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    folder = tmp_path / "crashed"
    (folder / "agent" / "closed").mkdir(parents=True)
    (folder / "agent" / "closed" / "file").write_text("x")
    (folder / "agent" / "closed").chmod(0o500)
    left = processes.identity(sleeper.pid)
    assert left is not None
    part = state.Part(name="etcd", process=left, address="", since=0)
    state.write(folder, state.State(name="n", supervisor=processes.Identity(0, 0), parts=(part,)))
    assert cluster.down(folder)
    assert sleeper.wait(5) == -9
    assert list(tmp_path.iterdir()) == []


def test_a_recycled_pid_is_not_touched(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.identity(sleeper.pid)
    assert found is not None
    earlier = processes.Identity(found.pid, found.start - 1)
    part = state.Part(name="etcd", process=earlier, address="", since=0)
    state.write(tmp_path, state.State(name="n", supervisor=earlier, parts=(part,)))
    assert cluster.down(tmp_path)
    assert sleeper.poll() is None


def test_a_zombie_counts_as_ended(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.identity(sleeper.pid)
    assert found is not None
    assert found.alive()
    sleeper.kill()
    assert processes.wait_until(lambda: not found.alive(), 5)


def test_descendants_reach_grandchildren() -> None:
    script = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", script]) as child:
        own = os.getpid()
        try:
            assert processes.wait_until(lambda: len(processes.descendants(child.pid)) == 1, 5)
            grandchild = processes.descendants(child.pid)[0]
            assert grandchild in processes.descendants(own)
        finally:
            processes.end([grandchild], grace=1)


def test_the_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with state.lock(tmp_path / "c"):
            order.append("second")

    with state.lock(tmp_path / "c"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_images_file_leaves_nothing(tmp_path: Path, empty_tools: None) -> None:
    config = cluster.Config(dir=tmp_path / "c", images=tmp_path / "no.json")
    with pytest.raises(FileNotFoundError):
        cluster.up(config)
    assert [path.name for path in tmp_path.iterdir() if path.name != "bin"] == []


@pytest.fixture
def empty_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every program exists, as an empty file."""
    from devcluster import binaries

    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in binaries.CLUSTER_TOOLS:
        for name in (*tool.packages, *tool.extras):
            (folder / name).write_text("")
    monkeypatch.setenv("DEVCLUSTER_BIN", str(folder))


def test_a_cluster_takes_its_whole_folder_with_it_and_shares_none_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clusters that begin and end at the same time meet in no folder that one of them would take away."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = state.default_dir("first"), state.default_dir("second")
    assert first.parent == second.parent == tmp_path
    for folder in (first, second):
        folder.mkdir(parents=True)
    state.remove(first)
    assert second.is_dir()
    state.remove(second)
    assert list(tmp_path.iterdir()) == []
