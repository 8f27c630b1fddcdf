"""What `python evaluate.py` measures, at tiny sizes."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from glow.commands.evaluate import evaluate
from glow.commands.main import compose
from glow.commands.sources import settings
from glow.errors import UsageError


def measure(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """``python evaluate.py ckpt=RUN out=OUT ...``; the returned figures are those of the JSON file."""
    report = evaluate(compose("evaluate", [f"ckpt={run}", f"out={out}", *overrides]))
    assert json.loads((out / "evaluation.json").read_text()) == report
    return report


FAST = "diagnostics=false"


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "per_image.csv").open() as file:
        return list(csv.DictReader(file))


class TestBits:
    def test_equal_the_trainings_own_test(self, tiny_run: Path, tmp_path: Path) -> None:
        trained = json.loads((tiny_run / "results.json").read_text())
        report = measure(tiny_run, tmp_path, FAST)
        for kind in ("ema", "raw"):
            assert report["weights"][kind]["mean"] == pytest.approx(trained["test"][kind], abs=1e-6)
            assert report["weights"][kind]["n"] == trained["test_examples"] == 360
        assert report["seed"] == trained["seed"]

    def test_every_image_once(self, tiny_run: Path, tmp_path: Path) -> None:
        report = measure(tiny_run, tmp_path, FAST)
        written = rows(tmp_path)
        assert [int(row["index"]) for row in written] == list(range(360))
        assert {row["label"] for row in written} == set(map(str, range(10)))
        values = torch.tensor([float(row["ema"]) for row in written], dtype=torch.float64)
        assert report["weights"]["ema"]["mean"] == pytest.approx(float(values.mean()), abs=1e-9)
        error = float(values.std() / 360**0.5)
        assert report["weights"]["ema"]["standard_error"] == pytest.approx(error, abs=1e-9)

    def test_the_importance_weighted_bound(self, tiny_run: Path, tmp_path: Path) -> None:
        def bits(*overrides: str) -> float:
            options = ("limit=30", "weights=ema", FAST)
            return measure(tiny_run, tmp_path, *options, *overrides)["weights"]["ema"]["mean"]

        assert bits("bound=iw", "draws=1") == bits()
        assert bits("bound=iw", "draws=4") < bits("bound=mean", "draws=4")
        assert bits("seed=1") != bits()

    def test_other_data(self, tiny_run: Path, tmp_path: Path, picture_folder: Path) -> None:
        folder = ("dataset=image_folder", f"dataset.root={picture_folder}")
        report = measure(tiny_run, tmp_path, *folder, FAST)
        assert report["dataset"] == "image_folder-pictures"
        assert report["split"] == "all"
        assert report["weights"]["ema"]["n"] == 40
        assert measure(tiny_run, tmp_path, *folder, FAST, "split=test")["weights"]["ema"]["n"] == 4
        assert measure(tiny_run, tmp_path, FAST)["weights"]["ema"]["mean"] != report["weights"]["ema"]["mean"]

    def test_bound_and_draws_are_printed(
        self, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        measure(tiny_run, tmp_path, FAST, "limit=8", "weights=ema", "bound=iw", "draws=4")
        assert re.search(r"ema +[\d.]+ \+- [\d.]+ bits/dim \(bound=iw of draws=4\)", capsys.readouterr().out)
        measure(tiny_run, tmp_path, FAST, "limit=8", "weights=ema")
        assert "bound=" not in capsys.readouterr().out

    def test_other_data_does_not_overwrite_the_run_s_own(
        self, tiny_run: Path, points_run: Path, tmp_path: Path, picture_folder: Path
    ) -> None:
        def folders(run: Path, *overrides: str) -> set[str]:
            evaluate(compose("evaluate", [f"ckpt={run}", FAST, "split=test", *overrides]))
            return {p.name for p in (run / "evaluation").iterdir()}

        trained = ["dataset=image_folder", f"dataset.root={picture_folder}"]
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
        own = settings(compose("evaluate", trained).dataset) | {"channels": 1, "shape": [1, 8, 8]}
        content["hyper_parameters"]["dataset"] = own
        torch.save(content, run / "checkpoints" / "best.ckpt")
        assert folders(run) == {"image_folder-test"}
        other = Path(shutil.copytree(picture_folder, tmp_path / "others"))
        one = folders(run, "dataset=image_folder", f"dataset.root={other}")
        assert (
            one == folders(run, f"dataset.root={other}") == {"image_folder-test", "image_folder-others-test"}
        )
        points = Path(shutil.copytree(points_run, tmp_path / "points"))
        assert folders(points, "dataset.noise=0.3") == {"two_moons-noise=0.3-test"}

    def test_an_image_without_likelihood_is_named(
        self, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
        content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
        content["state_dict"]["flow.bijection.steps.1.top.bias"][0] = float("inf")
        torch.save(content, run / "checkpoints" / "best.ckpt")
        report = measure(run, tmp_path, FAST, "limit=5")
        assert report["weights"]["ema"]["mean"] is None
        assert report["weights"]["ema"]["non_finite_at"] == [0, 1, 2, 3, 4]
        assert "5 of 5 examples have no finite likelihood (0, 1, 2, 3, 4)" in capsys.readouterr().out
        assert len(rows(tmp_path)) == 5

    def test_class_conditional(
        self, labelled_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = measure(labelled_run, tmp_path, "limit=20", "diagnosed=20")
        assert report["weights"]["ema"]["n"] == 20
        assert report["labels"] == "given"
        assert "given the labels; without them at most 0.0519 bits/dim more" in capsys.readouterr().out


class TestOutOfDistribution:
    @pytest.fixture
    def fashion(self, run: Any, fake_mnist: Path, tmp_path: Path) -> Path:
        """A tiny run on Fashion-MNIST's files."""
        run(
            "debug=fast", "dataset=fashion_mnist", f"dataset.root={fake_mnist}", "dataset.val_size=20", "name=tiny",
            "model.depth=1", "model.width=4", "callbacks.pictures=null", "callbacks.estimate=null",
        )  # fmt: skip
        return tmp_path / "outputs" / "tiny"

    def test_two_datasets(
        self, fashion: Path, fake_mnist: Path, tmp_path: Path, picture_folder: Path
    ) -> None:
        report = measure(fashion, tmp_path, "ood=fashion_mnist:mnist", FAST)["ood"]  # found beside the other
        assert report["datasets"] == ["fashion_mnist", "mnist"]
        assert set(report["auroc"]) == {"likelihood", "typicality", "complexity", "png"}
        assert report["inside"]["bpd"]["n"] == report["other"]["bpd"]["n"] == 60
        assert report["typical_of"]["n"] == 180  # without what is held out for validation
        assert min(Image.open(tmp_path / "ood-mnist.png").size) > 100
        root = f"dataset.root={fake_mnist}"
        assert measure(fashion, tmp_path, "ood=mnist", root, FAST)["ood"] == report
        folder = measure(fashion, tmp_path, "ood=image_folder", f"dataset.root={picture_folder}", FAST)["ood"]
        assert folder["datasets"] == ["fashion_mnist", "image_folder-pictures"]
        assert folder["inside"] == report["inside"]
        assert measure(fashion, tmp_path, f"ood={picture_folder}", FAST)["ood"] == folder
        assert (tmp_path / "ood-image_folder-pictures.png").exists()

    def test_colour_pictures(
        self,
        run: Any,
        tmp_path: Path,
        fake_cifar: Path,
        fake_svhn: Path,
        fake_cifar100: Path,
        fake_celeba: Path,
    ) -> None:
        """The others lie beside CIFAR-10, where nothing is written."""
        run(
            "debug=fast", "dataset=cifar10", f"dataset.root={fake_cifar}", "dataset.val_size=8", "name=tiny", "model.depth=1",
            "model.width=4", "callbacks.pictures=null", "callbacks.estimate=null",
        )  # fmt: skip
        before = sorted(fake_cifar.rglob("*"))
        for other, n in (("svhn", 20), ("cifar100", 20), ("celeba", 6)):
            found = measure(tmp_path / "outputs" / "tiny", tmp_path, f"ood=cifar10:{other}", FAST)["ood"]
            assert found["datasets"] == ["cifar10", other]
            assert found["inside"]["bpd"]["n"] == 20
            assert found["other"]["bpd"]["n"] == n
        assert sorted(fake_cifar.rglob("*")) == before

    def test_errors(self, fashion: Path, labelled_run: Path, tmp_path: Path) -> None:
        for wrong, message in (
            (["ood=fashion_mnist:mnist", "dataset=mnist"], "ood names the datasets: leave out dataset="),
            (["ood=mnist:fashion_mnist"], "was trained on fashion_mnist: set ood=fashion_mnist:mnist"),
            (["ood=fashion_mnist:mnits"], "ood=mnits is not one of .*did you mean 'mnist'"),
            (
                ["ood=digits"],
                r"dataset=digits has examples of shape \(1, 8, 8\), but the model takes \(1, 28, 28\)",
            ),
        ):
            with pytest.raises(UsageError, match=message):
                measure(fashion, tmp_path, FAST, *wrong)


class TestDiagnostics:
    def test_of_images(self, tiny_run: Path, tmp_path: Path) -> None:
        report = measure(tiny_run, tmp_path, "limit=64")
        assert report["diagnostics"]["findings"], "a run of two steps cannot be well trained"
        assert min(Image.open(tmp_path / "diagnostics.png").size) > 300

    def test_of_points(self, points_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        report = measure(points_run, tmp_path)
        assert set(report["baselines"]) == {"kde", "gmm"}
        assert report["unit"] == "nats"
        assert min(Image.open(tmp_path / "plane.png").size) > 300
        assert "negative log-likelihood of held-out points" in capsys.readouterr().out

    def test_a_diverged_flow_of_points(
        self, points_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Path(shutil.copytree(points_run, tmp_path / "run"))
        content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
        for value in content["state_dict"].values():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                value.fill_(float("nan"))
        torch.save(content, run / "checkpoints" / "best.ckpt")
        report = measure(run, tmp_path)
        assert report["weights"]["raw"]["non_finite"] == 300
        assert any("not finite" in line for line in report["diagnostics"]["findings"])
        assert "flow     not finite" in capsys.readouterr().out

    def test_few_points(self, points_run: Path, tmp_path: Path) -> None:
        assert "baselines" not in measure(points_run, tmp_path, "limit=1")


def test_files_go_into_the_runs_folder(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "runs" / "copy"))
    evaluate(compose("evaluate", [f"output_dir={tmp_path}/runs", FAST, "limit=4"]))  # the newest run
    assert {p.name for p in (run / "evaluation" / "digits-test-first4").iterdir()} == {
        "evaluation.json",
        "per_image.csv",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["draws=0"], "draws must be an integer above zero"),
        (["bound=elbo"], "bound='elbo' is not one of mean, iw"),
        (["split=some"], "split='some' is not one of train, val, test"),
        (["limit=0"], "limit must be an integer above zero"),
        (["diagnostics=maybe"], "diagnostics must be true or false"),
        (["ood=a:b:c"], "ood=a:b:c must be IN_DISTRIBUTION:OTHER"),
        (["ood=digits:mnits"], "ood=mnits is not one of .*did you mean 'mnist'"),
        (["dataset=cifar10"], r"dataset=cifar10 has examples of shape \(3, 32, 32\)"),
        (["weights=mean"], "weights='mean' is not one of ema, raw"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_errors_name_the_setting(tiny_run: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure(tiny_run, tmp_path, FAST, *overrides)
