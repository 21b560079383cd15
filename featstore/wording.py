"""Small grammar for messages."""

from collections.abc import Sequence


def counted(n: int, noun: str) -> str:
    """Return a count with its noun, ``1 probe`` or ``2,854 utterances``; for nouns with a plural in -s."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def changes_text(codec: str, precision: str, shares: Sequence[float]) -> str:
    """Return the shares of changed codes in words."""
    listed = ", ".join(f"{100 * share:.3g}" for share in shares)
    return f"{codec}: {precision} changes {listed} % of the codes of layers 1 to {len(shares)}"
