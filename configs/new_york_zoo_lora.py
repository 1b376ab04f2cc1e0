"""`new_york_zoo.py` with adapters of rank 8 instead of all parameters.

./launch/fetch_smollm2.sh
./launch/local.sh train configs/new_york_zoo_lora.py
"""

from dataclasses import replace

import new_york_zoo

from research.config import Experiment, Lora, Optimizer


def get_config() -> Experiment:
    full = new_york_zoo.get_config()
    return replace(
        full,
        model=replace(full.model, lora=Lora(rank=8, alpha=16.0)),
        optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.0),
    )
