"""Trained flows come back from folders, checkpoints and safetensors files; anything else is refused."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import glow
from glow import load
from glow.checkpoint import read_model, resolve
from glow.errors import UsageError


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a tiny run, to be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "outputs" / "tiny"))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    others = b.state_dict()
    return all(torch.equal(v, others[k]) for k, v in a.state_dict().items() if isinstance(v, torch.Tensor))


def test_a_run_a_checkpoint_and_an_export_are_the_same_flow(folder: Path, tmp_path: Path) -> None:
    flow = load(folder)
    assert not flow.training
    assert flow.initialized
    assert same(flow, load(folder / "checkpoints" / "best.ckpt"))
    file = tmp_path / "new" / "model.safetensors"
    saved = read_model(resolve(folder))
    saved.export(file)
    exported = load(file)
    assert same(flow, exported)
    assert exported.initialized
    images = torch.randint(17, (3, 1, 8, 8), dtype=torch.uint8)
    noise = torch.rand(3, 1, 8, 8)
    assert torch.equal(flow.log_prob(images, noise=noise), exported.log_prob(images, noise=noise))
    again = read_model(file)
    assert (again.model, again.dataset, again.seed, again.steps) == (
        saved.model, saved.dataset, saved.seed, saved.steps,
    )  # fmt: skip
    assert saved.dataset is not None
    assert saved.dataset["name"] == "digits"


def test_averaged_weights_are_preferred_and_raw_ones_can_be_had(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert same(load(folder), load(folder, weights="ema"))
    assert not same(load(folder), load(folder, weights="raw"))
    key = "bijection.steps.1.levels.0.steps.1.step.steps.0.logs"
    assert torch.equal(load(folder, "raw").state_dict()[key], content["current_model_state"][f"flow.{key}"])
    read_model(resolve(folder)).export(tmp_path / "raw.safetensors", "raw")
    assert same(load(tmp_path / "raw.safetensors"), load(folder, weights="raw"))
    with pytest.raises(UsageError, match="weights='ema' is not one of raw"):
        load(tmp_path / "raw.safetensors", weights="ema")


def test_the_newest_run_is_found(folder: Path) -> None:
    other = folder.with_name("other") / "checkpoints"
    other.mkdir(parents=True)
    (other / "last.ckpt").write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    assert resolve(None, folder.parent) == other / "last.ckpt"
    for file in (folder / "checkpoints").iterdir():
        os.utime(file, (2e9, 2e9))
    assert resolve(None, folder.parent) == folder / "checkpoints" / "best.ckpt"


def test_debug_runs_are_not_taken(folder: Path, tmp_path: Path) -> None:
    debug = Path(shutil.copytree(folder, folder.parent / "debug" / "tiny"))
    for file in (debug / "checkpoints").iterdir():
        os.utime(file, (2e9, 2e9))
    assert resolve(None, folder.parent) == folder / "checkpoints" / "best.ckpt"
    assert resolve(None, folder.parent / "debug") == debug / "checkpoints" / "best.ckpt"
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match="no run in output_dir=.*debug do not count"):
        resolve(None, folder.parent)


def test_importing_glow_needs_nothing_but_torch() -> None:
    """And ``glow.load`` is there when it is asked for."""
    slow = (
        "('safetensors', 'hydra', 'omegaconf', 'lightning', 'torchvision', 'scipy', 'sklearn', 'matplotlib')"
    )
    for names in ("glow", "glow.flows", "glow.bijections, glow.networks, glow.distributions"):
        program = f"import sys, {names}; print([m for m in {slow} if m in sys.modules])"
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]", (names, found.stdout)
    assert glow.load is load
    with pytest.raises(AttributeError, match="module 'glow' has no attribute 'laod'"):
        _ = glow.laod  # type: ignore[attr-defined]


class TestRefusals:
    """In a sentence, and without running anything of the file's."""

    def test_what_is_not_there(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"ckpt=.*tinny is not there; did you mean 'tiny'\?"):
            load(folder.with_name("tinny"))
        with pytest.raises(UsageError, match="is no run: it has neither"):
            load(tmp_path)
        with pytest.raises(UsageError, match="there is no run in output_dir="):
            resolve(None, tmp_path / "nothing")

    @pytest.mark.parametrize("keep", [0, 10, 2000, -1])
    @pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
    def test_a_file_that_was_cut_short(self, folder: Path, tmp_path: Path, suffix: str, keep: int) -> None:
        whole = folder / "checkpoints" / "best.ckpt"
        if suffix == "safetensors":
            whole = tmp_path / "whole.safetensors"
            read_model(resolve(folder)).export(whole)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[:keep])
        with pytest.raises(UsageError, match="is cut short"):
            load(cut)

    def test_a_damaged_archive(self, folder: Path, tmp_path: Path) -> None:
        damaged = tmp_path / "damaged.ckpt"
        with zipfile.ZipFile(damaged, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02not a pickle")
        with pytest.raises(UsageError, match=r"damaged\.ckpt is no checkpoint, or is damaged"):
            load(damaged)
        with (
            zipfile.ZipFile(folder / "checkpoints" / "best.ckpt") as whole,
            zipfile.ZipFile(damaged, "w") as cut,
        ):
            for name in whole.namelist():
                content = whole.read(name)
                cut.writestr(name, content[: len(content) // 2] if name.endswith("data.pkl") else content)
        with pytest.raises(UsageError, match=r"damaged\.ckpt is no checkpoint, or is damaged"):
            load(damaged)

    def test_a_file_that_asks_to_run_code(self, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "it_ran",))

        torch.save({"hyper_parameters": {"model": {}}, "state_dict": {}, "x": Attack()}, tmp_path / "a.ckpt")
        with pytest.raises(UsageError, match="holds pickled code"):
            load(tmp_path / "a.ckpt")
        assert not (tmp_path / "it_ran").exists()

    def test_other_content(self, tmp_path: Path) -> None:
        torch.save({"weights": torch.zeros(2)}, tmp_path / "a.ckpt")
        with pytest.raises(UsageError, match="is no checkpoint of this program"):
            load(tmp_path / "a.ckpt")
        torch.save({"hyper_parameters": {}, "state_dict": {}}, tmp_path / "b.ckpt")
        with pytest.raises(UsageError, match="does not say which model"):
            load(tmp_path / "b.ckpt")
        for i, (about, state) in enumerate(
            [
                ({"model": {}, "seed": None}, {}),
                ({"model": "x", "seed": 0}, {}),
                ({"model": {}, "seed": 0}, [1]),
            ]
        ):
            torch.save({"hyper_parameters": about, "state_dict": state}, tmp_path / f"{i}.ckpt")
            with pytest.raises(UsageError, match=f"{i}.ckpt (is no checkpoint|does not say)"):
                load(tmp_path / f"{i}.ckpt")
        save_file(
            {"a": torch.zeros(2)}, tmp_path / "c.safetensors", metadata={"glow": json.dumps({"model": {}})}
        )
        with pytest.raises(UsageError, match="was not exported by this program"):
            load(tmp_path / "c.safetensors")

    @pytest.mark.parametrize("change", ["weights", "option", "family"])
    def test_another_version(self, folder: Path, tmp_path: Path, change: str) -> None:
        content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
        model = content["hyper_parameters"]["model"]
        if change == "weights":
            content["state_dict"] = {
                k.replace("steps", "stages"): v for k, v in content["state_dict"].items()
            }
        elif change == "option":
            model["attention"] = True
        else:
            model["family"] = "os.system"
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(UsageError, match="was written by another version of this program"):
            load(tmp_path / "other.ckpt")

    def test_a_model_that_would_take_for_ever_or_all_memory(self, folder: Path, tmp_path: Path) -> None:
        """Its weights are small, so that nothing large may be built."""
        content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
        model = dict(content["hyper_parameters"]["model"])
        start = time.process_time()
        for change in ({"depth": 10**6}, {"width": 10**9}, {"depth": 90}, {"width": 999}, {"levels": 10**9}):
            content["hyper_parameters"]["model"] = model | change
            torch.save(content, tmp_path / "large.ckpt")
            with pytest.raises(
                UsageError, match=r"large\.ckpt (says|was written by another version|does not)"
            ):
                load(tmp_path / "large.ckpt")
        assert time.process_time() - start < 20

    def test_weights_that_are_none(self, folder: Path, tmp_path: Path) -> None:
        """Shapes without values, or other things in the place of weights."""
        for value in (torch.empty(1, device="meta"), "weights", None, {"a": 1}):
            content = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
            for key, old in content["state_dict"].items():
                if isinstance(old, torch.Tensor):
                    is_tensor = isinstance(value, torch.Tensor)
                    content["state_dict"][key] = torch.empty_like(old, device="meta") if is_tensor else value
            torch.save(content, tmp_path / "none.ckpt")
            with pytest.raises(UsageError, match=r"none\.ckpt"):
                load(tmp_path / "none.ckpt")


def test_loading_draws_no_random_numbers_and_shares_no_memory(folder: Path) -> None:
    state = torch.get_rng_state()
    saved = read_model(resolve(folder))
    flow = saved.flow()
    assert torch.equal(state, torch.get_rng_state())
    for tensor in flow.parameters():
        tensor.data.zero_()
    assert same(saved.flow(), load(folder))
    assert all(p.requires_grad for p in saved.flow().parameters())
