"""Walks between latents, redrawn scales, and batches of any size."""

import pytest
import torch

from glow.evaluation.latents import decode, great_circle, interpolate, line, redraw
from glow.flows import Flow, Glow, RealNVP


@pytest.fixture
def flow() -> Flow:
    flow = Glow((1, 8, 8), 17, levels=2, depth=1, width=4)
    flow.initialize(torch.randint(17, (32, 1, 8, 8)))
    return flow.eval()


def test_flatten_and_back(flow: Flow) -> None:
    latents = flow.sample_latents(3)
    assert flow.flatten(latents).shape == (3, 64)
    assert all(map(torch.equal, flow.unflatten(flow.flatten(latents)), latents))


@pytest.mark.parametrize("path", ["great_circle", "line"])
def test_a_walk_begins_and_ends_at_its_ends(path: str) -> None:
    ends = torch.randn(2, 50, dtype=torch.float64)
    walk = interpolate(ends, 5, path)
    assert walk.shape == (5, 50)
    assert torch.allclose(walk[[0, -1]], ends, rtol=0, atol=1e-12)
    corners = torch.randn(4, 50, dtype=torch.float64)
    sheet = interpolate(corners, 3, path).view(3, 3, 50)
    assert torch.allclose(sheet[[0, 0, 2, 2], [0, 2, 0, 2]], corners, rtol=0, atol=1e-12)
    assert torch.allclose(sheet[0], interpolate(corners[:2], 3, path))
    assert torch.allclose(sheet[:, 0], interpolate(corners[[0, 2]], 3, path))


def test_a_great_circle_stays_on_the_sphere_and_a_line_does_not() -> None:
    a, b = torch.eye(2, dtype=torch.float64)
    t = torch.tensor([0.5], dtype=torch.float64)
    assert torch.allclose(great_circle(a, b, t), torch.full((1, 2), 0.5**0.5, dtype=torch.float64))
    assert torch.allclose(line(a, b, t), torch.full((1, 2), 0.5, dtype=torch.float64))
    third = great_circle(a, b, torch.tensor([1 / 3], dtype=torch.float64))[0]
    assert torch.rad2deg(torch.atan2(third[1], third[0])) == pytest.approx(30)


def test_a_walk_from_a_point_to_itself_and_to_its_opposite_is_finite() -> None:
    a = torch.randn(8)
    assert torch.allclose(interpolate(torch.stack((a, a)), 4), a.expand(4, 8))
    assert torch.isfinite(interpolate(torch.stack((a, -a)), 4)).all()


def test_redrawing_no_scale_changes_nothing(flow: Flow) -> None:
    latents = flow.sample_latents(3)
    source = torch.Generator().manual_seed(0)
    assert all(map(torch.equal, redraw(latents, range(0), 0.7, source), latents))
    first = redraw(latents, range(1), 0.7, source)
    assert not torch.equal(first[0], latents[0])
    assert torch.equal(first[1], latents[1])
    assert redraw(latents, range(2), 1e-6, source)[1].abs().max() < 1e-4


def test_batches_do_not_matter(flow: Flow) -> None:
    latents = flow.sample_latents(10)
    done: list[int] = []
    whole = decode(flow, latents)
    parts = decode(flow, latents, batch_size=3, progress=done.append)
    assert done == [3, 3, 3, 1]
    assert whole.images.dtype == torch.uint8
    assert (whole.images.int() - parts.images.int()).abs().max() <= 1  # another batch rounds otherwise
    assert torch.equal(whole.images, flow.decode(latents))


def test_memory_that_does_not_suffice_halves_the_batch(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    generate = flow.generate

    def limited(latents: list[torch.Tensor], y: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(len(latents[0]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError
        return generate(latents, y)

    monkeypatch.setattr(flow, "generate", limited)
    assert len(decode(flow, flow.sample_latents(10)).images) == 10
    assert sizes == [10, 5, 2, 2, 2, 2, 2]


def test_bad_images_are_named(flow: Flow) -> None:
    latents = flow.sample_latents(4)
    latents[0][1] = float("nan")
    latents[-1][3] = float("inf")
    decoded = decode(flow, latents)
    assert decoded.not_finite == [1, 3]
    assert decoded.one_grey == []
    assert (decoded.images[[1, 3]] == 0).any()


def test_an_image_of_one_grey_is_named() -> None:
    flow = Glow((1, 8, 8), 17, levels=1, depth=1, width=4).eval()  # not initialized: nearly the identity
    still = decode(flow, [torch.zeros(2, 4, 4, 4)])
    assert still.one_grey == [0, 1]
    assert (still.images == 8).all()


def test_points_are_no_images() -> None:
    flow = RealNVP((2,)).eval()
    decoded = decode(flow, flow.sample_latents(5))
    assert decoded.images.shape == (5, 2)
    assert decoded.one_grey == []
