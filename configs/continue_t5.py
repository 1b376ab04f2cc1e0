"""T5 v1.1 goes on learning by span corruption, on one's own text.

./launch/local.sh train configs/continue_t5.py --data.source 'text:books/*.txt'

Hardware: one NVIDIA GPU. Expected: not measured yet.
The checkpoint comes from the Hugging Face hub at the first start; a folder does as well (`--initialize-from DIR`).
512 tokens of input and 114 of output come from 568 tokens of text (15 % hidden, spans of 3).
"""

from research.config import Data, Evaluation, Experiment, Optimizer, Schedule, SpanCorruption


def get_config() -> Experiment:
    return Experiment(
        initialize_from="google/t5-v1_1-small",
        objectives=(SpanCorruption(),),
        data=Data(source="text:books/*.txt", length=114, source_length=512, batch=32),
        optimizer=Optimizer(name="adafactor", learning_rate=1e-3, weight_decay=0.0),
        schedule=Schedule(steps=2000, warmup=200, name="linear", final=0.0),
        evaluation=Evaluation(every=250, batches=8),
    )
