"""SmolLM2-135M, all of it, on one's own text; here on the documentation that every Python carries.

./launch/fetch_smollm2.sh
./launch/local.sh train configs/finetune.py --data.source 'text:books/*.txt'

Hardware: one NVIDIA GPU; on 2 CPU cores a step takes most of a minute.
Expected: not measured yet.
Any checkpoint that `initialize_from` takes will do: a run folder, a Hugging Face folder or hub name, a GGUF file.
"""

from research.config import Data, Evaluation, Experiment, Optimizer, Schedule
from research.runtime import processes

SMOLLM2 = str(processes.cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")


def get_config() -> Experiment:
    return Experiment(
        initialize_from=SMOLLM2,
        data=Data(source="python-docs", length=512, batch=8),
        optimizer=Optimizer(learning_rate=2e-5, weight_decay=0.01),
        schedule=Schedule(steps=300, warmup=30, name="linear", final=0.0),
        evaluation=Evaluation(every=100, batches=4),
    )
