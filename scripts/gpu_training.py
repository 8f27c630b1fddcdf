"""The part ``train`` of ``scripts/gpu_report.py``: ``train.py`` as a user starts it, beside the bare step."""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from contenders import Contender, graphed
from gpu_speed import timed

if TYPE_CHECKING:
    from gpu_report import Report

ROOT = Path(__file__).resolve().parents[1]


def training(report: "Report") -> None:
    """``train.py`` itself on MNIST for a minute, beside the bare step, then pictures of CIFAR-10's size for the time that is left."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data(report, Path(folder))
        dry = report.args.dry_run
        tiny = [
            "fit.max_steps=6",
            "model.depth=1",
            "model.width=8",
            "dataset.batch_size=8",
            "dataset.val_size=8",
        ]
        tiny += ["trainer.log_every_n_steps=1", "callbacks.initialize.images=16"]
        common = [
            f"trainer.accelerator={'cpu' if dry else 'gpu'}",
            "trainer.precision=bf16-mixed",
            "fit.max_epochs=null",
        ]
        common += tiny if dry else ["dataset.batch_size=256"]
        minute = [*common, "dataset=mnist", f"dataset.root={data.mnist}", "callbacks.pictures=null"]
        minute += [] if dry else ["fit.max_time=00:00:01:00"]
        for compiled in ("graph", "false"):
            settings, name = [*minute, f"compile={compiled}"], f"MNIST, glow_small, bf16, compile={compiled}"
            report.row(
                f"{name}, train.py", lambda s=settings: {**train(report, s, folder), "data": data.mnist_is}
            )
            report.row(f"{name}, bare step", lambda s=settings: bare(report, s))

        def curve() -> dict[str, Any]:
            seconds = int(report.time_left() - 45)  # which start and test take
            limit = [] if dry else [f"fit.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}"]
            settings = [*common, *data.cifar, *limit, "compile=graph", "fit.pictures_every=1000"]
            return {**train(report, settings, folder, curve=True), "data": data.cifar_is}

        report.row("32x32, glow (paper), bf16, compile=graph, train.py", curve)


def train(report: "Report", settings: list[str], folder: str, curve: bool = False) -> dict[str, Any]:
    """Run ``train.py`` and read what it left."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            *settings,
            f"output_dir={out}",
            "name=run",
            "callbacks.estimate=null",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, report.time_left()))
        if done.returncode:
            raise RuntimeError(f"train.py ended with status {done.returncode}: {done.stderr[-300:]}")
        results = json.loads(Path(out, "run/results.json").read_text())
        found = {
            "images/s": results["images_per_s"],
            "steps": results["steps"],
            "test bits/dim": results["test"]["raw"],
        }
        said = re.findall(r"compile=graph: [^\n]*", done.stderr)
        found |= {"graphs": said[0]} if said else {}
        if curve:
            head, *rows = (line.split(",") for line in Path(out, "run/metrics.csv").read_text().splitlines())
            where = head.index("step"), head.index("train/bpd_step")
            points = [
                {"step": int(float(r[where[0]])), "bits/dim": float(r[where[1]])} for r in rows if r[where[1]]
            ]
            found["curve"] = points[:: max(1, len(points) // 20)]
        return found


def bare(report: "Report", settings: list[str]) -> dict[str, Any]:
    """The same model, optimizer, batch and precision in a loop that does nothing else."""
    from glow.commands.build import make, make_model
    from glow.commands.main import compose
    from glow.training.muon import optimizer_of

    cfg = compose("train", settings)
    x = torch.randint(
        256, (cfg.dataset.batch_size, *cfg.dataset.shape), dtype=torch.uint8, device=report.device
    )
    y = torch.zeros(len(x), dtype=torch.long, device=report.device)
    flow = make_model(cfg.model).to(report.device)
    flow.initialize(x[:64], y[:64])
    contender = Contender(
        flow, lambda: -flow.log_prob(x, y).mean(), lambda: None, low=cfg.trainer.precision == "bf16-mixed"
    )
    contender.optimizer = optimizer_of(flow, make("optimizer", cfg.optimizer))
    if cfg.compile == "graph":
        contender = graphed(contender)
    return timed(contender, "train", report, len(x))


class Data:
    """Where the pictures are; random ones where there are none, which give the same images/s."""

    def __init__(self, report: "Report", folder: Path) -> None:
        given: Path = report.args.data
        small = report.args.dry_run
        self.mnist, self.mnist_is = given, "MNIST"
        if small or not (given / "MNIST" / "raw").is_dir():
            self.mnist, self.mnist_is = folder / "mnist", "random pictures"
            self._write_mnist(200 if small else 60_000)
        self.cifar, self.cifar_is = ["dataset=cifar10", f"dataset.root={given}"], "CIFAR-10"
        if small or not (given / "cifar-10-batches-py").is_dir():
            subset = given / "cifar10-subset"
            self.cifar_is = "a subset of CIFAR-10"
            if small or not subset.is_dir():
                subset, self.cifar_is = folder / "pictures", "random pictures"
                self._write_pictures(subset, 80 if small else 4_000)
            self.cifar = [
                "dataset=image_folder",
                f"dataset.root={subset}",
                "model=glow",
                "optimizer=adamax",
                "schedule=constant",
                f"dataset.cache={folder}",
            ]

    def _write_mnist(self, n: int) -> None:
        raw = self.mnist / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for stem, size in (("train", n), ("t10k", n // 6)):
            pixels, classes = os.urandom(size * 784), bytes(i % 10 for i in range(size))
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, size, 28, 28) + pixels)
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, size) + classes)

    @staticmethod
    def _write_pictures(folder: Path, n: int) -> None:
        from PIL import Image

        folder.mkdir()
        for i in range(n):
            Image.frombytes("RGB", (32, 32), os.urandom(3072)).save(folder / f"{i:05d}.png")
