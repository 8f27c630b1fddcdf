#!/usr/bin/env python3
"""What a trained flow makes of the test images of its data, beside other codecs: bits/dim, images/s, and damage.

    python scripts/compression.py mnist fashion_mnist --root DIR
    python scripts/compression.py outputs/NAME --limit 1000 --out outputs/compression
    python scripts/compression.py mnist --root DIR --limit 20 --labels none --damage 10000

Everything in the flow's file is counted. PNG (optimized), WebP (lossless) and JPEG XL (lossless, effort 9, if
``pillow-jxl-plugin`` is installed) are the sums of one file per image, xz and zstd (if ``zstandard`` is installed) one file of
all pixels in turn. The figures go to ``compression.json``, bars to ``compression.png``.

What is lost between the flow's own bound and its file, each by itself, of the first ``--losses`` images on a stack that others
left: *integers*, the information of all numbers that are pushed and popped against the flow's bound on the same images and
labels; *coder*, what the message is longer than that. The rest of the file is its header, checksums and the first images,
which are stored.
"""

import argparse
import importlib.util
import io
import json
import lzma
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow.codec import Coder, file
from glow.codec.coder import BORROWED
from glow.codec.labels import cheapest_labels
from glow.codec.stack import PRECISION, WORD, Stack, bin_of
from glow.codec.tables import bin_probabilities
from glow.commands.main import compose
from glow.commands.session import Session
from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.evaluation.bits import in_unit
from glow.evaluation.pictures import to_bytes
from glow.seeds import generator


class Counted(Stack):
    """It counts what its numbers would need if every one took its information and no more, and the time in the coder."""

    bits = seconds = 0.0

    def _encode(self, values: np.ndarray, sizes: np.ndarray | int) -> None:
        self.bits += self._information(sizes, len(values))
        self._timed(super()._encode, values, sizes)

    def _decode(self, sizes: np.ndarray | int, n: int = 0) -> np.ndarray:
        self.bits -= self._information(sizes, n)
        return self._timed(super()._decode, sizes, n)

    def push_normal(self, z: Tensor, bits: int) -> None:
        """The time is that of its parts, but for a single call."""
        counts = torch.from_numpy(bin_probabilities(PRECISION))[bin_of(z.flatten().cpu(), bits)].double()
        self.bits += float((PRECISION - counts.log2()).sum())
        super().push_normal(z, bits)

    def _timed(self, function: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args)
        finally:
            self.seconds += time.perf_counter() - start

    @staticmethod
    def _information(sizes: np.ndarray | int, n: int) -> float:
        return n * math.log2(sizes) if isinstance(sizes, int) else float(np.log2(sizes).sum())


def others(x: Tensor, levels: int) -> dict[str, int]:
    """Bytes of every other codec."""
    pictures = [Image.fromarray(p.permute(1, 2, 0).squeeze(-1).numpy()) for p in to_bytes(x, levels)]
    raw = x.numpy().tobytes()
    kinds: dict[str, dict[str, Any]] = {
        "PNG": {"format": "png", "optimize": True},
        "WebP": {"format": "webp", "lossless": True, "quality": 100, "method": 6},
    }
    if importlib.util.find_spec("pillow_jxl"):
        importlib.import_module("pillow_jxl")
        kinds["JPEG XL"] = {"format": "jxl", "lossless": True, "effort": 9}
    found = {name: sum(len(_saved(p, options)) for p in pictures) for name, options in kinds.items()}
    found["xz"] = len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    if importlib.util.find_spec("zstandard"):
        found["zstd"] = len(importlib.import_module("zstandard").compress(raw, 22))
    return found


def _saved(picture: Image.Image, options: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    picture.save(target, **options)
    return target.getvalue()


def losses(session: Session, x: Tensor, labels: Tensor | None, draws: int = 4) -> dict[str, float]:
    """Bits/dim and seconds per image of each loss."""
    flow, coder = session.density, Coder(session.density)
    words = np.random.default_rng(0).integers(
        1, 2**32, 2 * coder.group * BORROWED * coder.dimensions // WORD, dtype=np.uint32
    )
    stack = Counted(words)
    start = time.perf_counter()
    coder.push(stack, x, labels)
    took = time.perf_counter() - start
    start = time.perf_counter()
    bound = bounds(session.density, x, labels, draws)
    passes = (time.perf_counter() - start) / draws
    label = math.log2(flow.classes + 1) / coder.dimensions if flow.classes else 0.0
    return {
        "images": len(x), "label": label, "integers": stack.bits / x.numel() - bound - label,
        "coder": ((len(stack) - len(words)) * WORD - stack.bits) / x.numel(), "ms_all": 1e3 * took / len(x),
        "ms_coder": 1e3 * stack.seconds / len(x), "ms_flow_float32": 1e3 * passes / len(x),
    }  # fmt: skip


@torch.no_grad()
def bounds(flow: Distribution, x: Tensor, labels: Tensor | None, draws: int = 1) -> float:
    """The flow's own bits/dim, given the labels, the mean of so many draws of noise."""
    found = []
    for draw in range(draws):
        for i in range(0, len(x), 64):
            noise = flow.noise(len(x[i : i + 64]), generator("cpu", "compression", draw, i))
            y = None if labels is None else labels[i : i + 64]
            found.append(in_unit(-flow.log_prob(x[i : i + 64], y, noise), flow))
    return float(torch.cat(found).mean())


def measure(session: Session, x: Tensor, tried: list[int] | None, first: int) -> tuple[dict[str, Any], bytes]:
    """Rates, losses and speeds of the flow's file."""
    coder, target, start = Coder(session.density), io.BytesIO(), time.perf_counter()
    labels = cheapest_labels(session.density, tried)(x, 0)
    chose, start = time.perf_counter() - start, time.perf_counter()

    def given(part: Tensor, first: int) -> Tensor | None:
        return None if labels is None else labels[first : first + len(part)]

    file.write(coder, file.InMemory(x), target, given)
    wrote, data = time.perf_counter() - start, target.getvalue()
    stream, start = io.BytesIO(data), time.perf_counter()
    blocks = [b.images for b in file.read(coder, stream, file.read_header(stream))]
    read = time.perf_counter() - start
    assert torch.equal(torch.cat(blocks), x)
    return {
        "images": len(x), "bytes": len(data), "bits_per_dim": 8 * len(data) / x.numel(), "flow": bounds(session.density, x, labels),
        "labels_images_per_s": len(x) / chose, "write_images_per_s": len(x) / wrote, "read_images_per_s": len(x) / read,
        "one_image_bytes": _one(coder, x, labels), "losses": losses(session, x[:first], given(x[:first], 0)),
    }, data  # fmt: skip


def _one(coder: Coder, x: Tensor, labels: Tensor | None) -> float:
    """Mean bytes of files of a single image."""
    sizes = []
    for i in range(min(20, len(x))):
        target = io.BytesIO()
        file.write(
            coder,
            file.InMemory(x[i : i + 1]),
            target,
            lambda part, first, i=i: None if labels is None else labels[i : i + 1],
        )
        sizes.append(len(target.getvalue()))
    return sum(sizes) / len(sizes)


def damage(coder: Coder, x: Tensor, data: bytes, times: int) -> dict[str, int]:
    """What becomes of files that are cut, changed or foreign: never wrong pictures, and never another error than a sentence."""
    rng, counts = (
        random.Random(0),
        {"a sentence": 0, "a sentence after right pictures": 0, "the right pictures": 0},
    )
    for _ in range(times):
        hurt = bytearray(data)
        kind = rng.randrange(4)
        at = rng.randrange(len(hurt))
        if kind == 0:
            del hurt[at:]
        elif kind == 1:
            hurt[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            hurt[at:at] = rng.randbytes(rng.randint(1, 8))
        else:
            hurt = bytearray(rng.randbytes(rng.randrange(2000)))
        n, said = 0, False
        try:
            stream = io.BytesIO(bytes(hurt))
            for block in file.read(coder, stream, file.read_header(stream)):
                assert torch.equal(block.images, x[n : n + len(block.images)])
                n += len(block.images)
        except UsageError:
            said = True
        assert said or n == len(x)
        counts[
            "the right pictures" if not said else "a sentence after right pictures" if n else "a sentence"
        ] += 1
    return counts


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of all codecs, and the flow's own figure as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 3.4), layout="constrained")
    for axes, (name, result) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        dims = result["images"] * result["dimensions"]
        bars = {"this flow": result["bits_per_dim"]} | {k: 8 * v / dims for k, v in result["others"].items()}
        names = sorted(bars, key=bars.__getitem__)
        colors = ["tab:blue" if n == "this flow" else "lightgrey" for n in names]
        drawn = axes.barh(names, [bars[n] for n in names], color=colors)
        axes.bar_label(drawn, fmt="%.2f", padding=3)
        axes.axvline(result["flow"], color="black", lw=1, ls="--")
        axes.invert_yaxis()
        axes.set(xlabel="bits/dim; dashed: the bound of the flow")
        axes.set_title(f"{name}, {result['images']:,} test images", fontsize=11)
        axes.set_xlim(0, 1.15 * max(bars.values()))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ckpts", nargs="+", metavar="CKPT", help="as ckpt= of compress.py")
    parser.add_argument("--root", help="as dataset.root=")
    parser.add_argument("--limit", type=int, help="only the first images of the test split")
    parser.add_argument(
        "--labels", choices=("all", "none"), default="all", help="which to try (default all, and none)"
    )
    parser.add_argument(
        "--losses", type=int, default=640, help="images whose losses are measured (default 640)"
    )
    parser.add_argument("--damage", type=int, default=0, help="damaged files to read (default 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/compression"), help="default outputs/compression"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for ckpt in args.ckpts:
        overrides = ["device=cpu", f"ckpt={ckpt}", *([f"dataset.root={args.root}"] if args.root else [])]
        session = Session.open(
            compose("compress", [*overrides, *([f"limit={args.limit}"] if args.limit else [])])
        )
        x = session.data.x
        result, data = measure(session, x, None if args.labels == "all" else [-1], args.losses)
        result |= {"dimensions": math.prod(x.shape[1:]), "others": others(x, session.levels)}
        dims = x.numel()
        lost = result["losses"]
        print(
            f"{Path(ckpt).name}: {len(x):,} images, {result['bits_per_dim']:.4f} bits/dim in the file, {result['flow']:.4f} the flow's bound\n"
            f"  lost: label {lost['label']:.4f}, integers {lost['integers']:+.4f}, coder {lost['coder']:+.4f} bits/dim; ms an image: "
            f"{lost['ms_all']:.1f}, of it the coder {lost['ms_coder']:.1f}; a pass of the float32 flow {lost['ms_flow_float32']:.1f}\n"
            f"  images/s: labels {result['labels_images_per_s']:.0f}, writing {result['write_images_per_s']:.0f}, reading "
            f"{result['read_images_per_s']:.0f}; a file of one image: {result['one_image_bytes']:.0f} bytes"
        )
        for name, size in sorted(result["others"].items(), key=lambda item: item[1]):
            print(f"  {name:8} {8 * size / dims:.4f}")
        if args.damage:
            result["damage"] = damage(Coder(session.density), x, data, args.damage)
            print(f"  damaged {args.damage:,} times: {result['damage']}")
        results[Path(ckpt).name] = result
        (args.out / "compression.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, args.out / "compression.png")
    print(f"in {args.out}: compression.json, compression.png")


if __name__ == "__main__":
    main()
