"""A small classifier of grey 28x28 images, whose features measure samples."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glow.errors import UsageError, nearest

FOLDER = Path(__file__).parent / "classifiers"


class Classifier(nn.Module):
    """Four convolutions of 3x3, each normalized, and the mean over all pixels: 64 features, from which the logits are linear.

    Args:
        classes: how many.
        width: channels of the second convolution; half as many in the first, twice as many in the other two.

    >>> import torch
    >>> Classifier(10)(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))[1].shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.classes, self.width, self.num_features = classes, width, 2 * width

        def layer(channels: int, out: int, *then: nn.Module) -> list[nn.Module]:
            return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), *then]

        self.body = nn.Sequential(
            *layer(1, width // 2, nn.MaxPool2d(2)),
            *layer(width // 2, width),
            *layer(width, 2 * width, nn.MaxPool2d(2)),
            *layer(2 * width, 2 * width, nn.AdaptiveAvgPool2d(1)),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1, H, W) of 256 levels -> features (N, 2 width), logits (N, classes)."""
        features = self.body(images.float() / 127.5 - 1)
        return features, self.head(features)

    def save(self, path: Path) -> None:
        """As float16, with what is needed to read it."""
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_file(tensors, path, {"classes": str(self.classes), "width": str(self.width)})


def classifiers() -> dict[str, Path]:
    """The files that come with the project, by the name of their data."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def load_classifier(name: str) -> Classifier:
    """A file, or the name of one that comes with the project, in eval mode.

    Raises:
        UsageError: there is no such file, or it is no classifier.
    """
    path = Path(name) if Path(name).is_file() else classifiers().get(name)
    if path is None:
        known = ", ".join(classifiers())
        raise UsageError(
            f"features={name} is no file, and the classifiers that come with the project are of {known}"
            f"{nearest(name, list(classifiers()))}; scripts/classifier.py trains others"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        model = Classifier(int(about["classes"]), int(about["width"]))
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise UsageError(f"{path} is no classifier of scripts/classifier.py: {words}") from error
    return model.eval()
