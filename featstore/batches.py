"""Which utterances go through a network together.

That depends on a shard's utterances alone, never on what was ready first: in another batch a code may round to its
neighbour. So windows of utterances are taken in order, and batches are made within a window.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from featstore.codecs.base import BatchCodec, Codec
from featstore.extract import PreparedUtterance

# Audio in a window, in batches: the more, the closer in length are those that share one. It is held in memory, at
# 160 kB a second for both codecs of the study.
_BATCHES_IN_A_WINDOW = 4
# Of a batch on a device beside the CPU, unless asked otherwise: 3 GB of EnCodec's activations, by what a CPU needs.
BATCH_S = 160.0

Window = list[tuple[int, PreparedUtterance]]  # utterances by their place in a build


def choose_batch_s(asked: float | None, codecs: Mapping[str, Codec], device: str) -> float:
    """Return the seconds of audio that go through a network together; 0 for one utterance at a time.

    Parameters
    ----------
    asked : float or None
        ``--batch-seconds``; None chooses: one at a time on a CPU, where batches do not pay and codes would change at
        near ties.
    codecs : mapping of str to Codec
    device : str
        Such as "cuda:0".
    """
    if not any(isinstance(codec, BatchCodec) for codec in codecs.values()):
        return 0.0
    default = 0.0 if device == "cpu" else BATCH_S
    return default if asked is None else asked


def windows(
    prepared: Iterable[tuple[int, PreparedUtterance]], shard_of: Sequence[int], batch_s: float
) -> Iterator[Window]:
    """Yield what is encoded together.

    Parameters
    ----------
    prepared : iterable of (place, PreparedUtterance)
        In any order; what comes early is held.
    shard_of : sequence of int
        By place: no window reaches into two shards, since a build may find one of them finished.
    batch_s : float
        Seconds of audio in a batch; 0 for utterances one at a time, as they come.
    """
    if not batch_s:
        yield from ([item] for item in prepared)
        return
    window: Window = []
    held_s = 0.0
    for place, item in _in_order(prepared):
        window.append((place, item))
        held_s += item.duration_s
        is_last = place + 1 == len(shard_of) or shard_of[place + 1] != shard_of[place]
        if is_last or held_s >= _BATCHES_IN_A_WINDOW * batch_s:
            yield window
            window, held_s = [], 0.0


def _in_order(prepared: Iterable[tuple[int, PreparedUtterance]]) -> Iterator[tuple[int, PreparedUtterance]]:
    early: dict[int, PreparedUtterance] = {}
    following = 0
    for place, item in prepared:
        early[place] = item
        while following in early:
            yield following, early.pop(following)
            following += 1


def make_batches(lengths: Mapping[int, int], most: int, mixes_lengths: bool) -> Iterator[list[int]]:
    """Yield batches of places, by length and then by place.

    Parameters
    ----------
    lengths : mapping of int to int
        Samples by place.
    most : int
        Samples in a batch, all padded to the longest; a longer utterance goes alone.
    mixes_lengths : bool
        Whether lengths may differ within a batch.
    """
    batch: list[int] = []
    for place in sorted(lengths, key=lambda place: (lengths[place], place)):
        is_full = lengths[place] * (len(batch) + 1) > most
        if batch and (is_full or not (mixes_lengths or lengths[place] == lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
