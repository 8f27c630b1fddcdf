"""Datasets and their LightningDataModules."""

from glow.data.base import ArrayData
from glow.data.digits import Digits
from glow.data.image_folder import ImageFolder
from glow.data.torchvision_data import TorchvisionData
from glow.data.toy import Toy

__all__ = ["ArrayData", "Digits", "ImageFolder", "TorchvisionData", "Toy"]
