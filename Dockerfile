# docker build -t glow . && docker run --rm --gpus all -v "$PWD/outputs:/glow/outputs" -v "$PWD/data:/glow/data" glow dataset=cifar10
# Mounted folders must be writable by user 1000. The trained weights of glow/weights are inside:
# docker run --rm -v "$PWD/outputs:/glow/outputs" --entrypoint python glow sample.py ckpt=NAME
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 glow && mkdir -p /glow/outputs /glow/data && chown -R glow /glow
WORKDIR /glow

# The dependencies in a layer of their own: it changes only when they do.
COPY --chown=glow pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir glow && touch glow/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt --editable .

COPY --chown=glow . .
USER glow
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "train.py"]
