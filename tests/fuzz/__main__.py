"""`python -m tests.fuzz [READER …] [--hours N | --count N] [--seed S] [--json]`: tries mutated inputs and prints every
outcome that is not allowed. A failing input is made again from its seed: `python -m tests.fuzz --keep SEED FOLDER`.
`python -m tests.fuzz --corpus` tries the inputs that once failed instead."""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.fuzz import corpus, harness
from tests.fuzz.readers import READERS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--hours", type=float, default=1.0, help="for all readers together")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="inputs of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    parser.add_argument("--corpus", action="store_true", help="what comes of each case of corpus.py, as JSON")
    parser.add_argument("--keep", nargs=2, metavar=("SEED", "FOLDER"), help="make this input, and stop")
    chosen = parser.parse_args()
    if chosen.keep:
        return keep(*chosen.keep)
    if chosen.corpus:
        print(json.dumps({name: corpus.outcome(name) for name in (*corpus.CASES, *corpus.LEFT_OUT)}))
        return 0
    names = chosen.readers or list(READERS)
    tried: collections.Counter[str] = collections.Counter()
    found: dict[str, dict[str, str]] = {name: {} for name in names}  # an outcome, and the seed of one input
    end = time.monotonic() + 3600 * chosen.hours
    for place, name in enumerate(names):
        share = time.monotonic() + (end - time.monotonic()) / (len(names) - place)
        tried[name] = 0
        for done, failures in harness.inputs(name, 0, chosen.count, chosen.seed, share):
            for failure in failures:
                found[name].setdefault(failure.outcome, failure.seed)
            tried[name] += done
        if not chosen.json:
            print(f"{name}: {tried[name]:,} inputs, {len(found[name])} kinds of failures", flush=True)
            for outcome, seed in found[name].items():
                print(f"  {seed}: {outcome}", flush=True)
    if chosen.json:
        print(json.dumps({"tried": tried, "found": found}))
    return int(any(found.values()))


def keep(seed: str, folder: str) -> int:
    name = seed.split("/")[0]
    with tempfile.TemporaryDirectory() as valid:
        READERS[name].make(Path(valid))
        harness.make_input(Path(valid), Path(folder), seed)
    print(harness.outcome(READERS[name], Path(folder)) or "allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
