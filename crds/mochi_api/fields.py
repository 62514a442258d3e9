"""Texts with a form: addresses, names and quantities as the spec takes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from pydantic import AfterValidator, Field

from mochi_api.base import PATTERN_KEY, Pattern

_BUCKET = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_BUCKET_WORDS = "must be s3://bucket/prefix with 3 to 63 lower-case letters, digits, dots and hyphens in the bucket's name"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]"
_POSITIVE = r"0*[1-9][0-9]*"
_THREE_DIGITS = "[1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9]"
_DNS_PART = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_NAME = rf"{_DNS_PART}(\.{_DNS_PART})*"
_DNS_WORDS = (
    "must hold only lower-case letters, digits, '-' and '.', and start and end with a letter or digit, "
    "between dots too"
)
_LABEL_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = rf"({_DNS_NAME}/)?{_LABEL_NAME}"
_LABEL_KEY_WORDS = "must be a key of a label such as team or company.example/team"
_PATH_PART = r"[^/\x00-\x1f]*[^/.\x00-\x1f][^/\x00-\x1f]*|\.|\.\.\.+"
"""What may stand between two slashes of a path: not `..`."""

Uri = Annotated[
    str,
    Field(max_length=1024),
    Pattern(looks_like=rf"{_BUCKET}(/[^\x00-\x1f]*)?", words=_BUCKET_WORDS),
]
OptionalUri = Annotated[
    str,
    Field(max_length=1024),
    Pattern(looks_like=rf"({_BUCKET}(/[^\x00-\x1f]*)?)?", words=f"{_BUCKET_WORDS}, or empty"),
]
OptionalLoraUri = Annotated[
    str,
    Field(max_length=1024),
    Pattern(
        looks_like=rf"({_BUCKET}/([^\x00-\x1f]+(\.safetensors|/))?)?",
        words="must be s3://bucket/path/of/a/file.safetensors or s3://bucket/folder/, or empty",
    ),
]
Folder = Annotated[
    str,
    Field(max_length=512),
    Pattern(looks_like=rf"(/({_PATH_PART})?)+", words="must be a path that starts with /, without .."),
]
Endpoint = Annotated[
    str,
    Field(max_length=512),
    Pattern(
        looks_like=rf"(https?://({_HOST})(:[0-9]{{1,5}})?/?)?",
        words="must be http://host:port or https://host:port without a path or a user, or empty",
    ),
]
Region = Annotated[
    str,
    Field(max_length=64),
    Pattern(looks_like=r"[a-z0-9-]+", words="must be a region such as us-east-1, in lower case"),
]
DnsName = Annotated[str, Field(max_length=253), Pattern(looks_like=_DNS_NAME, words=_DNS_WORDS)]
OptionalDnsName = Annotated[
    str, Field(max_length=253), Pattern(looks_like=rf"({_DNS_NAME})?", words=f"{_DNS_WORDS}, or be empty")
]
CpuQuantity = Annotated[
    str,
    Field(max_length=24),
    Pattern(
        looks_like=rf"(({_POSITIVE})m|{_POSITIVE}(\.[0-9]{{1,3}})?|0|0\.({_THREE_DIGITS}))?",
        words="must be a number of processors such as 8, 0.5 or 500m, or empty",
    ),
]
SizeQuantity = Annotated[
    str,
    Field(max_length=24),
    Pattern(
        looks_like=rf"({_POSITIVE}(\.[0-9]+)?(M|G|T|Mi|Gi|Ti)|0\.[0-9]*[1-9][0-9]*(G|T|Gi|Ti)|[1-9][0-9]{{3,}}(k|Ki)|[1-9][0-9]{{6,}}|0)?",
        words="must be a size with its unit such as 512Mi or 64Gi (a number without one is bytes), or empty",
    ),
]
ResourceName = Annotated[
    str,
    Field(max_length=128),
    Pattern(looks_like=rf"{_DNS_NAME}/{_LABEL_NAME}", words="must be domain/name such as nvidia.com/gpu"),
]
GpuProduct = Annotated[
    str,
    Field(max_length=63),
    Pattern(
        looks_like=_LABEL_NAME,
        words="must be a product as the nodes' label names it, such as NVIDIA-H100-80GB-HBM3",
    ),
]
Image = Annotated[
    str,
    Field(max_length=512),
    Pattern(looks_like=r"\S*", words="must be a reference without blanks, or empty"),
]
DataKey = Annotated[
    str,
    Field(max_length=253),
    Pattern(
        looks_like=r"\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*",
        words="must be a key of a ConfigMap or Secret such as ca.crt",
    ),
]
EnvName = Annotated[
    str,
    Field(max_length=128),
    Pattern(
        looks_like=r"[A-Za-z_][A-Za-z0-9_]*",
        words="must hold only letters, digits and '_', and start with no digit",
    ),
]
_LABEL_KEY_SHAPE = Pattern(looks_like=_LABEL_KEY, words=_LABEL_KEY_WORDS)
LabelKey = Annotated[
    str,
    Field(min_length=1, max_length=317, json_schema_extra={PATTERN_KEY: asdict(_LABEL_KEY_SHAPE)}),
    AfterValidator(_LABEL_KEY_SHAPE.checked),
]
"""A key of a map: with the keyword `pattern` pydantic would write the map in a form that no CRD can hold."""
OptionalLabelKey = Annotated[
    str,
    Field(max_length=317),
    Pattern(looks_like=rf"({_LABEL_KEY})?", words=f"{_LABEL_KEY_WORDS}, or empty"),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Pattern(
        looks_like=r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?",
        words="must hold only letters, digits, '-', '_' and '.', and start and end with a letter or digit, or be empty",
    ),
]
