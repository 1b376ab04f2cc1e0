"""`finetune.py` by adapters of rank 16 on every projection (Hu et al. 2021); nothing else is trained.

./launch/fetch_smollm2.sh
./launch/local.sh train configs/finetune_lora.py --data.source 'text:books/*.txt'
./launch/local.sh convert runs/finetune_lora exported               (merged, for transformers)
./launch/local.sh convert runs/finetune_lora adapter --to peft      (the adapter alone, for peft)

Hardware: one NVIDIA GPU. Expected: not measured yet.
"""

from dataclasses import replace

import finetune

from research.config import Experiment, Lora, Optimizer


def get_config() -> Experiment:
    full = finetune.get_config()
    return replace(
        full,
        model=replace(full.model, lora=Lora(rank=16, alpha=32.0)),
        optimizer=Optimizer(learning_rate=2e-4, weight_decay=0.0),
    )
