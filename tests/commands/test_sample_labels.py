"""What `python sample.py` draws of models that know labels."""

from pathlib import Path
from typing import Any

import pytest
import torch

from glow.checkpoint import read_model, resolve
from glow.commands.inputs import images
from glow.commands.main import compose
from glow.commands.session import Session
from glow.data import Digits
from glow.errors import UsageError
from glow.evaluation.pictures import grid

from .drawn import cells, draw, pixels


def test_labels(labelled_run: Path, tmp_path: Path) -> None:
    assert draw(labelled_run, tmp_path, "n=12")["labels"] == [*range(10), 0, 1]
    assert draw(labelled_run, tmp_path, "n=3", "label=4")["labels"] == [4, 4, 4]
    assert draw(labelled_run, tmp_path, "n=4", "label=[1,7]")["labels"] == [1, 7, 1, 7]
    assert draw(labelled_run, tmp_path, "n=15", "label=all")["labels"] == sorted([*range(10)] * 2)
    assert pixels(tmp_path / "samples_t0.7.png").shape[1] == 22 + 10 * 68 + 4  # a title and ten rows
    assert len(cells(tmp_path / "samples_t0.7.png", 2)) == 20
    assert draw(labelled_run, tmp_path, "n=3", "label=none")["labels"] == [-1] * 3
    with pytest.raises(UsageError, match="label must be from 0 to 9"):
        draw(labelled_run, tmp_path, "label=10")


def test_guidance(labelled_run: Path, tiny_run: Path, tmp_path: Path) -> None:
    assert draw(labelled_run, tmp_path, "n=4", "guidance=0.5")["guidance"] == 0.5
    assert (tmp_path / "samples_t0.7_g0.5.png").exists()
    for run, *wrong in ((labelled_run, "label=none"), (tiny_run,)):
        with pytest.raises(UsageError, match="guidance=1 goes towards a label"):
            draw(run, tmp_path, "n=4", "guidance=1", *wrong)
    with pytest.raises(UsageError, match="guidance must be"):
        draw(labelled_run, tmp_path, "n=4", "guidance=-1")


def test_labels_of_real_images(labelled_run: Path, tmp_path: Path) -> None:
    """Those of the data, or ``label``; images that are moved have none of their own."""
    data = Digits(name="digits", shape=(1, 8, 8), batch_size=4)
    data.setup("test")
    labels = data.arrays("test")[1][:2].tolist()  # type: ignore[index]
    saved = read_model(resolve(labelled_run))
    for label, expected in (([], labels), (["label=3"], [3, 3]), (["label=[8,1]"], [8, 1])):
        cfg = compose("sample", [f"out={tmp_path}", "mode=reconstruct", "images=[0,1]", *label])
        _, y = images(Session(cfg, saved, saved.flow()), [])
        assert y is not None
        assert y.tolist() == expected
        for mode in ("interpolate", "manipulate"):
            cfg.mode = mode
            _, y = images(Session(cfg, saved, saved.flow()), [])
            assert (y is None) == (not label)
    for wrong, message in (
        ("label=all", "label=all is for mode=samples"),
        ("label=[]", "label needs at least one"),
    ):
        with pytest.raises(UsageError, match=message):
            draw(labelled_run, tmp_path, "mode=reconstruct", "images=[0,1]", wrong)


def test_labels_beside_the_images(
    labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the columns, beside the rows, or in the title, with the temperature."""
    said: list[dict[str, Any]] = []

    def note(images: torch.Tensor, grey_levels: int, columns: int, **words: Any) -> torch.Tensor:
        labels = None if words["labels"] is None else words["labels"].tolist()
        said.append({**words, "labels": labels, "columns": columns})
        return grid(images, grey_levels, columns, **words)

    monkeypatch.setattr("glow.commands.session.grid", note)
    draw(labelled_run, tmp_path, "n=22", "temperature=[0.5,1]")
    each = [*range(10)]
    assert [(s["title"], s["columns"], s["labels"]) for s in said[:2]] == [
        ("temperature 0.5", 10, [*each, *each, 0, 1]),
        ("temperature 1", 10, [*each, *each, 0, 1]),
    ]
    strip = said[2]
    assert strip["rows"] == ["T = 0.5", "T = 1"]
    assert strip["labels"] == sorted(strip["labels"][:10]) * 2
    said.clear()
    draw(labelled_run, tmp_path, "mode=complete", "label=4", "steps=2", "completions=1", "images=[0]")
    assert said[0]["heads"] == ["image", "seen", "filled 1"]
    assert said[0]["labels"] == [4] * 3
    said.clear()
    draw(labelled_run, tmp_path, "mode=reconstruct", "label=[1,2]", "images=[0,1]")
    assert said[0]["rows"][:2] == ["image", "0 of 3 anew"]
    assert said[0]["labels"] == [1, 2] * len(said[0]["rows"])
    said.clear()
    draw(
        labelled_run, tmp_path, "mode=manipulate", "label=[1,2]", "images=[0,1]", "groups=[0,9]", "strengths=[0,2]"
    )  # fmt: skip
    assert said[0]["title"] == "moved from 0 towards 9, by strength"
    assert said[0]["heads"] == ["0", "2"]
    assert said[0]["labels"] == [1, 1, 2, 2]
