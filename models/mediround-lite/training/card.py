"""The model card's figures, from an evaluation: ``python -m training.card --evaluation FILE``.

Replaces what stands between the card's two marks. Knows tables. Does not measure anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from training.judgment import UNSEEN_SORTS

CARD = Path(__file__).resolve().parent.parent / "MODEL_CARD.md"
BEGIN, END = "<!-- figures: written by training.card -->", "<!-- end of figures -->"
Report = dict[str, Any]


def figures(both: Report) -> str:
    """All tables: of the test slices, and beside them the goals on dev."""
    test, dev, other = both["test"], both["dev"], both["unseen"]
    parts = [
        *_section("Dialogues of five rounds", _dialogues(test, dev)),
        *_section("Every structure, given the right name (class token)", _structures(test, dev)),
        *_section("Unseen head", _unseen(other)),
        *_section("Judge and corrector", _judgment(test, dev)),
        *_section("Questions without an answer", _refusals(test, dev)),
    ]
    return "\n".join(parts)


def rewritten(text: str, both: Report) -> str:
    """The card with these figures in place of its own."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{figures(both)}{END}{rest.partition(END)[2]}"


def _section(title: str, body: Iterable[str]) -> list[str]:
    return [f"## {title}", *body, ""]


def _dialogues(test: Report, dev: Report) -> list[str]:
    tested, chosen = test["dialogues"], dev["dialogues"]
    kinds = ("predicted", "true", "zeroed")
    header = ["predicted references", "true references", "references zeroed"]

    def rows(grouped: str) -> list[list[str]]:
        return [[name, *(_cell(tested[k][grouped][name]) for k in kinds)] for name in tested["true"][grouped]]

    def row(name: str, key: str) -> list[str]:
        return [name, *(_cell(tested[kind][key]) for kind in kinds)]

    hard = "predicted_without_brain_and_hemispheres"
    return [
        f"The model's own answers; {tested['dialogues']} dialogues on test slices. Dice (names right, masks).",
        "References zeroed: crop and box embeddings set to 0.",
        "",
        *_table(["round", *header], [*rows("by_round"), row("all", "all")]),
        "",
        *_table(
            ["relation", *header],
            [*rows("by_relation"), row("ambiguous without the reference", "ambiguous_without_reference")],
        ),
        "",
        f"- Without whole brain and hemispheres: {tested[hard]['dice']:.3f}.",
        f"- In phrasings that training never met: {_cell(tested['held_out_phrasings']['all'])}.",
        f"- Development slices: predicted {_cell(chosen['predicted']['all'])}, zeroed "
        f"{_cell(chosen['zeroed']['all'])}, without whole brain and hemispheres {chosen[hard]['dice']:.3f}.",
    ]


def _structures(test: Report, dev: Report) -> list[str]:
    plain, bent = "every_structure_by_class_token", "varied_slices_by_class_token"
    rows = []
    for where, report in (("test", test), ("dev", dev)):
        for name, key in (("as they are", plain), ("under pose and contrast changes", bent)):
            model, copied = report[key]["network"], report[key]["nearest_slice_copy"]
            for size, dice, masks in (
                ("all sizes", "dice", "masks"),
                ("≥ 200 px", "dice_askable", "masks_askable"),
            ):
                gain = model[dice] - copied[dice]
                rows.append(
                    [
                        f"{where}, {name}, {size}",
                        f"{model[masks]}",
                        _f(model[dice]),
                        _f(copied[dice]),
                        f"{gain:+.3f}",
                    ]
                )
    structures = test[plain]["by_structure"]
    each = [[name, str(n), _f(model), _f(copied)] for name, (n, model, copied) in structures.items()]
    copy = "nearest training slice, copied"
    return [
        *_table(["slices", "masks", "model", copy, "difference"], rows),
        "",
        "Test slices as they are:",
        "",
        *_table(["structure", "masks", "model", copy], each),
    ]


def _unseen(other: Report) -> list[str]:
    found = other["every_structure_by_class_token"]
    rows = [[name, str(n), _f(model), _f(same)] for name, (n, model, same) in found["by_structure"].items()]
    told, zeroed = other["dialogues"]["predicted"], other["dialogues"]["zeroed"]
    model, same = found["network"], found["nearest_slice_copy"]
    return [
        f"MNI152, {len(other['slices'])} slices with the Harvard-Oxford labels. {other['dialogues']['dialogues']} "
        f"dialogues: {_cell(told['all'])}; references zeroed {_cell(zeroed['all'])}; judge "
        f"{_auc(other['dialogues']['judge'])}.",
        f"Every structure by class token: {model['dice']:.3f} (n={model['masks']}); the two label sets agree with "
        f"each other to {same['dice']:.3f}.",
        "",
        *_table(["structure", "masks", "model", "the training head's labels at the same place"], rows),
    ]


def _judgment(test: Report, dev: Report) -> list[str]:
    judged = test["judge_and_corrector"]
    rows = [
        [
            f"{name} (not trained on)" if name in UNSEEN_SORTS else name,
            _f(one["iou"]),
            _f(one["iou_all_corrected"]),
            _f(one["iou_gated"]),
            f"{one['fires']:.0%}",
            f"{one['pearson']:.2f}",
            "-" if one["auc_bad"] is None else f"{one['auc_bad']:.2f}",
        ]
        for name, one in judged.items()
        if name != "all"
    ]
    every, spoken = judged["all"], test["dialogues"]["judge"]
    corrected = test["dialogues"]["predicted_corrected"]["all"]
    return [
        *_table(
            ["features", "mean IoU as is", "all corrected", "gated at 0.6", "gate fires", "judge: Pearson",
             "AUC for IoU <= 0.6"], rows,
        ),
        "",
        f"All kinds together: {_auc(every)}. Undisturbed features of the dialogues above: {_auc(spoken)}; gated "
        f"dialogues: {_cell(corrected)}.",
        f"Undisturbed features of every structure: {_auc(test['judge_on_every_structure'])}; development slices "
        f"{_auc(dev['judge_on_every_structure'])}, all kinds together {_auc(dev['judge_and_corrector']['all'])}.",
    ]  # fmt: skip


def _refusals(test: Report, dev: Report) -> list[str]:
    rows = [
        [name.replace("_", " "), *(f"{report['refusals'][name]:.1%}" for report in (test, dev))]
        for name in test["refusals"]
    ]
    return ["Share that is answered without `[SEG]`:", "", *_table(["questions", "test", "dev"], rows)]


def _auc(one: Report) -> str:
    return f"AUC {one['auc_bad']:.2f}, Pearson {one['pearson']:.2f} (n={one['n']})"


def _cell(one: Report) -> str:
    return f"{one['dice']:.3f} ({one['names']:.0%}, n={one['n']})"


_f: Callable[[float], str] = "{:.3f}".format


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--evaluation", type=Path, default=CARD.with_name("evaluation.json"))
    report = json.loads(parser.parse_args().evaluation.read_text())
    CARD.write_text(rewritten(CARD.read_text(), report))


if __name__ == "__main__":
    main()
