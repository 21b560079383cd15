"""How many processes prepare utterances for one that encodes."""

import os

# Starting one costs some seconds (it imports torch to resample): a small build is done before that pays.
_FEWEST_UTTERANCES = 64
_MOST_FOR_A_GPU = 8


def choose_workers(asked: int | None, n_utterances: int, device: str) -> int:
    """Return the number of worker processes of a build.

    Parameters
    ----------
    asked : int or None
        ``--workers``; None chooses: none for a small build; one beside a CPU that encodes, since the encoder uses all
        cores and labels cost a thirtieth of it; one for each core but one beside a GPU, up to eight.
    n_utterances : int
        To be built.
    device : str
        That encodes, as recorded.
    """
    if asked is not None:
        return min(asked, n_utterances)
    if n_utterances < _FEWEST_UTTERANCES:
        return 0
    if device.startswith("cpu"):
        return 1
    return max(1, min(_MOST_FOR_A_GPU, len(os.sched_getaffinity(0)) - 1, n_utterances))
