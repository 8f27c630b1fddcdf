"""Stopping and continuing: nothing is lost, and nothing is different."""

import contextlib
import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.training import DensityModule, MaximumLikelihood


def weights(folder: Path) -> dict[str, Any]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {"ema": checkpoint["state_dict"], "raw": checkpoint["current_model_state"]}


TINY = (
    "model.depth=1", "model.width=8", "dataset.batch_size=128", "objective.shift=0.1", "fit.validate_every=1",
    "callbacks.pictures=null", "callbacks.estimate=null",
)  # fmt: skip


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """SIGTERM arrives during the n-th batch."""

    def interrupt(self: DensityModule, *args: Any) -> None:
        if self.trainer.fit_loop.total_batch_idx + 1 == batches:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(DensityModule, "on_train_batch_start", interrupt)


def same_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    for kind in ("ema", "raw"):
        for name, value in one[kind].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, two[kind][name]), f"{kind} {name}"


@pytest.mark.parametrize(
    ("stop_at", "settings"),
    [
        (5, ["fit.max_epochs=3"]),  # inside an epoch
        (11, ["fit.max_epochs=3"]),  # at its end
        pytest.param(14, ["fit.max_epochs=3"], marks=pytest.mark.slow),
        pytest.param(5, ["fit.max_epochs=-1", "fit.max_steps=33"], marks=pytest.mark.slow),
        pytest.param(11, ["fit.max_epochs=-1", "fit.max_steps=33"], marks=pytest.mark.slow),
        pytest.param(22, ["fit.max_epochs=4", "fit.max_steps=33"], marks=pytest.mark.slow),
        # inside an optimizer step
        pytest.param(16, ["fit.max_epochs=3", "trainer.accumulate_grad_batches=3"], marks=pytest.mark.slow),
    ],
)
def test_stopped_and_repeated_is_the_same_as_uninterrupted(
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
    settings: list[str],
) -> None:
    """The last bit of every weight agrees, raw and averaged; so do the figures."""
    whole = run("name=whole", *TINY, *settings)
    with monkeypatch.context() as patch:
        stop_after(patch, stop_at)
        with pytest.raises(SystemExit) as stopped:
            run("name=parts", *TINY, *settings)
    assert stopped.value.code == 143
    outputs = tmp_path / "outputs"
    assert (
        0
        < torch.load(outputs / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"]
        < whole["steps"]
    )
    parts = run("name=parts", *TINY, *settings)
    for key in ("test", "val", "steps", "epochs"):
        assert parts[key] == whole[key], key
    same_weights(outputs / "whole", outputs / "parts")

    def curve(name: str, key: str) -> list[tuple[int, float]]:
        with (outputs / name / "metrics.csv").open() as file:
            return [(int(row["step"]), float(row[key])) for row in csv.DictReader(file) if row[key]]

    for key in ("train/bpd", "val/bpd"):
        for (step, a), (other, b) in zip(curve("whole", key), curve("parts", key), strict=True):
            assert abs(step - other) <= 1  # Lightning's count for loggers is one ahead after some resumptions
            assert a == pytest.approx(b, rel=1e-5), f"{key} at {step}"


@pytest.mark.parametrize(
    "settings",
    [
        ["dataset=digits", "model=pixelcnn", "model.width=8", "model.layers=1", "model.dropout=0.3"],
        pytest.param(
            [
                "experiment=boltzmann",
                "dataset=dimer",
                "model=ffjord",
                "model.hidden=8",
                "model.tolerance=1e-3",
            ],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["experiment=residual_digits", "model.hidden=8", "model.layers=2"], marks=pytest.mark.slow
        ),
        [
            "dataset=tones",
            "dataset.shape=[1,16]",
            "dataset.train_size=200",
            "dataset.val_size=9",
            "model.layers=2",
        ],
    ],
    ids=["dropout", "probes", "roulette", "signals"],
)
def test_their_random_numbers_go_on(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    settings = [
        *settings,
        "fit.max_epochs=null",
        "fit.max_steps=8",
        "schedule.warmup_epochs=0",
        *TINY[2:3],
        *TINY[4:],
    ]
    whole = run("name=whole", *settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(SystemExit):
            run("name=parts", *settings)
    assert run("name=parts", *settings)["test"] == whole["test"]
    one, two = (
        torch.load(tmp_path / "outputs" / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(v, two[k]) for k, v in one.items() if isinstance(v, torch.Tensor))


@pytest.mark.slow
def test_without_resilience_lightnings_own_checkpoint_is_continued(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    settings = [*TINY, "resilience=none", "schedule.decay=none"]
    whole = run("name=whole", *settings, "fit.max_epochs=3")
    assert run("name=parts", *settings, "fit.max_epochs=2")["steps"] == 22
    parts = run("name=parts", *settings, "fit.max_epochs=3")
    for key in ("test", "val", "steps", "epochs"):
        assert parts[key] == whole[key], key


@pytest.mark.slow
def test_a_validation_that_failed_is_done_again_as_a_whole(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*TINY, "fit.max_epochs=1", "dataset.val_size=400"]
    whole = run("name=whole", *settings)
    with monkeypatch.context() as patch:

        def fail(self: MaximumLikelihood, batch: Any, batch_idx: int, *args: Any) -> None:
            if batch_idx == 2:
                raise RuntimeError("out of memory")

        patch.setattr(MaximumLikelihood, "on_validation_batch_start", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            run("name=parts", *settings)
    assert run("name=parts", *settings)["val"] == whole["val"]


def test_a_row_that_was_cut_off_is_dropped(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run("name=run", *TINY, "fit.max_epochs=1")
    file = tmp_path / "outputs/run/metrics.csv"
    file.write_bytes(file.read_bytes() + b"1,2,3")
    run("name=run", *TINY, "fit.max_epochs=2", "trainer.limit_test_batches=null")
    with file.open() as rows:
        assert all(None not in row for row in csv.DictReader(rows))


def test_a_new_folder_is_continued_by_the_advice_given(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*TINY, "fit.max_epochs=2"]
    run("name=a/run", *settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(SystemExit):
            run("name=a/run", "resume=false", *settings)
    assert "to continue, repeat the command with name=a/run-2 resume=true" in capsys.readouterr().out
    assert run("name=a/run-2", "resume=true", *settings)["steps"] == 22
    assert "continuing" in capsys.readouterr().out


def test_a_killed_run_continues_from_its_last_epoch(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is saved at the moment of the end, as after `kill -9`."""
    whole = run("name=whole", *TINY, "fit.max_epochs=3")
    with monkeypatch.context() as patch:

        def die(self: MaximumLikelihood, *args: Any) -> None:
            if self.trainer.global_step == 17:
                raise KeyboardInterrupt

        patch.setattr(MaximumLikelihood, "on_train_batch_start", die)
        with pytest.raises(SystemExit):
            run("name=parts", *TINY, "fit.max_epochs=3")
    last = tmp_path / "outputs/parts/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 11
    assert run("name=parts", *TINY, "fit.max_epochs=3")["test"] == whole["test"]
    same_weights(tmp_path / "outputs/whole", tmp_path / "outputs/parts")


@pytest.mark.slow
def test_a_longer_run_continues_a_finished_one(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is itself continued when it is stopped."""
    settings = [*TINY, "schedule.decay=none"]
    whole = run("name=whole", *settings, "fit.max_epochs=3")
    assert run("name=parts", *settings, "fit.max_epochs=1")["steps"] == 11
    with monkeypatch.context() as patch:
        stop_after(patch, 16)
        with pytest.raises(SystemExit):
            run("name=parts", *settings, "fit.max_epochs=3")
    assert run("name=parts", *settings, "fit.max_epochs=3")["test"] == whole["test"]
    same_weights(tmp_path / "outputs/whole", tmp_path / "outputs/parts")


def test_a_shorter_limit_does_not_harm_the_checkpoint(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run("name=run", *TINY, "fit.max_epochs=2")
    last = tmp_path / "outputs/run/checkpoints/last.ckpt"
    before = last.read_bytes()
    with contextlib.suppress(Exception):
        run("name=run", *TINY, "fit.max_epochs=1")
    assert last.read_bytes() == before


def test_a_moved_run_keeps_its_best(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    first = run("name=run", *TINY, "fit.max_epochs=2")
    (tmp_path / "outputs/run").rename(tmp_path / "outputs/moved")
    more = run("name=moved", *TINY, "fit.max_epochs=3")
    assert more["val"] <= first["val"]
    best = torch.load(tmp_path / "outputs/moved/checkpoints/best.ckpt", weights_only=True)
    state = next(v for k, v in best["callbacks"].items() if k.startswith("BestCheckpoint"))
    assert "/moved/" in state["best_model_path"]


def test_a_time_limit_ends_it(run: Callable[..., dict[str, Any]]) -> None:
    results = run(*TINY, "fit.max_epochs=10000", "fit.max_time=00:00:00:03")
    assert 1 < results["train_seconds"] < 10
    assert results["val"] is not None


@pytest.mark.slow
def test_a_decay_ends_with_the_time_limit_also_after_a_break(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = (
        *TINY,
        "fit.max_epochs=10000",
        "fit.max_time=00:00:00:10",
        "trainer.log_every_n_steps=1",
    )
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(SystemExit):
            run(*limited, "name=timed")
    run(*limited, "name=timed")
    with (tmp_path / "outputs/timed/metrics.csv").open() as file:
        rates = [
            float(v) for row in csv.DictReader(file) for k, v in row.items() if k.startswith("lr-") and v
        ]
    assert max(rates) > 0.5 * 4e-3
    assert rates[-1] < 0.05 * max(rates)
    assert rates.index(max(rates)) < 40  # and of cosine decay, the default of digits
