"""T5 v1.1 small: an encoder-decoder on span corruption, with the baseline's settings of Raffel et al. (2020).

./launch/local.sh train configs/t5_small.py --data.source tfds:c4/en:train --data.held-out tfds:c4/en:validation

Hardware: one NVIDIA GPU of 24 GB or more.
Expected: not measured yet.
512 tokens of input and 114 of output come from 568 tokens of text (15 % hidden, spans of 3). The learning rate falls as
T5's, from 0.01 at step 10,000; before, it rises linearly where T5 holds it. The tokenizer comes from the Hugging Face
hub at the first start; its file does as well (`--data.tokenizer spiece.model`).
"""

from research.config import Data, Evaluation, Experiment, Optimizer, Schedule, SpanCorruption, Step
from research.models import families


def get_config() -> Experiment:
    return Experiment(
        model=families.t5("small"),
        objectives=(SpanCorruption(),),
        data=Data(
            source="jsonl:corpus/*.jsonl#text",
            held_out=0.0005,
            tokenizer="google/t5-v1_1-small",
            length=114,
            source_length=512,
            batch=128,
            workers=4,
        ),
        optimizer=Optimizer(name="adafactor", learning_rate=1e-2, weight_decay=0.0, clip=0.0),
        schedule=Schedule(steps=524_288, name="inverse_square_root", warmup=10_000),
        step=Step(compute_dtype="bfloat16", z_loss=1e-4),
        evaluation=Evaluation(every=1000, batches=16),
    )
