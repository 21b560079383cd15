"""How the 39 ARPABET phones sound: formant targets, source levels and durations of an average adult man.

Sources
-------
- Monophthongs: mean formants of 33 men in Peterson & Barney (1952), Control methods used in a study of the vowels,
  J. Acoust. Soc. Am. 24, 175-184, doi:10.1121/1.1906875.
- Diphthongs and consonants: of our own choosing, near the targets of Klatt (1980), Software for a cascade/parallel
  formant synthesizer, J. Acoust. Soc. Am. 67, 971-995, doi:10.1121/1.383940, with one noise band in place of his
  parallel branch.
- Durations: round values for connected speech, shortened where unstressed, an effect described by Klatt (1976),
  Linguistic uses of segmental duration in English, J. Acoust. Soc. Am. 59, 1208-1221, doi:10.1121/1.380986.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["vowel", "sonorant", "fricative", "stop", "affricate"]
Formants = tuple[float, float, float]


@dataclass(frozen=True)
class Phone:
    """Targets of one phone.

    Attributes
    ----------
    kind : str
        Manner of articulation; decides how the levels run within the phone.
    duration_ms : float
        Typical duration before speaker rate, stress and chance.
    formants_hz : tuple of 3 floats or None
        F1 to F3 at the phone's start. None (HH) takes the neighbours' formants.
    glide_hz : tuple of 3 floats or None
        F1 to F3 at the end of a diphthong.
    voicing_db : float or None
        Level of the voice source relative to a stressed vowel's; None is voiceless.
    frication_db : float or None
        Level of frication or burst noise relative to the vowels' mean level.
    frication_hz : (centre, bandwidth)
        The noise band.
    aspiration_db : float or None
        Level of noise that passes the vocal tract, relative to the voice source.
    nasal_zero_hz : float or None
        Frequency that the closed mouth cavity takes out of a nasal.
    """

    kind: Kind
    duration_ms: float
    formants_hz: Formants | None
    glide_hz: Formants | None = None
    voicing_db: float | None = None
    frication_db: float | None = None
    frication_hz: tuple[float, float] | None = None
    aspiration_db: float | None = None
    nasal_zero_hz: float | None = None


_MONOPHTHONGS: dict[str, Formants] = {
    "IY": (270, 2290, 3010),
    "IH": (390, 1990, 2550),
    "EH": (530, 1840, 2480),
    "AE": (660, 1720, 2410),
    "AH": (640, 1190, 2390),
    "AA": (730, 1090, 2440),
    "AO": (570, 840, 2410),
    "UH": (440, 1020, 2240),
    "UW": (300, 870, 2240),
    "ER": (490, 1350, 1690),
}

_DIPHTHONGS: dict[str, tuple[Formants, Formants]] = {
    "EY": ((480, 1820, 2520), (330, 2150, 2700)),
    "AY": ((680, 1180, 2500), (400, 1920, 2550)),
    "OY": ((550, 900, 2400), (380, 1860, 2470)),
    "AW": ((690, 1240, 2500), (430, 960, 2320)),
    "OW": ((540, 1000, 2320), (430, 870, 2260)),
}

# label: F1-F3, voicing dB, nasal zero Hz
_SONORANTS: dict[str, tuple[Formants, float, float | None]] = {
    "M": ((280, 1050, 2200), -7, 800),
    "N": ((280, 1500, 2500), -7, 1700),
    "NG": ((280, 2000, 2700), -8, 3000),
    "L": ((340, 1050, 2880), -5, None),
    "R": ((320, 1120, 1420), -4, None),
    "W": ((290, 620, 2180), -6, None),
    "Y": ((265, 2200, 3020), -6, None),
}

# label: F1-F3, voicing dB, frication dB, (centre, bandwidth) Hz
_FRICATIVES: dict[str, tuple[Formants, float | None, float, tuple[float, float]]] = {
    "F": ((320, 950, 2150), None, -26, (4500, 6000)),
    "TH": ((320, 1350, 2520), None, -28, (5800, 4500)),
    "S": ((320, 1600, 2560), None, -13, (6200, 1600)),
    "SH": ((300, 1870, 2600), None, -11, (3300, 1500)),
    "V": ((260, 950, 2150), -11, -32, (4500, 6000)),
    "DH": ((270, 1350, 2520), -11, -34, (5800, 4500)),
    "Z": ((260, 1600, 2560), -12, -18, (6200, 1600)),
    "ZH": ((260, 1870, 2600), -12, -17, (3300, 1500)),
}

_ClosureTable = dict[str, tuple[Formants, float | None, float, tuple[float, float], float | None]]

# label: F1-F3, voicing dB, burst or frication dB, (centre, bandwidth) Hz, aspiration dB
_STOPS: _ClosureTable = {
    "P": ((330, 900, 2150), None, -16, (900, 1500), -22),
    "T": ((330, 1700, 2620), None, -12, (4600, 2500), -22),
    "K": ((310, 1950, 2450), None, -13, (2000, 1000), -22),
    "B": ((250, 900, 2150), -20, -22, (800, 1500), None),
    "D": ((250, 1700, 2620), -20, -19, (4300, 2500), None),
    "G": ((250, 1950, 2450), -20, -19, (1900, 1000), None),
}
_AFFRICATES: _ClosureTable = {
    "CH": ((310, 1840, 2700), None, -12, (3500, 1600), None),
    "JH": ((260, 1840, 2700), -18, -17, (3500, 1600), None),
}

_SHORT_CONSONANTS = frozenset({"V", "DH", "B", "D", "G"})


def _build() -> dict[str, Phone]:
    phones = {label: Phone("vowel", 100, formants, voicing_db=0) for label, formants in _MONOPHTHONGS.items()}
    for label, (start, end) in _DIPHTHONGS.items():
        phones[label] = Phone("vowel", 150, start, glide_hz=end, voicing_db=0)
    for label, (formants, voicing, zero) in _SONORANTS.items():
        phones[label] = Phone("sonorant", 70, formants, voicing_db=voicing, nasal_zero_hz=zero)
    for label, (formants, voiced, noise, band) in _FRICATIVES.items():
        phones[label] = Phone(
            "fricative", _consonant_ms(label), formants, voicing_db=voiced, frication_db=noise, frication_hz=band
        )
    tables: tuple[tuple[Kind, _ClosureTable], ...] = (("stop", _STOPS), ("affricate", _AFFRICATES))
    for kind, table in tables:
        for label, (formants, voiced, noise, band, aspiration) in table.items():
            phones[label] = Phone(
                kind, _consonant_ms(label), formants, None, voiced, noise, band, aspiration_db=aspiration
            )
    phones["HH"] = Phone("fricative", 60, None, aspiration_db=-16)
    return phones


def _consonant_ms(label: str) -> float:
    return 65 if label in _SHORT_CONSONANTS else 90


PHONES: dict[str, Phone] = _build()
"""The 39 phones by label without stress mark."""

STRESS_DURATION = {0: 0.75, 1: 1.1, 2: 1.0}
"""Factor on a vowel's duration by its stress mark."""

STRESS_LEVEL_DB = {0: -3.0, 1: 0.0, 2: -1.0}
"""Change of a vowel's voicing level by its stress mark."""

NEUTRAL_HZ: Formants = (500, 1500, 2500)
"""Formants of the neutral tube, towards which unstressed vowels are reduced."""

UNSTRESSED_REDUCTION = 0.2
"""How far (0 to 1) an unstressed vowel's targets lie on the way to the neutral tube."""
