# Two images from one file: `--target operator` (Kubernetes client, no torch) and `--target trainer` (torch, no client).
# How to build, push and check them: docs/how-to/build-images.md.
#
# Pin the base by digest for a release: --build-arg BASE=python:3.12-slim-bookworm@sha256:<digest you verified>.
# The default is a tag, because a digest that was not read from the registry itself would be a guess.
ARG BASE=python:3.12-slim-bookworm

# --- what builds the project and installs packages; nothing of it is in the images -----------------------------------
FROM ${BASE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/venv
WORKDIR /src
COPY requirements/build.txt requirements/
RUN /opt/tools/bin/pip install --require-hashes -r requirements/build.txt

# --- packages of the operator: locked ones first, so that a change of our code does not install them again -----------
FROM tools AS operator-packages
COPY requirements/operator.txt requirements/
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r requirements/operator.txt
COPY pyproject.toml README.md ./
COPY crds/mochi_api crds/mochi_api
COPY operator/mochi_operator operator/mochi_operator
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/tools/bin/pip --python /opt/venv/bin/python install --no-deps --no-index /wheels/*.whl

# --- packages of the trainer -----------------------------------------------------------------------------------------
# --build-arg TRAINER=trainer-wandb takes those with Weights & Biases.
FROM tools AS trainer-packages
ARG TRAINER=trainer
COPY requirements/${TRAINER}.txt requirements/
RUN /opt/tools/bin/pip --python /opt/venv/bin/python install --require-hashes -r requirements/${TRAINER}.txt
COPY pyproject.toml README.md ./
COPY crds/mochi_api crds/mochi_api
COPY trainer_image/mochi_trainer trainer_image/mochi_trainer
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/tools/bin/pip --python /opt/venv/bin/python install --no-deps --no-index /wheels/*.whl

# --- what both images share ------------------------------------------------------------------------------------------
FROM ${BASE} AS runtime
# The user has an entry, because torch asks for its name; /tmp is the only place a pod of ours can write to.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mochi
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp

FROM runtime AS trainer
# Blocks are compiled for a GPU: Triton builds a small C file for each kernel that it launches.
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
USER 10001:10001
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mochi-trainer" \
      org.opencontainers.image.description="Preprocessing, training and sampling of the Mochi-1 video model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=trainer-packages /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "mochi_trainer"]

FROM runtime AS operator
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mochi-operator" \
      org.opencontainers.image.description="Kubernetes operator that fine-tunes the Mochi-1 video model" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=operator-packages /opt/venv /opt/venv
ENTRYPOINT ["python", "-m", "mochi_operator"]
