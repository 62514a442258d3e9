"""Where programs come from."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from devcluster import binaries
from devcluster.binaries import TOOLS, BinaryError, Tool

KUBERNETES, ETCD, *_, HELM, PROMTOOL = TOOLS


def program(path: Path, says: str) -> Path:
    """An executable that prints `says`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty environment, cache and path."""
    for name in ("DEVCLUSTER_BIN", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    (tmp_path / "path").mkdir()
    return tmp_path


def fake_go(folder: Path, version: str, body: str = ":") -> None:
    """A go program that knows its version and builds scripts."""
    script = f"""#!/bin/sh
case "$1" in
env) echo {version};;
list) echo {folder};;
build) {body}; while [ "$1" != -o ]; do shift; done
       case "$2" in */) for p in kube-apiserver kube-controller-manager kube-scheduler kubectl; do : > "$2$p"; done;;
       *) : > "$2";; esac;;
esac
"""
    path = folder / "path" / "go"
    path.write_text(script)
    path.chmod(0o755)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_tool_is_pinned_and_has_checksums(tool: Tool) -> None:
    assert re.fullmatch(r"v\d+\.\d+\.\d+", tool.version)
    assert f"{tool.module} {tool.version} h1:" in (tool.folder / "go.sum").read_text()


def test_the_environment_comes_before_the_cache(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = program(binaries.cache_dir() / ETCD.key("go1.26.8") / "etcd", "")
    assert binaries.find("etcd") == cached
    own = program(nothing / "own" / "etcd", "")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(own.parent))
    assert binaries.find("etcd") == own


def test_a_cached_build_is_found_without_go(nothing: Path) -> None:
    cached = program(binaries.cache_dir() / HELM.key("go1.99.0") / "helm", "")
    assert binaries.find("helm") == cached


def test_a_build_of_other_sources_is_not_found(nothing: Path) -> None:
    program(binaries.cache_dir() / f"{HELM.name}-{HELM.version}-000000000000-amd64-go1.26.8" / "helm", "")
    assert binaries.find("helm") is None


@pytest.mark.parametrize(
    ("says", "accepted"),
    [
        (f"etcd Version: {ETCD.version[1:]}", True),
        (f"etcd Version: {ETCD.version}", True),
        (f"etcd Version: {ETCD.version[1:]}0", False),
        (f"etcd Version: {ETCD.version[1:]}-rc.1", False),
        (f"etcd Version: 1{ETCD.version[1:]}", False),
    ],
)
def test_a_program_on_the_path_counts_only_with_the_exact_version(
    nothing: Path, says: str, accepted: bool
) -> None:
    found = program(nothing / "path" / "etcd", says)
    assert binaries.find("etcd") == (found if accepted else None)


def test_a_build_lands_whole_in_the_cache_and_is_told(nothing: Path) -> None:
    fake_go(nothing, "go1.26.8")
    said: list[str] = []
    folder = binaries.build(KUBERNETES, said.append)
    assert {path.name for path in folder.iterdir()} == set(KUBERNETES.packages)
    assert folder.name == KUBERNETES.key("go1.26.8")
    assert [re.sub(r"in \d+ s", "in N s", line) for line in said] == [
        f"building kubernetes {KUBERNETES.version}; with a cold cache this takes about 380 s on two cores",
        f"built kubernetes {KUBERNETES.version} in N s",
    ]
    assert binaries.build(KUBERNETES, said.append) == folder
    assert len(said) == 2
    assert stat.S_ISREG((folder / "kubectl").stat().st_mode)


def test_a_failed_build_leaves_nothing_in_the_cache(nothing: Path) -> None:
    fake_go(nothing, "go1.26.8", body="echo no space left >&2; exit 1")
    with pytest.raises(BinaryError, match=r"(?s)go build of helm .* ended with 1.*no space left"):
        binaries.build(HELM, print)
    assert [path for path in binaries.cache_dir().iterdir() if path.suffix != ".lock"] == []


def test_an_old_go_is_refused_with_both_versions(nothing: Path) -> None:
    fake_go(nothing, "go1.19.1")
    with pytest.raises(BinaryError, match=r"needs Go 1\.\d+\.0 or newer, .*go is go1\.19\.1"):
        binaries.build(HELM, print)


def test_a_missing_go_is_one_clear_line(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(nothing / "path"))
    with pytest.raises(
        BinaryError, match="promtool must be built and there is no go on the path: install Go"
    ):
        binaries.build(PROMTOOL, print)


def test_the_linker_sets_the_kubernetes_version() -> None:
    flags = binaries._linker_flags(KUBERNETES)
    major, minor, _ = KUBERNETES.version[1:].split(".")
    for name, value in (("gitVersion", KUBERNETES.version), ("gitMajor", major), ("gitMinor", minor)):
        assert f"-X k8s.io/component-base/version.{name}={value}" in flags
