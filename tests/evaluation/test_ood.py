"""Scores for what is out of distribution, on arrays made by hand."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from glow.errors import UsageError
from glow.evaluation.ood import SCORES, _idat_size, ood_picture, ood_report, ood_scores, png_bits, verdict

FLAT = torch.ones(4)


def pairs(inside: Tensor, other: Tensor) -> float:
    """The share of pairs in which ``other`` is higher, ties counting half: the AUROC, counted."""
    above = (other[:, None] > inside).double() + 0.5 * (other[:, None] == inside).double()
    return float(above.mean())


def with_auroc(lost: int = 0, **auroc: float) -> dict:
    values = {"likelihood": 0.9, "typicality": 0.6, "complexity": 0.7, "png": 0.4, **auroc}
    return {
        "auroc": values,
        "inside": {"bpd": {"non_finite": 0}},
        "other": {"bpd": {"non_finite": lost}},
    }


class TestPNG:
    def test_only_the_data_of_idat_chunks_counts(self) -> None:
        """Two IDAT chunks of 3 and 5 bytes among chunks that are longer and mention the name."""
        chunks = [(b"IHDR", b"x" * 13), (b"tEXt", b"IDAT" * 50), (b"IDAT", b"abc"), (b"IDAT", b"defgh")]
        png = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in [*chunks, (b"tIME", b"1234567"), (b"IEND", b"")]
        )
        assert _idat_size(png) == 3 + 5

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_size_is_that_of_the_file_without_what_surrounds_the_pixels(self, channels: int) -> None:
        """Without ancillary chunks that is 57 bytes: signature 8, IHDR 25, IEND 12, the IDAT's frame 12."""
        images = torch.randint(256, (5, channels, 9, 12), dtype=torch.uint8)
        found = png_bits(images)
        assert found.dtype == torch.float64
        for image, bits in zip(images, found, strict=True):
            file = io.BytesIO()
            array = image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy()
            Image.fromarray(array).save(file, "PNG", compress_level=9)
            assert bits.item() == pytest.approx(8 * (len(file.getvalue()) - 57) / (channels * 9 * 12))

    def test_the_idat_chunks_unpack_to_the_pixels(self) -> None:
        """Every row is one byte, the filter, and its pixels; many chunks when the image is large."""
        pixels = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True, dpi=(72, 72))
        png = file.getvalue()
        parts = png.split(b"IDAT")
        assert len(parts) > 2
        # Behind its type each chunk has as many bytes as the four before the type say.
        sizes = [int.from_bytes(before[-4:], "big") for before in parts[:-1]]
        packed = b"".join(after[:n] for after, n in zip(parts[1:], sizes, strict=True))
        assert len(zlib.decompress(packed)) == 300 * 401
        assert _idat_size(png) == len(packed)
        assert png_bits(torch.from_numpy(pixels)[None, None]).item() == 8 * len(packed) / pixels.size

    def test_flat_images_are_smaller_than_noise(self) -> None:
        flat = torch.full((3, 1, 28, 28), 77, dtype=torch.uint8)
        noise = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
        assert (png_bits(flat) < 0.3).all()
        assert (png_bits(noise) > 8).all()

    def test_the_order_is_that_of_the_images(self) -> None:
        images = torch.zeros(40, 1, 16, 16, dtype=torch.uint8)
        for i in range(40):
            images[i].view(-1)[: 6 * i] = torch.randint(256, (6 * i,), dtype=torch.uint8)
        bits = png_bits(images)
        assert (bits[10:] > bits[:-10]).all()
        assert torch.equal(bits, torch.cat([png_bits(image[None]) for image in images]))

    @pytest.mark.parametrize(
        "images",
        [
            torch.zeros(2, 2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, 1, 4, 4),
            torch.zeros(1, 4, 4, dtype=torch.uint8),
        ],
    )
    def test_other_images_are_refused(self, images: Tensor) -> None:
        with pytest.raises(UsageError, match="images must be uint8 of shape"):
            png_bits(images)


class TestScores:
    def test_by_hand(self) -> None:
        scores = ood_scores(torch.tensor([1.0, 3.0, 4.5]), torch.tensor([2.0, 2.5, 1.0]), typical=3.5)
        assert list(scores) == list(SCORES)
        assert scores["likelihood"].tolist() == [1, 3, 4.5]
        assert scores["typicality"].tolist() == [2.5, 0.5, 1]
        assert scores["complexity"].tolist() == [-1, 0.5, 3.5]
        assert scores["png"].tolist() == [-2, -2.5, -1]

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(UsageError, match=r"same shape \(N,\), got \(3,\) and \(1,\)"):
            ood_scores(torch.ones(3), torch.ones(1), 1.0)

    @pytest.mark.parametrize("typical", [float("nan"), float("inf")])
    def test_typical_must_be_finite(self, typical: float) -> None:
        with pytest.raises(UsageError, match="typical must be a finite number"):
            ood_scores(FLAT, FLAT, typical)


class TestReport:
    def test_every_auroc_is_the_share_of_pairs(self) -> None:
        inside, inside_png = 3 + torch.randn(40), 3 + torch.randn(40).round()
        other, other_png = 2.5 + 2 * torch.randn(30), 2 + torch.randn(30).round()
        report = ood_report(inside, other, inside_png, other_png, typical=3.0)
        negative, positive = ood_scores(inside, inside_png, 3.0), ood_scores(other, other_png, 3.0)
        assert set(report["auroc"]) == set(SCORES)
        for score, found in report["auroc"].items():
            both = torch.cat([negative[score], positive[score]])
            assert found == pytest.approx(roc_auc_score([0] * 40 + [1] * 30, both))
            assert found == pytest.approx(pairs(negative[score], positive[score]))
        assert len({round(v, 6) for v in report["auroc"].values()}) == len(SCORES)

    def test_by_hand(self) -> None:
        """Of the pairs of (2, 4) and (1, 4) the second is higher in one and equal in one: 1.5 of 4."""
        report = ood_report(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 4.0]), FLAT[:2], FLAT[:2], 3.0)
        assert report["auroc"] == {"likelihood": 0.375, "typicality": 0.75, "complexity": 0.375, "png": 0.5}
        assert report["typical"] == 3.0

    def test_the_means_and_counts_are_those_of_the_sets(self) -> None:
        report = ood_report(
            torch.tensor([2.0, 4.0]),
            torch.tensor([1.0, 4.0, 7.0]),
            torch.tensor([5.0, 6.0]),
            torch.ones(3),
            3.0,
        )
        assert (report["inside"]["bpd"]["mean"], report["inside"]["bpd"]["n"]) == (3.0, 2)
        assert (report["other"]["bpd"]["mean"], report["other"]["bpd"]["n"]) == (4.0, 3)
        assert (report["inside"]["png"]["mean"], report["other"]["png"]["mean"]) == (5.5, 1.0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_what_is_not_finite_is_most_out_of_distribution(self, value: float) -> None:
        inside, other = torch.tensor([1.0, 2.0, 3.0, 1e20]), torch.tensor([value, 0.0, 2.0, 2.0])
        report = ood_report(inside, other, FLAT, FLAT, typical=2.0)
        stand_in = torch.tensor([2e20, 0.0, 2.0, 2.0])
        for score, expected in ood_scores(stand_in, FLAT, 2.0).items():
            assert report["auroc"][score] == pairs(ood_scores(inside, FLAT, 2.0)[score], expected)
        bpd = report["other"]["bpd"]
        assert (bpd["n"], bpd["non_finite"], bpd["non_finite_at"], bpd["mean"]) == (4, 1, [0], None)
        assert report["inside"]["bpd"]["non_finite"] == 0

    def test_the_own_set_is_not_spared(self) -> None:
        inside = torch.tensor([float("nan"), 1.0])
        report = ood_report(inside, torch.tensor([2.0, 3.0]), FLAT[:2], FLAT[:2], typical=1.0)
        assert report["auroc"]["likelihood"] == 0.5
        assert report["inside"]["bpd"]["non_finite"] == 1

    def test_nothing_is_finite(self) -> None:
        nothing = torch.full((4,), float("nan"))
        report = ood_report(nothing, nothing, FLAT, FLAT, typical=1.0)
        assert report["auroc"]["likelihood"] == report["auroc"]["complexity"] == 0.5

    def test_it_is_json(self) -> None:
        other = torch.tensor([float("inf"), 0.0, 2.0, float("nan")])
        report = ood_report(FLAT, other, FLAT, FLAT, typical=1.0)
        assert json.loads(json.dumps(report, allow_nan=False)) == report

    def test_an_empty_set_is_refused(self) -> None:
        with pytest.raises(UsageError, match="N above zero"):
            ood_report(FLAT, torch.zeros(0), FLAT, torch.zeros(0), 1.0)


class TestVerdict:
    def test_the_published_surprise(self) -> None:
        sentence = verdict(with_auroc(likelihood=0.08, complexity=0.95), "CIFAR-10", "SVHN")
        assert "gives SVHN the higher likelihood although it was trained on CIFAR-10 (AUROC 0.080" in sentence
        assert "corrected by the size as a PNG separates the two best (AUROC 0.950 against 0.400" in sentence
        assert sentence.count(".") - sentence.count("0.") == 2  # one sentence, and "et al."

    def test_no_surprise(self) -> None:
        sentence = verdict(with_auroc(), "MNIST", "Fashion-MNIST")
        assert "gives MNIST, which it was trained on, a higher likelihood than Fashion-MNIST" in sentence
        assert "the likelihood separates the two best (AUROC 0.900" in sentence
        assert "surprise" not in sentence
        assert "finite" not in sentence

    def test_the_trivial_baseline_is_named_when_it_wins(self) -> None:
        sentence = verdict(with_auroc(png=0.99), "A", "B")
        assert "the size as a PNG alone, without the flow, separates the two best (AUROC 0.990)" in sentence

    def test_chance(self) -> None:
        sentence = verdict(with_auroc(likelihood=0.5, typicality=0.5, complexity=0.5, png=0.1), "A", "B")
        assert "does not tell B from A" in sentence
        assert "no score tells the two apart" in sentence

    def test_lost_images_are_told(self) -> None:
        assert "; 1 image counts as most out of distribution" in verdict(with_auroc(lost=1), "A", "B")
        assert "; 2 images count as most out of distribution" in verdict(with_auroc(lost=2), "A", "B")
        both = with_auroc(lost=2) | {"inside": {"bpd": {"non_finite": 1}}}
        assert "; 3 images count as most out of distribution" in verdict(both, "A", "B")

    def test_a_real_report(self) -> None:
        report = ood_report(FLAT + 2, FLAT, FLAT, FLAT, typical=3.0)
        assert "gives B the higher likelihood" in verdict(report, "A", "B")


class TestPicture:
    inside = {score: torch.linspace(0, 1, 200) for score in SCORES}
    other = {score: torch.linspace(3, 4, 200) for score in SCORES}

    def panels(self, other: dict[str, Tensor], **auroc: float) -> list[np.ndarray]:
        """The four panels as (H, W, 3)."""
        picture = ood_picture(self.inside, other, ("A", "B"), with_auroc(**auroc))
        assert picture.dtype == torch.uint8
        assert picture.shape[0] == 3
        return np.split(picture.permute(1, 2, 0).numpy().astype(int), len(SCORES), axis=1)

    @staticmethod
    def columns(panel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the bars of the two sets are, blue and orange, at half height: the legend is above or below."""
        band = panel[panel.shape[0] // 2 : 7 * panel.shape[0] // 10]
        difference = band[..., 2] - band[..., 0]
        return np.nonzero(difference > 60)[1], np.nonzero(difference < -60)[1]

    def test_every_panel_shows_both_sets_where_they_are(self) -> None:
        for panel in self.panels(self.other):
            blue, orange = self.columns(panel)
            assert min(len(blue), len(orange)) > 500
            assert blue.max() < orange.min()

    def test_the_title_has_the_auroc(self) -> None:
        before, after = self.panels(self.other), self.panels(self.other, typicality=0.123)
        changed = [np.nonzero((a != b).any(-1))[0] for a, b in zip(before, after, strict=True)]
        assert [len(rows) > 0 for rows in changed] == [score == "typicality" for score in SCORES]
        assert changed[1].max() < before[1].shape[0] // 8

    def test_a_wild_image_does_not_squeeze_the_others(self) -> None:
        wild = {score: torch.cat([v, torch.tensor([1e9, float("nan")])]) for score, v in self.other.items()}
        for panel in self.panels(wild):
            blue, _ = self.columns(panel)
            assert len(np.unique(blue)) > 30

    def test_what_is_beyond_the_axis_is_in_the_outermost_bar(self) -> None:
        """One image of 201 is rarer than what sets the limits; as the only one of its set it must be seen."""
        for panel in self.panels({score: torch.tensor([1e9]) for score in SCORES}):
            _, orange = self.columns(panel)
            assert len(orange) > 50
            assert orange.min() > 0.9 * panel.shape[1]

    def test_constant_scores_have_a_picture(self) -> None:
        same = {score: torch.zeros(5) for score in SCORES}
        picture = ood_picture(same, same, ("A", "B"), with_auroc()).permute(1, 2, 0).numpy().astype(int)
        for panel in np.split(picture, len(SCORES), axis=1):
            assert len(self.columns(panel)[1]) > 50  # where both are, orange lies over blue
