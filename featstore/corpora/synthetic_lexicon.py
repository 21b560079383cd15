"""What the synthetic speakers say: a small lexicon with stress marks and a one-clause grammar.

The pronunciations are ordinary General American ones, written as the Montreal Forced Aligner writes them: 39 ARPABET
phones, every vowel with a stress mark (0 none, 1 primary, 2 secondary). Folding the marks away leaves the 39 phones,
all of which occur in the content words.
"""

from collections.abc import Callable

import numpy as np


def _parse(table: str) -> dict[str, tuple[str, ...]]:
    lines = (line.split(":") for line in table.splitlines() if line.strip())
    return {word.strip(): tuple(phones.split()) for word, phones in lines}


DETERMINERS = _parse(
    """
    the: DH AH0
    a: AH0
    this: DH IH1 S
    that: DH AE1 T
    my: M AY1
    her: HH ER1
    """
)
ADJECTIVES = _parse(
    """
    young: Y AH1 NG
    quiet: K W AY1 AH0 T
    yellow: Y EH1 L OW0
    heavy: HH EH1 V IY0
    strange: S T R EY1 N JH
    narrow: N EH1 R OW0
    bright: B R AY1 T
    wooden: W UH1 D AH0 N
    fresh: F R EH1 SH
    rough: R AH1 F
    azure: AE1 ZH ER0
    loud: L AW1 D
    good: G UH1 D
    """
)
NOUNS = _parse(
    """
    boy: B OY1
    river: R IH1 V ER0
    garden: G AA1 R D AH0 N
    teacher: T IY1 CH ER0
    window: W IH1 N D OW0
    engine: EH1 N JH AH0 N
    judge: JH AH1 JH
    treasure: T R EH1 ZH ER0
    village: V IH1 L AH0 JH
    thunder: TH AH1 N D ER0
    kitchen: K IH1 CH AH0 N
    voyage: V OY1 IH0 JH
    measure: M EH1 ZH ER0
    youth: Y UW1 TH
    author: AO1 TH ER0
    father: F AA1 DH ER0
    chicken: CH IH1 K AH0 N
    house: HH AW1 S
    bridge: B R IH1 JH
    song: S AO1 NG
    ship: SH IH1 P
    book: B UH1 K
    moon: M UW1 N
    sunrise: S AH1 N R AY2 Z
    railroad: R EY1 L R OW2 D
    rainbow: R EY1 N B OW2
    """
)
VERBS = _parse(
    """
    pushed: P UH1 SH T
    watched: W AA1 CH T
    judged: JH AH1 JH D
    chose: CH OW1 Z
    joined: JH OY1 N D
    found: F AW1 N D
    brings: B R IH1 NG Z
    saw: S AO1
    gave: G EY1 V
    keeps: K IY1 P S
    took: T UH1 K
    used: Y UW1 Z D
    """
)
ADVERBS = _parse(
    """
    slowly: S L OW1 L IY0
    again: AH0 G EH1 N
    together: T AH0 G EH1 DH ER0
    outside: AW1 T S AY2 D
    soon: S UW1 N
    both: B OW1 TH
    """
)
CONJUNCTIONS = _parse(
    """
    and: AE1 N D
    while: W AY1 L
    because: B IH0 K AO1 Z
    but: B AH1 T
    """
)

LEXICON: dict[str, tuple[str, ...]] = DETERMINERS | ADJECTIVES | NOUNS | VERBS | ADVERBS | CONJUNCTIONS
"""Every word's phones, stress-marked."""

CONTENT_WORDS = frozenset(ADJECTIVES | NOUNS | VERBS | ADVERBS)
"""The words whose primary stress carries a pitch accent."""

UTTERANCES_PER_CYCLE = 13
"""After this many utterances a speaker has said every adjective (13), noun (26) and verb (12), and so all 39 phones."""

_P_CONJUNCTION = 0.3
_P_ADVERB = 0.6


def choose_words(rng: np.random.Generator, shuffle_rng: Callable[[int], np.random.Generator], index: int) -> list[str]:
    """Choose the words of one utterance: [conjunction] det adj noun verb det adj noun [adverb].

    Content words are dealt like cards, from a shuffled list that is shuffled again when used up, so that few utterances
    cover all phones; the other words are drawn independently.

    Parameters
    ----------
    rng : numpy.random.Generator
        The utterance's own stream.
    shuffle_rng : callable
        Gives the stream that shuffles the speaker's word lists in a given round (0, 1, ...).
    index : int
        The utterance's index, from 0, among its speaker's.

    Returns
    -------
    list of str
        Lower-case words, all in ``LEXICON``.
    """
    adjectives = [_deal(ADJECTIVES, 2 * index + slot, shuffle_rng) for slot in (0, 1)]
    nouns = [_deal(NOUNS, 2 * index + slot, shuffle_rng) for slot in (0, 1)]
    verb = _deal(VERBS, index, shuffle_rng)
    words = [_pick(CONJUNCTIONS, rng)] if rng.random() < _P_CONJUNCTION else []
    words += [_pick(DETERMINERS, rng), adjectives[0], nouns[0], verb]
    words += [_pick(DETERMINERS, rng), adjectives[1], nouns[1]]
    if rng.random() < _P_ADVERB:
        words.append(_pick(ADVERBS, rng))
    return words


def fold_stress(label: str) -> str:
    """Return an ARPABET label without its stress mark: ``AY1`` gives ``AY``, ``K`` gives ``K``."""
    return label.rstrip("012")


def stress_of(label: str) -> int | None:
    """Return the stress mark of a vowel label (0, 1, 2), None for a consonant."""
    return int(label[-1]) if label[-1:] in ("0", "1", "2") else None


def _pick(words: dict[str, tuple[str, ...]], rng: np.random.Generator) -> str:
    return list(words)[int(rng.integers(len(words)))]


def _deal(words: dict[str, tuple[str, ...]], position: int, shuffle_rng: Callable[[int], np.random.Generator]) -> str:
    round_index, place = divmod(position, len(words))
    return list(words)[int(shuffle_rng(round_index).permutation(len(words))[place])]
