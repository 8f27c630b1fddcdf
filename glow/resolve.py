"""Which file ``ckpt=`` and ``glow.load`` mean: a path first, then the name of weights that come with the project."""

from pathlib import Path

from glow.errors import UsageError, nearest
from glow.weights import shipped


def resolve(path: str | Path | None, output_dir: str | Path = "outputs") -> Path:
    """The file that a run's folder, a file, a name, or None means.

    A name is that of weights that come with the project, where there is no such path. None is the newest run below ``output_dir``, but for those below a folder ``debug``.

    Raises:
        UsageError: there is none.
    """
    if path is None:
        runs = [
            p
            for p in Path(output_dir).rglob("checkpoints/*.ckpt")
            if "debug" not in p.relative_to(output_dir).parts
        ]
        if not runs:
            names = "|".join(shipped())
            also = f", or take weights that come with the project: ckpt={names}" if names else ""
            raise UsageError(
                f"there is no run in output_dir={output_dir} yet (those below debug do not count): train one, or "
                f"name a file with ckpt={also}"
            )
        path = max(runs, key=lambda p: p.stat().st_mtime).parents[1]
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        for name in (
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "checkpoints/previous.ckpt",
            "best.ckpt",
            "last.ckpt",
        ):
            if (path / name).is_file():
                return path / name
        raise UsageError(f"ckpt={path} is no run: it has neither checkpoints/best.ckpt nor last.ckpt")
    files = shipped()
    if str(path) in files:
        return files[str(path)]
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    if path.parent != Path() or path.suffix:  # it can be no name
        raise UsageError(f"ckpt={path} is not there{nearest(path.name, beside)}")
    raise UsageError(
        f"ckpt={path} is not there, and the weights that come with the project are "
        f"{', '.join(files) or 'none yet'}{nearest(path.name, [*files, *beside])}"
    )
