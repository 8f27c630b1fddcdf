# docker build -t glow . && docker run --rm --gpus all -v "$PWD/outputs:/glow/outputs" -v "$PWD/data:/glow/data" glow dataset=cifar10
# Mounted folders must be writable by user 1000, or by that of --user. The trained weights of glow/weights are inside:
# docker run --rm -v "$PWD/outputs:/glow/outputs" --entrypoint python glow sample.py ckpt=NAME
# The tests: docker build --target test -t glow-test . && docker run --rm glow-test
# scripts/build_image.sh builds and runs both where there is no Docker.
ARG BASE=python:3.11-slim
FROM ${BASE} AS glow

# The compiler is for compile=true.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 glow && mkdir -p /glow/outputs /glow/data && chown -R glow /glow
WORKDIR /glow

# The dependencies in a layer of their own: it changes only when they do.
COPY --chown=glow pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir glow && touch glow/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt --editable .

COPY --chown=glow . .
USER glow
# torch looks up the user's name, which another one of --user has not.
ENV PYTHONUNBUFFERED=1 USER=glow
ENTRYPOINT ["python", "train.py"]

FROM glow AS test
USER root
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[dev]'
USER glow
ENTRYPOINT ["pytest", "-n", "2", "--dist", "worksteal"]

# What docker builds without --target.
FROM glow
