"""How the C library handles the memory of a process."""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the system, which every training step on a CPU would pay for.

    Without it, a fifth of the time of a small model's step goes into pages that were there a moment ago. Other systems'
    allocators are left as they are.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        # Older versions take no more than 32 MiB; a threshold that is refused leaves things slower than they were.
        if libc.mallopt(mmap_threshold, 2**30) or libc.mallopt(mmap_threshold, 2**25):
            libc.mallopt(trim_threshold, 2**30)
