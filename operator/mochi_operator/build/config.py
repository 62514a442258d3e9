"""The run file of a child and the immutable ConfigMap that carries it."""

from __future__ import annotations

from mochi_api import layout, resolved
from mochi_api.runfile import DEFAULTS, DEFAULTS_FILE, Identity, Locations, RunFile, World
from mochi_api.spec import Source
from mochi_operator import names
from mochi_operator.build.recipe import Recipe, metadata
from mochi_operator.cluster import CONFIGMAPS, Manifest

DATASET_MOUNT = "/mnt/mochi/dataset"
MODEL_MOUNT = "/mnt/mochi/model"


def address(source: Source, mount: str) -> str:
    """Where the pod finds a source: its S3 address, or the folder its volume is mounted on, whose name may have a `%`."""
    if source.s3 is not None:
        return source.s3.uri
    return layout.folder(layout.join(mount, source.pvc.path if source.pvc is not None else "/"))


CA_FILE = "ca.crt"


def default_ca(recipe: Recipe) -> str:
    """The chart's certificates in PEM where they matter: for an endpoint with TLS of a run that names none of its own."""
    s3 = recipe.spec.storage.s3
    return recipe.ca_bundle if s3.ca_bundle is None and s3.endpoint.startswith("https://") else ""


def run_file(recipe: Recipe) -> RunFile:
    """Everything the pods of one child need to know."""
    spec, chosen = recipe.spec, recipe.resolved
    storage, model = spec.storage, spec.model.source
    return RunFile(
        stage=recipe.step,
        run=Identity(
            namespace=recipe.run.namespace, name=recipe.run.name, uid=recipe.run.uid, attempt=recipe.attempt
        ),
        mode=spec.mode,
        model=spec.model,
        dataset=spec.dataset,
        preprocessing=spec.preprocessing,
        training=resolved.training(spec).model_copy(
            update={"warmup_steps": chosen.warmup_steps, "global_batch_size": chosen.global_batch_size}
        ),
        sampling=spec.sampling,
        s3=storage.s3.model_copy(
            update={"ca_bundle": None}
        ),  # the pod has it as a file, any image reads that
        locations=Locations(
            dataset=address(spec.dataset.source, DATASET_MOUNT),
            model=None if model is None else address(model, MODEL_MOUNT),
            cache=layout.cache_root(storage.output_uri, storage.cache_uri),
            run=layout.run_root(storage.output_uri, recipe.run.uid),
        ),
        keys=recipe.keys,
        world=World(
            replicas=chosen.replicas,
            gpus_per_pod=chosen.gpus_per_pod,
            grace_period_seconds=spec.run_policy.grace_period_seconds,
        ),
    )


def config_map(recipe: Recipe) -> Manifest:
    """The ConfigMap of one child, mounted into its pods."""
    return {
        "apiVersion": CONFIGMAPS.api_version,
        "kind": CONFIGMAPS.name,
        "metadata": metadata(recipe, names.run_config(recipe.child)),
        "immutable": True,
        "data": {
            layout.RUN_FILE: run_file(recipe).to_yaml(),
            DEFAULTS_FILE: str(DEFAULTS),
            **({CA_FILE: certificates} if (certificates := default_ca(recipe)) else {}),
        },
    }
