"""One folder however the processes of a run were started, and what torchrun starts again goes on."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glow.commands.main import CONF, compose
from glow.errors import UsageError
from glow.resilience import (
    SlurmEnvironment,
    TorchrunEnvironment,
    cluster_environment,
    environments,
    run_folder,
)
from glow.resilience.environments import launch_id

ROOT = CONF.parent


def test_ids_of_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "SLURM_JOB_NAME", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    assert launch_id() == (None, 0)
    for key, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(key, value)
    assert launch_id() == ("slurm-7.0", 3)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # srun torchrun
    monkeypatch.setenv("RANK", "9")
    assert launch_id() == ("slurm-7.0", 9)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert launch_id() == ("x", 9)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's default: the same for every launch
    with pytest.raises(UsageError, match="--rdzv-id"):
        launch_id()


LAUNCHERS = ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_STEP_ID")


def test_the_environment_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in LAUNCHERS:
        monkeypatch.delenv(key, raising=False)
    assert cluster_environment() is None
    for key, value in {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "glow"}.items():
        monkeypatch.setenv(key, value)
    slurm = cluster_environment()
    assert isinstance(slurm, SlurmEnvironment)
    assert not slurm.auto_requeue
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun inside of srun
    assert isinstance(cluster_environment(), TorchrunEnvironment)


def test_restarted_workers_meet_in_a_new_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port comes from the agent's store, once; a first start keeps the agent's own."""
    ports: dict[str, bytes] = {}

    class Agent:
        def __init__(self, address: str, port: int, is_master: bool) -> None:
            assert (address, port, is_master) == ("localhost", 1234, False)

        def set(self, key: str, value: str) -> None:
            ports[key] = value.encode()

        def get(self, key: str) -> bytes:
            return ports[key]

    monkeypatch.setattr(environments, "TCPStore", Agent)
    for key, value in {
        "MASTER_ADDR": "localhost", "MASTER_PORT": "1234", "RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    assert TorchrunEnvironment().main_port == 1234
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    port = TorchrunEnvironment().main_port
    assert ports == {"glow/port/1": str(port).encode()}
    assert port != 1234
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
    assert TorchrunEnvironment().main_port == port


def test_all_processes_agree_and_a_restart_comes_back(tmp_path: Path) -> None:
    base = tmp_path / "outputs" / "run"
    base.mkdir(parents=True)  # an older run
    with ThreadPoolExecutor(8) as pool:
        # The first process comes last; two launches race.
        jobs = [(name, rank) for rank in (3, 2, 1, 0) for name in ("a", "b")]
        found = list(pool.map(lambda job: (job[0], run_folder.folder_of_launch(*job, base)), jobs))
    folders = {name: {f for n, f in found if n == name} for name in "ab"}
    assert all(len(f) == 1 for f in folders.values())
    assert {f.name for f in folders["a"] | folders["b"]} == {"run-2", "run-3"}
    assert {run_folder.folder_of_launch("a", 0, base)} == folders["a"]  # started again
    assert run_folder.folder_of_launch("c", 0, base).name == "run-4"
    assert not run_folder.holds_run_of(base.with_name("run-4"), compose("train"))  # nothing but its name


def test_who_cannot_agree_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "FOLDER_TIMEOUT", 0.3)
    with pytest.raises(UsageError, match="process 1 waited .* is it the same folder on every node"):
        run_folder.folder_of_launch("a", 1, tmp_path / "run")
    (tmp_path / "file").touch()
    for rank in (0, 1):
        monkeypatch.setattr(run_folder, "FOLDER_TIMEOUT", 300 if rank == 0 else 0.3)
        with pytest.raises(UsageError, match=f"output_dir={tmp_path}/file: "):
            run_folder.folder_of_launch("a", rank, tmp_path / "file" / "run")
    for key in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(key, raising=False)
    cfg = compose("train", ["resume=false", "trainer.num_nodes=2", f"output_dir={tmp_path}"])
    with pytest.raises(UsageError, match="needs torchrun or srun"):
        run_folder.choose_folder(cfg)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_is_started_again_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "outputs/digits-glow_small").mkdir(parents=True)  # an older run, for resume=false
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--max-restarts=3",
        "train.py", "trainer.accelerator=cpu", "trainer.devices=2", f"output_dir={tmp_path}/outputs", "resume=false",
        "model.depth=1", "model.width=8", "callbacks.pictures=null", "fit.max_epochs=8", "dataset.batch_size=128",
        "callbacks.progress.every_seconds=0", "callbacks.estimate=null",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    lines = []
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append(line)
            if re.match(r"step [23]\d/", line):  # 11 steps an epoch
                worker = next(
                    p
                    for p in children(process.pid)
                    if b"\0RANK=0\0" in Path(f"/proc/{p}/environ").read_bytes()
                )
                os.kill(worker, signal.SIGKILL)
                break
        lines.append(process.stdout.read())
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert "continuing" in "".join(lines)
    assert sorted(p.name for p in (tmp_path / "outputs").iterdir()) == [
        "digits-glow_small",
        "digits-glow_small-2",
    ]
    results = json.loads((tmp_path / "outputs/digits-glow_small-2/results.json").read_text())
    assert (results["steps"], results["devices"]) == (88, 2)
