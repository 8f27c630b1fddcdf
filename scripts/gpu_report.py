#!/usr/bin/env python3
"""What only a GPU can tell, in three parts of at most eight minutes each: do the tests pass, how fast is it, does it train.

    make gpu                                                   # all three parts
    python scripts/gpu_report.py --part speed                  # or tests, or train
    python scripts/gpu_report.py --dry-run                     # every row on the CPU at toy size; exits 1 if one fails

A part is a list of rows. What fails is reported in its row, and the rest goes on; ``--minutes`` ends a part. After every row
the results are in ``--out``: PART.json, and PART.md, a table for docs/performance.md. Nothing is downloaded: data that is not in ``--data``
is replaced by random pictures, and the row says so. On a machine without a network: ``pip install --no-index
--find-links WHEELS -e '.[dev,bench]'``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from benchmark import cpu_name
from gpu_speed import speed
from gpu_training import training

ROOT = Path(__file__).resolve().parents[1]

ROWS = "GLOW_GPU_REPORT_ROWS"
"""In the environment of pytest: the file that gets a line of JSON for every test."""


def pytest_runtest_logreport(report: Any) -> None:
    """This file is also a plugin of pytest, which writes down what became of every test."""
    path = os.environ.get(ROWS)
    if path and (report.when == "call" or (report.when == "setup" and not report.passed)):
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = crash.message if crash else str(report.longrepr).partition("Skipped: ")[2]
        why = {} if report.passed else {report.outcome: reason[:300]}
        row = {"name": report.nodeid, "outcome": report.outcome, **why, "seconds": round(report.duration, 1)}
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")


class Report:
    """The rows of a part, written after each one."""

    def __init__(self, args: argparse.Namespace, part: str) -> None:
        self.args, self.part, self.rows = args, part, list[dict[str, Any]]()
        self.device = torch.device("cpu" if args.dry_run else "cuda")
        self.card = f"CPU, {cpu_name()}" if args.dry_run else torch.cuda.get_device_name()
        self.end = time.monotonic() + 60 * args.minutes
        args.out.mkdir(parents=True, exist_ok=True)

    def row(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Add what ``measure`` gives, or its error."""
        if self.args.only and not any(word in name for word in self.args.only):
            return
        start = time.monotonic()
        try:
            with time_limit(self.end - start):
                found = measure()
        except ModuleNotFoundError as error:
            found = {"left out": str(error)}
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        self.add({"name": name, **found, "seconds": round(time.monotonic() - start, 1)})

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        about = {"part": self.part, "card": self.card, "torch": torch.__version__, "cuda": torch.version.cuda}
        path = self.args.out / f"{self.part}.json"
        path.write_text(json.dumps({**about, "rows": self.rows}, indent=1) + "\n")
        path.with_suffix(".md").write_text(f"{self.card}, torch {torch.__version__}\n\n{self.tables()}")
        figures = (f"{k} {cell(v)}" for k, v in row.items() if k != "name" and not isinstance(v, list))
        print(f"{row['name']}: {', '.join(figures)}", flush=True)

    def tables(self) -> str:
        """Markdown of all rows, and of the lists that some of them hold."""
        lists = [
            (f"{row['name']}, {k}", v) for row in self.rows for k, v in row.items() if isinstance(v, list)
        ]
        return table(self.rows) + "".join(f"\n{name}:\n\n{table(v)}" for name, v in lists)

    def time_left(self) -> float:
        return self.end - time.monotonic()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` inside after so many seconds, or at once if there are none."""
    if seconds <= 0:
        raise TimeoutError("no time left")

    def stop(*_: Any) -> None:
        raise TimeoutError("no time left")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with a column for every key."""
    keys = list(dict.fromkeys(k for row in rows for k in row if not isinstance(row[k], (list, dict))))
    lines = [keys, ["---"] * len(keys), *([cell(row.get(k)) for k in keys] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if isinstance(value, float) else str(value).replace("|", "/")  # fmt: skip


def tests(report: Report) -> None:
    """Every test marked ``gpu``, a process for each file, so that one which breaks the device leaves the others alone."""
    files = sorted(p for p in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in p.read_text())
    for file in files:
        name = str(file.relative_to(ROOT))
        if report.args.only and not any(word in name for word in report.args.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder, "rows.jsonl")
            rows.touch()
            path = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
            environment = {
                **os.environ,
                ROWS: str(rows),
                "PYTHONPATH": path,
                "GLOW_GPU_TESTS_ON": report.device.type,
            }
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "gpu_report",
                "-p",
                "no:cacheprovider",
                "-m",
                "gpu",
                name,
            ]
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            status = None
            with rows.open() as file:
                while status is None:
                    status = process.poll()
                    for line in file.readlines():  # also those of the end
                        report.add(json.loads(line))
                    if status is None and report.time_left() <= 0:
                        process.kill()
                        status = "no time left"
                    time.sleep(0.1)
            process.wait()
        if status not in (0, 1):  # 1: a test failed, which has its row
            report.add({"name": name, "outcome": "failed", "failed": f"pytest ended with: {status}"})


PARTS: dict[str, Callable[[Report], None]] = {"tests": tests, "speed": speed, "train": training}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="one of the parts, instead of all")
    parser.add_argument("--minutes", type=float, default=7.8, help="of a part at most (default 7.8)")
    parser.add_argument(
        "--only", type=lambda text: text.split(";"), help="only rows with one of these words, separated by ;"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="folder of MNIST and CIFAR-10 (default ../shared/data)",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_report"), help="folder of the results")
    parser.add_argument("--dry-run", action="store_true", help="every row at toy size on the CPU")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry-run tries out every row on the CPU")
    if args.dry_run:
        torch.set_num_threads(1)
    failed = 0
    for part in [args.part] if args.part else PARTS:
        report = Report(args, part)
        PARTS[part](report)
        failed += sum("failed" in row for row in report.rows)
        print(f"\n{report.card}, {part}: {len(report.rows)} rows\n\n{report.tables()}", flush=True)
    sys.exit(f"{failed} rows failed" if failed else 0)


if __name__ == "__main__":
    main()
