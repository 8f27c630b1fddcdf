"""The network whose features published FIDs are of."""

import torch
from torch import Tensor, nn

from glow.errors import UsageError


class Inception(nn.Module):
    """The Inception of the TensorFlow release of FID, as torch-fidelity reads it (Heusel et al. 2017; 2048 features).

    Its weights, 91 MB, are fetched once into torch's cache.

    Raises:
        UsageError: torch-fidelity is not installed, or the weights cannot be fetched.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3  # slow to import

            self.network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"])
        except ModuleNotFoundError as error:
            raise UsageError(
                "features=inception needs torch-fidelity: pip install -e '.[quality]', or take another network with features="
            ) from error
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"the weights of features=inception could not be fetched ({' '.join(str(error).split())})"
            ) from error

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """uint8 (N, 1 or 3, H, W) of 256 levels -> features (N, 2048)."""
        return self.network(images.expand(-1, 3, -1, -1)), None
