"""WaveNet from the command line: signals are trained on, drawn, heard, continued and measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from glow.commands.evaluate import evaluate
from glow.commands.main import compose
from glow.commands.sample import sample
from glow.errors import UsageError

Run = Callable[..., dict[str, Any]]

TINY = (
    "debug=fast",
    "callbacks.estimate=null",
    "logger=none",
    "model.width=8",
    "model.layers=3",
    "model.stacks=1",
)


@pytest.mark.slow
def test_tones(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("dataset.shape=[1,32]", "dataset.train_size=100", "dataset.val_size=20", "dataset.test_size=30")
    results = run(
        "dataset=tones",
        "name=tones",
        *TINY,
        *small,
        "trainer.limit_test_batches=null",
        "dataset.sample_rate=4000",
    )
    assert results["unit"] == "bits/dim"
    assert results["test"]["ema"] > results["true_nll"] > 3
    assert (tmp_path / "outputs/tones" / results["picture"]).is_file()
    assert list((tmp_path / "outputs/tones/samples").glob("step_*.png"))
    ckpt, drawn = f"ckpt={tmp_path}/outputs/tones", tmp_path / "outputs/tones/samples"
    sample(compose("sample", [ckpt, "n=3", "temperature=[0.7,1]"]))
    rate, x = wavfile.read(drawn / "samples_t1/000002.wav")
    assert (rate, x.dtype, x.shape) == (4000, np.int16, (32,))
    assert {p.stem for p in drawn.glob("*.png")} >= {"samples_t0.7", "samples_t1", "temperature_strip"}
    sample(compose("sample", [ckpt, "n=3", "format=npy", "temperature=1"]))
    assert np.load(drawn / "samples_t1.npy").shape == (3, 1, 32)
    sample(compose("sample", [ckpt, "mode=complete", "mask=right", "images=[4]", "completions=2"]))
    names = ("000000_signal", "000001_seen", "000002_filled_1", "000003_filled_2")
    heard = [wavfile.read(drawn / f"complete/{name}.wav")[1] for name in names]
    assert all(np.array_equal(h[:16], heard[0][:16]) for h in heard)
    assert not np.array_equal(heard[2], heard[3])
    assert Image.open(drawn / "complete.png").size[0] > 500
    report = evaluate(compose("evaluate", [ckpt]))
    assert report["exact"]
    assert report["true_nll"] == pytest.approx(results["true_nll"])
    assert report["weights"]["ema"]["mean"] == pytest.approx(results["test"]["ema"], abs=1e-4)
    assert f"entropy of the signals: {report['true_nll']:.4f} bits/dim" in capsys.readouterr().out
    for mode, settings, message in (
        ("complete", "mask=left", "mask=right"), ("complete", "images=[a.png]", "images: pictures are no signals"), ("interpolate", "n=1", "needs a flow"),
        ("samples", "format=png", "format=png is not for a model of signals: take format=wav or npy"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            sample(compose("sample", [ckpt, f"mode={mode}", settings]))
    for settings, message in (("ood=digits", "of signals"), ("quality=true", "of images")):
        with pytest.raises(UsageError, match=message):
            evaluate(compose("evaluate", [ckpt, settings]))


def test_a_folder_of_sounds(run: Run, tmp_path: Path) -> None:
    """Sweeps, on whose like it is then measured in another folder, too."""
    for folder, files in (("sounds", 6), ("others", 3)):
        (tmp_path / folder).mkdir()
        for i in range(files):
            t = np.arange(2000) / 8000
            sweep = np.sin(2 * np.pi * (200 + 100 * i + 800 * t) * t) / 2
            wavfile.write(tmp_path / folder / f"{i}.wav", 8000, (sweep * 32767).astype(np.int16))
    data = (
        f"dataset.root={tmp_path}/sounds",
        "dataset.length=100",
        "dataset.val_size=1",
        "dataset.test_size=1",
    )
    results = run("dataset=audio_folder", "name=sweeps", *TINY, *data)
    assert results["test_examples"] == 14  # of 20: two batches, as even as can be
    assert "true_nll" not in results
    again = run("dataset=audio_folder", "name=sweeps", *TINY, *data, "resume=true")
    assert again["test"] == results["test"]
    ckpt = f"ckpt={tmp_path}/outputs/sweeps"
    sample(compose("sample", [ckpt, "n=2", "temperature=0"]))
    other = evaluate(compose("evaluate", [ckpt, f"dataset.root={tmp_path}/others"]))
    assert (other["dataset"], other["split"]) == ("audio_folder-others", "all")
    assert evaluate(compose("evaluate", [ckpt]))["weights"]["raw"]["n"] == 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=tones", "model=pixelcnn"], "PixelCNN models images"), (["dataset=tones", "model=realnvp"], "vectors"),
        (["dataset=digits", "model=wavenet"], "WaveNet models signals"), (["dataset=tones", "model.layers=10"], "layers=10"),
        (["dataset=tones", "sample_quality=logged"], "of images"), (["dataset=audio_folder", "dataset.root=/none"], "dataset.root=/none"),
    ],
)  # fmt: skip
def test_bad_settings(run: Run, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(*overrides, "debug=fast")
