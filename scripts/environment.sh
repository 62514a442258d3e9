#!/usr/bin/env bash
# Makes the Python environment from the locked requirements. Cold: downloads about 3 GB (PyTorch with CUDA); warm: seconds.
set -euo pipefail
venv=$1
start=$(date +%s)
printf 'Python environment in %s: about 3 GB to download on a fresh machine (some minutes), seconds when cached\n' "$venv"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
export VIRTUAL_ENV="$PWD/$venv"
uv() { "$venv/bin/uv" "$@"; }
uv pip install --quiet --require-hashes -r requirements/dev.txt -r requirements/uv.txt
uv pip install --quiet --require-hashes --no-deps -r requirements/demo.txt
uv pip install --quiet --no-deps --no-build-isolation --editable .
# Pods run from this environment with a read-only file system: without bytecode each of them would compile PyTorch anew.
env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" - <<'PY'
import aiohttp, av, boto3, einops, kopf, kubernetes.aio.client, kubernetes.aio.config, kubernetes.aio.utils, numpy, peft, PIL.Image, prometheus_client, pydantic, rich.console, yaml
import safetensors.torch, torch, torch.distributed.checkpoint, torch.distributed.fsdp, transformers
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel
boto3.client("s3", region_name="us-east-1")
PY
printf 'Python environment ready after %s s\n' "$(($(date +%s) - start))"
