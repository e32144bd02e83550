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
        "Give me a mask of the {}.", "Highlight the {}.", "Locate the {}.", "Draw the outline of the {}.",
        "Could you mark the {}?", "I need the {}.", "The {}, please.", "Which part is the {}?",
        "Identify the {} in the scan.", "Next, the {}.",
    ),
    Relation.MIRROR: (
        "Segment the same structure on the other side.", "Segment the same structure on the other side.",
        "Segment its counterpart on the other side.", "Now the same structure on the opposite side.",
        "Show the same structure in the other hemisphere.",
        "Outline the contralateral counterpart of this structure.",
        "Where is the same structure on the other side?", "Segment the mirror structure of this region.",
        "Same on the other side.", "Now do the other side.", "And its partner on the opposite side?",
        "Mark the corresponding region on the other side.",
    ),
    Relation.SAME_SIDE: (
        "Segment the {} on the same side.", "Segment the {} on the same side.", "Outline the {} on this side.",
        "Where is the {} on the same side as this structure?", "Show the ipsilateral {}.",
        "Now segment the {} on the same side as the marked region.",
        "Mark the {} of the same side.", "And the {} on that side?", "Find the {} that lies on the same side.",
    ),
    Relation.OTHER_SIDE: (
        "Segment the {} on the other side.", "Segment the {} on the other side.",
        "Outline the {} on the opposite side.",
        "Where is the {} on the other side?", "Show the contralateral {}.",
        "Now segment the {} on the side opposite to the marked region.",
        "Mark the {} of the other side.", "And the {} on the opposite side?",
        "Find the {} that lies on the other side.",
    ),
    Relation.HEMISPHERE: (
        "Segment the hemisphere that contains it.", "Which hemisphere contains this structure?",
        "Segment the cerebral hemisphere in which it lies.", "Outline the hemisphere on its side.",
        "Show the hemisphere of the marked region.", "Mark the hemisphere around it.",
        "The hemisphere that it belongs to.",
    ),
    Relation.LOBE: (
        "Segment the lobe that surrounds it.", "Which lobe contains the previous output?",
        "Segment the lobe in which it lies.", "Outline the lobe that contains this structure.",
        "Mark the lobe around it.", "The lobe that it belongs to.",
    ),
    Relation.BRAIN: (
        "Segment the whole brain.", "Segment the whole brain.", "Now segment the whole brain.",
        "Show the entire brain.",
        "Outline the whole brain in this image.",
    ),
}  # fmt: skip

_HELD_OUT: dict[Relation, tuple[str, ...]] = {
    Relation.NAME: (
        "Please outline the {} for me.", "Trace the {}.", "Can you show where the {} is?", "Let me see the {}.",
    ),
    Relation.MIRROR: ("Please segment the same thing on the opposite side.", "Show its mirror image."),
    Relation.SAME_SIDE: ("Please outline the {} of this side.", "Trace the {} on the same side."),
    Relation.OTHER_SIDE: ("Please outline the {} of the opposite side.", "Trace the {} on the other side."),
    Relation.HEMISPHERE: ("Please mark the hemisphere containing it.",),
    Relation.LOBE: ("Please mark the lobe containing it.",),
    Relation.BRAIN: ("Please outline the entire brain.", "Mark all of the brain."),
}  # fmt: skip
"""Phrasings that training never meets: how the model takes to new ones."""
_OPENERS = (
    "Please ", "Now ", "OK, ", "Then ", "Could you ", "Next: ", "Thanks. ", "Kindly ", "Hi, please ",
    "For the report, ", "I would like you to ", "In this scan, ", "Good. Now ", "Can you ",
)  # fmt: skip
_CLOSERS = (
    " please", " for me", " now", " here", " in this image", " in the picture", " on this slice", " if you can",
    ", thanks", " next",
)  # fmt: skip

_VERBS = (
    "segment", "outline", "show", "mark", "find", "highlight", "delineate", "locate", "identify", "draw",
    "contour", "pick out", "point out", "display", "label", "extract", "circle", "give me", "show me", "annotate",
    "colour", "take", "where is", "what about", "I want", "I need", "we want to see", "let us look at",
)  # fmt: skip
_ACROSS = (
    "on the other side", "of the other side", "on the opposite side", "in the other hemisphere",
    "across the midline", "on the contralateral side", "on the far side",
)  # fmt: skip
_ALONG = (
    "on the same side", "of the same side", "on that side", "on this side", "on the ipsilateral side",
    "in the same hemisphere", "of that side", "on its side",
)  # fmt: skip
_AROUND = (
    "that contains it", "around it", "in which it lies", "that it belongs to", "it is part of",
    "that surrounds it", "of this structure", "it lies in", "with it inside",
)  # fmt: skip
_PARTNERS = (
    "the same structure", "the matching structure", "its counterpart", "its partner", "the same region",
    "the corresponding structure", "the same one", "its twin",
)  # fmt: skip
_COMPOSED: dict[Relation, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Relation.NAME: (("the {}",), ("", "", "in this slice", "in the scan")),
    Relation.MIRROR: (_PARTNERS, _ACROSS),
    Relation.SAME_SIDE: (("the {}",), _ALONG),
    Relation.OTHER_SIDE: (("the {}",), _ACROSS),
    Relation.HEMISPHERE: (("the hemisphere", "the cerebral hemisphere"), _AROUND),
    Relation.LOBE: (("the lobe",), _AROUND),
    Relation.BRAIN: (("the whole brain", "the entire brain", "the complete brain"), ("", "in this image")),
}
"""Objects and places of composed questions; the verb may be any, and so may be an invented word."""
_SYLLABLES = ("tra", "blo", "ske", "mi", "dor", "pla", "vu", "ren", "chi", "gal", "sto", "ne", "hap", "lir", "co")

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


class Phrasing(Enum):
    PLAIN = auto()
    DRESSED = auto()
    """As people type: something before or after it, small letters, no full stop."""
    HELD_OUT = auto()
    """In words that training never meets."""


def words(relation: Relation, kind: str, random: np.random.Generator, phrasing: Phrasing = Phrasing.PLAIN) -> str:
    """A question's text; ``kind`` is the name to put in where the relation takes one."""
    templates = _HELD_OUT if phrasing is Phrasing.HELD_OUT else _QUESTIONS
    text = str(random.choice(templates[relation])).format(kind)
    if phrasing is not Phrasing.DRESSED:
        return text
    if random.random() < 0.5:
        text = _composed(relation, random).format(kind)
    dressed = _dressed(text, random)
    held_out = {_bare(template.format(kind)) for template in _HELD_OUT[relation]}
    return text if _bare(dressed) in held_out else dressed


def _composed(relation: Relation, random: np.random.Generator) -> str:
    """A question of any verb, object and place; an invented verb teaches that the verb does not matter."""
    objects, places = _COMPOSED[relation]
    verb = str(random.choice(_VERBS))
    if random.random() < 0.35:
        verb = "".join(random.choice(_SYLLABLES, random.integers(2, 4)))
    parts = (verb, str(random.choice(objects)), str(random.choice(places)))
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + ("?" if verb.startswith("wh") else ".")


def _bare(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha())


def _dressed(text: str, random: np.random.Generator) -> str:
    if random.random() < 0.2:
        text = str(random.choice(_OPENERS)) + text[0].lower() + text[1:]
    if random.random() < 0.15:
        text = text.rstrip(".?") + str(random.choice(_CLOSERS)) + text[len(text.rstrip(".?")) :]
    if random.random() < 0.1:
        text = text.rstrip(".?")
    return text.lower() if random.random() < 0.1 else text


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


def unanswerable(random: np.random.Generator, phrasing: Phrasing) -> Asked:
    """A question that gets no mask on any slice: a foreign structure, another topic, nonsense, or a missing
    reference.
    """
    sort = random.random()
    if sort < 0.6:
        text = words(Relation.NAME, str(random.choice(_FOREIGN)), random, phrasing)
        return Asked(None, text, None, None, ABSENT)
    if sort < 0.7:
        return Asked(None, str(random.choice(_OFF_TOPIC)), None, None, UNCLEAR)
    if sort < 0.8:
        letters = random.choice(list("abcdefghijklmnopqrstuvwxyz "), random.integers(3, 25))
        return Asked(None, "".join(letters).strip() or "x", None, None, UNCLEAR)
    relation = Relation(random.choice([r.value for r in NEEDS_REFERENCE]))
    text = words(relation, kind_spoken(str(random.choice(PAIRED)), random), random, phrasing)
    return Asked(None, text, None, None, UNREFERRED)


def not_here(structure: int, random: np.random.Generator, phrasing: Phrasing) -> Asked:
    """A structure of the brain that the slice does not show."""
    return Asked(None, words(Relation.NAME, spoken(structure, random), random, phrasing), None, None, ABSENT)


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
