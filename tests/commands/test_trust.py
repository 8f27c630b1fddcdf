"""What is typed is trusted, what is read from a file is data: it runs nothing and writes nowhere."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.checkpoint import SavedModel
from glow.commands.evaluate import evaluate
from glow.commands.main import compose
from glow.commands.sample import sample
from glow.commands.sources import data_source, named_classes, settings
from glow.errors import UsageError

Run = Callable[..., dict[str, Any]]

DIGITS = ("debug=fast", "resume=true", "model.depth=1", "model.width=8", "callbacks.estimate=null")


class Attack:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_checkpoint_that_would_run_code(run: Run, tmp_path: Path, name: str) -> None:
    run(*DIGITS, "callbacks.pictures=null")
    folder, ran = tmp_path / "outputs/digits-glow_small", tmp_path / "it_ran"
    path = folder / f"checkpoints/{name}.ckpt"
    torch.save(torch.load(path, weights_only=True) | {"x": Attack(ran)}, path)
    commands = {"sample": sample, "evaluate": evaluate}
    for command, call in commands.items():
        with pytest.raises(UsageError, match="holds pickled code"):
            call(compose(command, [f"ckpt={path}", f"out={tmp_path}/out", "device=cpu"]))
    if name == "last":
        with pytest.raises(UsageError, match="holds pickled code"):
            run(*DIGITS, "callbacks.pictures=null", "trainer.max_steps=4", "trainer.max_epochs=2")
    assert not ran.exists()


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "glow.flows.build", "torch.hub.load"])
def test_a_checkpoint_whose_data_is_other_code(tiny_run: Path, tmp_path: Path, target: str) -> None:
    content = torch.load(tiny_run / "checkpoints/best.ckpt", weights_only=True)
    content["hyper_parameters"]["dataset"]["_target_"] = target
    torch.save(content, tmp_path / "stranger.ckpt")
    with pytest.raises(UsageError, match=f"dataset._target_='{target}' is not one of glow.data.Digits"):
        evaluate(compose("evaluate", [f"ckpt={tmp_path}/stranger.ckpt", f"out={tmp_path}/out", "device=cpu"]))


def stranger(run: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """A checkpoint like a run's with other hyperparameters: ``ckpt=...``."""
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    change(content["hyper_parameters"])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "stranger.ckpt")
    return f"ckpt={folder}/stranger.ckpt"


def everything(folder: Path) -> set[tuple[Path, int]]:
    return {(p, p.lstat().st_mtime_ns) for p in folder.rglob("*")}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a home that nothing may be written into."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return place


@pytest.mark.parametrize(
    "where", ["model", "model.network", "model.a.b", "model.list", "dataset", "dataset.a.b"]
)
def test_a_target_in_a_file_runs_nothing(tiny_run: Path, tmp_path: Path, place: Path, where: str) -> None:
    attack = {
        "_target_": "os.system",
        "command": f"touch {place}/it_ran",
        "_args_": [f"touch {place}/it_ran"],
    }

    def change(about: dict[str, Any]) -> None:
        group, *path = where.split(".")
        node = about[group]
        if not path:
            node["_target_"] = "os.system"
        elif path == ["list"]:
            node["list"] = [attack]
        else:
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = attack

    ckpt = stranger(tiny_run, tmp_path / "files", change)
    for command, call in (("sample", sample), ("evaluate", evaluate)):
        real_images = ["mode=reconstruct"] if command == "sample" else []
        with pytest.raises(UsageError):
            call(compose(command, [ckpt, f"out={tmp_path}/out", "device=cpu", *real_images]))
    assert not everything(place)


def test_a_file_does_not_choose_where_pictures_are_cached(
    tiny_run: Path, tmp_path: Path, place: Path, picture_folder: Path
) -> None:
    def change(about: dict[str, Any], cache: str) -> None:
        option = settings(
            compose("evaluate", ["dataset=image_folder", f"dataset.root={picture_folder}"]).dataset
        )
        about["dataset"] = option | {"cache": cache, "channels": 1, "shape": [1, 8, 8], "image_size": 8}

    before = everything(picture_folder)
    for cache in (str(place), "auto"):
        ckpt = stranger(tiny_run, tmp_path / "files", partial(change, cache=cache))
        options = [ckpt, f"out={tmp_path}/out", "diagnostics=false", "device=cpu"]
        report = evaluate(compose("evaluate", options))  # read where it is, and nothing else
        assert report["weights"]["ema"]["n"] == 4
        assert not everything(place)
        assert everything(picture_folder) == before
    evaluate(compose("evaluate", [*options, f"dataset.cache={place}/typed"]))
    assert everything(place / "typed")
    evaluate(compose("evaluate", [*options, f"dataset.root={picture_folder}"]))
    assert everything(picture_folder) != before, "a folder that was typed keeps its decoded pictures"


def test_a_file_does_not_choose_where_data_is_downloaded(
    tiny_run: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(about: dict[str, Any], root: str) -> None:
        about["dataset"] = settings(compose("evaluate", ["dataset=mnist"]).dataset) | {
            "root": root, "shape": [1, 8, 8],
        }  # fmt: skip

    asked = []
    from torchvision import datasets

    monkeypatch.setattr(datasets.MNIST, "download", lambda self: asked.append(self.root))
    for root in (str(place / "new"), "data", "../place/new"):
        ckpt = stranger(tiny_run, tmp_path / "files", partial(change, root=root))
        with pytest.raises(
            UsageError, match=r"mnist, which the model was trained on, is not in .*set dataset\.root="
        ):
            evaluate(compose("evaluate", [ckpt, f"out={tmp_path}/out", "device=cpu"]))
    assert not asked
    assert not everything(place)
    with pytest.raises(UsageError, match="could not be downloaded"):
        evaluate(
            compose("evaluate", [ckpt, f"out={tmp_path}/out", "device=cpu", f"dataset.root={place}/typed"])
        )
    assert asked == [f"{place}/typed"]


@pytest.mark.parametrize("name", ["../../place/escaped", "/place", "..", ".", "a/b", "\x1b[31m", "", None, 5])
def test_a_file_does_not_choose_the_folder_of_the_results(
    tiny_run: Path, tmp_path: Path, place: Path, name: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    ckpt = stranger(tiny_run, run, lambda about: about["dataset"].update(name=name))
    evaluate(compose("evaluate", [ckpt, "diagnostics=false", "limit=2", "device=cpu"]))
    results = {p.parent.parent for p in tmp_path.rglob("evaluation.json")}
    assert results == {run / "evaluation"}
    assert not everything(place)
    assert "\x1b" not in capsys.readouterr().out


def test_classes_are_those_that_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypkg_typed.py").write_text("class Net: pass\nclass Data: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    typed = ["++model.network._target_=mypkg_typed.Net", "++dataset._target_=mypkg_typed.Data"]
    for command in ("sample", "evaluate"):
        cfg = compose(command, typed)
        assert set(named_classes(cfg, "model")) == {"mypkg_typed.Net"}
        assert set(named_classes(cfg, "dataset")) == {"mypkg_typed.Data"}
        assert set(named_classes(compose(command, [*typed[:1], "dataset=mnist"]), "model")) == {
            "mypkg_typed.Net"
        }
        assert named_classes(compose(command), "model") == named_classes(compose(command), "dataset") == {}
    # The class of the checkpoint's data is named again; the file's other settings stay.
    trained = {"_target_": "mypkg_typed.Data", "name": "mine", "shape": [2], "size": 3}
    saved = SavedModel(tmp_path / "x.ckpt", {}, trained, 0, 0, {})
    source = data_source(settings(cfg.dataset), saved)
    assert source.config == trained
    assert source.own
    assert not source.typed


def test_a_data_module_of_ones_own(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any LightningDataModule, whose class is named again by whoever opens the run."""
    (tmp_path / "mypkg_data.py").write_text(
        "import lightning, torch\n"
        "class Data(lightning.LightningDataModule):\n"
        "    batch_size = 4\n"
        "    def __init__(self, n, seed=0):\n"
        "        super().__init__()\n"
        "        self.n = n\n"
        "    def test_dataloader(self):\n"
        "        x = torch.randint(17, (self.n, 1, 8, 8), dtype=torch.uint8)\n"
        "        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 4)\n"
        "    train_dataloader = test_dataloader\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def change(about: dict[str, Any]) -> None:
        about["dataset"] = {"_target_": "mypkg_data.Data", "n": 9}

    ckpt = stranger(tiny_run, tmp_path / "files", change)
    options = [ckpt, "device=cpu", f"out={tmp_path}/out"]
    with pytest.raises(UsageError, match=r"Name it again: \+\+dataset\._target_=mypkg_data\.Data"):
        evaluate(compose("evaluate", options))
    again = "++dataset._target_=mypkg_data.Data"
    assert evaluate(compose("evaluate", [*options, again]))["weights"]["ema"]["n"] == 9
    assert sample(compose("sample", [*options, again, "mode=reconstruct"]))["largest_error"] == 0


def test_a_network_of_ones_own(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypkg_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self, in_channels, out_channels):\n"
        "        super().__init__(torch.nn.Conv2d(in_channels, out_channels, 3, padding=1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    again = "++model.network._target_=mypkg_net.Net"
    run("debug=fast", "model.depth=1", "callbacks.pictures=null", "name=own", again)
    options = [f"ckpt={tmp_path}/outputs/own", f"out={tmp_path}/out", "device=cpu"]
    for command, call, few in (("sample", sample, "n=4"), ("evaluate", evaluate, "diagnosed=32")):
        with pytest.raises(UsageError, match=r"\+\+model\.network\._target_=mypkg_net\.Net"):
            call(compose(command, options))
        call(compose(command, [*options, again, few]))
