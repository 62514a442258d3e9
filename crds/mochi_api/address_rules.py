"""What a rule is, and the rules on where things lie: one source each, and results that are no clips of the next run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mochi_api.base import cel_text
from mochi_api.spec import FineTuneSpec, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule on the spec. `cel` is true, and `broken` is None, when the spec obeys it."""

    path: str
    """The field the message is about."""
    cel: str
    message: str
    """CEL expression that makes the message; it names the field, the limit and the value."""
    broken: Callable[[FineTuneSpec], str | None]
    once: bool = False
    """Judged when an object is made and never again: a rule that came after the first version, on fields that cannot change.
    An object of before, which may break it, can still be suspended or given other limits."""


def cel_message(text: str, *values: str) -> str:
    """A CEL message. One call of `format`: concatenation with `string(int)` has no bound in the API server's cost
    estimate, so it refuses such a CRD."""
    return f"{cel_text(text)}.format([{', '.join(values)}])"


def one_source(path: str, cel_path: str, source: Callable[[FineTuneSpec], Source | None]) -> Rule:
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


def outside_dataset(path: str, cel_path: str, address: Callable[[FineTuneSpec], str]) -> Rule:
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
        once=True,
    )


def _folder(address: str) -> str:
    return f"{address}/".replace("//", "/").replace("//", "/")


def _folder_cel(address: str) -> str:
    return f"({address} + '/').replace('//', '/').replace('//', '/')"
