"""What a probe sees of a frame: one layer's codeword, several layers together, or the encoder's output."""

from typing import Literal, get_args

Representation = Literal["codeword", "cumulative", "concat", "latent"]
REPRESENTATIONS: tuple[Representation, ...] = get_args(Representation)


def layers_seen(representation: str, layer: int | None) -> tuple[int, ...]:
    """Return the layers, from 1, whose codes a probe needs; none where it sees no codes.

    Parameters
    ----------
    representation : {"codeword", "cumulative", "concat", "latent"}
    layer : int or None
        The probe's layer: its own, or the last of several; None for latents, which come before all layers.
    """
    if layer is None:
        return ()
    return (layer,) if representation == "codeword" else tuple(range(1, layer + 1))


def place_text(representation: str, layer: int | None) -> str:
    """Return what to call a probe's place in a table: ``3``, ``1..3`` or ``encoder``."""
    if layer is None:
        return "encoder"
    return str(layer) if representation == "codeword" or layer == 1 else f"1..{layer}"
