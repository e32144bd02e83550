"""Generated dialogues that a tokenizer may stumble over, and their text as the published code writes it.

Knows words of many scripts, what looks like a marker and is none, and the published form of a prompt. Needs the
standard library alone: ``record`` runs in an environment of its own.
"""

# ruff: noqa: RUF001  # characters that look alike are the point

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

COUNT, SEED = 3000, 20261129
ADDED = ("[SEG]", "[BBOXINPUT]", "[CROPPEDIMAGE]")
"""In the order in which training added them."""
IMAGE = "<image>"
SPECIAL = ("<unk>", "<s>", "</s>", IMAGE, *ADDED)
"""What the published code reads as one token wherever it stands. No generated question or answer holds one."""

_SCRIPTS = """
segment the left thalamus of it and what lies beside or below liver kidney tumor lesion ventricle
Please SEGMENT Hippocampus L4/L5 3.5mm 12x7 T2-weighted FLAIR don't it's (see above) e.g. i.e. no. 1,5
größte Läsion über Nervus façade naïve œdème señal coração żołądek şekil đầu gối ǅ ﬁbrosis ſ ß İ ı
печень левая опухоль нирка ўсё ήπαρ αριστερό νεφρός ἀήρ
الكبد الأيسر كُلْيَة לב כָּבֵד जिगर बायाँ गुर्दा ตับ ข้างซ้าย கல்லீரல் যকৃৎ ღვიძლი լյարդ ጉበት
肝臓 左の腎臓 腫瘍を分割 肝脏 左肾 請分割 간 왼쪽 신장 ㈠ Ａ１ ﾊﾞ 𠮷
😀 👩‍⚕️ 👨‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽 🫀 🧠 ☢ ☠️ 𝔘 𝟛 ∑ ≤ → ½ ² µ Å Ω ℞ ‰ € ¿ « » “ ” ‘ … — – ‑
"""
_CODE_POINTS = (
    "cafe\u0301 a\u0308\u0323 \u1e9b\u0323 q\u0307\u0323 \u0915\u094d\u0937 z\u0334\u0335\u0336a zero\u200bwidth "
    "\u200d \u200c \ufeff soft\u00adhyphen \u2060 \u202ertl\u202c \u200f \u2581 a\u2581b \u2581\u2581 \ue000 "
    "\U000f0000 \ufffd \ufffc \x7f \u0085x \x1b[0m"
)
"""Marks that combine, have no width, turn the direction, control; sentencepiece's own sign for a space."""
_LOOKALIKES = r"""
[SEG  SEG]  [SEG ]  [ SEG]  [seg]  [Seg]  [S EG]  [SEG)  (SEG)  [[SEG ]]  [SEG.]  ［SEG］  [ЅEG]  【SEG】
\[SEG\]  &#91;SEG&#93;  [SEGMENT]  [BBOX]  [BBOXINPUT  [BOX]  [CROPPED IMAGE]  [CROPPEDIMAGE  [croppedimage]
[CroppedImage]  < image >  <image  image>  <IMAGE>  <Image>  ＜image＞  <image/>  <im age>  <img>  < s>  <s  </ s>
</s  <S>  <\s>  ‹s›  <unk  <pad>  <|im_end|>  <0x41>  <0x0A>  <0xE2>  [INST]  [/INST]  [INST ]
<<SYS>>  [TOOL_CALLS]
"""
WORDS = (*_SCRIPTS.split(), *_CODE_POINTS.split(" "))
LOOKALIKES = ("[SEG\u200b]", *_LOOKALIKES.strip().replace("\n", "  ").split("  "))
_RARE_GAPS = ("  ", "   ", " " * 7, "\t", " \t ", "\n", "\n\n", " \n ", "\r\n", "\u00a0", "\u3000", "\u2009")
GAPS = (*[" "] * 24, "", "", *_RARE_GAPS)
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "[SEG].",
    "The segmentation output is [SEG].",
    "[SEG]",
    " [SEG] ",
    "Das ist[SEG]!",
)


@dataclass(frozen=True, slots=True)
class Round:
    question: str
    """Without spaces at its ends, as serving strips them."""
    refers: bool
    """To round 0's mask."""
    answer: str
    """``[SEG]`` in it once."""


def dialogues(count: int = COUNT, seed: int = SEED) -> Iterator[tuple[Round, ...]]:
    """One to four rounds each."""
    draw = random.Random(seed)  # noqa: S311  # a made-up dialogue is no secret
    for _ in range(count):
        length = draw.choice((1, 1, 1, 2, 2, 3, 4))
        yield tuple(_round(draw, first=index == 0) for index in range(length))


def text(rounds: tuple[Round, ...]) -> str:
    """The dialogue as the published code writes it."""
    turns = []
    for index, each in enumerate(rounds):
        lead = f"{IMAGE}\n " if index == 0 else "[CROPPEDIMAGE][BBOXINPUT] " if each.refers else ""
        turns.append(f"[INST] {lead}{each.question} [/INST] {each.answer} </s>")
    return "".join(turns)


def digest(all_dialogues: list[tuple[Round, ...]]) -> str:
    """Of their words, so that ids are never compared with those of others."""
    words = json.dumps([[asdict(each) for each in rounds] for rounds in all_dialogues])
    return hashlib.sha256(words.encode()).hexdigest()


def _round(draw: random.Random, *, first: bool) -> Round:
    return Round(_words(draw, 1, 9), not first and draw.random() < 0.7, _answer(draw))


def _answer(draw: random.Random) -> str:
    if draw.random() < 0.6:
        return draw.choice(ANSWERS)
    return f"{_words(draw, 0, 4)}{draw.choice(GAPS)}[SEG]{draw.choice(GAPS)}{_words(draw, 0, 3)}"


def _words(draw: random.Random, least: int, most: int) -> str:
    """Stripped, not empty where ``least`` is above 0, and without what the published code reads as one token."""
    while True:
        words = ""
        for _ in range(draw.randrange(least, most)):
            words += _word(draw) + draw.choice(GAPS)
        words = words.strip()
        if (words or not least) and not any(marker in words for marker in SPECIAL):
            return words


def _word(draw: random.Random) -> str:
    chance = draw.random()
    if chance < 0.15:
        return draw.choice(LOOKALIKES)
    if chance < 0.2:
        return _character(draw) + _character(draw)
    return draw.choice(WORDS)


def _character(draw: random.Random) -> str:
    """Any that is no surrogate."""
    return chr(draw.choice((draw.randrange(1, 0xD800), draw.randrange(0xE000, 0x110000))))
