"""What the processes of a launch by torchrun or srun, and its restarts, have in common."""

from __future__ import annotations

import os
from uuid import uuid4

from torch.distributed import TCPStore


def launch() -> tuple[str | None, int]:
    """The name of the launch that started this process, and the process's rank.

    The name is the same in all processes, on all nodes, and after a restart: of the workers by torchrun, of the job by
    Slurm. It is None, and the rank the local one, where nobody but Lightning starts processes.
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
    # agent lives as long as the launch, restarts of its workers included.
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return os.environ["TORCHELASTIC_RUN_ID"]
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return store.compare_set("glow/launch", "", uuid4().hex).decode()
