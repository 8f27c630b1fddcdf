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
import re
import signal
import statistics
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
from benchmark import cpu_name, in_turns
from contenders import SIZES, Contender, contenders, graphed
from memory_use import largest_batch

ROOT = Path(__file__).resolve().parents[1]

ROWS = "GLOW_GPU_REPORT_ROWS"
"""In the environment of pytest: the file that gets a line of JSON for every test."""


def pytest_runtest_logreport(report: Any) -> None:
    """This file is also a plugin of pytest, which writes down what became of every test."""
    path = os.environ.get(ROWS)
    if path and (report.when == "call" or (report.when == "setup" and not report.passed)):
        why = {} if report.passed else {report.outcome: str(report.longrepr).strip().splitlines()[-1]}
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


def timed(contender: Contender, what: str, report: Report, images: int) -> dict[str, Any]:
    """Images a second, the median of some rounds, and the most memory at once."""
    on_gpu, rounds = report.device.type == "cuda", 1 if report.args.dry_run else 10
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(4):  # the fourth is captured, where there are graphs
        contender.run(what, report.device)
    seconds = in_turns({"": lambda: contender.run(what, report.device)}, rounds, report.device)[""]
    middle = statistics.median(seconds)
    memory = {"peak GB": torch.cuda.max_memory_allocated() / 1e9} if on_gpu else {}
    return {
        "images/s": images / middle,
        "ms": 1e3 * middle,
        "min - max": f"{1e3 * min(seconds):.1f} - {1e3 * max(seconds):.1f}",
        **memory,
    }


def speed(report: Report) -> None:
    """Training, log-prob and sampling of both sizes beside the peers; memory; where the time goes; compiled last."""
    sizes = (
        {"paper": SIZES["tiny"], "small": SIZES["tiny"]}
        if report.args.dry_run
        else {"paper": SIZES["paper"], "small": {**SIZES["small"], "batch": 256}}
    )
    torch.backends.cudnn.allow_tf32 = False  # float32 is IEEE for all, as in train.py
    plain = [
        n for n in contenders({}, report.device, False, graphs=True) if "unfused" not in n and n != "floor"
    ]
    later = [n for n in contenders({}, report.device, True, graphs=True) if "compiled" in n]
    for name in plain:
        measure_each(report, "paper", sizes["paper"], name)
    paper = sizes["paper"]
    for name in ("ours bf16", "ours bf16 graphed"):
        report.row(
            f"kernels, paper, train, {name}",
            lambda name=name: kernels(
                contenders(paper, report.device, True, graphs=True)[name](), report.device
            ),
        )
    for mode in ("none", "step", "reversible"):
        report.row(
            f"largest batch, paper, bf16, {mode}", lambda mode=mode: {"images": largest(paper, report, mode)}
        )
    for name in plain:
        measure_each(report, "small", sizes["small"], name)
    for name in later:
        if report.args.dry_run:
            report.row(f"paper, {name}", lambda: {"left out": "compiling for a CPU takes minutes"})
        else:
            measure_each(report, "paper", paper, name)


def measure_each(report: Report, size_name: str, size: dict[str, Any], name: str) -> None:
    """A row each for training, log-prob and sampling by one contender, which is made once."""
    made: list[Contender] = []
    for what in ("train", "log-prob", "sample"):
        if what != "train" and name.endswith(("step", "reversible")):
            continue  # which differ in training only

        def measure(what: str = what) -> dict[str, Any]:
            if not made:
                made.append(contenders(size, report.device, True, graphs=True)[name]())
            return timed(made[0], what, report, size["batch"])

        report.row(f"{size_name}, {what}, {name}", measure)
    made.clear()
    if report.device.type == "cuda":
        torch.cuda.empty_cache()


def largest(size: dict[str, Any], report: Report, mode: str) -> int:
    """The largest batch that trains; at toy size on a CPU one step, since its memory has no end that is worth waiting for."""
    if report.device.type == "cuda":
        return largest_batch(size, report.device, low=True, recompute=mode)
    contenders({**size, "batch": 8}, report.device, False)[
        "ours bf16" + (f" {mode}" if mode != "none" else "")
    ]().run("train", report.device)
    return 8


def kernels(contender: Contender, device: torch.device) -> dict[str, Any]:
    """The share of the time that the GPU is busy, and the twenty kernels that take most of it, over three training steps."""
    for _ in range(5):
        contender.run("train", device)
    on_gpu = device.type == "cuda"
    activities = [
        torch.profiler.ProfilerActivity.CPU,
        *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else []),
    ]
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        for _ in range(3):
            contender.run("train", device)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    events = [
        e for e in profile.key_averages() if not on_gpu or e.device_type == torch.autograd.DeviceType.CUDA
    ]
    cost = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    calls = {e.key: e.count for e in events}
    top = sorted(cost, key=lambda k: -cost[k])[:20]
    return {
        "busy %": 1e-4 * sum(cost.values()) / seconds,
        "ms": 1e3 * seconds / 3,
        "kernels/step": sum(calls.values()) / 3,
        "top": [{"kernel": k[:120], "ms/step": cost[k] / 3e3, "calls/step": calls[k] / 3} for k in top],
    }


def training(report: Report) -> None:
    """``train.py`` itself on MNIST for a minute, beside the bare step, then pictures of CIFAR-10's size for the time that is left."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data(report, Path(folder))
        dry, on = report.args.dry_run, "cpu" if report.args.dry_run else "gpu"
        minute = (
            ["fit.max_steps=6", "model.depth=1", "model.width=8", "dataset.batch_size=8"]
            if dry
            else ["fit.max_time=00:00:01:00", "dataset.batch_size=256"]
        )
        minute += [
            "dataset=mnist",
            f"dataset.root={data.mnist}",
            "fit.max_epochs=null",
            "callbacks.pictures=null",
            f"trainer.accelerator={on}",
        ]
        for precision in ("32-true", "bf16-mixed"):
            for compiled in ("false", "graph"):
                settings = [*minute, f"trainer.precision={precision}", f"compile={compiled}"]
                name = f"MNIST, glow_small, {precision}, compile={compiled}"
                report.row(
                    f"{name}, train.py",
                    lambda s=settings: {**train(report, s, folder), "data": data.mnist_is},
                )
                report.row(f"{name}, bare step", lambda s=settings: bare(report, s))
        rest = (
            ["fit.max_steps=6", "model.depth=1", "model.width=8", "dataset.batch_size=8"]
            if dry
            else ["dataset.batch_size=256"]
        )
        rest += [
            *data.cifar,
            "fit.max_epochs=null",
            "trainer.precision=bf16-mixed",
            "compile=graph",
            f"trainer.accelerator={on}",
            "fit.pictures_every=1000",
        ]

        def curve() -> dict[str, Any]:
            seconds = int(report.time_left() - 45)  # which start and test take
            limit = [] if dry else [f"fit.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}"]
            return {**train(report, [*rest, *limit], folder, curve=True), "data": data.cifar_is}

        report.row("32x32, glow (paper), bf16-mixed, compile=graph, train.py", curve)


def train(report: Report, settings: list[str], folder: str, curve: bool = False) -> dict[str, Any]:
    """Run ``train.py`` and read what it left."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            *settings,
            f"output_dir={out}",
            "name=run",
            "callbacks.estimate=null",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, report.time_left()))
        if done.returncode:
            raise RuntimeError(f"train.py ended with status {done.returncode}: {done.stderr[-300:]}")
        results = json.loads(Path(out, "run/results.json").read_text())
        found = {
            "images/s": results["images_per_s"],
            "steps": results["steps"],
            "test bits/dim": results["test"]["raw"],
        }
        said = re.findall(r"compile=graph: [^\n]*", done.stderr)
        found |= {"graphs": said[0]} if said else {}
        if curve:
            head, *rows = (line.split(",") for line in Path(out, "run/metrics.csv").read_text().splitlines())
            where = head.index("step"), head.index("train/bpd_step")
            points = [
                {"step": int(float(r[where[0]])), "bits/dim": float(r[where[1]])} for r in rows if r[where[1]]
            ]
            found["curve"] = points[:: max(1, len(points) // 20)]
        return found


def bare(report: Report, settings: list[str]) -> dict[str, Any]:
    """The same model, optimizer, batch and precision in a loop that does nothing else."""
    from glow.commands.build import make, make_model
    from glow.commands.main import compose
    from glow.training.muon import optimizer_of

    cfg = compose("train", settings)
    x = torch.randint(
        256, (cfg.dataset.batch_size, *cfg.dataset.shape), dtype=torch.uint8, device=report.device
    )
    y = torch.zeros(len(x), dtype=torch.long, device=report.device)
    flow = make_model(cfg.model).to(report.device)
    flow.initialize(x[:64], y[:64])
    contender = Contender(
        flow, lambda: -flow.log_prob(x, y).mean(), lambda: None, low=cfg.trainer.precision == "bf16-mixed"
    )
    contender.optimizer = optimizer_of(flow, make("optimizer", cfg.optimizer))
    if cfg.compile == "graph":
        contender = graphed(contender)
    return timed(contender, "train", report, len(x))


class Data:
    """Where the pictures are; random ones where there are none, which give the same images/s."""

    def __init__(self, report: Report, folder: Path) -> None:
        given: Path = report.args.data
        small = report.args.dry_run
        self.mnist, self.mnist_is = given, "MNIST"
        if small or not (given / "MNIST" / "raw").is_dir():
            self.mnist, self.mnist_is = folder / "mnist", "random pictures"
            self._write_mnist(200 if small else 60_000)
        self.cifar, self.cifar_is = ["dataset=cifar10", f"dataset.root={given}"], "CIFAR-10"
        if small or not (given / "cifar-10-batches-py").is_dir():
            subset = given / "cifar10-subset"
            self.cifar_is = "a subset of CIFAR-10"
            if small or not subset.is_dir():
                subset, self.cifar_is = folder / "pictures", "random pictures"
                self._write_pictures(subset, 80 if small else 4_000)
            self.cifar = [
                "dataset=image_folder",
                f"dataset.root={subset}",
                "model=glow",
                "optimizer=adamax",
                "schedule=constant",
                f"dataset.cache={folder}",
            ]

    def _write_mnist(self, n: int) -> None:
        import struct

        raw = self.mnist / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for stem, size in (("train", n), ("t10k", n // 6)):
            pixels, classes = os.urandom(size * 784), bytes(i % 10 for i in range(size))
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, size, 28, 28) + pixels)
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, size) + classes)

    @staticmethod
    def _write_pictures(folder: Path, n: int) -> None:
        from PIL import Image

        folder.mkdir()
        for i in range(n):
            Image.frombytes("RGB", (32, 32), os.urandom(3072)).save(folder / f"{i:05d}.png")


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
