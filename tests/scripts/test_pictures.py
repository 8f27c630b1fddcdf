"""The scripts that draw curves and train the classifier, at tiny sizes."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from glow.commands.main import CONF
from glow.evaluation import classifier


def script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(CONF.parent / "scripts" / name), run_name="__main__")


def test_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in ("mnist", "fashion_mnist"):
        with SummaryWriter(tmp_path / data / "tensorboard") as writer:
            for step in range(3):
                writer.add_scalar("train/bpd", 3.0, step)
                writer.add_scalar("val/bpd", 3.0 - step, step)
        results = {"dataset": data, "test": {"ema": 1.0}, "train_seconds": 60.0}
        (tmp_path / data / "results.json").write_text(json.dumps(results))
    out = tmp_path / "curves.png"
    script(
        monkeypatch, "curves.py", str(tmp_path / "mnist"), str(tmp_path / "fashion_mnist"), "--out", str(out)
    )
    assert Image.open(out).width > Image.open(out).height


@pytest.mark.usefixtures("one_thread")
def test_the_classifier(
    fake_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(classifier, "FOLDER", tmp_path / "classifiers")
    script(
        monkeypatch, "classifier.py", "mnist", "--root", str(fake_mnist), "--minutes", "0.01", "--batch", "20"
    )
    assert "mnist.safetensors: right in" in capsys.readouterr().out
    features, logits = classifier.load_classifier("mnist")(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
    assert (features.shape, logits.shape) == ((2, 64), (2, 10))
    assert (tmp_path / "classifiers" / "mnist.safetensors").stat().st_size < 200_000
