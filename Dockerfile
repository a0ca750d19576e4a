# Calico in a container: calico-small plays, talks and is trained on; worlds of every default family, and those of EXTRAS.
#
#   docker build -t calico .                                       CPU
#   docker build -t calico --build-arg TORCH=cu130 .               NVIDIA's GPUs; run it with --gpus all
#   docker run --rm -v "$PWD:/work" calico rollout CartPole-v1 --gif films
FROM python:3.11-slim-bookworm

ARG TORCH=cpu
ARG EXTRAS=mujoco,media

# What MuJoCo and the others need to draw without a screen; their versions are the distribution's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1 libgles2 libglu1-mesa libgl1-mesa-dri libfontconfig1 \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 MUJOCO_GL=egl SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy
WORKDIR /src
COPY constraints.txt ./
RUN pip install -c constraints.txt torch --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
COPY datasets datasets
COPY envs envs
COPY scripts scripts
COPY tokenizers tokenizers
COPY typings/calico/__init__.py typings/calico/py.typed typings/calico/
RUN pip install -c constraints.txt ".[${EXTRAS}]" && calico --version

RUN useradd --create-home --uid 1000 calico
USER 1000
WORKDIR /work
ENTRYPOINT ["calico"]
CMD ["--help"]
