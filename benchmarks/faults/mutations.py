"""Seeded damage: to bytes as disks, transfers and attackers do it, and to JSON as editors and attackers do it."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_HEAD_BYTES = 128  # where formats keep sizes and counts: half of all damage goes there
_HUGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_ODD_TEXTS = (
    "",
    "\0",
    "../../x",
    "/etc/passwd",
    "a" * 10_000,
    "\u202eabc",
    "line\nbreak\r\n",
    "\x1b[31m",
    "$\\frac{1}{0}$",
    "|`<b>",
    "\ud800",
    "\ufeff",
    "9" * 400,
    "NaN",
)
_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**9,
    10**15,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    *_ODD_TEXTS,
)
Rng = np.random.Generator


def mutate_bytes(content: bytes, rng: Rng) -> bytes:
    """Return `content` damaged in one to three ways, drawn by `rng`."""
    for _ in range(int(rng.integers(1, 4))):
        damage = _BYTE_DAMAGES[int(rng.integers(len(_BYTE_DAMAGES)))]
        content = damage(content, rng) if content else rng.bytes(int(rng.integers(64)))
    return content


def mutate_text(content: bytes, rng: Rng) -> bytes:
    """Return a text damaged word by word, or as any bytes: numbers made huge, odd texts, lines lost or doubled."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    lines = content.decode("utf-8", "replace").split("\n")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        words = lines[at].split(" ")
        odd = (
            str(_pick(_HUGE, rng)),
            str(_pick(_ODD_TEXTS, rng)),
            f'"{_pick(_ODD_TEXTS, rng)}"',
            "nan",
            "-1e400",
            "[" * 50,
        )
        words[int(rng.integers(len(words)))] = _pick(odd, rng)
        changed = [[" ".join(words)], [], [lines[at]] * int(rng.integers(2, 50)), ["[" * 100_000]]
        lines[at : at + 1] = changed[int(rng.choice(4, p=(0.7, 0.15, 0.12, 0.03)))]
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mutate_json(content: bytes, rng: Rng) -> bytes:
    """Return a JSON object with a value deleted, replaced, doubled or nested, or damaged as any text."""
    if rng.random() < 0.3:
        return mutate_text(content, rng)
    value = json.loads(content)
    for _ in range(int(rng.integers(1, 3))):
        name = _pick(tuple(value), rng) if value else "x"
        kind = int(rng.integers(6))
        if kind == 0:
            value.pop(name, None)
        elif kind == 1:
            value[str(_pick(_ODD_TEXTS, rng))] = _pick(_ODD_VALUES, rng)
        elif kind == 2 and isinstance(value.get(name), list) and value[name]:
            value[name][int(rng.integers(len(value[name])))] = _pick(_ODD_VALUES, rng)
        elif kind == 3 and type(value.get(name)) is int:
            value[name] *= int(rng.integers(2, 2000))
        else:
            value[name] = _pick(_ODD_VALUES, rng)
    text = json.dumps(value)
    wrapped = (text, "[" * 100_000 + text, f"[{text}]", text[:-1] + ', "seed": 1, "seed": 2}', text + text)
    return wrapped[int(rng.choice(5, p=(0.88, 0.03, 0.03, 0.03, 0.03)))].encode("utf-8", "surrogatepass")


def _pick(choices: tuple[Any, ...], rng: Rng) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _place(content: bytes, rng: Rng) -> int:
    n_bytes = len(content)
    return int(rng.integers(min(_HEAD_BYTES, n_bytes) if rng.random() < 0.5 else n_bytes))


def _span(content: bytes, rng: Rng) -> tuple[int, int]:
    """Return the ends of a stretch: short ones are as likely as long ones."""
    first = _place(content, rng)
    length = int(2 ** rng.uniform(0, np.log2(len(content) + 1)))
    return first, min(first + length, len(content))


def _flip_bits(content: bytes, rng: Rng) -> bytes:
    damaged = bytearray(content)
    for _ in range(int(2 ** rng.uniform(0, 6))):
        damaged[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _truncate(content: bytes, rng: Rng) -> bytes:
    return content[: _place(content, rng)]


def _splice(content: bytes, rng: Rng) -> bytes:
    (first, last), at = _span(content, rng), _place(content, rng)
    return content[:at] + content[first:last] + content[at + last - first :]


def _repeat(content: bytes, rng: Rng) -> bytes:
    first, last = _span(content, rng)
    return content[:last] + content[first:last] * int(rng.integers(1, 4)) + content[last:]


def _cut_out(content: bytes, rng: Rng) -> bytes:
    first, last = _span(content, rng)
    return content[:first] + content[last:]


def _write_huge(content: bytes, rng: Rng) -> bytes:
    """Write a number over what stands there, as wide as formats have them, in either order of bytes."""
    code = ("B", "H", "I", "Q")[int(rng.integers(4))]
    bits = 8 * struct.calcsize(code)
    number = struct.pack(("<" if rng.random() < 0.5 else ">") + code, int(_pick(_HUGE, rng)) % 2**bits)
    at = _place(content, rng)
    return content[:at] + number + content[at + len(number) :]


def _zero(content: bytes, rng: Rng) -> bytes:
    first, last = _span(content, rng)
    return content[:first] + bytes(last - first) + content[last:]


def _scramble(content: bytes, rng: Rng) -> bytes:
    first, last = _span(content, rng)
    return content[:first] + rng.bytes(last - first) + content[last:]


def _swap(content: bytes, rng: Rng) -> bytes:
    first, middle, last = sorted(_place(content, rng) for _ in range(3))
    return content[:first] + content[middle:last] + content[first:middle] + content[last:]


_BYTE_DAMAGES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    _flip_bits,
    _truncate,
    _splice,
    _repeat,
    _cut_out,
    _write_huge,
    _write_huge,
    _zero,
    _scramble,
    _swap,
)
