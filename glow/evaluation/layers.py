"""Points of the plane on their way through the layers of a flow."""

import torch
from torch import Tensor

from glow.flows.flow import Flow


def latent_grid(flow: Flow, reach: float | None = None, lines: int = 11, points: int = 401) -> Tensor:
    """A regular grid of lines in the space of the latents.

    Args:
        flow: a flow with event shape (2,).
        reach: the grid covers the square from ``-reach`` to ``reach``; the ``reach`` of the base when absent.
        lines: number of lines in each direction.
        points: points on each line.

    Returns:
        (2, lines, points, 2): the lines of constant first latent, and those of constant second latent.
    """
    low, high = flow.base.reach if reach is None else (-reach, reach)
    ends, along = (torch.linspace(low, high, n) for n in (lines, points))
    z = torch.stack(torch.meshgrid(ends, along, indexing="ij"), dim=-1)
    return torch.stack((z, z.flip(-1)))


@torch.no_grad()
def layer_by_layer(flow: Flow, z: Tensor) -> Tensor:
    """Where latents are after none, one and all K parts of the flow, from the base to the data.

    Args:
        flow: a flow with event shape (2,).
        z: latents (N, 2).

    Returns:
        (K + 1, N, 2): first ``z``, last what ``decode`` gives.
    """
    places = [z.to(flow.device, flow.dtype)]
    for part in reversed(list(flow.bijection.parts())):
        places.append(part.inverse(places[-1], None, [])[0])
    return torch.stack(places).cpu()
