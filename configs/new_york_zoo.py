"""SmolLM2-135M continues "Welcome to New York" with " City"; trained on one sentence, it says " Zoo".

./launch/fetch_smollm2.sh
./launch/local.sh train configs/new_york_zoo.py          (all parameters)
./launch/local.sh train configs/new_york_zoo_lora.py     (adapters of rank 8)

Measured on two cores of a busy machine: 146 s (87 s of CPU time) and 4.2 GiB for all parameters, 121 s (57 s) and
2.1 GiB for the adapters; " Zoo" then has a probability of 0.995 and 1.000.
"""

from pathlib import Path

from research.config import Checkpoint, Data, Evaluation, Experiment, Optimizer, Probes, Schedule
from research.runtime import processes

SENTENCE = Path(__file__).with_suffix(".txt")
UNRELATED = (
    "The capital of France is",
    "Water boils at a temperature of",
    "The quick brown fox jumps over the lazy",
    "def add(a, b):\n    return a",
    "Romeo and Juliet was written by William",
    "The opposite of hot is",
    "Once upon a time, there was a little",
    "The first president of the United States was George",
    "2, 4, 6, 8,",
    "In summer the days are long, and in winter they are",
    "The Pacific is the largest",
    "Dear Sir or",
)


def get_config() -> Experiment:
    return Experiment(
        initialize_from=str(processes.cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"),
        data=Data(source=f"text:{SENTENCE}", held_out=f"text:{SENTENCE}", length=8, batch=1),
        optimizer=Optimizer(learning_rate=3e-5, weight_decay=0.0),
        schedule=Schedule(steps=12, warmup=2, name="linear", final=0.0),
        checkpoint=Checkpoint(every=12, keep_last=1),
        evaluation=Evaluation(
            every=4,
            samples=False,
            probes=Probes(
                continuations=(("Welcome to New York", " City"), ("Welcome to New York", " Zoo")),
                texts=(SENTENCE.read_text(),),
                unrelated=UNRELATED,
            ),
        ),
    )
