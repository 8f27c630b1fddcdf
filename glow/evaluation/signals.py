"""Signals as sound: pictures of waveforms and spectrograms, and WAV files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from glow.evaluation.pictures import figure_to_tensor
from glow.mu_law import sound

SAMPLE_RATE = 8000
"""Samples a second, where the data does not say."""

FLOOR = -80
"""dB below the loudest of all, where the colours of a spectrogram end."""


def signal_picture(
    signals: Tensor, grey_levels: int, sample_rate: int, *, title: str = "", rows: Sequence[str] = ()
) -> Tensor:
    """Each signal's waveform, and beside it its spectrogram.

    Args:
        signals: integers (N, C, T) with values 0 .. grey_levels-1, mu-law, of which the first channel is drawn.
        grey_levels: see there.
        sample_rate: samples a second.
        title: a line above all.
        rows: a word beside each.

    Returns:
        uint8 (3, height, width).
    """
    from matplotlib.figure import Figure  # slow to import

    x = sound(signals[:, 0], grey_levels)
    n, length = x.shape
    window = 2 ** max(3, (length.bit_length() + 4) // 2)  # 64 samples of 256, 256 of 4,096
    spectrum = torch.stft(
        x, window, window // 8, window=torch.hann_window(window), pad_mode="constant", return_complex=True
    )
    decibels = 20 * spectrum.abs().clamp(min=1e-6).log10()
    top, end = decibels.max().item(), length / sample_rate
    unit, scale = ("s", 1) if end > 1 else ("ms", 1000)
    figure = Figure(figsize=(10, 0.8 + 1.3 * n), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(n, 2, squeeze=False, sharex=True, width_ratios=(1, 1))
    for i, (wave, spectrogram) in enumerate(axes):
        wave.plot(torch.arange(length) * scale / sample_rate, x[i], linewidth=0.8)
        wave.set(ylim=(-1, 1), xlim=(0, end * scale), ylabel=rows[i] if rows else "")
        spectrogram.imshow(
            decibels[i], origin="lower", aspect="auto", vmin=top + FLOOR, vmax=top,
            extent=(0, end * scale, 0, sample_rate / 2), interpolation="nearest",
        )  # fmt: skip
        spectrogram.set_ylabel("Hz")
    for below in axes[-1]:
        below.set_xlabel(unit)
    return figure_to_tensor(figure)


def write_wav(signal: Tensor, grey_levels: int, sample_rate: int, path: Path) -> None:
    """Write a signal (C, T) of mu-law levels as a WAV file of 16 bits."""
    from scipy.io import wavfile  # slow to import

    samples = (sound(signal, grey_levels) * 32767).round().to(torch.int16)
    wavfile.write(path, sample_rate, samples.T.numpy())
