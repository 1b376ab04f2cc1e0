"""BERT goes on learning by masking, on one's own text.

./launch/local.sh train configs/continue_bert.py --data.source 'text:books/*.txt'

Hardware: one NVIDIA GPU. Expected: not measured yet.
The checkpoint comes from the Hugging Face hub at the first start; a folder does as well (`--initialize-from DIR`), and
so do RoBERTa and ModernBERT. `convert runs/continue_bert DIR` hands the result back to `transformers`.
"""

from research.config import Data, Evaluation, Experiment, Masked, Optimizer, Schedule


def get_config() -> Experiment:
    return Experiment(
        initialize_from="google-bert/bert-base-uncased",
        objectives=(Masked(),),
        data=Data(source="text:books/*.txt", length=256, batch=32),
        optimizer=Optimizer(learning_rate=5e-5, weight_decay=0.01, b2=0.999, epsilon=1e-6),
        schedule=Schedule(steps=2000, warmup=200, name="linear", final=0.0),
        evaluation=Evaluation(every=250, batches=8),
    )
