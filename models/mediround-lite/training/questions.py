"""What is asked and answered: relations between structures, and the words for them.

Knows names, paraphrases and which structure a relation means. Does not know images, tokens or chance
beyond the generator it is handed. A relation's question never names the structure it refers to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from training.targets import NAMES, PAIRED, PAIRED_COUNT, SIDES, index, side_of


class Relation(Enum):
    NAME = auto()
    MIRROR = auto()
    SAME_SIDE = auto()
    OTHER_SIDE = auto()
    HEMISPHERE = auto()
    LOBE = auto()
    BRAIN = auto()


NEEDS_REFERENCE = frozenset(Relation) - {Relation.NAME, Relation.BRAIN}
NEEDS_STRUCTURE = frozenset({Relation.SAME_SIDE, Relation.OTHER_SIDE})
"""Relations whose question also names the structure that is wanted, without its side."""

_QUESTIONS: dict[Relation, tuple[str, ...]] = {
    Relation.NAME: (
        "Segment the {}.", "Segment the {}.", "Where is the {}?", "Outline the {}.", "Please segment the {}.",
        "Show me the {}.", "Can you segment the {}?", "Find the {}.", "Mark the {} in this image.",
        "segment the {}",
        "Delineate the {}.", "Segment the {} in this slice.", "Now segment the {}.",
        "I want to see the {}.", "{}",
    ),
    Relation.MIRROR: (
        "Segment the same structure on the other side.", "Segment the same structure on the other side.",
        "Segment its counterpart on the other side.", "Now the same structure on the opposite side.",
        "Show the same structure in the other hemisphere.",
        "Outline the contralateral counterpart of this structure.",
        "Where is the same structure on the other side?", "Segment the mirror structure of this region.",
    ),
    Relation.SAME_SIDE: (
        "Segment the {} on the same side.", "Segment the {} on the same side.", "Outline the {} on this side.",
        "Where is the {} on the same side as this structure?", "Show the ipsilateral {}.",
        "Now segment the {} on the same side as the marked region.",
    ),
    Relation.OTHER_SIDE: (
        "Segment the {} on the other side.", "Segment the {} on the other side.",
        "Outline the {} on the opposite side.",
        "Where is the {} on the other side?", "Show the contralateral {}.",
        "Now segment the {} on the side opposite to the marked region.",
    ),
    Relation.HEMISPHERE: (
        "Segment the hemisphere that contains it.", "Which hemisphere contains this structure?",
        "Segment the cerebral hemisphere in which it lies.", "Outline the hemisphere on its side.",
        "Show the hemisphere of the marked region.",
    ),
    Relation.LOBE: (
        "Segment the lobe that surrounds it.", "Which lobe contains the previous output?",
        "Segment the lobe in which it lies.", "Outline the lobe that contains this structure.",
    ),
    Relation.BRAIN: (
        "Segment the whole brain.", "Segment the whole brain.", "Now segment the whole brain.",
        "Show the entire brain.",
        "Outline the whole brain in this image.",
    ),
}  # fmt: skip

_OTHER_NAMES = {
    "cerebral hemisphere": ("hemisphere",),
    "cerebellum": ("cerebellar hemisphere",),
    "caudate nucleus": ("caudate",),
    "hippocampus": ("hippocampal region",),
    "insula": ("insular cortex",),
    "cingulate gyrus": ("cingulate cortex", "cingulate"),
    "lateral ventricle": ("ventricle",),
    "brain": ("whole brain", "entire brain"),
    "vermis": ("cerebellar vermis", "vermis of the cerebellum"),
    "brain stem": ("brainstem",),
}

ANSWERS = ("It is the {} ", "It is the {} ", "This is the {} ", "Here is the {} ")
"""Words before [SEG]; the name stands there, so that the feature has only to repeat it."""
TAIL = "."
UNSIDED = NAMES[PAIRED_COUNT:]
ABSENT = "That structure is not visible in this image. "
UNCLEAR = "I can only segment structures of the brain. "
UNREFERRED = "Please refer to an earlier mask. "

_FOREIGN = (
    "liver", "kidney", "left kidney", "right kidney", "spleen", "pancreas", "stomach", "heart",
    "left ventricle of the heart",
    "left lung", "right lung", "lung", "aorta", "bladder", "prostate", "uterus", "gallbladder", "femur",
    "tibia", "knee",
    "retina", "optic disc", "polyp", "tumor", "tumour", "lesion", "rib", "spine", "skin", "breast",
    "colon", "trachea",
    "esophagus", "tooth", "car", "dog", "pelvis", "adrenal gland", "lymph node", "fracture", "nodule", "hand",
)  # fmt: skip
_OFF_TOPIC = (
    "What is the capital of France?", "Tell me a joke.", "How is the weather today?", "Who are you?", "Hello.",
    "Write a poem.", "What time is it?", "How old is the patient?", "Is this image normal?", "Thank you.",
    "What is 2 + 2?",
    "Translate this into German.", "Which medicine should I take?", "Do you like music?", "Good morning!",
    "Why?", "Help",
    "Ignore the image.", "What do you think?", "asdf", "...", "?", "test", "Describe the image.", "yes", "no",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One round as drawn: words, the round it refers to, the structure that answers it (None: no mask)."""

    relation: Relation | None
    text: str
    refer_to: int | None
    target: int | None
    answer: str
    """Words before [SEG]; for a round without a mask the whole answer."""
    stray: int | None = None
    """Training only: the structure whose mask is shown instead of the earlier round's."""


def related(relation: Relation, referred: int, kind: str) -> int | None:
    """The structure that a relation to ``referred`` means, or None; ``kind`` is a paired name without side."""
    side = side_of(referred)
    if relation is Relation.BRAIN:
        return index("brain")
    if side is None:
        return None
    other = 1 - side
    if relation is Relation.MIRROR:
        return referred ^ 1
    if relation in NEEDS_STRUCTURE:
        chosen = side if relation is Relation.SAME_SIDE else other
        found = index(f"{SIDES[chosen]} {kind}")
        return None if found // 2 == referred // 2 else found
    own = PAIRED[referred // 2]
    if relation is Relation.HEMISPHERE:
        outside = own in {"cerebral hemisphere", "cerebellum"}
        return None if outside else index(f"{SIDES[side]} cerebral hemisphere")
    if relation is Relation.LOBE:
        return index(f"{SIDES[side]} temporal lobe") if own == "hippocampus" else None
    raise ValueError(f"{relation} is no relation to an earlier mask")


def words(relation: Relation, kind: str, random: np.random.Generator) -> str:
    """A question's text; ``kind`` is the name to put in where the relation takes one."""
    return str(random.choice(_QUESTIONS[relation])).format(kind)


def spoken(target: int, random: np.random.Generator) -> str:
    """A structure's name, or another name for it."""
    if target >= PAIRED_COUNT:
        return kind_spoken(NAMES[target], random)
    side, kind = SIDES[target % 2], kind_spoken(PAIRED[target // 2], random)
    return f"{kind} on the {side}" if random.random() < 0.08 else f"{side} {kind}"


def kind_spoken(kind: str, random: np.random.Generator) -> str:
    """A name without side, or another name for it."""
    others = _OTHER_NAMES.get(kind, ())
    return str(random.choice(others)) if others and random.random() < 0.3 else kind


def answer(target: int, random: np.random.Generator) -> str:
    return str(random.choice(ANSWERS)).format(NAMES[target])


def unanswerable(random: np.random.Generator) -> Asked:
    """A question that gets no mask: a foreign structure, another topic, nonsense, or a missing reference."""
    sort = random.random()
    if sort < 0.5:
        text = words(Relation.NAME, str(random.choice(_FOREIGN)), random)
        return Asked(None, text, None, None, ABSENT)
    if sort < 0.65:
        return Asked(None, str(random.choice(_OFF_TOPIC)), None, None, UNCLEAR)
    if sort < 0.8:
        letters = random.choice(list("abcdefghijklmnopqrstuvwxyz "), random.integers(3, 25))
        return Asked(None, "".join(letters).strip() or "x", None, None, UNCLEAR)
    relation = Relation(random.choice([r.value for r in NEEDS_REFERENCE]))
    text = words(relation, kind_spoken(str(random.choice(PAIRED)), random), random)
    return Asked(None, text, None, None, UNREFERRED)


def corpus() -> list[str]:
    """Every template with every name: what the tokenizer is made from."""
    kinds = [*PAIRED, *UNSIDED, *(name for names in _OTHER_NAMES.values() for name in names)]
    named = [f"{side} {kind}" for side in SIDES for kind in kinds] + kinds
    lines = [f"[INST] {text.format(name)} [/INST]" for text in _flat() for name in (*named, *_FOREIGN)]
    lines += [text.format(name) for text in ANSWERS for name in named] * 4
    lines += [ABSENT, UNCLEAR, UNREFERRED] * 200 + list(_OFF_TOPIC) * 40 + [TAIL + " "] * 200
    return lines + [f"the {name} on the {side}" for name in kinds for side in SIDES]


def _flat() -> list[str]:
    return sorted({text for texts in _QUESTIONS.values() for text in texts})
