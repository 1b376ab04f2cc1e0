"""The shape of Llama 3.2 1B, trained from scratch on 25 billion tokens, 20 for each parameter.

./launch/local.sh train configs/llama_1b.py --data.source 'jsonl:corpus/*.jsonl#text' --data.tokenizer DIR

Hardware: one NVIDIA GPU of 141 GB (micro-batches of 16 rows); with eight, `--step.accumulation 4`.
Expected: not measured yet.
DIR is a folder with the tokenizer of Llama 3.2. Without `--data.tokenizer` it is looked up on the Hugging Face hub,
which gives it to those who accepted its licence.
"""

from dataclasses import replace

from research.config import Causal, Data, Evaluation, Experiment, Mesh, Optimizer, Schedule, Step
from research.models import families


def get_config() -> Experiment:
    return Experiment(
        model=replace(families.llama("1b"), remat="dots"),
        objectives=(Causal(),),
        data=Data(
            source="jsonl:corpus/*.jsonl#text",
            held_out=0.0005,
            tokenizer="meta-llama/Llama-3.2-1B",
            length=2048,
            batch=512,
            workers=4,
        ),
        optimizer=Optimizer(learning_rate=3e-4),
        schedule=Schedule(steps=24_000, warmup=1000),
        mesh=Mesh(data=-1, fsdp=4),
        step=Step(accumulation=16, compute_dtype="bfloat16"),
        evaluation=Evaluation(every=500, batches=4),
    )
