"""The files that are made from the types: path in the project -> content."""

from __future__ import annotations

from mochi_codegen import reference, schema, values


def files() -> dict[str, str]:
    """Every generated file, relative to the project's folder."""
    crd = schema.crd_yaml()
    return {
        "crds/mochifinetunes.yaml": crd,
        "helm/mochi-operator/files/mochifinetunes.yaml": crd,
        "helm/mochi-operator/values.schema.json": values.schema_json(),
        "docs/reference/finetune.md": reference.finetune_page(),
        "docs/reference/reasons.md": reference.reasons_page(),
        "docs/reference/clips.md": reference.clips_page(),
        "docs/reference/metrics.md": reference.metrics_page(),
    }
