"""The commands: one file each, which reads its arguments and calls the room that does the work."""

COMMANDS = {  # name -> the module whose `main(arguments)` it is
    "prepare": "research.commands.prepare",
    "train": "research.commands.train",
    "evaluate": "research.commands.evaluate",
    "generate": "research.commands.generate",
    "convert": "research.commands.convert",
    "plan": "research.commands.plan",
    "report": "research.commands.report",
    "benchmark": "research.commands.benchmark",
    "lm_eval": "research.commands.lm_eval",
    "xla_flags": "research.runtime.xla_flags",
}
