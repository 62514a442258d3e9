"""Specs that break one rule each, and what the refusal must say; used against pydantic and against the API server."""

from __future__ import annotations

import copy
from typing import Any

_SMALLEST = {
    "mode": "lora",
    "model": {"preset": "nano"},
    "dataset": {"source": {"s3": {"uri": "s3://demo/clips/"}}},
    "storage": {"outputURI": "s3://demo/out/"},
}


def spec(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest valid spec with `changes`: dotted path -> value; None removes the field."""
    document = copy.deepcopy(_SMALLEST)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        node: dict[str, Any] = document
        for part in parents:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return document


_BELOW = "must not lie at or below spec.dataset.source.s3.uri"
_CLIPS = "the next run would take these results for clips"
_ONE_GPU = "spec.workers.replicas x gpusPerPod must be 1 with mode lora and limits Guide (limits: Memory allows more)"
_BATCH = "spec.training.globalBatchSize must be a multiple of the 8 GPUs of training (workers.replicas x gpusPerPod ="

_LABEL_KEY = "must be a key of a label such as team or company.example/team"
_SIZE_WORDS = "must be a size with its unit such as 512Mi or 64Gi (a number without one is bytes), or empty"
_CPU_WORDS = "must be a number of processors such as 8, 0.5 or 500m, or empty"
_BUCKETS, _SIZE = "spec.preprocessing.buckets", "(frames x width x height)"
_STILLS = {"frames": 1, "width": 848, "height": 480}

RULE_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    *(
        (
            f"a toleration of {key}={value} that {operator}",
            {"workers.podTemplate": {"tolerations": [{"key": "ok", "value": "x"}, {"key": key, "operator": operator, "value": value}]}},
            "spec.workers.podTemplate.tolerations must have no value with operator Exists, and a key with operator Equal, "
            f"got {key}={value}",
        )
        for key, operator, value in (("a", "Exists", "b"), ("", "Equal", "b"), ("", "Equal", ""))
    ),
    *(
        (
            f"the label {key} of controllers",
            {"workers.podTemplate": {"labels": {"team": "films", key: "x"}}},
            "spec.workers.podTemplate.labels must leave to Jobs and PyTorchJobs what they set themselves",
        )
        for key in ("job-name", "controller-uid", "batch.kubernetes.io/job-name", "training.kubeflow.org/replica-type")
    ),
    *(
        (
            f"GPUs called {name}",
            {"workers.gpuResourceName": name},
            "spec.workers.gpuResourceName must be an extended resource such as nvidia.com/gpu, outside of kubernetes.io and "
            f"without the requests. of quotas, got {name}",
        )
        for name in ("requests.nvidia.com/gpu", "kubernetes.io/gpu", "alpha.kubernetes.io/nvidia-gpu")
    ),
    (
        "frames 86 with lora",
        {"preprocessing.frames": 91},
        "spec.preprocessing.frames must be at most 85 with mode lora and limits Guide (limits: Memory allows what the "
        "GPUs hold), got 91",
    ),
    (
        "a clip shared by more GPUs than a pod has",
        {"mode": "full", "workers.gpusPerPod": 2, "training.contextParallel": 4},
        "spec.training.contextParallel must divide the 2 GPUs of a pod (workers.gpusPerPod): those that share a clip "
        "exchange its tokens in every block, got 4",
    ),
    (
        "a clip shared by GPUs among which heads cannot be dealt out",
        {"mode": "full", "workers.gpusPerPod": 8, "training.contextParallel": 8},
        "spec.training.contextParallel must divide the 4 attention heads of preset nano, got 8",
    ),
    (
        "a batch that is no multiple of the clips trained on at a time",
        {
            "mode": "full",
            "workers": {"replicas": 2, "gpusPerPod": 4},
            "training": {"contextParallel": 2, "globalBatchSize": 6},
        },
        "spec.training.globalBatchSize must be a multiple of the 4 clips that are trained on at the same time "
        "(workers.replicas x gpusPerPod / contextParallel = 2 x 4 / 2), got 6",
    ),
    (
        "frames off the grid",
        {"preprocessing.frames": 86},
        "spec.preprocessing.frames must be 1 more than a multiple of 6, got 86; the nearest are 85 and 91",
    ),
    (
        "frames 86 and lora at once",
        {"preprocessing.frames": 86},
        "spec.preprocessing.frames must be at most 85 with mode lora and limits Guide (limits: Memory allows what the "
        "GPUs hold), got 86",
    ),
    (
        "both sources",
        {"dataset.source.pvc": {"claimName": "clips"}},
        "spec.dataset.source must have exactly one of s3 and pvc, got 2",
    ),
    ("no source", {"dataset.source": {}}, "spec.dataset.source must have exactly one of s3 and pvc, got 0"),
    (
        "both model sources",
        {"model.source": {"s3": {"uri": "s3://models/m/"}, "pvc": {"claimName": "m"}}},
        "spec.model.source must have exactly one of s3 and pvc, got 2",
    ),
    (
        "certificates from two places",
        {"storage.s3": {"caBundle": {"configMapName": "a", "secretName": "b"}}},
        "spec.storage.s3.caBundle must have exactly one of configMapName and secretName, got 2",
    ),
    (
        "certificates from nowhere",
        {"storage.s3": {"caBundle": {"configMapName": "", "key": "tls.crt"}}},
        "spec.storage.s3.caBundle must have exactly one of configMapName and secretName, got 0",
    ),
    (
        "published model without its weights",
        {"model": {"preset": "mochi-1"}},
        "spec.model.source must be set for preset mochi-1: it names the folder with the published weights",
    ),
    (
        "several first segments",
        {"preprocessing.segments": {"select": "First", "maxPerClip": 2}},
        "spec.preprocessing.segments.maxPerClip must be 1 with select First (Even and Cuts take several), got 2",
    ),
    (
        "several segments of no kind",
        {"preprocessing.segments": {"maxPerClip": 4}},
        "spec.preprocessing.segments.maxPerClip must be 1 with select First (Even and Cuts take several), got 4",
    ),
    (
        "too many pixels",
        {"preprocessing.width": 848, "preprocessing.height": 496},
        "spec.preprocessing.width x height must be at most 407040 pixels (848x480), got 848x496 = 420608",
    ),
    (
        "the guide's arithmetic",
        {"preprocessing.frames": 85, "preprocessing.durationSeconds": "2.5"},
        "spec.preprocessing.durationSeconds must be at least frames / fps = 85 / 30 s, got 2.5, which holds 75 frames; "
        "the nearest number of frames that fits is 73",
    ),
    ("a bucket off the grid", {"preprocessing.buckets": [_STILLS, {"frames": 36, "width": 32, "height": 32}]},
     f"{_BUCKETS}: frames must be 1, or 1 more than a multiple of 6, got 36x32x32 {_SIZE}"),
    ("a bucket of 91 frames with lora", {"preprocessing.buckets": [{"frames": 91, "width": 32, "height": 48}]},
     f"{_BUCKETS}: frames must be at most 85 with mode lora and limits Guide (limits: Memory allows what the GPUs hold), "
     f"got 91x32x48 {_SIZE}"),
    ("a bucket of too many pixels", {"preprocessing.buckets": [{"frames": 7, "width": 848, "height": 496}]},
     f"{_BUCKETS}: width x height must be at most 407040 pixels (848x480), got 7x848x496 {_SIZE}"),
    ("a bucket twice", {"preprocessing.buckets": [_STILLS, _STILLS]},
     f"{_BUCKETS} must not repeat a size, nor that of frames, width and height beside it, got 1x848x480 {_SIZE}"),
    ("the section's own size as a bucket", {"preprocessing.buckets": [_STILLS, {"frames": 37, "width": 848, "height": 480}]},
     f"{_BUCKETS} must not repeat a size, nor that of frames, width and height beside it, got 37x848x480 {_SIZE}"),
    ("a duration with buckets", {"preprocessing.buckets": [_STILLS], "preprocessing.durationSeconds": "2"},
     "spec.preprocessing.durationSeconds must be left out with buckets, each of which keeps its own frames, got 2"),
    ("lora section with full", {"mode": "full", "training.lora": {"rank": 4}},
     "spec.training.lora must be left out with mode full, which trains all weights"),
    ("an average of weights with lora", {"training.ema": {"decay": "0.99"}},
     "spec.training.ema must be left out with mode lora, which trains no weights of the model"),
    ("two pods with lora", {"workers.replicas": 2}, f"{_ONE_GPU}, got 2 x 1"),
    ("two pods without GPUs with lora", {"workers": {"replicas": 2, "gpusPerPod": 0}}, f"{_ONE_GPU}, got 2 x 1"),
    ("two GPUs with lora", {"limits": "Guide", "workers.gpusPerPod": 2}, f"{_ONE_GPU}, got 1 x 2"),
    ("batch not a multiple", {"mode": "full", "training.globalBatchSize": 12}, f"{_BATCH} 8 x 1), got 12"),
    ("batch not a multiple of the usual GPUs", {"mode": "full", "workers.gpusPerPod": 4, "training.globalBatchSize": 2},
     f"{_BATCH} 2 x 4), got 2"),
    ("batch a multiple of the pods only", {"mode": "full", "workers": {"replicas": 4, "gpusPerPod": 2},
     "training.globalBatchSize": 4}, f"{_BATCH} 4 x 2), got 4"),
    ("batch not a multiple with lora", {"limits": "Memory", "workers.gpusPerPod": 8, "training.globalBatchSize": 12},
     f"{_BATCH} 1 x 8), got 12"),
    ("warm-up longer than training", {"training.steps": 10, "training.warmupSteps": 11},
     "spec.training.warmupSteps must be at most steps = 10, got 11"),
    ("a target twice", {"training.lora": {"targets": ["query", "query"]}},
     "spec.training.lora.targets must not repeat a projection, got query,query"),
    ("all blocks of nano swapped", {"training.lora": {"blocksToSwap": 3}},
     "spec.training.lora.blocksToSwap must be less than the 3 blocks of nano (the last one stays in the GPU), got 3"),
    ("a rank of their own", {"workers.env": [{"name": "NCCL_DEBUG"}, {"name": "RANK", "value": "1"}, {"name": "PET_NNODES"}]},
     "spec.workers.env must leave to the operator what it sets itself, got RANK"),
    ("keys of S3 as variables", {"workers.env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]},
     "spec.workers.env must leave to the operator what it sets itself, got AWS_SECRET_ACCESS_KEY"),
    ("a variable twice", {"workers.env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]},
     "spec.workers.env must name each variable once, got one twice"),
    ("a variable with two values", {"workers.env": [
        {"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "a", "key": "a"}}}]},
     "spec.workers.env must have value or valueFrom, not both, got both for A"),
    ("a prompt of blanks", {"sampling.prompts": ["a fox", " \n "]},
     "spec.sampling.prompts must not be blank, got 1 blank of 2"),
    ("samples more often than checkpoints", {"sampling.everySteps": 199},
     "spec.sampling.everySteps must be 0 or at least training.checkpoint.everySteps = 200 "
     "(samples are made from checkpoints), got 199"),
    ("samples during training after its end", {"sampling.everySteps": 2000},
     "spec.sampling.everySteps must be less than training.steps = 2000 "
     "(after the last step samples are made anyway), got 2000"),
    ("empty prompts", {"sampling.prompts": ["", ""]}, "spec.sampling.prompts must not be blank, got 2 blank of 2"),
    ("results below the dataset", {"storage.outputURI": "s3://demo/clips/out"},
     f"spec.storage.outputURI {_BELOW}, got s3://demo/clips/out with clips at s3://demo/clips/: {_CLIPS}"),
    ("results at the dataset", {"storage.outputURI": "s3://demo/clips"},
     f"spec.storage.outputURI {_BELOW}, got s3://demo/clips with clips at s3://demo/clips/: {_CLIPS}"),
    ("results below a dataset without a slash",
     {"dataset.source.s3.uri": "s3://demo/clips", "storage.outputURI": "s3://demo/clips/"},
     f"spec.storage.outputURI {_BELOW}, got s3://demo/clips/ with clips at s3://demo/clips: {_CLIPS}"),
    ("results in a bucket of clips", {"dataset.source.s3.uri": "s3://demo", "storage.outputURI": "s3://demo/out/"},
     f"spec.storage.outputURI {_BELOW}, got s3://demo/out/ with clips at s3://demo: {_CLIPS}"),
    ("results below a dataset with more slashes",
     {"dataset.source.s3.uri": "s3://demo//clips///", "storage.outputURI": "s3://demo/clips//out"},
     f"spec.storage.outputURI {_BELOW}, got s3://demo/clips//out with clips at s3://demo//clips///: {_CLIPS}"),
    ("embeddings below the dataset", {"storage.cacheURI": "s3://demo/clips/cache/"},
     f"spec.storage.cacheURI {_BELOW}, got s3://demo/clips/cache/ with clips at s3://demo/clips/: {_CLIPS}"),
]  # fmt: skip
"""Name, changes, message."""

LEGAL: list[tuple[str, dict[str, Any]]] = [
    ("a dataset below the results", {"storage.outputURI": "s3://demo/"}),
    ("a dataset below the embeddings", {"storage.cacheURI": "s3://demo"}),
    ("a dataset beside the results", {"dataset.source.s3.uri": "s3://demo/clips", "storage.outputURI": "s3://demo/clips-out"}),
    ("a bucket whose name begins alike", {"dataset.source.s3.uri": "s3://demo", "storage.outputURI": "s3://demo-out"}),
    ("a dataset of the same name elsewhere", {"storage.outputURI": "s3://other/clips/"}),
    ("other letters large", {"storage.outputURI": "s3://demo/Clips/"}),
    ("a dataset on a volume", {"dataset.source": {"pvc": {"claimName": "clips"}}}),
    ("stages of several pods", {"preprocessing.trim.shards": 64, "preprocessing.captions.shards": 1, "preprocessing.videos.shards": 2}),
    ("sizes that share two numbers", {"preprocessing.buckets": [_STILLS, {"frames": 1, "width": 480, "height": 848},
     {"frames": 37, "width": 480, "height": 480}]}),
    ("no bucket, with a duration", {"preprocessing.buckets": [], "preprocessing.durationSeconds": "2"}),
    ("several parts of each clip", {"preprocessing.segments": {"select": "Cuts", "maxPerClip": 64}}),
    ("one part, said twice", {"preprocessing.segments": {"select": "First", "maxPerClip": 1}}),
    ("the usual number of parts", {"preprocessing.segments": {"select": "Even"}}),
    ("segments without a word", {"preprocessing.segments": {}}),
    ("lora on several GPUs", {"limits": "Memory", "workers": {"replicas": 2, "gpusPerPod": 4}}),
    ("lora in several pods without GPUs", {"limits": "Memory", "workers": {"replicas": 2, "gpusPerPod": 0}}),
    ("lora with 163 frames", {"limits": "Memory", "preprocessing.frames": 163}),
    ("lora with the limits said", {"limits": "Guide", "preprocessing.frames": 85, "workers": {"replicas": 1, "gpusPerPod": 1}}),
    ("full with limits of no meaning", {"mode": "full", "limits": "Guide", "preprocessing.frames": 163}),
    ("eight GPUs a pod", {"mode": "full", "workers.gpusPerPod": 8, "training.globalBatchSize": 8}),
    ("three GPUs a pod", {"mode": "full", "workers.gpusPerPod": 3, "training.globalBatchSize": 18}),
    ("variables of the users", {"workers.env": [
        {"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "EMPTY"}, {"name": "MOCHI_COMPILE", "value": "inductor"},
        {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}}]}),
    ("samples between checkpoints", {"sampling.everySteps": 300}),
    ("samples only at the end, said", {"sampling.everySteps": 0}),
    *((f"folder {path}", {"dataset.source": {"pvc": {"claimName": "clips", "path": path}}})
      for path in ("/", "/a", "/a/", "//a", "/a..b/..c/d..", "/.../.x", "/./a", "/my clips/100%25")),
    ("labels and taints of all forms", {"workers.podTemplate": {
        "labels": {"team": "films", "company.example/team_1": "", "a" * 63: "b"}, "annotations": {"sidecar.istio.io/inject": "a b"},
        "nodeSelector": {"topology.kubernetes.io/zone": "eu-1a", "pool": ""},
        "tolerations": [{"operator": "Exists"}, {"key": "nvidia.com/gpu", "operator": "Exists"}, {"key": "a", "value": "b"}]}}),
    *((f"memory {size!r}", {"workers.resources": {"memory": size, "ephemeralStorage": size}, "workers.shmSize": size})
      for size in ("", "0", "64Gi", "1.5Ti", "0.5Gi", "64G", "512Mi", "68719476736", "67108864Ki", "064Gi")),
    *((f"processors {count!r}", {"workers.resources": {"cpu": count}})
      for count in ("", "0", "8", "0.5", "0.05", "0.005", "1.25", "500m", "16.0")),
    *((f"endpoint {endpoint!r}", {"storage.s3.endpoint": endpoint})
      for endpoint in ("", "http://minio", "https://minio.storage.svc.cluster.local:9000/", "http://10.0.0.1:80", "http://[fd00::1]:9000",
                       "https://S3.Company.Example", "http://a")),
    ("a part of the clips", {"preprocessing.startSeconds": "1.5", "preprocessing.cropX": "0", "preprocessing.cropY": "1"}),
]  # fmt: skip
"""Name and changes of specs that look wrong and are not."""

FIELD_ERRORS: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        "rank 0",
        {"training.lora": {"rank": 0}},
        ["spec.training.lora.rank", "0", "greater than or equal to 1"],
    ),
    (
        "a bucket without frames",
        {"preprocessing.buckets": [{"frames": 0, "width": 32, "height": 32}]},
        ["spec.preprocessing.buckets[0].frames", "0", "1"],
    ),
    (
        "no pod",
        {"mode": "full", "workers.replicas": 0, "training.globalBatchSize": 8},
        ["spec.workers.replicas", "0", "1"],
    ),
    (
        "no GPU for a clip",
        {"mode": "full", "training.contextParallel": 0, "training.globalBatchSize": 8},
        ["spec.training.contextParallel", "0", "1"],
    ),
    ("5 frames", {"preprocessing.frames": 5}, ["spec.preprocessing.frames", "5", "7"]),
    ("165 frames", {"preprocessing.frames": 165}, ["spec.preprocessing.frames", "165", "163"]),
    ("no shard", {"preprocessing.trim.shards": 0}, ["spec.preprocessing.trim.shards", "0", "1"]),
    ("65 shards", {"preprocessing.videos.shards": 65}, ["spec.preprocessing.videos.shards", "65", "64"]),
    ("rank 257", {"training.lora": {"rank": 257}}, ["spec.training.lora.rank", "257", "256"]),
    ("9 GPUs a pod", {"mode": "full", "workers.gpusPerPod": 9}, ["spec.workers.gpusPerPod", "9", "8"]),
    ("unknown limits", {"limits": "None"}, ["spec.limits", "None", "Guide", "Memory"]),
    ("unknown mode", {"mode": "qlora"}, ["spec.mode", "qlora", "lora", "full"]),
    (
        "frames 200 with full",
        {"mode": "full", "preprocessing.frames": 199},
        ["spec.preprocessing.frames", "199", "163"],
    ),
    ("unknown field", {"training.learningrate": "0.1"}, ["training.learningrate"]),
    ("a float", {"training.learningRate": 0.1}, ["spec.training.learningRate", "string"]),
    ("width 100", {"preprocessing.width": 100}, ["spec.preprocessing.width", "100", "16"]),
    ("no dataset", {"dataset": None}, ["spec.dataset"]),
    (
        "65 segments",
        {"preprocessing.segments": {"select": "Even", "maxPerClip": 65}},
        ["spec.preprocessing.segments.maxPerClip", "65", "64"],
    ),
    (
        "segments at random",
        {"preprocessing.segments": {"select": "Random"}},
        ["spec.preprocessing.segments.select", "Random", "First", "Even", "Cuts"],
    ),
    (
        "label without a key",
        {"workers.podTemplate": {"labels": {"": "x"}}},
        ["spec.workers.podTemplate.labels", "keys of 1 to 317 characters"],
    ),
]
"""Name, changes, words that the API server's message must hold."""

_DNS = "must hold only lower-case letters, digits, '-' and '.', and start and end with a letter or digit, between dots too"
_LABEL = (
    "must hold only letters, digits, '-', '_' and '.', and start and end with a letter or digit, or be empty"
)

_ADDRESS = "must be s3://bucket/prefix with 3 to 63 lower-case letters, digits, dots and hyphens in the bucket's name"

TEXT_ERRORS: list[tuple[str, str, Any, str]] = [
    ("output over http", "storage.outputURI", "http://x/y", f"{_ADDRESS}, got http://x/y"),
    ("output without bucket", "storage.outputURI", "s3://", f"{_ADDRESS}, got s3://"),
    ("output without scheme", "storage.outputURI", "demo/out", f"{_ADDRESS}, got demo/out"),
    ("bucket of two letters", "training.resumeFrom", "s3://ml/runs/4f2c/", f"{_ADDRESS}, or empty, got s3://ml/runs/4f2c/"),
    ("bucket in capitals", "storage.outputURI", "s3://Demo/o", f"{_ADDRESS}, got s3://Demo/o"),
    ("cache over http", "storage.cacheURI", "http://x", f"{_ADDRESS}, or empty, got http://x"),
    ("dataset on disk", "dataset.source.s3.uri", "/clips", f"{_ADDRESS}, got /clips"),
    ("model on the hub", "model.source", {"s3": {"uri": "genmo/m"}}, f"{_ADDRESS}, got genmo/m"),
    ("LoRA that is a pickle", "training.lora", {"startFrom": "s3://runs/a/lora.pt"},
     "must be s3://bucket/path/of/a/file.safetensors or s3://bucket/folder/, or empty, got s3://runs/a/lora.pt"),
    ("endpoint without scheme", "storage.s3.endpoint", "minio:9000",
     "must be http://host:port or https://host:port without a path or a user, or empty, got minio:9000"),
    ("endpoint with a path", "storage.s3.endpoint", "https://minio/s3",
     "must be http://host:port or https://host:port without a path or a user, or empty, got https://minio/s3"),
    *((f"endpoint {endpoint}", "storage.s3.endpoint", endpoint,
       f"must be http://host:port or https://host:port without a path or a user, or empty, got {endpoint}")
      for endpoint in ("http://me:secret@minio:9000", "http://s3_data:9000", "http://minio:port", "http://minio?x=1",
                       "http://-minio", "https://", "http://mi nio", "http://[::1", "http://minio:900000")),
    ("region with a blank", "storage.s3.region", "EU west",
     "must be a region such as us-east-1, in lower case, got EU west"),
    ("no region", "storage.s3.region", "", "must be a region such as us-east-1, in lower case, got "),
    ("secret in capitals", "storage.s3.credentialsSecretName", "My_Secret", f"{_DNS}, or be empty, got My_Secret"),
    ("key of a ConfigMap with a slash", "storage.s3", {"caBundle": {"configMapName": "a", "key": "a/b"}},
     "must be a key of a ConfigMap or Secret such as ca.crt, got a/b"),
    ("ConfigMap in capitals", "storage.s3", {"caBundle": {"configMapName": "CA"}}, f"{_DNS}, or be empty, got CA"),
    ("resumed from a folder of this machine", "training.resumeFrom", "/runs/4f2c",
     f"{_ADDRESS}, or empty, got /runs/4f2c"),
    ("secret with two dots", "storage.s3.credentialsSecretName", "a..b", f"{_DNS}, or be empty, got a..b"),
    ("service account with a hyphen before a dot", "workers.podTemplate", {"serviceAccountName": "a-.b"}, f"{_DNS}, or be empty, got a-.b"),
    *((f"key {key} of a Secret", "workers.env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": key}}}],
       f"must be a key of a ConfigMap or Secret such as ca.crt, got {key}") for key in ("..", ".", "..a")),
    *((f"folder {path}", "dataset.source", {"pvc": {"claimName": "clips", "path": path}},
       f"must be a path that starts with /, without .., got {path}") for path in ("/..", "/a/../b", "/../", "a/../b")),
    *((f"GPU resource {name}", "workers.gpuResourceName", name, f"must be domain/name such as nvidia.com/gpu, got {name}")
      for name in ("a../b", "nvidia.com/-gpu", "nvidia.com/", f"a/{'b' * 64}")),
    *((f"GPU product {name}", "workers.gpuProducts", [name],
       f"must be a product as the nodes' label names it, such as NVIDIA-H100-80GB-HBM3, got {name}") for name in ("-x", "x.")),
    *((f"{field} {key}", "workers.podTemplate", {field: {key: "x"}}, f"{_LABEL_KEY}, got {key}")
      for field in ("labels", "annotations", "nodeSelector") for key in ("a b", "a/b/c", "-a", "A/b", "a" * 64)),
    ("value of a node's label", "workers.podTemplate", {"nodeSelector": {"pool": "gpu pool"}},
     "must hold only letters, digits, '-', '_' and '.', and start and end with a letter or digit, or be empty, got gpu pool"),
    ("key of a taint", "workers.podTemplate", {"tolerations": [{"key": "a b", "operator": "Exists"}]}, f"{_LABEL_KEY}, or empty, got a b"),
    ("value of a taint", "workers.podTemplate", {"tolerations": [{"key": "a", "value": "a b"}]},
     "must hold only letters, digits, '-', '_' and '.', and start and end with a letter or digit, or be empty, got a b"),
    ("claim in capitals", "dataset.source", {"pvc": {"claimName": "Clips"}}, f"{_DNS}, got Clips"),
    ("folder that is relative", "dataset.source", {"pvc": {"claimName": "clips", "path": "train"}},
     "must be a path that starts with /, without .., got train"),
    *((f"memory {size!r}", "workers.resources", {"memory": size}, f"{_SIZE_WORDS}, got {size}")
      for size in ("64 GB", "64GiB", "64gi", "64", "0Gi", "0.0Gi", "100m", "64k", "-1Gi", "1e3", "999999")),
    *((f"processors {count!r}", "workers.resources", {"cpu": count}, f"{_CPU_WORDS}, got {count}")
      for count in ("0m", "0.0", "8Gi", "8k", "-1", "1e3", "0.0005", "eight", ".5")),
    ("disk without a unit", "workers.resources", {"ephemeralStorage": "200"}, f"{_SIZE_WORDS}, got 200"),
    ("shared memory in small letters", "workers.shmSize", "64gi", f"{_SIZE_WORDS}, got 64gi"),
    ("image with a blank", "workers.image", "registry/ trainer",
     "must be a reference without blanks, or empty, got registry/ trainer"),
    ("GPU resource without domain", "workers.gpuResourceName", "gpu",
     "must be domain/name such as nvidia.com/gpu, got gpu"),
    ("GPU product with blanks", "workers.gpuProducts", ["NVIDIA H100"],
     "must be a product as the nodes' label names it, such as NVIDIA-H100-80GB-HBM3, got NVIDIA H100"),
    ("label with a blank", "workers.podTemplate", {"labels": {"team": "film crew"}}, f"{_LABEL}, got film crew"),
    ("pull secret in capitals", "workers.podTemplate", {"imagePullSecrets": ["Hub"]}, f"{_DNS}, got Hub"),
    ("learning rate in words", "training.learningRate", "abc",
     "must be a decimal number such as '0.0002', got abc"),
    ("learning rate with a comma", "training.learningRate", "0,0002",
     "must be a decimal number such as '0.0002', got 0,0002"),
    ("learning rate that is no number", "training.learningRate", "NaN",
     "must be a decimal number such as '0.0002', got NaN"),
    ("learning rate 0", "training.learningRate", "0", "must be more than 0, got 0"),
    ("learning rate below 0", "training.learningRate", "-1", "must be more than 0, got -1"),
    ("duration in words", "preprocessing.durationSeconds", "long",
     "must be a decimal number such as '0.0002', got long"),
    ("start below 0", "preprocessing.startSeconds", "-1", "must be at least 0, got -1"),
    ("start after a day", "preprocessing.startSeconds", "86401", "must be at most 86400, got 86401"),
    ("crop right of the picture", "preprocessing.cropX", "1.1", "must be at most 1, got 1.1"),
    ("crop in words", "preprocessing.cropY", "top", "must be a decimal number such as '0.0002', got top"),
    ("guidance below 0", "sampling.guidance", "-0.5", "must be at least 0, got -0.5"),
]  # fmt: skip
"""Name, field, value, and what both pydantic and the API server say of it, besides where it is."""
