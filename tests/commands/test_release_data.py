"""Runs on the other data of Glow's release, by name, and its recipe for large images."""

from pathlib import Path

import pytest

from glow.commands.main import compose

from .test_train import DIGITS, Run


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("svhn", "fake_svhn"),
        ("cifar100", "fake_cifar100"),
        ("celeba", "fake_celeba"),
        ("imagenet32", "fake_imagenet"),
        ("imagenet64", "fake_imagenet"),
    ],
)
def test_the_release_s_other_data(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest, name: str, files: str
) -> None:
    root = request.getfixturevalue(files)
    held_out = ["dataset.val_size=8"] if name != "celeba" else []
    results = run(*DIGITS, f"dataset={name}", f"dataset.root={root}", *held_out)
    assert results["unit"] == "bits/dim"
    assert (tmp_path / f"outputs/{name}-glow/results.json").is_file()


def test_celeba_at_256_pixels(run: Run, tmp_path: Path, fake_celeba: Path) -> None:
    results = run(
        *DIGITS, "experiment=celeba256_paper", f"dataset.root={fake_celeba}",
        "dataset.batch_size=2", "callbacks.initialize.images=2", "fit.max_steps=1",
        "trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
    )  # fmt: skip
    assert results["steps"] == 1


def test_the_paper_s_recipe_for_large_images() -> None:
    """The release's command for CelebA-HQ: additive couplings, L=6, 5 bits, 40 GPUs with an image each."""
    for data in ([], ["dataset=image_folder", "dataset.root=x"]):
        cfg = compose("train", ["experiment=celeba256_paper", *data])
        model = {
            k: cfg.model[k] for k in ("levels", "depth", "width", "coupling", "permutation", "recompute")
        }
        assert model == {
            "levels": 6, "depth": 32, "width": 512, "coupling": "additive", "permutation": "lu", "recompute": "reversible",
        }  # fmt: skip
        assert not cfg.model.gaussianize
        assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adamax", 1e-3)
        assert (cfg.dataset.batch_size, cfg.shift, cfg.dataset.grey_levels) == (40, 0, 32)
        assert list(cfg.dataset.shape) == [3, 256, 256]
        assert cfg.callbacks.initialize.images == 16
        assert cfg.trainer.max_epochs is None


def test_the_best_recipe_starts_runs_and_resumes(
    run: Run, tmp_path: Path, fake_cifar: Path, picture_folder: Path
) -> None:
    """At toy size; on a folder of pictures, too."""
    small = [
        "experiment=cifar10_best", "debug=fast", "dataset.val_size=8", "model.depth=1", "model.width=8", "model.noise_width=4",
        "callbacks.pictures=null", "callbacks.estimate=null", "resume=true", "fit.max_epochs=5", f"output_dir={tmp_path}/outputs",
    ]  # fmt: skip
    assert run(*small, f"dataset.root={fake_cifar}", "fit.max_steps=1")["steps"] == 1
    assert run(*small, f"dataset.root={fake_cifar}", "fit.max_steps=2")["steps"] == 2
    assert [p.name for p in (tmp_path / "outputs").iterdir()] == ["cifar10_best"]
    folder = ("dataset=image_folder", f"dataset.root={picture_folder}", "name=folder")
    assert run(*small, *folder)["unit"] == "bits/dim"


def test_the_best_recipe() -> None:
    cfg = compose("train", ["experiment=cifar10_best"])
    model = {
        k: cfg.model[k] for k in ("depth", "width", "coupling", "gaussianize", "noise_width", "position")
    }
    assert model == {
        "depth": 32, "width": 256, "coupling": "mixture", "gaussianize": True, "noise_width": 128, "position": True,
    }  # fmt: skip
    assert (cfg.optimizer._target_, cfg.schedule.decay) == ("glow.training.Muon", "linear")
    assert (cfg.dataset.batch_size, cfg.shift, cfg.fit.max_epochs) == (256, 0.1, 400)
    other = compose("train", ["experiment=cifar10_best", "dataset=image_folder", "dataset.root=x"])
    assert (other.model.width, other.fit.max_epochs) == (256, 400)
