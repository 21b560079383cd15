"""Text from other hands (file names, labels, entries of files), made fit for one line of a terminal, log or report."""

import reprlib

_LONGEST_CHARS = 4_096  # the longest path that Linux takes


def printable(text: object, max_chars: int = _LONGEST_CHARS) -> str:
    """Return `text` in one line that every terminal shows as it is, and that can be encoded.

    Newlines, escape sequences, marks that turn the direction of writing and the stand-ins for bytes that are no UTF-8
    become backslash escapes; what is longer than `max_chars` is cut in the middle.
    """
    whole = str(text)
    if len(whole) > max_chars:
        half = max_chars // 2
        whole = f"{whole[:half]}...{whole[-half:]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in whole)


def shown(value: object) -> str:
    """Return a short `repr` of a value read from a file: at most some ten entries and some sixty characters of each."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 60
    return printable(short.repr(value), 500)


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message; torch's run to many."""
    text = str(error).strip()
    return f"{type(error).__name__}: {printable(text.splitlines()[0], 200)}" if text else type(error).__name__
