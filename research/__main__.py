"""`python -m research COMMAND …`, which is also the console script `research`."""

import importlib
import io
import sys

from research.commands import COMMANDS


def main() -> None:
    """Runs the command that the arguments name; its mistakes end the process with exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is shown, not an error
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: research COMMAND …\n\nCommands: {', '.join(COMMANDS)}; research COMMAND --help says more")
        return
    if name not in COMMANDS:
        print(f"error: {name} is not one of the commands: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    try:
        from research.commands import command_line  # only now: a wrong name is answered without any package

        command_line.run(importlib.import_module(COMMANDS[name]).main, arguments)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
