"""The command `lm_eval …`: lm-evaluation-harness with our checkpoints as the model `research` (extra `harness`).

    lm_eval --model research --model_args checkpoint=runs/quickstart --tasks … [--include_path FOLDER]

What follows the command are the arguments of the harness' own.
"""

import importlib.util
import sys

from research.errors import InputError, install
from research.runtime import processes


def main(arguments: list[str]) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(f"lm_eval needs lm-evaluation-harness: {install('harness')}")
    from lm_eval.__main__ import cli_evaluate

    from research.runs import harness  # noqa: F401 registers the model

    processes.configure_jax()
    sys.argv = ["lm_eval", *arguments]  # which is where the harness reads them
    cli_evaluate()
