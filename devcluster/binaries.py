"""The programs a cluster is made of: where each is looked up, and how it is built from its pinned Go module."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

TOOLS_DIR = Path(__file__).parent / "tools"
BUILD_LIMIT = 3600.0
"""Seconds one `go build` may take."""
LOCK_LIMIT = 3600.0
"""Seconds to wait for another builder of the same tool."""
VERSION_LIMIT = 20.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Say = Callable[[str], None]
"""Takes one line of progress."""


class BinaryError(Exception):
    """A program can not be had; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A pinned Go module in `tools/<name>` and the programs built from it."""

    name: str
    module: str
    """The module whose version in go.mod is the tool's version."""

    packages: Mapping[str, str]
    """Program -> Go package."""

    usual_seconds: int
    """Build time with a cold cache on two cores."""

    linker_values: Mapping[str, str] = field(default_factory=dict)
    """Variable the linker sets -> its value, with {version}, {major} and {minor}; else a program reports v0.0.0."""

    extras: Mapping[str, str] = field(default_factory=dict)
    """File kept beside the programs -> its path inside the module."""

    version_arguments: tuple[str, ...] = ("--version",)
    """What makes a program print its version."""

    @property
    def folder(self) -> Path:
        """Where go.mod and go.sum are."""
        return TOOLS_DIR / self.name

    @property
    def version(self) -> str:
        """The pinned version, such as v1.34.4."""
        found = re.search(
            rf"^(?:require )?\s*{re.escape(self.module)} (v\S+)", (self.folder / "go.mod").read_text(), re.M
        )
        if found is None:
            raise BinaryError(f"{self.folder / 'go.mod'} does not require {self.module}")
        return found[1]

    def key(self, go: str) -> str:
        """Name of the cache folder for builds by the Go version `go`; "*" matches any."""
        pinned = b"".join((self.folder / name).read_bytes() for name in ("go.mod", "go.sum"))
        machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
        return f"{self.name}-{self.version}-{hashlib.sha256(pinned).hexdigest()[:12]}-{machine}-{go}"


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
PYTORCHJOB_CRD = "kubeflow.org_pytorchjobs.yaml"
TOOLS = (
    Tool(
        name="kubernetes",
        module="k8s.io/kubernetes",
        packages={name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES},
        usual_seconds=380,
        linker_values={
            "k8s.io/component-base/version.gitVersion": "{version}",
            "k8s.io/component-base/version.gitMajor": "{major}",
            "k8s.io/component-base/version.gitMinor": "{minor}",
        },
    ),
    Tool(
        name="etcd",
        module="go.etcd.io/etcd/server/v3",
        packages={"etcd": "go.etcd.io/etcd/server/v3"},
        usual_seconds=50,
    ),
    Tool(
        name="versitygw",
        module="github.com/versity/versitygw",
        packages={"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
        linker_values={"main.Version": "{version}"},
        usual_seconds=85,
    ),
    Tool(
        name="training-operator",
        module="github.com/kubeflow/training-operator",
        packages={"training-operator.v1": "github.com/kubeflow/training-operator/cmd/training-operator.v1"},
        usual_seconds=170,
        extras={PYTORCHJOB_CRD: f"manifests/base/crds/{PYTORCHJOB_CRD}"},
        version_arguments=(),
    ),
    Tool(
        name="helm",
        module="helm.sh/helm/v3",
        packages={"helm": "helm.sh/helm/v3/cmd/helm"},
        usual_seconds=160,
        linker_values={"helm.sh/helm/v3/internal/version.version": "{version}"},
        version_arguments=("version", "--short"),
    ),
    Tool(
        name="promtool",
        module="github.com/prometheus/prometheus",
        packages={"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
        linker_values={"github.com/prometheus/common/version.Version": "{version}"},
        usual_seconds=300,
    ),
)
CLUSTER_TOOLS = tuple(tool for tool in TOOLS if tool.name not in {"helm", "promtool"})
"""What `up` needs; the others are looked up when they are asked for."""


def cache_dir() -> Path:
    """The folder of all builds."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mochi-operator" / "bin"


def tool_of(program: str) -> Tool:
    """The tool that has `program` (or a file kept beside it)."""
    for tool in TOOLS:
        if program in tool.packages or program in tool.extras:
            return tool
    raise BinaryError(f"no tool has a program {program!r}")


def find(program: str) -> Path | None:
    """The program's path, or None when it must be built: environment, cache, then an exact match on the path."""
    tool = tool_of(program)
    for folder in _environment_dirs():
        if (folder / program).is_file():
            return folder / program
    cached = _cached(tool)
    if cached is not None:
        return cached / program
    return _on_path(tool, program)


def ensure(program: str, say: Say) -> Path:
    """The program's path; builds its tool when nothing has it. Raises `BinaryError`."""
    return find(program) or build(tool_of(program), say) / program


def ensure_all(say: Say) -> dict[str, Path]:
    """Every program and file that `up` needs. Raises `BinaryError`."""
    return {name: ensure(name, say) for tool in CLUSTER_TOOLS for name in (*tool.packages, *tool.extras)}


def build(tool: Tool, say: Say) -> Path:
    """Build into the cache, unless it is there; returns the folder. Raises `BinaryError`."""
    go = _go_version(tool)
    target = cache_dir() / tool.key(go)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name(f".{target.name}.lock"), tool, say):
        if target.is_dir():
            return target
        say(
            f"building {tool.name} {tool.version}; with a cold cache this takes about {tool.usual_seconds} s on two cores"
        )
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f".{tool.name}-", dir=target.parent) as name:
            made = Path(name) / "bin"
            made.mkdir()
            _compile(tool, made)
            _copy_extras(tool, made)
            made.rename(target)
        seconds = time.monotonic() - started
        _log_time(f"{tool.name} {tool.version} {go} {seconds:.0f} s")
        say(f"built {tool.name} {tool.version} in {seconds:.0f} s")
    return target


def _environment_dirs() -> list[Path]:
    names = ("DEVCLUSTER_BIN", "KUBEBUILDER_ASSETS")
    return [Path(value) for name in names if (value := os.environ.get(name))]


def _cached(tool: Tool) -> Path | None:
    """Any build of these very sources; the newest when several Go versions made one."""
    found = [path for path in cache_dir().glob(tool.key("*")) if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime) if found else None


def _on_path(tool: Tool, program: str) -> Path | None:
    where = shutil.which(program)
    if where is None or not tool.version_arguments:
        return None
    arguments = ("version", "--client") if program == "kubectl" else tool.version_arguments
    try:
        done = subprocess.run(
            [where, *arguments], capture_output=True, text=True, timeout=VERSION_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.escape(tool.version.removeprefix("v"))
    return Path(where) if re.search(rf"(?<![\w.]){'v?'}{version}(?![\w.-])", done.stdout) else None


def _go_version(tool: Tool) -> str:
    """The installed Go's version such as go1.26.8. Raises `BinaryError` when it is absent or too old."""
    wanted = re.search(r"^go (\S+)", (tool.folder / "go.mod").read_text(), re.M)
    least = wanted[1] if wanted else "1.24"
    program = shutil.which("go")
    if program is None:
        raise BinaryError(
            f"{tool.name} must be built and there is no go on the path: install Go {least} or newer"
        )
    done = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, timeout=VERSION_LIMIT, check=False
    )
    have = done.stdout.strip()
    if _numbers(have) < _numbers(least):
        raise BinaryError(
            f"{tool.name} {tool.version} needs Go {least} or newer, {program} is {have or 'unknown'}"
        )
    return have.split()[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _linker_flags(tool: Tool) -> str:
    major, minor = _numbers(tool.version)[:2]
    values = {
        key: text.format(version=tool.version, major=major, minor=minor)
        for key, text in tool.linker_values.items()
    }
    return " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in values.items())])


def _go(tool: Tool, arguments: list[str]) -> str:
    """Run go in the tool's module. Static programs: a cache may be used by another image of the same machine type."""
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    try:
        done = subprocess.run(
            ["go", *arguments],
            cwd=tool.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BUILD_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BinaryError(f"go {arguments[0]} of {tool.name} took more than {BUILD_LIMIT:.0f} s") from error
    if done.returncode:
        last = "\n  ".join(done.stderr.strip().splitlines()[-10:])
        raise BinaryError(
            f"go {arguments[0]} of {tool.name} {tool.version} ended with {done.returncode}:\n  {last}"
        )
    return done.stdout


def _compile(tool: Tool, folder: Path) -> None:
    """One `go build` for all programs, so that their common packages are compiled and linked side by side."""
    command = ["build", "-buildvcs=false", "-trimpath", "-ldflags", _linker_flags(tool), "-o"]
    if len(tool.packages) > 1:
        _go(tool, [*command, f"{folder}/", *tool.packages.values()])
        return
    for program, package in tool.packages.items():
        _go(tool, [*command, str(folder / program), package])


def _copy_extras(tool: Tool, folder: Path) -> None:
    if not tool.extras:
        return
    module = Path(_go(tool, ["list", "-m", "-f", "{{.Dir}}", tool.module]).strip())
    for name, inside in tool.extras.items():
        (folder / name).write_bytes((module / inside).read_bytes())


def _log_time(line: str) -> None:
    with (cache_dir() / "build-times.log").open("a") as log:
        log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}\n")


@contextlib.contextmanager
def _lock(path: Path, tool: Tool, say: Say) -> Iterator[None]:
    """One builder a key; the others wait and then find the result."""
    deadline = time.monotonic() + LOCK_LIMIT
    with path.open("w") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BinaryError(
                        f"another process has been building {tool.name} for {LOCK_LIMIT:.0f} s"
                    ) from None
                if not told:
                    say(f"waiting for another process that builds {tool.name}")
                    told = True
                time.sleep(0.5)
        yield
