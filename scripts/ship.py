#!/usr/bin/env python3
"""Make a finished run's weights part of the project, for ``ckpt=NAME`` and ``glow.load("NAME")``.

    python scripts/ship.py outputs/mnist-75 mnist --root ../shared/data --machine "2 cores of a Xeon Platinum 8175M"
    python scripts/ship.py mnist --temperature 0.8 --guidance 0.5     # other draws of weights that are there

Writes three files into glow/weights: NAME.safetensors (averaged weights where there are some, in float16 unless that costs 0.005
bits/dim or more on the test set, at most 2 MB), NAME.png (64 draws, as ``python sample.py ckpt=NAME`` gives them, 8 a row) and
the card NAME.md, whose temperature and guidance ``sample.py`` then takes. The figures are measured here, by what ``evaluate.py`` does, with the noise of the run's own test.
"""

import argparse
import json
import math
import re
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from glow import load
from glow.checkpoint import SavedModel, read_model, resolve
from glow.commands.evaluate import evaluate
from glow.commands.main import compose
from glow.commands.sample import EXPORT_DTYPES, sample
from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError
from glow.evaluation.bits import bits_per_dim
from glow.weights import FOLDER, card

LARGEST = 2_000_000
"""Bytes of a file of weights."""
LOSS = 0.005
"""Float16 weights must lose less than this, bits/dim."""
DRAWS, COLUMNS, SEED = 64, 8, 0
"""What ``sample.py`` draws without further settings."""
LICENCES = {
    "mnist": "CC BY-SA 3.0 (Yann LeCun and Corinna Cortes, made from NIST's Special Databases 1 and 3)",
    "fashion_mnist": "MIT (Zalando SE)",
    "digits": "CC BY 4.0 (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository)",
}
"""Of the data, by its name in ``conf/dataset``; the weights have the project's."""


def portable(saved: SavedModel) -> SavedModel:
    """The same model, whose data is not where it lies on this machine."""
    dataset = dict(saved.dataset or {})
    return replace(saved, dataset=dataset | {k: "data" for k in ("root",) if k in dataset})


def portable_command(command: str) -> str:
    """A command without this machine's folders.

    >>> portable_command("python /a/train.py dataset=mnist dataset.root=../data/x name=n")
    'python train.py dataset=mnist dataset.root=DIR name=n'
    """
    words = [Path(w).name if w.endswith(".py") else w for w in shlex.split(command)]
    return shlex.join(re.sub(r"(?<==)(/|\.\.|~).*", "DIR", word) for word in words)


def measure(file: Path, root: str | None, out: Path) -> dict[str, Any]:
    """What ``python evaluate.py ckpt=FILE`` reports of the test split."""
    cfg = compose("evaluate", ["diagnostics=false", "split=test", "device=cpu"])
    cfg.ckpt, cfg.out = str(file), str(out)
    if root is not None:
        cfg.dataset.root = root
    return evaluate(cfg)


def draw(file: Path, args: argparse.Namespace, out: Path) -> tuple[Tensor, dict[str, Any]]:
    """What ``python sample.py ckpt=FILE`` draws, uint8 (64, C, H, W), and what the card says of it."""
    settings = {"n": DRAWS, "temperature": args.temperature, "guidance": args.guidance, "seed": SEED}
    cfg = compose("sample", ["format=npy", "device=cpu", *(f"{k}={v}" for k, v in settings.items())])
    cfg.ckpt, cfg.out = str(file), str(out)
    report = sample(cfg)
    x = torch.from_numpy(np.load(out / report["files"][0]))
    y = None if report["labels"] is None else torch.tensor(report["labels"])
    log_prob = mean_log_prob(file, x, y)
    return x, settings | {
        "labels": None if y is None else "the classes in turn",
        "mean_log_prob": round(float(log_prob), 4),
        "bits_per_dim": round(float(bits_per_dim(log_prob, x.shape[1:])), 6),
    }


def as_picture(images: Tensor) -> Image.Image:
    """Images (N, C, H, W) side by side without margins, their grey levels as they are."""
    n, channels, height, width = images.shape
    rows = images.view(n // COLUMNS, COLUMNS, channels, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(rows.reshape(n // COLUMNS * height, COLUMNS * width, channels).squeeze(-1).numpy())


@torch.no_grad()
def mean_log_prob(file: Path, x: Tensor, y: Tensor | None) -> Tensor:
    """Of images that are taken at the centres of their bins, a fixed noise: nats, float64 ()."""
    noise = torch.full(x.shape, Dequantization.CENTRE)
    return load(file).log_prob(x, y, noise).double().mean()


def choose(found: dict[str, dict[str, Any]]) -> str:
    """The smaller type that loses less than ``LOSS`` bits/dim."""
    means = {dtype: report["mean"] for dtype, report in found.items()}
    if means["float32"] is None:
        raise UsageError("the run's test figure is not finite: such weights are not shipped")
    return (
        "float16"
        if means["float16"] is not None and means["float16"] - means["float32"] < LOSS
        else "float32"
    )


def check_size(file: Path) -> int:
    """The bytes of a file that is not too large."""
    if (size := file.stat().st_size) > LARGEST:
        raise UsageError(
            f"{file.name} would have {size:,} bytes in {file.parent.name}, more than {LARGEST:,}"
        )
    return size


def ship(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write the three files; the front matter of the card."""
    results_file = args.run / "results.json"
    if not results_file.is_file():
        raise UsageError(f"{args.run} is not a finished run's folder: it has no results.json")
    results = json.loads(results_file.read_text())
    saved = read_model(resolve(args.run))
    data = (saved.dataset or {}).get("name")
    if (licence := args.data_licence or LICENCES.get(str(data))) is None:
        raise UsageError(f"nothing is known of the licence of {data}: say it with --data-licence")
    kind, root = args.weights or saved.best, args.root or (saved.dataset or {}).get("root")
    files = {dtype: work / dtype / f"{args.name}.safetensors" for dtype in EXPORT_DTYPES}
    for name, dtype in EXPORT_DTYPES.items():
        portable(saved).export(files[name], kind, dtype=dtype)
    if load(files["float16"]).dequantization is None:
        raise UsageError(f"{args.run} is no model of grey images, whose figures are bits/dim")
    check_size(files["float16"])  # before minutes of measuring
    reports = {name: measure(path, root, work / name) for name, path in files.items()}
    found = {name: report["weights"][kind] for name, report in reports.items()}
    chosen = choose(found)
    file, report, size = files[chosen], reports[chosen], check_size(files[chosen])
    x, draws = draw(file, args, work / "draws")
    classes, dimensions = load(file).classes, report["dimensions"]
    about: dict[str, Any] = {
        "name": args.name,
        "data": data,
        "model": results["model"],
        "parameters": results["parameters"],
        "command": portable_command(results["command"]),
        "machine": args.machine or f"{results['devices']} x {results['device']}",
        "train_seconds": results["train_seconds"],
        "steps": saved.steps,
        "seed": saved.seed,
        "precision": results["precision"],
        "weights": kind,
        "file": {"dtype": chosen, "bytes": size},
        "test": {
            "examples": found[chosen]["n"],
            "noise_seed": report["seed"],
            "dimensions": dimensions,
            "labelled": bool(classes),
            "bits_per_dim": {
                name: {k: round(figures[k], 6) for k in ("mean", "standard_error")}
                for name, figures in found.items()
                if not figures["non_finite"]
            },
            "unlabelled_at_most_more": round(math.log2(classes) / dimensions, 6) if classes else 0.0,
        },
        "draws": draws,
        "licence": {"data": licence, "weights": "MIT, as the project"},
        "commit": results["git_commit"],
        "versions": results["versions"],
    }
    args.folder.mkdir(parents=True, exist_ok=True)
    write_card(about, x, args)
    (args.folder / file.name).write_bytes(file.read_bytes())  # last: its name is what the others belong to
    return about


def redraw(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Draw once more from weights that are there; the front matter of their card."""
    file = args.folder / f"{args.name}.safetensors"
    if not file.is_file():
        raise UsageError(f"{args.name} is not in {args.folder}: name the run that it is of, too")
    x, draws = draw(file, args, work)
    write_card(found := card(file) | {"draws": draws}, x, args)
    return found


def write_card(about: dict[str, Any], x: Tensor, args: argparse.Namespace) -> None:
    """The card and the picture of its draws."""
    as_picture(x).save(args.folder / f"{args.name}.png", optimize=True)
    (args.folder / f"{args.name}.md").write_text(card_text(about))


def card_text(about: dict[str, Any]) -> str:
    """The card: front matter for programs, and the same in sentences."""
    name, test, size, draws = about["name"], about["test"], about["file"]["bytes"], about["draws"]
    figures = test["bits_per_dim"][about["file"]["dtype"]]
    means = {name: both["mean"] for name, both in test["bits_per_dim"].items()}
    lost = (
        f"costs {means['float16'] - means['float32']:+.5f} bits/dim"
        if "float16" in means
        else "has too small a range"
    )
    labels = (
        f", given their labels; without labels it would be at most {test['unlabelled_at_most_more']:.4f} more"
        if test["labelled"]
        else ""
    )
    how = f" and guidance {draws['guidance']:g}" if draws["guidance"] else ""
    turns = ", the classes in turn" if test["labelled"] else ""
    root = " dataset.root=DIR" if "root=" in about["command"] else ""
    minutes = "" if about["train_seconds"] is None else f"{about['train_seconds'] / 60:.1f} minutes, "
    return f"""---
{yaml.safe_dump(about, sort_keys=False, allow_unicode=True, width=1000)}---

# {name}

![{DRAWS} draws]({name}.png)

*{DRAWS} draws at temperature {draws["temperature"]:g}{how}{turns}: `python sample.py ckpt={name}`.*

`{about["model"]}`, {about["parameters"]:,} parameters, on `{about["data"]}`: **{figures["mean"]:.4f} +- {figures["standard_error"]:.4f} bits/dim** over the
{test["dimensions"]:,} real dimensions of {test["examples"]:,} test images{labels}. `python evaluate.py ckpt={name}{root}` gives this figure again.

Trained by

    {about["command"]}

in {minutes}{about["steps"]:,} steps, on {about["machine"]}. The file has {size / 1e6:.2f} MB in {about["file"]["dtype"]}; float16 {lost}.

Licence of the data: {about["licence"]["data"]}. Licence of the weights: {about["licence"]["weights"]}.
"""


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="the folder of a finished run")
    parser.add_argument("name", help="what ckpt= and glow.load will call it, such as mnist")
    parser.add_argument("--root", help="where the data is (default: where the run had it)")
    parser.add_argument("--machine", help="what it was trained on, for the card (default: the run's device)")
    parser.add_argument(
        "--weights", choices=("ema", "raw"), help="default: averaged ones where there are some"
    )
    parser.add_argument("--temperature", type=float, default=0.7, help="of the draws (default 0.7)")
    parser.add_argument(
        "--guidance", type=float, default=0.0, help="of the draws of a labelled model (default 0)"
    )
    parser.add_argument("--data-licence", help="of data that this script does not know")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="to write into (default glow/weights)")
    args = parser.parse_args()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", args.name):
        parser.error(f"argument name: must be small letters, digits and _, got {args.name}")
    return args


def main() -> None:
    """Ship a run and say what was written."""
    args = arguments()
    try:
        with tempfile.TemporaryDirectory() as work:
            about = (redraw if args.run is None else ship)(args, Path(work))
    except UsageError as error:
        sys.exit(f"error: {error}")
    for dtype, figures in about["test"]["bits_per_dim"].items():
        print(f"{dtype}  {figures['mean']:.5f} +- {figures['standard_error']:.5f} bits/dim")
    print(
        f"{args.folder / args.name}.safetensors, .md and .png: {about['file']['dtype']}, {about['file']['bytes']:,} bytes; "
        f"{DRAWS} draws have {about['draws']['bits_per_dim']:.4f} bits/dim"
    )


if __name__ == "__main__":
    main()
