"""BERT base, masked language modelling alone (no next-sentence prediction), with the settings of Devlin et al. (2019).

./launch/local.sh train configs/bert_base.py --data.source 'jsonl:corpus/*.jsonl#text'

Hardware: one NVIDIA GPU of 80 GB; with eight, `--step.accumulation 1`. The batch stays the same.
Expected: not measured yet.
The tokenizer comes from the Hugging Face hub at the first start; a folder with its files does as well
(`--data.tokenizer DIR`).
"""

from dataclasses import replace

from research.config import Data, Evaluation, Experiment, Masked, Optimizer, Schedule, Step
from research.models import families


def get_config() -> Experiment:
    return Experiment(
        model=replace(families.bert("base"), vocabulary=30_592, unroll=12),  # 30,522 rounded up to a multiple of 128
        objectives=(Masked(),),
        data=Data(
            source="jsonl:corpus/*.jsonl#text",
            held_out=0.0005,
            tokenizer="google-bert/bert-base-uncased",
            length=512,
            batch=256,
            workers=4,
        ),
        optimizer=Optimizer(learning_rate=1e-4, weight_decay=0.01, b2=0.999, epsilon=1e-6),
        schedule=Schedule(steps=1_000_000, name="linear", warmup=10_000, final=0.0),
        step=Step(accumulation=4, compute_dtype="bfloat16"),
        evaluation=Evaluation(every=1000, batches=8),
    )
