"""``python demo.py``."""

import socket
import threading
import webbrowser

from omegaconf import DictConfig

from glow.errors import UsageError, check_bool, check_positive

ADVICE = "demo.py needs the extra `demo`: make demo, or pip install --editable '.[demo]'"


def demo(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C.

    Args:
        cfg: the composed ``conf/demo.yaml``.

    Raises:
        UsageError: a setting that cannot work.
    """
    try:
        import uvicorn

        from glow.demo.safety import LOOPBACK
        from glow.demo.server import Page
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UsageError(ADVICE) from error
    check_positive("port", cfg.port, integer=True)
    check_bool("open", cfg.open)
    page = Page(cfg)
    listening = _listen(str(cfg.host), cfg.port)
    address = f"http://{f'[{cfg.host}]' if ':' in cfg.host else cfg.host}:{cfg.port}"
    if cfg.host in LOOPBACK:
        print(f"{address} can be opened on this machine alone; host=0.0.0.0 lets others in", flush=True)
        if cfg.open:
            threading.Timer(1, webbrowser.open, [address]).start()
    else:
        print(
            f"{address} can be opened by everybody who reaches this machine, without a password: they use its processor "
            f"and see the runs in {cfg.output_dir}",
            flush=True,
        )
    config = uvicorn.Config(page.app(), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"host={host} port={port} cannot be listened on ({error}): take another port="
        ) from error
