"""The networks, and the rooms that someone may lift out."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("room", ["networks", "bijections", "distributions", "flows", "fused"])
def test_each_room_can_be_the_first_that_is_imported(room: str) -> None:
    subprocess.run([sys.executable, "-c", f"import glow.{room}"], check=True)
