"""The first lines of a run name devices, mesh, attention, what is trained, and the time that it will take."""

from dataclasses import replace

import jax

from research import config
from research.config import Attention, Causal, Experiment, Masked, Mesh, Model, Prefix, replace_fields
from research.runs import facts
from research.runs.prepared import Prepared
from research.training.compiled_steps import compiled_steps


def experiment(**changes):
    model = config.resolve(Model(width=16, depth=2, attention=Attention(heads=2)), 64, 128)
    return replace(Experiment(model=model, mesh=Mesh(data=4, fsdp=2)), **changes)


def test_what_a_run_says_first(tmp_path):
    resolved = experiment(frozen=("embedding",))
    run = Prepared(tmp_path, resolved, None, compiled_steps(resolved))
    where, _, long = facts.lines(run, 3000, 1.0)
    trained = sum(leaf.size for leaf in jax.tree.leaves(run.compiled.state.params)) - 16 * resolved.model.vocabulary
    assert where == (f"8 x cpu, mesh data 4 x fsdp 2, float32; {trained:,} parameters are trained, 2,048 frozen")
    assert long == "3,000 steps of 2,048 tokens: 2.1 hours if they reach 40% of the devices' peak"
    assert len(facts.lines(run, 0, 1.0)) == 2  # of a run that is complete


def test_what_no_other_format_can_express_is_said_before_the_money_is_spent():
    assert facts.unwritable(experiment(objectives=(Causal(), Masked()))) == ""
    assert "trained with Prefix (prefix)" in facts.unwritable(experiment(objectives=(Prefix(),)))
    odd = replace_fields(experiment().model, {"norm.placement": "post"})
    assert facts.unwritable(experiment(model=odd)) != ""
