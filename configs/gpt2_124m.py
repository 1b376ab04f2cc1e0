"""GPT-2 124M with nanoGPT's settings for OpenWebText: causal, 300 billion tokens.

./launch/local.sh train configs/gpt2_124m.py --data.source 'jsonl:openwebtext/*.jsonl#text'

Hardware: one NVIDIA GPU of 80 GB; with eight, `--step.accumulation 2`. The batch stays the same.
Expected: nanoGPT reports a held-out loss of 2.85 on OpenWebText after 600,000 steps; this code: not measured yet.
The tokenizer comes from the Hugging Face hub at the first start; a folder with its files does as well
(`--data.tokenizer DIR`).
"""

from dataclasses import replace

from research.config import Causal, Data, Evaluation, Experiment, Optimizer, Schedule, Step
from research.models import families


def get_config() -> Experiment:
    return Experiment(
        model=replace(families.gpt2("124m"), vocabulary=50_304, unroll=12),  # 50,257 rounded up to a multiple of 128
        objectives=(Causal(),),
        data=Data(
            source="jsonl:openwebtext/*.jsonl#text",
            held_out=0.0005,
            tokenizer="openai-community/gpt2",
            length=1024,
            batch=480,
            workers=4,
        ),
        optimizer=Optimizer(learning_rate=6e-4),
        schedule=Schedule(steps=600_000, warmup=2000),
        step=Step(accumulation=10, compute_dtype="bfloat16"),
        evaluation=Evaluation(every=1000, batches=4),
    )
