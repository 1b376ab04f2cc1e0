"""What tests of launch scripts share: how a script is run, and programs that stand in for those of clouds."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
TOOLS = Path(sys.executable).parent
RUN = (
    "train",
    "configs/llama_8b.py",
    "--workdir",
    "/bucket/run",
    "--data.source",
    "jsonl:/bucket/it's/*.jsonl#text",
)
BUCKET = ("--bucket", "mine")


def script(name, *arguments, path=None, **environment):
    variables = {**os.environ, **environment, "PATH": f"{path}:/usr/bin:/bin" if path else os.environ["PATH"]}
    return subprocess.run([LAUNCH / name, *arguments], env=variables, capture_output=True, text=True, timeout=120)


def stub(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)
    return folder
