# lowregret in a container, on CPUs or on NVIDIA GPUs:
#   docker build --tag lowregret .                          # CPUs
#   docker build --tag lowregret:cuda --build-arg TORCH=cuda .
#   docker run --rm --volume "$PWD:/data" lowregret compare --model tiny --data builtin:arithmetic --out runs/one
#   docker run --rm --gpus all --volume "$PWD:/data" lowregret:cuda plan llama-3.1-8b builtin:instructions
FROM python:3.11-slim-bookworm

# `cpu` takes PyTorch's build without GPU libraries, a tenth of the size; `cuda` takes the one on PyPI with its own.
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/data/.cache/huggingface
WORKDIR /app
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# What is pinned first: a change of the code does not fetch it again.
COPY constraints.txt requirements.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && if [[ "$TORCH" == cpu ]]; then pip install --no-deps --index-url https://download.pytorch.org/whl/cpu -r torch.txt; fi \
    && pip install -c constraints.txt -r torch.txt \
    && awk '/^torch==/ {skip = 1} !skip {print} skip && !/\\$/ {skip = 0}' requirements.txt > pinned.txt \
    && pip install --require-hashes --no-deps -r pinned.txt \
    && rm pinned.txt torch.txt

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps . && lowregret --version

# Nothing that a stranger's model or data makes it do runs as root.
RUN useradd --create-home --uid 1000 lowregret && install -d -o lowregret /data
USER 1000
WORKDIR /data
ENTRYPOINT ["lowregret"]
CMD ["--help"]
