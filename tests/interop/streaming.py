"""How much memory reading a checkpoint needs, beyond what the parameters themselves take.

python -m tests.interop.streaming FOLDER      prints it, in bytes, as JSON

Here the parameters live in the same memory, since the CPU is the device: they are subtracted. Counted are the pages of
files that are mapped, too. The checkpoint is read twice, so that what JAX allocates once is not counted.
"""

import ctypes
import json
import re
import sys
from pathlib import Path

from research import interop, models


def memory(kind: str) -> int:
    """Bytes: `VmRSS`, now, or `VmHWM`, the largest since `forget_peak`."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def forget_peak() -> None:
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def main(folder: str) -> None:
    for _ in range(2):
        forget_peak()
        before = memory("VmRSS")
        params = interop.open_checkpoint(folder).params()
        peak, size = memory("VmHWM"), 4 * models.size(params)
        del params
    largest = max(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    print(json.dumps({"beyond_parameters": peak - before - size, "parameters": size, "largest_shard": largest}))


if __name__ == "__main__":
    main(sys.argv[1])
