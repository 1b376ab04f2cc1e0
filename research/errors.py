"""The one exception for what a user can mend: a command prints its message alone, without a traceback."""


class InputError(ValueError):
    """A config, a file or an argument is not usable; the message names it, its value, and what would work."""
