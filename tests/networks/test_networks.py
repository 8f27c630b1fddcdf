"""The networks, and the rooms that someone may lift out."""

import subprocess
import sys


def test_each_room_can_be_the_first_that_is_imported() -> None:
    program = """
import os, torch
for room in ("networks", "bijections", "distributions", "flows", "fused"):
    if os.fork() == 0:
        __import__(f"glow.{room}")
        os._exit(0)
    assert os.wait()[1] == 0, room
"""
    subprocess.run([sys.executable, "-c", program], check=True)
