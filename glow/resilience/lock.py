"""One process at a time in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from glow.errors import UsageError
from glow.resilience.storage import told_when_full

LOCK = ".lock"
"""The file in a run's folder that is locked."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the file ``LOCK`` in it says who does.

    It is the operating system's lock (flock) on that file, which ends with the process however that ends, so that a
    dead process holds nothing. Between machines it holds where the shared file system passes locks on, as NFS and
    Lustre do unless they are mounted without.

    Raises:
        UsageError: another process holds the folder, and the message says which, where and since when; or it cannot be
            written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise UsageError(f"output_dir={folder.parent}: cannot write {folder} ({error})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{folder} is in use by {_who(file.name)}; wait for it or stop it, or give this run a name="
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            rank_zero_warn(f"{folder} is on a file system without locks: do not start this run twice")
        if Path(file.name).stat().st_size:
            print(f"taking over {folder} from {_who(file.name)}, which ended without leaving it", flush=True)
        about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        }
        with told_when_full(folder / LOCK):
            file.truncate(0)
            file.write(json.dumps(about))
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


def _who(path: str) -> str:
    try:
        about = json.loads(Path(path).read_text())
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
