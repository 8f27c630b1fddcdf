"""The embedded data: scikit-learn's handwritten digits."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from glow.data.base import ArrayData, Examples, Split


class Digits(ArrayData):
    """1,797 digits of 8x8 pixels and 17 grey levels (UCI optical recognition of handwritten digits).

    They come with scikit-learn, so nothing is downloaded. There is no official split that survives in
    scikit-learn's copy: a fixed, class-balanced fifth of them is the test split, whatever the seed.
    """

    source_levels = 17

    def load(self, split: Split) -> Examples | None:
        """uint8 (N, 1, 8, 8) with values 0 .. 16, labels (N,)."""
        if split == "val":
            return None
        data = load_digits()
        x = torch.from_numpy(data.images).to(torch.uint8)[:, None]
        y = torch.from_numpy(data.target).long()
        train, test = train_test_split(range(len(x)), test_size=0.2, random_state=0, stratify=data.target)
        chosen = train if split == "train" else test
        return Examples(x[chosen], y[chosen])
