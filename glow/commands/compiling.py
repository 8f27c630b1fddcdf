"""What the setting ``compile`` of the commands does."""

from glow.distributions.base import Distribution
from glow.errors import UsageError

COMPILE: dict[object, tuple[bool, bool]] = {
    False: (False, False),
    True: (True, False),
    "graph": (False, True),
    "both": (True, True),
}
"""What ``compile`` may be: whether the steps of a Glow are compiled, and whether CUDA graphs replay the work on a batch."""


def compile_steps(model: Distribution, setting: object) -> bool:
    """Compile a model's steps, where the setting ``compile`` says so.

    Returns:
        Whether graphs are asked for.

    Raises:
        UsageError: there is no such setting, or the model has no steps to compile.
    """
    if not isinstance(setting, (bool, str)) or setting not in COMPILE:
        raise UsageError(f"compile must be false, true, graph or both, got {setting!r}")
    compiled, graphs = COMPILE[setting]
    if compiled:
        model.compile()
    return graphs
