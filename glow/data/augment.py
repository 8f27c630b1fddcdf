"""The paper's augmentation."""

import torch
from torch import Tensor


def random_shift(x: Tensor, fraction: float, offsets: Tensor) -> Tensor:
    """Shift every image by whole pixels, repeating its edge.

    Whole pixels keep the grey levels as they were, so that the likelihood is still one of integers.

    Args:
        x: images (B, C, H, W).
        fraction: shifts are uniform over -floor(fraction * size) .. floor(fraction * size) pixels.
        offsets: (B, 2), uniform in [0, 1): where in that range each image's two shifts are.

    Returns:
        (B, C, H, W).
    """
    _, _, height, width = x.shape

    def source(size: int, offset: Tensor) -> Tensor:
        reach = int(fraction * size)
        shift = (offset * (2 * reach + 1)).long() - reach
        return (torch.arange(size, device=x.device) + shift[:, None]).clamp(0, size - 1)  # (B, size)

    rows, columns = source(height, offsets[:, 0]), source(width, offsets[:, 1])
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
