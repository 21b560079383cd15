"""The one base of every error a user can cause."""


class RvqprobeError(Exception):
    """Expected failure: bad input, a bad file, a missing dependency.

    The message names the file, what was expected, what was found and the next step; the command line prints it as
    one line and exits with 1. Children also inherit the built-in exception that a caller would catch.
    """

    def __str__(self) -> str:
        # KeyError's own __str__ would print the repr of the message.
        return " ".join(str(part) for part in self.args)


class SchemaError(RvqprobeError, ValueError):
    """A store or a record does not follow the schema, or has a version this build does not read."""
