"""`python evaluate.py quality=true`, with a stand-in for the network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from glow.errors import UsageError
from glow.evaluation.features import FeatureNetwork

from .test_evaluate import FAST, measure

SMALL = (FAST, "weights=ema", "quality=true", "limit=40")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The images that the stand-in has seen; it says that a picture's label is the remainder of its first pixel by ten."""
    seen: list[Tensor] = []

    def stand_in(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(images)
        return images.flatten(1)[:, :16].float(), torch.eye(10)[images[:, 0, 0, 0].long() % 10]

    network = FeatureNetwork("a stand-in", stand_in)
    monkeypatch.setattr("glow.evaluation.features.feature_network", lambda *asked: network)
    return seen


def test_of_a_labelled_model(labelled_run: Path, tmp_path: Path, network: list[Tensor]) -> None:
    found = measure(labelled_run, tmp_path, *SMALL, "temperature=[0.5,1]", "guidance=[0,1]", "samples=30")[
        "quality"
    ]
    assert found["features"] == "a stand-in"
    assert (found["n"], found["split_n"]) == (30, 40)
    assert [(row["temperature"], row["guidance"]) for row in found["samples"]] == [
        (0.5, 0),
        (0.5, 1),
        (1, 0),
        (1, 1),
    ]
    for row in [found["training"], *found["samples"]]:
        assert row["fid"] >= 0
        assert min(row["precision"], row["recall"]) >= 0
    assert len({row["fid"] for row in found["samples"]}) == 4
    assert 0 <= found["accuracy"] <= 1
    assert all(0 <= row["agreement"] <= 1 and row["seconds"] >= 0 for row in found["samples"])
    assert network[0].dtype == torch.uint8
    assert network[0].max() == 255  # 17 levels stretched
    assert {p.name for p in tmp_path.glob("*.png")} == {"nearest.png", "quality.png"}


def test_of_a_model_without_labels(tiny_run: Path, tmp_path: Path, network: list[Tensor]) -> None:
    found = measure(tiny_run, tmp_path, *SMALL)["quality"]
    assert found["n"] == 40
    assert [row["agreement"] for row in found["samples"]] == [None]
    assert not (tmp_path / "quality.png").exists()
    with pytest.raises(UsageError, match="guidance=1 goes towards a label"):
        measure(tiny_run, tmp_path, *SMALL, "guidance=1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("samples=3", "more than 3 images of each kind"),
        ("limit=3", "more than 3 images of each kind"),
        ("split=train", "that were not trained on: take split=val or test, not train"),
        ("samples=0", "samples must be an integer above zero"),
        ("temperature=-1", "temperature must be"),
        ("quality=maybe", "quality must be"),
    ],
)
def test_what_cannot_be(
    labelled_run: Path,
    tmp_path: Path,
    network: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    message: str,
) -> None:
    monkeypatch.setattr("glow.commands.evaluate.measure_bits", lambda *_: pytest.fail("too late"))
    with pytest.raises(UsageError, match=message):
        measure(labelled_run, tmp_path, *SMALL, wrong)


def test_data_without_a_classifier(labelled_run: Path, points_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no classifier of digits.*features=FILE"):
        measure(labelled_run, tmp_path, *SMALL)
    with pytest.raises(UsageError, match="features=mnits is no file"):
        measure(labelled_run, tmp_path, *SMALL, "features=mnits")
    with pytest.raises(UsageError, match="quality=true needs a model of images"):
        measure(points_run, tmp_path, FAST, "quality=true")
