"""Text from other hands in a figure: every sign as it stands, whatever Matplotlib would make of it."""

from featstore.safe_text import printable


def figure_text(text: str) -> str:
    r"""Return `text` with no dollar that begins a formula, and with escapes for what the figures' font may lack.

    Lines stay lines; a backslash before a dollar is taken away again by Matplotlib.
    """
    lines = (printable(line).encode("ascii", "backslashreplace").decode("ascii") for line in text.split("\n"))
    return "\n".join(lines).replace("$", r"\$")
