"""A pod's volumes as folders of the host, and where each container sees them.

ConfigMap, Secret, downward API and projected volumes are written as the kubelet does: files are links into `..data`,
a link that is replaced in one step, so that readers see the old content or the new one.
A claim stands for a block volume: its root belongs to root, and `lost+found` in it is nobody else's. All files of this
machine belong to one user, so who may write is a matter of the mount: a container that is not root may write to a claim
if the pod has an fsGroup or the folder's mode lets everybody.
sizeLimit and medium of emptyDir and file modes of single items are not honoured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devcluster.agent.env import ConfigError, Context, expand, field_value, resource_value
from devcluster.agent.root import Mount

Files = dict[str, bytes]
LOST_AND_FOUND = "lost+found"
_OTHERS_WRITE = 0o002
DEFAULT_TOKEN_SECONDS = 3600


class VolumeError(Exception):
    """A volume can not be made now (FailedMount); the message names it and what is missing."""


class Source(Protocol):
    """Where content comes from; `cluster.Namespace` in production."""

    def config_map(self, name: str) -> dict[str, bytes] | None:
        """Content of a ConfigMap; None when it does not exist."""
        ...

    def secret(self, name: str) -> dict[str, bytes] | None:
        """Content of a Secret; None when it does not exist."""
        ...

    def claim_path(self, claim: str) -> str | None:
        """Host folder behind a bound claim; None when there is none."""
        ...

    def token(self, pod: Mapping[str, Any], audience: str | None, seconds: int) -> bytes:
        """A service account token bound to `pod`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PodVolumes:
    """The volumes of one pod below `folder`."""

    folder: Path
    pod: Mapping[str, Any]
    context: Context
    source: Source

    def paths(self) -> dict[str, str]:
        """Make every volume; volume name -> host path. Content that may change is written afresh."""
        return {item["name"]: self._path(item) for item in self.pod["spec"].get("volumes", ())}

    def _path(self, volume: Mapping[str, Any]) -> str:
        name = volume["name"]
        if "hostPath" in volume:
            return _host_path(name, volume["hostPath"])
        if "persistentVolumeClaim" in volume:
            return self._claim(name, volume["persistentVolumeClaim"]["claimName"])
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            own.chmod(0o2777 if fs_group(self.pod) is not None else 0o777)
            return str(own)
        write_atomically(own, self._content(volume))
        return str(own)

    def _claim(self, name: str, claim: str) -> str:
        path = self.source.claim_path(claim)
        if path is None:
            raise VolumeError(
                f'volume "{name}": claim "{claim}" is not bound to a volume of type hostPath or local'
            )
        Path(path).mkdir(parents=True, exist_ok=True)
        return path

    def _content(self, volume: Mapping[str, Any]) -> Files:
        makers: Mapping[str, Callable[[Mapping[str, Any]], Files]] = {
            "configMap": lambda spec: self._keys("configmap", spec["name"], spec, self.source.config_map),
            "secret": lambda spec: self._keys(
                "secret", spec.get("secretName") or spec["name"], spec, self.source.secret
            ),
            "downwardAPI": self._downward,
            "projected": self._projected,
            "serviceAccountToken": self._token,
        }
        for kind, make in makers.items():
            if kind in volume:
                return make(volume[kind])
        kinds = ", ".join(sorted(set(volume) - {"name"}))
        raise VolumeError(
            f'volume "{volume.get("name", "")}": type {kinds} is not supported by the devcluster agent'
        )

    def _keys(
        self, kind: str, name: str, spec: Mapping[str, Any], read: Callable[[str], dict[str, bytes] | None]
    ) -> Files:
        data = read(name)
        optional = bool(spec.get("optional"))
        if data is None:
            if optional:
                return {}
            raise VolumeError(f'MountVolume.SetUp failed: {kind} "{name}" not found')
        if "items" not in spec:
            return data
        missing = [item["key"] for item in spec["items"] if item["key"] not in data]
        if missing and not optional:
            raise VolumeError(
                f'MountVolume.SetUp failed: {kind} "{name}" references non-existent config key: {missing[0]}'
            )
        return {item["path"]: data[item["key"]] for item in spec["items"] if item["key"] in data}

    def _downward(self, spec: Mapping[str, Any]) -> Files:
        return {item["path"]: self._downward_value(item).encode() for item in spec.get("items", ())}

    def _downward_value(self, item: Mapping[str, Any]) -> str:
        try:
            if "fieldRef" in item:
                return field_value(item["fieldRef"]["fieldPath"], self.context)
            reference = item["resourceFieldRef"]
            container = next(
                c for c in self.pod["spec"]["containers"] if c["name"] == reference["containerName"]
            )
            return resource_value(reference, self.context, container)
        except ConfigError as error:
            raise VolumeError(str(error)) from error

    def _projected(self, spec: Mapping[str, Any]) -> Files:
        files: Files = {}
        for source in spec.get("sources", ()):
            files |= self._content(source)
        return files

    def _token(self, spec: Mapping[str, Any]) -> Files:
        seconds = int(spec.get("expirationSeconds", DEFAULT_TOKEN_SECONDS))
        return {spec["path"]: self.source.token(self.pod, spec.get("audience"), seconds)}


def _host_path(name: str, spec: Mapping[str, Any]) -> str:
    path, kind = Path(spec["path"]), spec.get("type", "")
    if kind in ("DirectoryOrCreate", ""):
        if not path.exists():
            path.mkdir(parents=True)
    elif kind == "FileOrCreate":
        path.touch()
    checks = {"Directory": path.is_dir, "File": path.is_file, "Socket": path.is_socket}
    if kind in checks and not checks[kind]():
        raise VolumeError(f'volume "{name}": hostPath {path} is not of type {kind}')
    return str(path)


def write_atomically(folder: Path, files: Files) -> None:
    """Let `folder` hold exactly `files` (relative path -> content), switching from what it held in one step."""
    if current_files(folder) == files:
        return
    old = str((folder / "..data").readlink()) if (folder / "..data").is_symlink() else None
    number = int(old.removeprefix("..")) + 1 if old else 1
    fresh = folder / f"..{number}"
    shutil.rmtree(fresh, ignore_errors=True)
    for name, content in files.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o644)
    fresh.mkdir(exist_ok=True)
    (folder / "..data_tmp").unlink(missing_ok=True)
    (folder / "..data_tmp").symlink_to(fresh.name)
    (folder / "..data_tmp").rename(folder / "..data")
    _link_entries(folder, {name.split("/")[0] for name in files})
    if old:
        shutil.rmtree(folder / old)


def _link_entries(folder: Path, wanted: set[str]) -> None:
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    for name in wanted:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def current_files(folder: Path) -> Files | None:
    """What `write_atomically` wrote last; None before the first time."""
    data = folder / "..data"
    if not data.is_dir():
        return None
    return {
        str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()
    }


def container_mounts(
    container: Mapping[str, Any],
    paths: Mapping[str, str],
    variables: Mapping[str, str],
    written: Sequence[str],
) -> list[Mount]:
    """The mounts of one container. `written` names the volumes whose content is the agent's, so read-only."""
    mounts: list[Mount] = []
    for item in container.get("volumeMounts", ()):
        source = paths[item["name"]]
        part = expand(item.get("subPathExpr", ""), variables) or item.get("subPath", "")
        if part:
            source = _sub_path(source, part)
        read_only = bool(item.get("readOnly")) or item["name"] in written
        mounts.append({"source": source, "target": item["mountPath"], "read_only": read_only})
    return mounts


def _sub_path(volume: str, part: str) -> str:
    path = (Path(volume) / part).resolve()
    if not path.is_relative_to(Path(volume).resolve()):
        raise VolumeError(f"subPath {part!r} leads out of its volume")
    if not path.exists():
        path.mkdir(parents=True)
    return str(path)


def fs_group(pod: Mapping[str, Any]) -> int | None:
    """The group that the pod's volumes are given to."""
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return None if group is None else int(group)


def as_user(mounts: Sequence[Mount], claims: Sequence[str], *, group: int | None, closed: str) -> list[Mount]:
    """`mounts` as a user who is not root may use them; `claims` are the folders behind claims.

    `closed` is a folder that nobody may look into.
    """
    result: list[Mount] = []
    for item in mounts:
        folder = Path(item["source"])
        if not any(folder.is_relative_to(claim) for claim in claims):
            result.append(item)
            continue
        writable = group is not None or bool(folder.stat().st_mode & _OTHERS_WRITE)
        result.append({**item, "read_only": item["read_only"] or not writable})
        if (folder / LOST_AND_FOUND).is_dir():
            target = f"{item['target'].rstrip('/')}/{LOST_AND_FOUND}"
            result.append({"source": closed, "target": target, "read_only": True})
    return result


def agent_written(pod: Mapping[str, Any]) -> list[str]:
    """Names of the volumes whose content the agent writes."""
    kinds = {"configMap", "secret", "downwardAPI", "projected"}
    return [item["name"] for item in pod["spec"].get("volumes", ()) if kinds & set(item)]


def claim_volumes(pod: Mapping[str, Any]) -> list[str]:
    """Names of the volumes that are claims."""
    return [item["name"] for item in pod["spec"].get("volumes", ()) if "persistentVolumeClaim" in item]
