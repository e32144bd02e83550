"""The whole evaluation of a checkpoint on one set of slices.

Knows which questions are put to the model and writes the figures as plain numbers. Does not train and
does not choose: development slices are for choosing, test slices are measured once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporters.checkpoint.model import Model
from training import questions
from training.dialogues import EVALUATION, REPHRASED, Draw, Shows, dialogue
from training.judgment import SORTS, UNSEEN_SORTS, degraded, told
from training.measure import Scored, Table, judge_quality, row, score_dialogue, tables
from training.play import Player, References, Scene
from training.questions import Asked, Phrasing, Relation
from training.targets import NAMES, Head
from training.views import Planes, View, clean, varied
from training.vision import ASKABLE, areas, dice, full_size, iou, present

ROUNDS, DIALOGUES_PER_SLICE = 5, 3
DIALOGUE_SEED, VARIED_SEED, DEGRADED_SEED, REFUSAL_SEED = 101, 102, 103, 104
THRESHOLD = 0.6
UNSEEN_FOREIGN = ("thyroid", "ovary", "cornea", "shoulder", "appendix", "bronchus", "sternum", "duodenum")
"""Structures of other body parts that training never mentioned."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one set of slices of one head."""

    head: Head
    slices: Sequence[int]
    train: Sequence[int]
    player: Player
    class_tokens: Tensor

    def run(self) -> dict[str, object]:
        """All figures; some minutes."""
        scenes = [self.player.scene(clean(self.head, z)) for z in self.slices]
        report: dict[str, object] = {"slices": list(self.slices)}
        report["dialogues"], features = self.dialogues(scenes)
        report["every_structure_by_class_token"] = self.structures(scenes, self._nearest)
        bent = [varied(self.head, z, np.random.default_rng([VARIED_SEED, z])) for z in self.slices]
        report["varied_slices_by_class_token"] = self.structures(
            [self.player.scene(view) for view in bent], self._nearest
        )
        report["judge_and_corrector"] = self._judgment(scenes)
        report["judge_on_every_structure"] = self._judged(scenes)
        report["refusals"] = self._refusals(scenes)
        report["feature_error"] = features
        return report

    def dialogues(self, scenes: Sequence[Scene]) -> tuple[dict[str, object], float]:
        scripts = [(scene, asked) for scene in scenes for asked in drawn(scene.view, EVALUATION)]
        report: dict[str, object] = {"dialogues": len(scripts), "rounds": ROUNDS}
        errors: list[float] = []
        for name, references, threshold in (
            ("predicted", References.PREDICTED, -1.0),
            ("true", References.TRUE, -1.0),
            ("zeroed", References.ZEROED, -1.0),
            ("predicted_corrected", References.PREDICTED, THRESHOLD),
        ):
            played = self.player.play(scripts, references, threshold)
            scored: list[Scored] = []
            for (scene, asked), said in zip(scripts, played, strict=True):
                scored += score_dialogue(scene, asked, said)
                for one, answer in zip(asked, said, strict=True):
                    if name == "predicted" and answer.feature is not None and one.target is not None:
                        wanted = self.class_tokens[one.target].numpy()
                        errors.append(float(np.mean((answer.feature - wanted) ** 2)))
            report[name] = tables(scored)
            if name == "predicted":
                drawn_masks = [one for one in scored if one.segmented]
                report["judge"] = judge_quality(
                    [one.score for one in drawn_masks], [one.iou for one in drawn_masks], THRESHOLD
                )
                hard = [s for s in scored if s.structure not in EASY]
                report["predicted_without_brain_and_hemispheres"] = row(hard)
            if name == "predicted_corrected":
                report["corrected_share"] = round(float(np.mean([s.corrected for s in scored])), 4)
            print(f"  {name}: {row(scored)}", flush=True)
        report["held_out_phrasings"] = self._rephrased(scenes)
        return report, round(float(np.median(errors)), 6)

    def _rephrased(self, scenes: Sequence[Scene]) -> dict[str, object]:
        """Dialogues in phrasings that training never met."""
        scripts = [(scene, asked) for scene in scenes for asked in drawn(scene.view, REPHRASED)]
        scored: list[Scored] = []
        for (scene, asked), said in zip(scripts, self.player.play(scripts, References.PREDICTED), strict=True):
            scored += score_dialogue(scene, asked, said)
        return tables(scored)

    def _nearest(self, view: View) -> Planes:
        """Labels of the nearest training slice: what a model that learned nothing but the head would copy."""
        return clean(self.head, min(self.train, key=lambda z: abs(z - view.z))).labels

    @torch.inference_mode()
    def structures(self, scenes: Sequence[Scene], copy: Callable[[View], Planes]) -> dict[str, object]:
        """Every present structure by its class token, beside labels copied from elsewhere."""
        network: dict[str, list[float]] = {}
        copied: dict[str, list[float]] = {}
        sizes: dict[str, list[float]] = {}
        for scene in scenes:
            area = areas(scene.view.labels)
            nearest = copy(scene.view)
            for k in present(scene.view.labels):
                truth = (scene.view.labels & np.uint32(1 << int(k))) > 0
                logits, _ = self.player.model.mask_decoder(
                    scene.embedding[None], self.class_tokens[None, k : k + 1]
                )
                name = NAMES[int(k)]
                network.setdefault(name, []).append(dice(full_size(logits[0, 0].numpy(), truth.shape[0]), truth))
                copied.setdefault(name, []).append(dice((nearest & np.uint32(1 << int(k))) > 0, truth))
                sizes.setdefault(name, []).append(float(area[k]))
        return {
            "network": _summary(network, sizes),
            "nearest_slice_copy": _summary(copied, sizes),
            "by_structure": {
                name: [len(network[name]), _mean(network[name]), _mean(copied[name])] for name in network
            },
        }

    @torch.inference_mode()
    def _judgment(self, scenes: Sequence[Scene]) -> dict[str, object]:
        """Mean IoU of degraded features as they are, all corrected, and corrected where the judge says so."""
        model: Model = self.player.model
        random, chance = torch.Generator().manual_seed(DEGRADED_SEED), np.random.default_rng(DEGRADED_SEED)
        report: dict[str, object] = {}
        all_scores: list[float] = []
        all_truths: list[float] = []
        for sort in (*SORTS, *UNSEEN_SORTS):
            plain, every, gated, scores = [], [], [], []
            for scene in scenes:
                askable = present(scene.view.labels, ASKABLE)
                structures = chance.choice(askable, 4).tolist()
                right = told(self.player.half, self.player.script, scene.source.tower, structures)
                worse = degraded(right, self.class_tokens, sort, random)[None]
                score, _, fixed = model.heads(worse, torch.full(worse.shape[:2], 2.0))
                both = torch.cat([worse, fixed], dim=1)
                logits, _ = model.mask_decoder(scene.embedding[None], both)
                side = scene.view.image.shape[0]
                masks = [full_size(mask, side) for mask in logits[0].numpy()]
                for line, k in enumerate(structures):
                    truth = (scene.view.labels & np.uint32(1 << k)) > 0
                    plain.append(iou(masks[line], truth))
                    every.append(iou(masks[line + 4], truth))
                    scores.append(float(score[0, line]))
                    gated.append(every[-1] if scores[-1] <= THRESHOLD else plain[-1])
            quality = judge_quality(scores, plain, THRESHOLD)
            report[sort] = {
                "iou": _mean(plain),
                "iou_all_corrected": _mean(every),
                "iou_gated": _mean(gated),
            } | quality
            all_scores += scores
            all_truths += plain
        report["all"] = judge_quality(all_scores, all_truths, THRESHOLD)
        return report

    @torch.inference_mode()
    def _judged(self, scenes: Sequence[Scene]) -> Table:
        """The judge on undisturbed features of every present structure, asked for by name."""
        scores, truths = [], []
        for scene in scenes:
            structures = present(scene.view.labels).tolist()
            features = told(self.player.half, self.player.script, scene.source.tower, structures)[None]
            score, _, _ = self.player.model.heads(features, torch.full(features.shape[:2], -1.0))
            logits, _ = self.player.model.mask_decoder(scene.embedding[None], features)
            for k, mask, one in zip(structures, logits[0].numpy(), score[0].tolist(), strict=True):
                truth = (scene.view.labels & np.uint32(1 << k)) > 0
                truths.append(iou(full_size(mask, truth.shape[0]), truth))
                scores.append(one)
        return judge_quality(scores, truths, THRESHOLD)

    def _refusals(self, scenes: Sequence[Scene]) -> dict[str, object]:
        """Questions that deserve no mask: how many get none. And of those that deserve one."""
        random = np.random.default_rng(REFUSAL_SEED)
        seen = [(scene, [questions.unanswerable(random, Phrasing.PLAIN)]) for scene in scenes for _ in range(4)]
        hidden = [
            (scene, [questions.not_here(int(k), random, Phrasing.PLAIN)])
            for scene in scenes
            for k in random.permutation(np.flatnonzero(areas(scene.view.labels) == 0))[:4]
        ]
        foreign = [
            (scenes[number % len(scenes)], [Asked(None, f"Segment the {name}.", None, None, questions.ABSENT)])
            for number, name in enumerate(UNSEEN_FOREIGN * 3)
        ]
        shown = [
            (scene, [Asked(Relation.NAME, f"Segment the {NAMES[k]}.", None, int(k), "")])
            for scene in scenes
            for k in present(scene.view.labels, ASKABLE)
        ]
        asked = {
            "trained_kinds": seen,
            "unseen_structures": foreign,
            "structures_not_in_the_slice": hidden,
            "structures_in_the_slice (should be none)": shown,
        }
        return {
            name: _mean([float(said[0].mask is None) for said in self.player.play(scripts, References.PREDICTED)])
            for name, scripts in asked.items()
        }


EASY = frozenset({"brain", "left cerebral hemisphere", "right cerebral hemisphere"})


def drawn(view: View, how: Draw) -> list[list[Asked]]:
    """The evaluation's dialogues on a slice: always the same."""
    shows = Shows(present(view.labels, ASKABLE).tolist(), ())
    return [
        dialogue(shows, ROUNDS, how, np.random.default_rng([DIALOGUE_SEED, view.z, number]))
        for number in range(DIALOGUES_PER_SLICE)
    ]


def write_dialogues(path: Path, head: Head, slices: Sequence[int]) -> None:
    """The evaluation's dialogues on some slices, as JSON: what was asked, and the structure that answers it."""
    scenes = [clean(head, z) for z in slices]
    content = {
        "seed": DIALOGUE_SEED,
        "rounds": ROUNDS,
        "dialogues": [
            {"z": view.z, "phrasing": how.phrasing.name.lower(), "rounds": [_listed(one) for one in asked]}
            for how in (EVALUATION, REPHRASED)
            for view in scenes
            for asked in drawn(view, how)
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _listed(asked: Asked) -> dict[str, object]:
    relation = asked.relation.name.lower() if asked.relation else None
    target = None if asked.target is None else NAMES[asked.target]
    return {"question": asked.text, "refer_to": asked.refer_to, "relation": relation, "target": target}


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _summary(dices: dict[str, list[float]], sizes: dict[str, list[float]]) -> dict[str, object]:
    every = [value for name in dices for value in dices[name]]
    askable = [v for name in dices for v, size in zip(dices[name], sizes[name], strict=True) if size >= ASKABLE]
    return {
        "masks": len(every),
        "dice": _mean(every),
        "mean_over_structures": _mean([float(np.mean(values)) for values in dices.values()]),
        "masks_askable": len(askable),
        "dice_askable": _mean(askable),
    }
