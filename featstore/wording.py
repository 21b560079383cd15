"""Small grammar for messages."""


def counted(n: int, noun: str) -> str:
    """Return a count with its noun, ``1 probe`` or ``2,854 utterances``; for nouns with a plural in -s."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
