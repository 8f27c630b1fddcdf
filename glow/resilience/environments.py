"""What the processes of a launch by torchrun or srun, and its restarts, have in common."""

from __future__ import annotations

import os
import socket
from uuid import uuid4

from torch.distributed import TCPStore

from glow.errors import UsageError


def launch() -> tuple[str | None, int]:
    """The name of the launch that started this process, and the process's rank.

    The name is the same in all processes, on all nodes, and after a restart: of the workers by torchrun, of the job by
    Slurm. It is None, and the rank the local one, where nobody but Lightning starts processes.

    Raises:
        UsageError: torchrun gave the launch no name of its own.
    """
    env = os.environ
    torchrun = "TORCHELASTIC_RUN_ID" in env
    # As Lightning sees it: in a shell of these names one types commands, which are not Slurm's to start.
    slurm = "SLURM_STEP_ID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if not torchrun and not slurm:
        return None, int(env.get("LOCAL_RANK", 0))
    name = f"slurm-{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}" if slurm else _of_torchrun()
    return name, int(env["RANK" if torchrun else "SLURM_PROCID"])


def _of_torchrun() -> str:
    # --rdzv-id is not enough: without one it is "none", and people give the same one every time. The store of the
    # agent lives as long as the launch, restarts of its workers included. Without that store the id must do.
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


def meet_anew() -> None:
    """Give workers that torchrun started again a store of their own to find one another through.

    They would meet through the agent's, which still has the addresses of the workers that are gone, and wait for those
    (torch 2.11, with gloo). Agents that count their restarts differently, as after the loss of a node, cannot agree here:
    docs/cluster.md has the variable to set for them.
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
    env["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # rank 0 opens it
