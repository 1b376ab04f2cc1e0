"""SmolLM2-135M on conversations; only what the assistant says counts in the loss.

./launch/fetch_smollm2.sh
./launch/local.sh train configs/instruction_tuning.py --data.source 'chat:conversations/*.jsonl'

Hardware: one NVIDIA GPU. Expected: not measured yet.
A line is {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}, of which the chat
template makes a text, or {"prompt": …, "completion": …}. `--model.lora.rank 16` trains adapters instead.
"""

from dataclasses import replace

import finetune

from research.config import Experiment, Instruction


def get_config() -> Experiment:
    full = finetune.get_config()
    return replace(
        full, objectives=(Instruction(),), data=replace(full.data, source="chat:conversations/*.jsonl", length=1024)
    )
