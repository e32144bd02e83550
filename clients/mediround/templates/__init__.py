"""Templates: a dialogue for one kind of image, written once and asked of many.

    template = load("brain-t1-thalami")  # or a path to a file of your own
    with Client("127.0.0.1:50051") as client, client.open("slice.png") as session:
        for question, result in zip(template.questions, ask(session, template), strict=True):
            print(question.label, "nothing" if result is None else result)

A template is a small TOML file: questions with names, the earlier question that each refers to, given answers, the
modality, body part and plane that it is for, the model that it was written for, and a window. docs/templates.md in
the repository has the form. The same file serves ``mediround segment``, a batch and a gateway.
"""

from mediround.templates._asking import ask, ask_async
from mediround.templates._form import MAX_BYTES, MAX_QUESTIONS, TemplateError
from mediround.templates._loading import available, load, loads
from mediround.templates._template import Question, Template

__all__ = [
    "MAX_BYTES",
    "MAX_QUESTIONS",
    "Question",
    "Template",
    "TemplateError",
    "ask",
    "ask_async",
    "available",
    "load",
    "loads",
]
