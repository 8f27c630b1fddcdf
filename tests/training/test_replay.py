"""Functions that are captured once and replayed, by a stand-in that does the work again."""

from typing import Any

import pytest
import torch

from glow.training.replay import Replays, Rerun


def test_more_shapes_than_two_are_not_captured() -> None:
    double = Replays(lambda x: (2 * x,), Rerun())
    with pytest.warns(UserWarning, match="compile=graph: batches have more than 2 shapes") as warned:
        results = [double(torch.ones(n))[0].tolist() for _ in range(6) for n in (1, 2, 3, 4)]
    assert results == [[2.0] * n for _ in range(6) for n in (1, 2, 3, 4)]
    assert len(warned) == 1
    assert len(double._captured) == 2


def test_what_cannot_be_captured_is_called_as_it_is() -> None:
    class Refuses(Rerun):
        def capture(self, work: Any) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    double = Replays(lambda x: (2 * x,), Refuses())
    with pytest.warns(UserWarning, match=r"it needs the host \(operation not permitted.*capturing\);"):
        results = [double(torch.ones(1))[0].item() for _ in range(5)]
    assert results == [2.0] * 5


def test_results_are_not_overwritten_by_the_next_replay() -> None:
    double = Replays(lambda x: (2 * x,), Rerun())
    results = [double(torch.full((1,), float(i)))[0] for i in range(8)]
    assert [r.item() for r in results] == [2.0 * i for i in range(8)]
