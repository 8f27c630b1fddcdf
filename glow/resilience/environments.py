"""Launches by torchrun and Slurm: what their processes have in common, and how restarted ones meet again."""

import os
import socket
from uuid import uuid4

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch.distributed import TCPStore

from glow.errors import UsageError


class TorchrunEnvironment(TorchElasticEnvironment):
    """torchrun's environment; workers that torchrun restarted meet in a new store.

    Lightning reads ``main_port`` right before ``init_process_group``.
    """

    @property
    def main_port(self) -> int:
        new_rendezvous()
        return super().main_port


class SlurmEnvironment(SLURMEnvironment):
    """Slurm's environment without Lightning's requeueing, which would write checkpoints of its own."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)


def cluster_environment() -> ClusterEnvironment | None:
    """The environment of the launcher that started this process; None if that is neither torchrun nor srun."""
    if TorchElasticEnvironment.detect():
        return TorchrunEnvironment()
    return SlurmEnvironment() if SLURMEnvironment.detect() else None


def launch_id() -> tuple[str | None, int]:
    """The id of the launch that started this process, and the process's rank.

    The id is the same in all processes, on all nodes, and after a restart: of the workers by torchrun, of the job by
    Slurm. It is None, and the rank the local one, if Lightning alone starts processes.

    Raises:
        UsageError: torchrun gave the launch no id of its own.
    """
    env = os.environ
    torchrun = "TORCHELASTIC_RUN_ID" in env
    # As in Lightning: jobs of these names are shells in which commands are typed, and Slurm starts no processes in them.
    slurm = "SLURM_STEP_ID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if not torchrun and not slurm:
        return None, int(env.get("LOCAL_RANK", 0))
    name = f"slurm-{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}" if slurm else torchrun_id()
    return name, int(env["RANK" if torchrun else "SLURM_PROCID"])


def torchrun_id() -> str:
    """The id of a launch by torchrun.

    ``--rdzv-id`` alone does not tell launches apart: its default is "none", and people give the same one every time. The
    agent's store lives as long as the launch, restarts of its workers included, so an id is drawn there. Without that
    store ``--rdzv-id`` must do.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        name = os.environ["TORCHELASTIC_RUN_ID"]
        if name == "none":
            raise UsageError(
                "resume=false with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 needs torchrun --rdzv-id=ID, new for every launch: "
                "without one, all launches would go on in the folder of the first"
            )
        return name
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return store.compare_set("glow/launch", "", uuid4().hex).decode()


def new_rendezvous() -> None:
    """Let workers that torchrun restarted meet in a store of their own; done once per process.

    The agent's store still lists the dead workers, and ``init_process_group`` would wait for them (torch 2.11, gloo).
    Agents whose counts of restarts differ, as after the loss of a node, cannot agree on a port here; docs/cluster.md has
    the variable to set for them.
    """
    env = os.environ
    restarts = int(env.get("TORCHELASTIC_RESTART_COUNT", 0))
    if not restarts or env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    agent = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)
    if env["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            agent.set(f"glow/port/{restarts}", str(free.getsockname()[1]))
    env["MASTER_PORT"] = agent.get(f"glow/port/{restarts}").decode()
    env["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # so that rank 0 opens the store at that port
