"""One process at a time in a run's folder."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_warn

from glow.errors import UsageError
from glow.resilience.storage import disk_full_errors

LOCK = ".lock"
"""The file in a run's folder that is locked."""

HOLDER = ".lock.json"
"""The file beside it that says which process holds the lock: JSON with host, pid and since."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made if need be.

    The lock is the operating system's (flock): it ends with the process, however that ends, so that a dead process
    holds nothing. Between machines it holds where the shared file system passes locks on, as NFS and Lustre do unless
    they are mounted without.

    Raises:
        UsageError: another process holds the folder (the message says which, where and since when), or the folder
            cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A soft lock, filelock's answer to a file system without locks, would outlive a killed process.
        lock = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
        with suppress_missing_locks(folder):
            lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"{folder} is in use by {lock_holder(folder)}; wait for it or stop it, or give this run a name="
        ) from error
    except OSError as error:
        raise UsageError(f"output_dir={folder.parent}: cannot write {folder} ({error})") from error
    try:
        if (folder / HOLDER).is_file():
            print(
                f"taking over {folder} from {lock_holder(folder)}, which ended without leaving it", flush=True
            )
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        }
        with disk_full_errors(folder / HOLDER):
            (folder / HOLDER).write_text(json.dumps(holder))
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


@contextmanager
def suppress_missing_locks(folder: Path) -> Iterator[None]:
    """Warn, and go on, where the file system has no locks."""
    try:
        yield
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        rank_zero_warn(f"{folder} is on a file system without locks: do not start this run twice")


def lock_holder(folder: Path) -> str:
    """The process that holds the folder's lock, as a phrase."""
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
