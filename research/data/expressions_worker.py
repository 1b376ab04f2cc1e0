"""The program in which the regular expressions of somebody's tokenizer are tried on long repetitions, so that it can be
ended: the library neither looks for signals nor stops. It reads the parts of a `tokenizer.json` as a JSON list."""

import contextlib
import json
import sys

import tokenizers

PARTS = ("normalizer", "pre_tokenizer", "decoder")
TEXTS = [
    kind * (length // len(kind)) for kind in ("a", "A1", "a ", " ", "\n", "7", "!", "世") for length in (256, 4096)
]


def main() -> None:
    model = {"type": "WordLevel", "vocab": {text: number for number, text in enumerate(TEXTS)}, "unk_token": TEXTS[0]}
    parts = dict(zip(PARTS, json.load(sys.stdin), strict=True))
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, **parts}))
    for number, text in enumerate(TEXTS):
        with contextlib.suppress(BaseException):  # a panic where the library has tried too often is no Exception
            tokenizer.encode(text)
            tokenizer.decode([number])


if __name__ == "__main__":
    main()
