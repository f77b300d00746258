# The gateway as a container: docs/deploy-docker.md
#   docker build -t chatglm-gateway .                                        for a GPU
#   docker build -t chatglm-gateway:cpu --build-arg VARIANT=cpu .
#
# The base for both: PyTorch's wheels bring CUDA's libraries, NVIDIA's container toolkit brings the driver.
# FlashInfer's kernels, which vLLM does without where there is no nvcc, are compiled at run time: for them take
# --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04. A tag may stand for another image one day; a digest does
# not: --build-arg BASE=debian@sha256:...
ARG BASE=debian:12.15-slim

FROM ${BASE} AS base
# Versions of Debian's packages are not pinned: its mirrors keep only the last one, with its security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates libnuma1 python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/chatglm-gateway


# Everything that is not our own code: a layer that stays as it is while only the code changes.
FROM base AS packages
ARG VARIANT=cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml ./
COPY deploy/install.sh deploy/cpu-overrides.txt deploy/
# From the cache, which is another file system.
ENV UV_LINK_MODE=copy
# pip's settings, as an index with its password, are only there for this step: --secret id=pip,src=pip.conf
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache \
    touch README.md LICENSE \
    && for package in adapters engine gateway persistence; do mkdir $package && touch $package/__init__.py; done \
    && deploy/install.sh "$VARIANT" serve


FROM base AS gateway
ARG VARIANT=cuda
# Triton compiles a little C for each kernel that it launches.
# hadolint ignore=DL3008
RUN if [ "$VARIANT" = cuda ]; then \
        apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/chatglm-gateway --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0750 /var/lib/chatglm-gateway
COPY --from=packages /opt/chatglm-gateway/.venv .venv
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY engine engine
COPY gateway gateway
COPY persistence persistence
RUN .venv/bin/python -m compileall -q adapters engine gateway persistence

# All that is written at run time lies in the volume: rows, journal, demo model, and the caches of what
# compiles itself (which are read back as programs, so a /tmp without execution will not do for them).
ENV PATH=/opt/chatglm-gateway/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/chatglm-gateway \
    XDG_CACHE_HOME=/var/lib/chatglm-gateway/cache \
    XDG_CONFIG_HOME=/var/lib/chatglm-gateway/cache/config \
    VLLM_CACHE_ROOT=/var/lib/chatglm-gateway/cache/vllm \
    VLLM_CONFIG_ROOT=/var/lib/chatglm-gateway/cache/config/vllm \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/chatglm-gateway/cache/torchinductor \
    TRITON_CACHE_DIR=/var/lib/chatglm-gateway/cache/triton \
    FLASHINFER_WORKSPACE_BASE=/var/lib/chatglm-gateway/cache \
    CUDA_CACHE_PATH=/var/lib/chatglm-gateway/cache/nv \
    NUMBA_CACHE_DIR=/var/lib/chatglm-gateway/cache/numba \
    HF_HOME=/var/lib/chatglm-gateway/cache/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=8000 \
    GATEWAY_DATA_DIR=/var/lib/chatglm-gateway
VOLUME /var/lib/chatglm-gateway
EXPOSE 8000
# By number: Kubernetes does not believe a name that it is not root.
USER 10001:10001

# Ready, not alive: whoever waits for the container, or sends it requests, wants to know this. Docker itself
# restarts nothing because of it. Weights take minutes to load.
HEALTHCHECK --interval=15s --timeout=10s --start-period=15m --start-interval=3s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['GATEWAY_PORT']), timeout=5); server.request('GET', '/health/ready'); sys.exit(server.getresponse().status != 200)"]

# The gateway itself is the first process and gets the signal: it drains, then ends.
STOPSIGNAL SIGTERM
CMD ["chatglm-gateway", "serve"]
