"""What `python sample.py` draws, at tiny sizes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from glow import load
from glow.commands.main import CONF, compose, explain
from glow.commands.sources import settings
from glow.data import Digits
from glow.errors import UsageError

from .drawn import as_drawn, cells, draw, pixels


class TestSamples:
    def test_a_grid_per_temperature_and_a_strip(self, tiny_run: Path, tmp_path: Path) -> None:
        report = draw(tiny_run, tmp_path, "n=9", "temperature=[0.5,1]", "seed=3")
        assert report["files"] == ["samples_t0.5.png", "samples_t1.png", "temperature_strip.png"]
        title = 22
        assert pixels(tmp_path / "samples_t1.png").shape == (3, title + 3 * 68 + 4, 3 * 68 + 4)
        low, high = (cells(tmp_path / f"samples_t{t}.png", 3) for t in ("0.5", "1"))
        strip = cells(tmp_path / "temperature_strip.png", 9)  # the same images, a row per temperature
        assert all(map(torch.equal, strip, low + high))
        assert not torch.equal(low[0], high[0])
        assert [row["temperature"] for row in report["samples"]] == [0.5, 1]
        again = draw(tiny_run, tmp_path / "again", "n=9", "temperature=0.5", "seed=3")
        assert again["files"] == ["samples_t0.5.png"]
        assert all(map(torch.equal, low, cells(tmp_path / "again" / "samples_t0.5.png", 3)))

    def test_files_for_use_elsewhere(self, tiny_run: Path, tmp_path: Path) -> None:
        draw(tiny_run, tmp_path, "n=5", "format=npy", "batch_size=2")
        images = np.load(tmp_path / "samples_t0.7.npy")
        assert images.shape == (5, 1, 8, 8)
        assert images.dtype == np.uint8
        assert images.max() <= 16
        draw(tiny_run, tmp_path, "n=7", "format=folder")
        draw(tiny_run, tmp_path, "n=5", "format=folder")
        files = sorted((tmp_path / "samples_t0.7").iterdir())
        assert [f.name for f in files] == [f"00000{i}.png" for i in range(5)]
        first = np.array(Image.open(files[0]))
        assert (
            abs(first.astype(int) - (images[0, 0] * (255 / 16)).round()).max() <= 16
        )  # another batch's rounding

    def test_a_temperature_near_zero_gives_the_image_of_the_mode(
        self, tiny_run: Path, tmp_path: Path
    ) -> None:
        draw(tiny_run, tmp_path, "n=3", "temperature=1e-6", "format=npy")
        flow = load(tiny_run)
        mode = flow.decode([torch.zeros(1, *shape) for shape in flow.latent_shapes])
        assert (np.load(tmp_path / "samples_t1e-06.npy") == mode.numpy()).all()

    def test_temperature_zero_draws_the_mode(self, tiny_run: Path, tmp_path: Path) -> None:
        draw(tiny_run, tmp_path, "n=3", "temperature=0", "format=npy")
        flow = load(tiny_run)
        mode = flow.decode([torch.zeros(1, *shape) for shape in flow.latent_shapes])
        assert (np.load(tmp_path / "samples_t0.npy") == mode.numpy()).all()

    def test_raw_and_averaged_weights_differ(self, tiny_run: Path, tmp_path: Path) -> None:
        for weights in ("raw", "ema"):
            draw(tiny_run, tmp_path / weights, "n=4", "format=npy", f"weights={weights}", "temperature=1")
        raw, ema = (np.load(tmp_path / w / "samples_t1.npy") for w in ("raw", "ema"))
        assert (raw != ema).any()

    def test_bad_samples_are_counted(
        self, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Those of a prior whose mean is not a number, and those that leave the range of grey levels everywhere."""
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
        content["state_dict"]["flow.bijection.steps.1.top.bias"][0] = float("nan")
        torch.save(content, run / "checkpoints" / "best.ckpt")
        report = draw(run, tmp_path, "n=4")
        assert report["samples"][0]["not_finite"] == [0, 1, 2, 3]
        assert "4 of 4 samples at 0.7 have values that are not finite: 0, 1, 2, 3" in capsys.readouterr().out
        content["state_dict"]["flow.bijection.steps.1.top.bias"][0] = 0.0
        for key, value in content["state_dict"].items():
            if key.endswith(
                "levels.0.steps.1.step.steps.0.shift"
            ):  # added on the way in, taken off on the way out
                value.fill_(-1e3)
        torch.save(content, run / "checkpoints" / "best.ckpt")
        assert draw(run, tmp_path, "n=4")["samples"][0]["one_grey"] == [0, 1, 2, 3]
        assert "4 of 4 samples at 0.7 have one grey: 0, 1, 2, 3" in capsys.readouterr().out

    def test_points_are_drawn_or_written_as_numbers(self, points_run: Path, tmp_path: Path) -> None:
        drawn = draw(points_run, tmp_path, "n=20", "temperature=[0.5,1]")["files"]
        assert drawn == ["samples_t0.5.png", "samples_t1.png", "temperature_strip.png"]
        assert pixels(tmp_path / "temperature_strip.png").shape == (3, 320, 640)
        assert draw(points_run, tmp_path, "n=20", "temperature=1", "format=npy")["files"] == [
            "samples_t1.npy"
        ]
        assert np.load(tmp_path / "samples_t1.npy").shape == (20, 2)
        with pytest.raises(UsageError, match="mode=reconstruct needs a model of images"):
            draw(points_run, tmp_path, "mode=reconstruct")
        with pytest.raises(
            UsageError, match="format=folder is not for a model of points: take format=png or npy"
        ):
            draw(points_run, tmp_path, "format=folder")


class TestRealImages:
    def digits(self, *index: int) -> torch.Tensor:
        data = Digits(name="digits", shape=(1, 8, 8), batch_size=4)
        data.setup("test")
        return data.arrays("test")[0][list(index)]

    def test_an_interpolation_ends_at_the_reconstructions(self, tiny_run: Path, tmp_path: Path) -> None:
        for path in ("great_circle", "line"):
            draw(tiny_run, tmp_path, "mode=interpolate", "images=[3,5]", "steps=4", f"path={path}")
            found = cells(tmp_path / "interpolate.png", 4)
            ends = as_drawn(self.digits(3, 5))
            assert torch.equal(found[0], ends[0])
            assert torch.equal(found[-1], ends[1])
            assert not torch.equal(found[1], found[0])

    def test_a_sheet_between_four(self, labelled_run: Path, tmp_path: Path) -> None:
        draw(labelled_run, tmp_path, "mode=interpolate", "images=[0,1,2,3]", "steps=3")
        found = cells(tmp_path / "interpolate.png", 3)
        assert len(found) == 9
        assert all(map(torch.equal, (found[i] for i in (0, 2, 6, 8)), as_drawn(self.digits(0, 1, 2, 3))))

    def test_reconstructions_are_exact_and_scales_can_be_redrawn(
        self, tiny_run: Path, tmp_path: Path
    ) -> None:
        report = draw(tiny_run, tmp_path, "mode=reconstruct", "images=[0,1,2]")
        assert report["largest_error"] == 0
        scales = len(load(tiny_run).latent_shapes)
        assert len(report["mean_error_by_scales_redrawn"]) == scales + 1
        assert report["mean_error_by_scales_redrawn"][0] == 0 < report["mean_error_by_scales_redrawn"][1]
        found = cells(tmp_path / "reconstruct.png", 3)
        assert len(found) == 3 * (scales + 2)
        assert all(map(torch.equal, found[:3], found[3:6]))  # redrawing no scale changes nothing
        assert not torch.equal(found[0], found[6])

    def test_a_completion_keeps_what_is_seen(self, tiny_run: Path, tmp_path: Path) -> None:
        report = draw(tiny_run, tmp_path, "mode=complete", "mask=left", "steps=20", "completions=2")
        assert report["files"] == ["complete_trace.png", "complete.png"]
        assert report["missing_pixels"] == 32
        original, hole, *found = cells(tmp_path / "complete.png", 4)
        assert torch.equal(original, as_drawn(self.digits(0))[0])
        assert torch.equal(hole[:, :, 32:], original[:, :, 32:])
        assert (hole[:, :, :32] == hole[0, 0, 0]).all()
        for picture in found:
            assert torch.equal(picture[:, :, 32:], original[:, :, 32:])
        assert not torch.equal(found[0], found[1])

    def test_manipulation(self, tiny_run: Path, tmp_path: Path) -> None:
        report = draw(
            tiny_run, tmp_path, "mode=manipulate", "groups=[0,1]", "images=[0,1]", "strengths=[0,2]"
        )
        assert sum(report["group_sizes"]) > 60
        found = cells(tmp_path / "manipulate.png", 2)
        assert torch.equal(found[0], as_drawn(self.digits(0))[0])  # strength 0
        assert torch.equal(found[2], as_drawn(self.digits(1))[0])
        assert not torch.equal(found[0], found[1])

    def test_pictures_from_files(self, tiny_run: Path, tmp_path: Path) -> None:
        for group, start in (("a", 0), ("b", 5)):
            (tmp_path / group).mkdir()
            for i, image in enumerate(load_digits().images[start : start + 5]):
                grey = (image / 16 * 255).round().astype(np.uint8)
                Image.fromarray(grey).save(tmp_path / group / f"{i}.png")
        images = f"images=[{tmp_path}/a/0.png,{tmp_path}/b/0.png]"
        draw(tiny_run, tmp_path, "mode=reconstruct", images)
        expected = as_drawn(torch.from_numpy(load_digits().images[[0, 5], None]).byte())
        assert all(map(torch.equal, cells(tmp_path / "reconstruct.png", 2)[:2], expected))
        mixed = draw(tiny_run, tmp_path, "mode=reconstruct", f"images=[{tmp_path}/a/0.png,3]")
        assert mixed["largest_error"] == 0
        both = [expected[0], as_drawn(self.digits(3))[0]]
        assert all(map(torch.equal, cells(tmp_path / "reconstruct.png", 2)[:2], both))
        groups = f"groups=[{tmp_path}/a,{tmp_path}/b]"
        assert draw(tiny_run, tmp_path, "mode=manipulate", groups, images)["group_sizes"] == [5, 5]

    def test_other_data(self, tiny_run: Path, tmp_path: Path, picture_folder: Path) -> None:
        report = draw(
            tiny_run, tmp_path, "mode=reconstruct", "images=[0]",
            "dataset=image_folder", f"dataset.root={picture_folder}",
        )  # fmt: skip
        assert report["largest_error"] == 0


def test_export(tiny_run: Path, tmp_path: Path) -> None:
    draw(tiny_run, tmp_path, f"export={tmp_path}/model.safetensors", "weights=raw")
    state = load(tiny_run, "raw").state_dict()
    exported = load(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(v, exported[k]) for k, v in state.items() if isinstance(v, torch.Tensor))
    draw(tmp_path / "model.safetensors", tmp_path, "mode=reconstruct", "images=[0]")
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        draw(tiny_run, tmp_path, "export=model.bin")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mode=interpolat"], r"mode='interpolat' is not one of .*did you mean 'interpolate'"),
        (["mode=interpolate", "images=[1,2,3]"], r"takes 2 or 4 images, got images=\[1, 2, 3\]"),
        (["mode=interpolate", "steps=1"], "steps must be at least 2"),
        (["mode=interpolate", "path=circle"], "path='circle' is not one of great_circle, line"),
        (["mode=reconstruct", "images=[400]"], "images has 400, but the split has 360 examples"),
        (["mode=reconstruct", "images=[there.png]"], r"images: there\.png cannot be read"),
        (["mode=reconstruct", "temperature=[1,2]"], "takes one temperature"),
        (["mode=complete", "mask=up"], "mask"),
        (["mode=manipulate"], "groups must be two classes"),
        (["mode=manipulate", "groups=5"], "groups must be two classes"),
        (["mode=manipulate", "groups=[0,1]", "strengths=[]"], "strengths needs at least one value"),
        (["mode=manipulate", "groups=[nowhere,1]"], "groups: nowhere is not a folder"),
        (["out=/proc/there"], "/proc/there cannot be written"),
        (["out=5"], "out must be a path, got 5"),
        (["device=meta"], "device=meta is not here"),
        (["device=null"], "device=None is not here"),
        (["mode=manipulate", "groups=[0,11]"], "groups: 11 is none of the labels"),
        (["mode=manipulate", "groups=[0,1]", "strengths=[a]"], "strengths must be numbers, got 'a'"),
        (["n=0"], "n must be an integer above zero"),
        (["temperature=-1"], "temperature must be a number of at least zero"),
        (["mode=reconstruct", "dataset.root=x"], r"dataset\.root is not a setting of digits"),
        (["mode=reconstruct", "+dataset.nois=x"], r"dataset\.nois is not a setting of digits"),
        (["model=realnvp"], r"model\.\w+: the model is the checkpoint's"),
        (["++model.network._target_=nowhere.Net"], r"model\.network\._target_=nowhere\.Net cannot be imported"),
        (["temperature=[]"], "temperature needs at least one value"),
        (["label=3"], "this model is not class-conditional"),
        (["weights=best"], "weights='best' is not one of ema, raw"),
        (["device=cuda:99"], "device=cuda:99 is not here"),
        (["device=abacus"], "device=abacus is not here"),
        (["mode=reconstruct", "dataset=two_moons"], r"the model takes \(1, 8, 8\)"),
        (["split=some", "mode=reconstruct"], "split='some' is not one of train, val, test"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_errors_name_the_setting(tiny_run: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        draw(tiny_run, tmp_path, *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.batch_size=[", "no viable alternative at input"),
        ("dataset.batch_size=1,2", "Ambiguous value for argument .dataset.batch_size=1,2"),
        ("dataset=mnits", "dataset=mnits is not one of .*did you mean 'mnist'"),
        ("dataset.rot=x", r"dataset\.rot is not a setting; did you mean 'dataset\.root'"),
    ],
)
def test_hydra_refuses_and_the_nearest_names_are_said(override: str, message: str) -> None:
    for command in ("sample", "evaluate"):
        with pytest.raises(Exception) as caught:  # noqa: PT011 (Hydra has several)
            compose(command, [override])
        assert re.search(message, explain(caught.value))


def test_every_setting_of_our_datasets_can_be_typed() -> None:
    """``dataset.KEY=`` without a ``+``: conf/sample.yaml and evaluate.yaml list them all."""
    listed = set(compose("sample").dataset)
    assert set(compose("evaluate").dataset) == listed
    for option in (path.stem for path in (CONF / "dataset").glob("*.yaml")):
        chosen = compose("sample", [f"dataset={option}"])
        assert set(chosen.dataset) - {"_target_"} == listed, option
        assert settings(chosen.dataset)["name"] == option
    for command in ("sample", "evaluate"):
        trained = compose("train", ["dataset=two_moons"]).dataset
        assert settings(compose(command, ["dataset=two_moons"]).dataset) == trained
