"""A page to play with trained flows: `python demo.py --help`."""

import os

# Before torch loads: threads that spin while they wait would slow each other down on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from glow.commands.main import main

if __name__ == "__main__":
    main("glow.demo.serve:demo", "demo")
