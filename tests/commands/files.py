"""What a run must leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image


def check_files(folder: Path, results: dict[str, Any], image: bool = True) -> None:
    """Everything that a run's folder must hold."""
    saved = json.loads((folder / "results.json").read_text())
    assert saved == json.loads(json.dumps(results))
    for key in ("test", "val", "seed", "versions", "git_commit", "parameters", "steps", "images_per_s"):
        assert key in saved, key
    assert all(v is not None and 0 < abs(v) < 100 for v in saved["test"].values())
    assert set(saved["test"]) == ({"ema", "raw"} if image else {"raw"})
    config = OmegaConf.load(folder / "config.yaml")
    assert "${" not in (folder / "config.yaml").read_text(), "the configuration must be resolved"
    assert config.seed == saved["seed"]
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    unit = "bpd" if image else "nll"
    for key in (f"train/{unit}", f"val/{unit}", f"test/{unit}", "train/grad_norm", "step"):
        assert key in header, key
    assert any(k.startswith("lr-") for k in header)
    assert list((folder / "tensorboard").glob("events*"))
    for name in ("best", "last"):
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        assert checkpoint["hyper_parameters"]["model"]["_target_"] in (
            "glow.flows.Glow",
            "glow.flows.RealNVP",
        )
    pictures = sorted(p.name for p in (folder / "samples").glob("*.png"))
    assert any(p.startswith("step_") for p in pictures)
    assert saved["picture"] == ("samples/temperatures.png" if image else "samples/density.png")
    final = Image.open(folder / saved["picture"])
    assert min(final.size) > 30
    assert len(set(final.convert("L").getdata())) > 2, "an empty picture"
