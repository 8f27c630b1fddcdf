"""Distances between features, where the answers are known."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glow.errors import UsageError
from glow.evaluation.classifier import Classifier, load_classifier
from glow.evaluation.quality import coverage, frechet_distance, kernel_distance, nearest, quality


def normals(n: int, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_the_frechet_distance_of_normals() -> None:
    """Squared distance of the means plus the squares of the differences of the standard deviations."""
    first, second = normals(20_000), 2 * normals(20_000, seed=1) + torch.tensor([1.0, 0.0, -2.0])
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + 3 * (2 - 1) ** 2, rel=0.02)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_kernel_distance_is_unbiased_and_the_same_every_time() -> None:
    same, mean = [kernel_distance(normals(2000), normals(2000, seed=s) + s // 2)[0] for s in (1, 2)]
    assert abs(same) < 0.01 < 1 < mean
    before = torch.get_rng_state()
    assert kernel_distance(normals(2000), normals(2000, seed=1))[0] == same
    assert torch.equal(torch.get_rng_state(), before)


def test_coverage() -> None:
    """Balls around points on a line reach their third neighbour."""
    centres = torch.arange(10.0)[:, None]
    assert coverage(centres, torch.tensor([[4.5], [11.9], [12.1], [-2.9], [-3.1]])) == 0.6
    assert coverage(centres, torch.full((2500, 1), 4.0)) == 1


def test_the_nearest() -> None:
    assert nearest(torch.tensor([[0.1], [2.2]]), torch.arange(4.0)[:, None]).tolist() == [0, 2]


def test_everything_at_once() -> None:
    real = normals(500)
    found = quality(real, 0.1 * normals(300, seed=1))
    assert found["precision"] > 0.95
    assert found["recall"] < 0.1
    assert all(math.isfinite(v) for v in found.values())
    for bad, message in (
        (real[:, :2], r"features must be \(N, D\) and \(M, D\)"),
        (real[:3], "more than 3 images of each kind"),
        (real * math.nan, "features must be finite"),
    ):
        with pytest.raises(UsageError, match=message):
            quality(real, bad)


def test_a_classifier_comes_back_as_float16(tmp_path: Path) -> None:
    model, images = Classifier(4, width=8), torch.randint(256, (5, 1, 28, 28), dtype=torch.uint8)
    model(images)  # the statistics of the normalizations move
    model.eval().save(tmp_path / "it.safetensors")
    features, logits = load_classifier(str(tmp_path / "it.safetensors"))(images)
    assert features.shape == (5, 16)
    torch.testing.assert_close(logits, model(images)[1], atol=0.02, rtol=0)


def test_what_is_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no")
    with pytest.raises(UsageError, match="is no classifier of scripts/classifier.py"):
        load_classifier(str(tmp_path / "bad"))
    with pytest.raises(UsageError, match=r"features=mnits is no file.* train"):
        load_classifier("mnits")
