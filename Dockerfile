# Two images from one file, both for a user without rights and a read-only root:
#   docker build --target station  -t anomaly-spotter .            inspection and station, without PyTorch
#   docker build --target training -t anomaly-spotter-training .   everything that learns, and the MLflow server
# Versions are pinned by constraints.txt. docs/docker.md says what was tried, and what was not.

FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /source


FROM base AS wheel
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip install --constraint constraints.txt build hatchling \
 && python -m build --wheel --no-isolation --outdir /wheels


# Packages in a folder of their own, so that the final images carry no build tools.
FROM base AS station-packages
COPY constraints.txt ./
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/spotter \
 && /opt/spotter/bin/pip install --constraint constraints.txt "$(ls /wheels/*.whl)[serve,postgres,mqtt]"


FROM base AS training-packages
COPY constraints.txt ./
COPY --from=wheel /wheels /wheels
# PyTorch first and by its pin; PyTorch's own index of CPU builds as PIP_EXTRA_INDEX_URL saves the CUDA packages.
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/spotter \
 && /opt/spotter/bin/pip install "$(grep '^torch==' constraints.txt)" \
 && /opt/spotter/bin/pip install --constraint constraints.txt "$(ls /wheels/*.whl)[train,backbones,runtime,track]"


FROM python:3.11-slim-bookworm AS rootless
RUN useradd --uid 10001 --no-log-init --create-home --home-dir /home/spotter spotter \
 && install --directory --owner=spotter --group=spotter /models /data /outputs /mlflow
# Caches of libraries go to /tmp, the only place that may be written beside the volumes.
ENV PATH=/opt/spotter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache
WORKDIR /outputs


FROM rootless AS training
COPY --from=training-packages /opt/spotter /opt/spotter
USER 10001:10001
VOLUME ["/outputs"]
HEALTHCHECK NONE
ENTRYPOINT ["anomaly-spotter"]
CMD ["--help"]


FROM rootless AS station
COPY --from=station-packages /opt/spotter /opt/spotter
USER 10001:10001
VOLUME ["/models", "/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["anomaly-spotter"]
CMD ["serve", "--models", "/models", "--data", "/data", "--host", "0.0.0.0", "--port", "8000"]
