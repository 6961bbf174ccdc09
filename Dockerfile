# One image for every role: Ray nodes, verbs, the endpoint, an MLflow server. docs/images.md has the commands.
#
#   docker build --build-arg PIP_EXTRA_INDEX_URL=INDEX --tag shopkeeper:0.5.0 .       INDEX: PyTorch's wheels for the CPU
#   docker build --build-arg TORCH=cuda --tag shopkeeper:0.5.0-cuda .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
ARG TORCH=cpu
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
WORKDIR /src
# The packages first: they stay in the cache while only our code changes.
COPY requirements requirements
COPY release/install release/install
RUN release/install /opt/shopkeeper "$TORCH" packages
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY models models
COPY serve serve
RUN release/install /opt/shopkeeper "$TORCH" image

FROM packages AS papers
COPY licences licences
COPY release release
RUN python3 -m venv /opt/cyclonedx \
    && /opt/cyclonedx/bin/python -m pip install --quiet --no-cache-dir --require-hashes \
        --requirement requirements/tools/cyclonedx.txt \
    && mkdir -p /papers \
    && /opt/cyclonedx/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
        --output-file /papers/sbom.cdx.json /opt/shopkeeper \
    && /opt/shopkeeper/bin/python -m release.licences --output /papers/THIRD_PARTY.md \
    && cp LICENSE licences/* /papers/

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Shopkeeper" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only" \
      org.opencontainers.image.documentation="/usr/share/doc/shopkeeper"
# KubeRay's probes call wget. Its version is that of the base image's release, which gets security fixes only.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash ray \
    && install --directory --owner ray --group ray /store /artifacts
COPY --from=papers /papers /usr/share/doc/shopkeeper
COPY deploy/healthcheck.py /usr/local/lib/shopkeeper/healthcheck.py
# Owned by root: the service cannot change its own code.
COPY --from=packages /opt/shopkeeper /opt/shopkeeper
ENV PATH=/opt/shopkeeper/bin:$PATH \
    SHOPKEEPER_STORE=/store \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    MALLOC_ARENA_MAX=1 \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/ray
VOLUME /store
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/usr/local/lib/shopkeeper/healthcheck.py"]
CMD ["shopkeeper", "--help"]
