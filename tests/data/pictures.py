"""Folders of pictures, which several tests load."""

from pathlib import Path

from glow.data import ArrayData, ImageFolder


def folder(root: Path, **options: object) -> ImageFolder:
    common = {"name": "folder", "shape": [3, 8, 8], "batch_size": 4, "image_size": 8}
    return ImageFolder(root=str(root), **{**common, **options})  # type: ignore[arg-type]


def loaded(data: ArrayData) -> ArrayData:
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def count(data: ArrayData) -> int:
    return sum(len(e) for e in data.examples.values())


def kept(root: Path) -> list[str]:
    """The caches of decoded pictures in a folder."""
    return sorted(p.name for p in root.glob(".glow-*x*") if not p.name.endswith("-readable.npy"))
