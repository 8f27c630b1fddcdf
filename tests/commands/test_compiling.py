"""``compile`` in all commands: the same images and figures, from graphs of what is done once per batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training.stand_in import WHERE, count_captures, device_of

from glow.bijections import guided
from glow.checkpoint import read_model
from glow.commands.compiling import compile_steps
from glow.commands.evaluate import evaluate
from glow.commands.main import compose
from glow.commands.samples import draw as draw_of
from glow.commands.session import Session
from glow.errors import UsageError
from glow.flows import FFJORD, Glow, PixelCNN
from glow.fused import FusedLevel
from glow.training.replay import Replayed

from .drawn import draw
from .test_evaluate import measure, rows


class Graphs:
    """Where commands run with graphs, and what they have captured."""

    def __init__(self, device: str, captures: list[Any]) -> None:
        self.device, self.captures = f"device={device}", captures

    def session(self, *overrides: str) -> Session:
        return Session.open(compose("sample", ["compile=graph", self.device, *overrides]))


@pytest.fixture(params=WHERE)
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """A stand-in on a CPU; CUDA graphs in tests marked ``gpu``."""
    device = device_of(request, request.param)
    return Graphs(device, count_captures(monkeypatch, device))


def same_images(a: Any, b: Any) -> bool:
    """But for rounding to the next grey level, on a GPU."""
    return bool((abs(a.astype(int) - b.astype(int)) <= 1).all() and (a == b).mean() > 0.99)


def test_samples_are_the_same(labelled_run: Path, tmp_path: Path, graphs: Graphs) -> None:
    """Of batches of two sizes, each of which is shown as it was when the next ones were drawn."""
    drawn = []
    for setting in ("false", "graph"):
        draw(
            labelled_run, tmp_path / setting, f"compile={setting}", "n=26", "batch_size=4", "format=npy",
            "temperature=[0.5,1]", graphs.device,
        )  # fmt: skip
        drawn.append(
            np.concatenate([np.load(tmp_path / setting / f"samples_t{t}.npy") for t in ("0.5", "1")])
        )
    assert same_images(*drawn)
    assert len(np.unique(drawn[0], axis=0)) > 40
    assert len(graphs.captures) == 2, "one at each temperature"


def test_guidance_and_weights_are_those_of_the_moment(labelled_run: Path, graphs: Graphs) -> None:
    """In one session, whose flow keeps the inverses of its matrices for the weights that it has."""
    session = graphs.session(f"ckpt={labelled_run}", "batch_size=4")
    flow, y, found = session.flow, torch.arange(24) % 10, []
    for changed in (False, True):
        if changed:
            with torch.no_grad():
                for parameter in flow.parameters():
                    parameter += 0.02 * torch.randn_like(parameter)
        for guidance in (0.0, 2.0):
            images = draw_of(session, 24, y, 1.0, guidance).images.numpy()
            with guided(flow, guidance):
                latents = flow.sample_latents(24, generator=session.generator("samples"))
                with torch.no_grad():
                    expected = flow.decode(latents, y.to(flow.device)).cpu().numpy()
            assert same_images(images, expected)
            found.append(images)
    assert len({images.tobytes() for images in found}) == 4
    assert len(graphs.captures) == 4


def test_figures_are_the_same(tiny_run: Path, tmp_path: Path, graphs: Graphs) -> None:
    """Of raw and of averaged weights, of several draws, and of batches of two sizes."""
    found = []
    for setting in ("false", "graph"):
        measure(
            tiny_run, tmp_path / setting, f"compile={setting}", "limit=10", "batch_size=3", "draws=3", graphs.device,
            "diagnostics=false",
        )  # fmt: skip
        found.append([[float(row[kind]) for row in rows(tmp_path / setting)] for kind in ("raw", "ema")])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    assert (np.array(found[0][0]) != np.array(found[0][1])).all()
    assert len(graphs.captures) == 4, "of each kind of weights and each size"


def test_replays_take_the_weights_of_the_moment(graphs: Graphs) -> None:
    """A log-probability keeps nothing of the weights: those that are put in their place count."""
    device = graphs.device.removeprefix("device=")
    flow = Glow((1, 8, 8), 17, levels=2, depth=2, width=8).to(device).eval()
    x = torch.randint(17, (4, 1, 8, 8), dtype=torch.uint8, device=device)
    flow.initialize(x)
    noise, replayed = torch.rand(4, 1, 8, 8, device=device), Replayed(flow)
    with torch.no_grad():
        for _ in range(6):
            found, expected = replayed.log_prob(x, None, noise), flow.log_prob(x, None, noise)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
            for parameter in flow.parameters():
                parameter.data.copy_(parameter + 0.01 * torch.randn_like(parameter))
    assert len(graphs.captures) == 1


def test_on_a_cpu_commands_go_on_with_a_sentence(tiny_run: Path, tmp_path: Path) -> None:
    message = "compile=graph: CUDA graphs need a GPU; the command goes on without graphs"
    for command in (draw, measure):
        few = ["n=2"] if command is draw else ["limit=2", "diagnostics=false"]
        with pytest.warns(UserWarning, match="compile=graph") as warned:
            command(tiny_run, tmp_path, "compile=graph", "device=cpu", *few)
        assert [str(w.message) for w in warned] == [message]


def test_what_cannot_be_replayed_is_done_with_a_sentence(tiny_run: Path, graphs: Graphs) -> None:
    cfg, saved = compose("sample", ["batch_size=2"]), read_model(tiny_run / "checkpoints/last.ckpt")
    device = graphs.device.removeprefix("device=")
    session = Session(cfg, saved, FFJORD((2,), hidden=8).to(device).eval(), graphs=True)
    with pytest.warns(UserWarning, match=r"compile=graph: it needs the host \(.*launched kernel by kernel"):
        drawn = draw_of(session, 10, None, 1.0, 0.0).images
    torch.testing.assert_close(
        drawn, draw_of(Session(cfg, saved, session.density), 10, None, 1.0, 0.0).images
    )
    pixels = PixelCNN((1, 4, 4), 17, width=8, layers=2).to(device).eval()
    with pytest.warns(UserWarning, match="decoding of latents are replayed; sampling goes on without graphs"):
        draw_of(Session(cfg, saved, pixels, graphs=True), 2, None, 1.0, 0.0)
    assert not graphs.captures


class Compiled:
    """Stands where a flow would be."""

    compiled = False

    def compile(self) -> None:
        self.compiled = True


@pytest.mark.parametrize(
    ("setting", "compiled", "graphs"),
    [(False, False, False), (True, True, False), ("graph", False, True), ("both", True, True)],
)
def test_the_settings(setting: object, compiled: bool, graphs: bool) -> None:
    flow: Any = Compiled()
    assert compile_steps(flow, setting) == graphs
    assert flow.compiled == compiled


@pytest.mark.parametrize("setting", ["graphs", None, 1, ["graph"]])
def test_other_settings_are_refused(setting: object) -> None:
    flow: Any = Compiled()
    with pytest.raises(UsageError, match=r"compile must be false, true, graph or both, got "):
        compile_steps(flow, setting)


def test_both_compiles_and_replays(
    tiny_run: Path, tmp_path: Path, graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In evaluation the first batch that is evaluated decides for which size the steps are compiled."""
    made: list[Any] = []
    if graphs.device == "device=cpu":  # where compiling takes a minute
        monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(FusedLevel, "compile", recorded(FusedLevel.compile, made))
    options = ("limit=40", "batch_size=10", "diagnostics=false", graphs.device)
    both, plain = (
        evaluate(compose("evaluate", [f"ckpt={tiny_run}", f"out={tmp_path}", f"compile={c}", *options]))
        for c in ("both", "false")
    )
    for kind in ("raw", "ema"):
        assert both["weights"][kind]["mean"] == pytest.approx(plain["weights"][kind]["mean"], rel=1e-4)
    assert {level._sizes["forward"][0] for level in made} == {10}
    assert len(graphs.captures) == 2


def recorded(function: Any, calls: list[Any]) -> Any:
    """The function, whose first arguments are kept."""

    def called(self: Any, **options: Any) -> None:
        calls.append(self)
        function(self, **options)

    return called
