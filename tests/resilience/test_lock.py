"""A run that is started twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glow.errors import UsageError
from glow.resilience.lock import HOLDER, locked
from glow.training import MaximumLikelihood


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        holder = json.loads((tmp_path / HOLDER).read_text())
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
        message = (
            rf"in use by process {os.getpid()} on {socket.gethostname()} since {holder['since']}; .* name="
        )
        with pytest.raises(UsageError, match=message), locked(tmp_path):
            pass
        assert json.loads((tmp_path / HOLDER).read_text()) == holder
    with locked(tmp_path):
        pass


def test_a_folder_left_in_order_is_not_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path):
            raise KeyError
    assert "taking over" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import sys, time, pathlib\nfrom glow.resilience.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"in use by process {holder.pid}"), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert f"taking over {tmp_path} from process {holder.pid} on" in capsys.readouterr().out


def test_training_holds_its_folder(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "model.depth=1", "model.width=4"]
    tiny += ["callbacks.pictures=null", "callbacks.estimate=null"]
    messages: list[str] = []

    def again(self: MaximumLikelihood, *args: Any) -> None:
        with pytest.raises(UsageError) as refused:
            run("name=twice", *tiny)
        messages.append(str(refused.value))

    with monkeypatch.context() as patch:
        patch.setattr(MaximumLikelihood, "on_train_start", again)
        run("name=twice", *tiny)
    assert all(f"twice is in use by process {os.getpid()} on" in m for m in messages)
    assert messages
