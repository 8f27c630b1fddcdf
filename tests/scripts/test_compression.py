"""What scripts/compression.py counts."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from codec.models import images, make

from glow.codec import Coder
from glow.codec.stack import WORD

ROOT = Path(__file__).parents[2]


def test_the_information_of_what_is_pushed_and_popped_is_nearly_the_stacks_growth() -> None:
    counted = runpy.run_path(str(ROOT / "scripts" / "compression.py"))["Counted"]
    flow = make("plain")
    stack = counted(np.random.default_rng(0).integers(1, 2**32, 20_000, dtype=np.uint32))
    before, x = len(stack), images(flow, 300)
    Coder(flow).push(stack, x)
    assert (len(stack) - before) * WORD / x.numel() == pytest.approx(stack.bits / x.numel(), abs=0.05)
    assert stack.seconds > 0
