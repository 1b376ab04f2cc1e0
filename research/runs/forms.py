"""The forms of what the files of a run hold, checked as they are read: `metrics.jsonl`, `result.json`, evaluations.

A run folder may come from elsewhere, or be damaged; what reads it further takes the forms below for granted.
"""

from research.data.json_forms import amount, count, each, fields, number, optional, sequence, text

TIMES = {"time": number, "goodput": number, "spent": each(amount)}
MEASURES = ("gradient_norm", "parameter_norm", "learning_rate", "waiting", "loss")
KINDS = {
    "train": fields(
        {"losses": each(number), "tokens_per_second": number, "mfu": number}, dict.fromkeys(MEASURES, number)
    ),
    "held_out": fields({"losses": each(number)}),
    "tasks": fields({"scores": each(number)}),
    "samples": fields({"samples": each(sequence(sequence(text, text)))}),
}
ANY = fields({})
RECORD = fields({"kind": text, "step": count}, TIMES)
RESULT = fields(
    {
        "objectives": each(fields({"loss": optional(number), "unigram": optional(number), "uniform": number})),
        "seconds": number,
        "peak_memory_bytes": number,
    },
    TIMES,
)
FACTS = fields(
    {
        "commit": optional(text),
        "versions": each(text),
        "hardware": fields({"devices": count, "kind": text, "processes": count}),
    }
)
EVALUATION = fields(
    {
        "checkpoint": text,
        "task": text,
        "prompt_format": text,
        "kind": text,
        "shots": count,
        "items": count,
        "measured": sequence(
            fields(
                {
                    "metric": text,
                    "better": text,
                    "estimate": sequence(optional(number), optional(number), optional(number)),
                    "baselines": each(optional(number)),
                    "normalised": optional(number),
                    "verdict": text,
                }
            )
        ),
    }
)


def wrong_record(record: object) -> str:
    """What is wrong with a record of `metrics.jsonl`; empty if nothing is."""
    return RECORD(record) or (KINDS[kind](record) if (kind := record["kind"]) in KINDS else "")  # type: ignore[index]
