"""Lossless compression of images by a trained Glow: what its likelihood promises, as a file.

::

    import glow
    flow = glow.load("mnist")
    data = glow.codec.encode(flow, images)      # uint8 (N, 1, 28, 28) -> bytes
    images = glow.codec.decode(flow, data)
"""

import io

import torch
from torch import Tensor

from glow.codec.coder import Coder
from glow.codec.file import Images, InMemory, read, read_header, write
from glow.codec.labels import cheapest_labels
from glow.distributions.base import Distribution
from glow.distributions.dequantization import check_levels
from glow.errors import UsageError
from glow.flows.labels import one_hot


def encode(flow: Distribution, images: Tensor, labels: Tensor | None = None, verify: bool = True) -> bytes:
    """Images as the bytes of a file.

    Args:
        flow: a ``Glow`` with affine or additive couplings of ``ConvNet``s; in evaluation mode.
        images: integers in 0 .. grey_levels-1, (N, C, H, W), at least one.
        labels: integers (N,), -1 for none, what a class-conditional flow codes each as; it takes the cheapest when absent.
        verify: decode what was written and compare.

    Raises:
        UsageError: images of another shape or range, or a part of the flow has no form in integers.

    >>> from glow.flows import Glow
    >>> flow, images = Glow((1, 4, 4), 16, depth=2, width=4), torch.randint(16, (50, 1, 4, 4))
    >>> flow.initialize(images)
    >>> data = encode(flow.eval(), images)
    >>> bool((decode(flow, data) == images).all())
    True
    """
    if tuple(images.shape[1:]) != flow.event_shape or not len(images):
        raise UsageError(
            f"images must be of shape (N, *{flow.event_shape}), N at least 1, got {tuple(images.shape)}"
        )
    check_levels(images, flow.grey_levels or 0)
    one_hot(labels, len(images), flow.classes)  # refuses what are no labels
    coder, file = Coder(flow), io.BytesIO()
    choose = cheapest_labels(flow) if labels is None else lambda x, first: labels[first : first + len(x)]
    write(coder, InMemory(images), file, choose)
    if verify:
        file.seek(0)
        for _ in read(coder, file, read_header(file)):
            pass
    return file.getvalue()


def decode(flow: Distribution, data: bytes) -> Tensor:
    """The images, uint8 (N, C, H, W), that ``encode`` was given with the same flow.

    Raises:
        UsageError: another flow, or damaged data.
    """
    file = io.BytesIO(data)
    header = read_header(file)
    none = torch.zeros(0, *flow.event_shape, dtype=torch.uint8)
    return torch.cat([none, *(block.images for block in read(Coder(flow), file, header))])


__all__ = ["Coder", "Images", "decode", "encode"]
