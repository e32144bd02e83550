"""A template's values.

Knows what a template says, and how it becomes rounds. Does not know files, or who asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediround._description import ServerDescription
from mediround._rounds import Mode, Round
from mediround.templates._form import TemplateError
from mediround.window import Window


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a template.

    Attributes:
        name: names it in the template and in file names: small letters, digits and hyphens.
        label: what its mask shows, in words; at most 64 characters, as a DICOM segment's label has.
        question: the words that are asked.
        refer_to: name of the earlier question whose mask it is about; None: of none.
        answer: the answer's words, ``[SEG]`` exactly once; None: the model's own.
    """

    name: str
    label: str
    question: str
    refer_to: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A dialogue for one kind of image. Made by ``load`` and ``loads``.

    Attributes:
        name: names the template: small letters, digits and hyphens.
        description: what it is for, in a sentence; may be empty.
        modality: DICOM's Modality (0008,0060), for example ``MR``.
        body_part: DICOM's Body Part Examined (0018,0015), for example ``BRAIN``.
        plane: ``axial``, ``coronal`` or ``sagittal``; None: any.
        model: name of the model that it was written for.
        mode: how questions without an answer of their own are answered: ``free``, ``grammar``, or None for the
            server's default.
        window: of stored values; None: what the image says.
        questions: in the order in which they are asked; at least one.
        digest: SHA-256, hex, of what the template says, whatever its spacing and comments.
    """

    name: str
    description: str
    modality: str
    body_part: str
    plane: str | None
    model: str
    mode: Mode | None
    window: Window | None
    questions: tuple[Question, ...]
    digest: str

    @property
    def given(self) -> bool:
        """Whether each answer is given, so that each question gets a mask."""
        return all(question.answer is not None for question in self.questions)

    @property
    def references(self) -> tuple[int | None, ...]:
        """Of each question: the zero-based index of the one that it refers to."""
        places = {question.name: index for index, question in enumerate(self.questions)}
        return tuple(None if each.refer_to is None else places[each.refer_to] for each in self.questions)

    def rounds(self, first: int = 0) -> list[Round]:
        """The questions as rounds, for ``client.segment`` and ``session.segment``.

        Args:
            first: rounds that the session has already.
        """
        return [
            Round(
                each.question,
                None if earlier is None else first + earlier,
                "forced" if each.answer is not None else self.mode,
                each.answer,
            )
            for each, earlier in zip(self.questions, self.references, strict=True)
        ]

    def check(self, served: ServerDescription) -> tuple[str, ...]:
        """What a reader should know before asking this server; empty where it fits.

        Raises:
            TemplateError: the server cannot be asked so.
        """
        limits, most = served.limits, served.limits.max_question_bytes
        problems = []
        if len(self.questions) > limits.max_rounds:
            words = f"must hold at most {limits.max_rounds} (the server's limit); it holds {len(self.questions)}"
            problems.append(("questions", words))
        if strange := {each.mode for each in self.rounds()} - {None, *served.answer_modes}:
            words = f"must be one of the server's ({', '.join(served.answer_modes)}), not {min(strange, key=str)}"
            problems.append(("mode", words))
        for index, each in enumerate(self.questions):
            size = max(len(each.question.encode()), len((each.answer or "").encode()))
            if size > most:
                words = f"must hold at most {most} bytes (the server's limit); it holds {size}"
                problems.append((f"questions[{index}]", words))
        if problems:
            raise TemplateError(self.name, problems)
        if served.model_name != self.model:
            return (f"template {self.name} was written for {self.model}; the server has {served.model_name}",)
        return ()
