"""A CSV log that a resumed run continues."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from glow.resilience.storage import disk_full_errors, replace


class AppendingCSVLogger(CSVLogger):
    """``metrics.csv`` in a run's folder. Lightning's own logger deletes the file of the run that it continues.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=10)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is not None:
            return self._experiment
        path = Path(self.log_dir) / "metrics.csv"
        aside = path.with_name("metrics.csv.before")  # left behind by a process that was killed below
        if path.is_file():
            path.replace(aside)
        before = aside.read_bytes() if aside.is_file() else b""
        before = before[: before.rfind(b"\n") + 1]  # a kill may have cut the last row off
        writer: Any = super().experiment
        if before:
            replace(path, before)
            writer.metrics_keys = next(csv.reader([before.decode().splitlines()[0]]))
        aside.unlink(missing_ok=True)
        return writer

    @rank_zero_only
    def save(self) -> None:
        with disk_full_errors(Path(self.log_dir) / "metrics.csv"):
            super().save()
