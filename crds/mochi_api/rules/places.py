"""Rules on where things lie: one source each, results that are no clips of the next run, one bundle of certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec, Source

_CA = "self.storage.s3.caBundle"
_CA_MAP, _CA_SECRET = (
    f"(has({_CA}.{name}) && {_CA}.{name} != '')" for name in ("configMapName", "secretName")
)


def _one_source(path: str, cel_path: str, source: Callable[[FineTuneSpec], Source | None]) -> Rule:
    """Exactly one of s3 and pvc below `path`."""

    def broken(spec: FineTuneSpec) -> str | None:
        found = source(spec)
        if found is None or (found.s3 is None) != (found.pvc is None):
            return None
        count = 0 if found.s3 is None else 2
        return f"{path} must have exactly one of s3 and pvc, got {count}"

    optional = f"!has({cel_path}) || " if path.startswith("spec.model") else ""
    return Rule(
        path=path,
        cel=f"{optional}has({cel_path}.s3) != has({cel_path}.pvc)",
        message=f"'{path} must have exactly one of s3 and pvc, got ' + (has({cel_path}.s3) ? '2' : '0')",
        broken=broken,
    )


def _outside_dataset(path: str, cel_path: str, address: Callable[[FineTuneSpec], str]) -> Rule:
    """The results at the field `path` do not lie at or below the dataset: the next run would train on them.

    Slashes that follow one another count as one.
    """

    def broken(spec: FineTuneSpec) -> str | None:
        clips, results = spec.dataset.source.s3, address(spec)
        if clips is None or not results or not _folder(results).startswith(_folder(clips.uri)):
            return None
        return words % (results, clips.uri)

    words = (
        f"{path} must not lie at or below spec.dataset.source.s3.uri, got %s with clips at %s: "
        "the next run would take these results for clips"
    )
    clips = "self.dataset.source.s3.uri"
    return Rule(
        path=path,
        cel=f"!has(self.dataset.source.s3) || {cel_path} == '' || "
        f"!{_folder_cel(cel_path)}.startsWith({_folder_cel(clips)})",
        message=cel_message(words, cel_path, clips),
        broken=broken,
    )


def _folder(address: str) -> str:
    return f"{address}/".replace("//", "/").replace("//", "/")


def _folder_cel(address: str) -> str:
    return f"({address} + '/').replace('//', '/').replace('//', '/')"


def _published_source(spec: FineTuneSpec) -> str | None:
    if spec.model.preset != "mochi-1" or spec.model.source is not None:
        return None
    return "spec.model.source must be set for preset mochi-1: it names the folder with the published weights"


def _ca_bundle(spec: FineTuneSpec) -> str | None:
    found = spec.storage.s3.ca_bundle
    if found is None or bool(found.config_map_name) != bool(found.secret_name):
        return None
    count = 2 if found.secret_name else 0
    return f"spec.storage.s3.caBundle must have exactly one of configMapName and secretName, got {count}"


PLACES: Sequence[Rule] = (
    _one_source("spec.dataset.source", "self.dataset.source", lambda spec: spec.dataset.source),
    _one_source("spec.model.source", "self.model.source", lambda spec: spec.model.source),
    Rule(
        path="spec.model.source",
        cel="self.model.preset != 'mochi-1' || has(self.model.source)",
        message="'spec.model.source must be set for preset mochi-1: it names the folder with the published weights'",
        broken=_published_source,
    ),
    _outside_dataset(
        "spec.storage.outputURI", "self.storage.outputURI", lambda spec: spec.storage.output_uri
    ),
    _outside_dataset("spec.storage.cacheURI", "self.storage.cacheURI", lambda spec: spec.storage.cache_uri),
    Rule(
        path="spec.storage.s3.caBundle",
        cel=f"!has(self.storage.s3) || !has({_CA}) || {_CA_MAP} != {_CA_SECRET}",
        message="'spec.storage.s3.caBundle must have exactly one of configMapName and secretName, got ' + "
        f"({_CA_SECRET} ? '2' : '0')",
        broken=_ca_bundle,
    ),
)
