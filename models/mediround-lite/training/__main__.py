"""Train MediRound-Lite from two public packages: ``make lite``, or ``python -m training --out DIR``.

Composes the stages; each continues where an earlier run stopped. Run it with the repository root and
``models/mediround-lite`` on PYTHONPATH, in an environment with the extras ``export`` and ``train``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.modules.heads import Corrector, Judge
from exporters.modules.tiny_vit import TinyViT
from training import (
    between,
    card,
    checkpoint,
    features,
    judgment,
    projection,
    quality,
    slices,
    sources,
    split,
    stage_a,
    stage_b,
    targets,
    unseen,
    vision,
    vocabulary,
)
from training.checkpoint import Parts
from training.evaluate import Evaluation, write_dialogues
from training.features import Views
from training.language import LanguageHalf
from training.play import Player
from training.quality import Quality
from training.rows import Pictures, Script
from training.sources import Sources
from training.stage_a import StageA
from training.stage_b import Said
from training.targets import Head
from training.unseen import UnseenHead
from training.views import View
from training.vision import VisionHalf

STEPS_A, STEPS_B = 2500, 2000
SEED_A, SEED_B, SEED_JUDGMENT = 7, 11, 13
SHOWN, JUDGED = 9, 2
"""Views of a slice, real or made up, for both halves; and for the judge alone."""
DIRECTION_EVERY = 31
"""Views between those that the feature's free direction is looked for on."""
HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class AllViews:
    shown: Views
    judged: Views
    dev: Views


@dataclass(frozen=True, slots=True)
class Workshop:
    """One run's inputs and its directory."""

    out: Path
    source: Sources
    head: Head

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint"

    @property
    def tokenizer(self) -> Path:
        return self.checkpoint / "base/tokenizer.model"

    def views(self) -> AllViews:
        """All views, encoded. What is made up between training slices reads no other slice."""
        encoder, train = features.load_encoder(self.source.weights), split.train()
        filled, every = between.filled(self.head, train), [*train, *between.gaps(train)]

        def made(name: str, rows: list[View], *, half: bool = True) -> Views:
            return features.prepare(self.out / "views", name, rows, len(rows), encoder, half=half)

        return AllViews(
            shown=made("shown", features.draw(filled, every, SHOWN)),
            judged=made("judged", features.draw(filled, every, JUDGED, first=SHOWN)),
            dev=made("dev", features.draw(self.head, split.dev(), 1), half=False),
        )

    def vision_half(self, views: AllViews) -> tuple[TinyViT, VisionHalf]:
        """Stage A."""
        encoder = features.load_encoder(self.source.weights)
        half = vision.starting_half(self.source.weights, encoder, SEED_A)
        stage_a.train(StageA(self.out, STEPS_A, SEED_A), half, views.shown, views.dev)
        return encoder, half

    def quality(self, half: VisionHalf, train: Views) -> Quality:
        """What features are to carry of the vision half's own expectations."""
        path = self.out / "quality.pt"
        if not path.exists():
            along = quality.direction(half, train, list(range(0, len(train.features), DIRECTION_EVERY)), SEED_B)
            expected = torch.from_numpy(quality.expected(half, train, SEED_B))
            torch.save({"direction": along, "expected": expected}, path)
        stored = torch.load(path, weights_only=True)
        return Quality(stored["direction"], quality.carried(stored["expected"].numpy()))

    def language_half(self, train: Views, class_tokens: Tensor, carried: Quality) -> tuple[LanguageHalf, Script]:
        """Stage B; the tokenizer first."""
        if not self.tokenizer.exists():
            vocabulary.make_tokenizer(self.tokenizer)
        form = vocabulary.prompt_form(self.tokenizer)
        script = Script(form)
        torch.manual_seed(SEED_B)
        half = LanguageHalf(form.manifest.language.vocabulary)
        run, said = stage_b.StageB(self.out, STEPS_B, SEED_B), Said(class_tokens, carried.direction)
        pictures = Pictures(train, carried.carried)
        stage_b.train(run, half, script, pictures, said)
        projection.solve(half, script, pictures, said, SEED_B)
        return half, script

    def heads(
        self, half: VisionHalf, words: LanguageHalf, script: Script, fresh: Views
    ) -> tuple[Judge, Corrector]:
        """Judge and corrector, on both halves as they are stored."""
        path = self.out / "judgment.pt"
        if path.exists():
            stored = torch.load(path, weights_only=True)
            judge, corrector = Judge(), Corrector()
            judge.load_state_dict(stored["judge"])
            corrector.load_state_dict(stored["corrector"])
            return judge, corrector
        corrector = judgment.train_corrector(half.tokens.detach(), SEED_JUDGMENT)
        pairs = judgment.judged_pairs(half, words, script, fresh, SEED_JUDGMENT)
        judge = judgment.train_judge(*pairs, SEED_JUDGMENT)
        torch.save({"judge": judge.state_dict(), "corrector": corrector.state_dict()}, path)
        return judge, corrector

    def evaluate(self, script: Script, class_tokens: Tensor, which: str) -> dict[str, object]:
        """Measure the written checkpoint, as the exporters read it."""
        chosen = split.test() if which == "test" else split.dev()
        print(f"evaluation on {which} slices {chosen}", flush=True)
        player = Player(checkpoint.read(self.checkpoint), script)
        return Evaluation(self.head, chosen, split.train(), player, class_tokens).run()

    def evaluate_unseen(self, script: Script, class_tokens: Tensor) -> dict[str, object]:
        """Measure the written checkpoint on a head that nothing was trained on."""
        head = unseen.load_head(sources.fetch_unseen(self.out / "data"), self.source)
        player = Player(checkpoint.read(self.checkpoint), script)
        return UnseenHead(Evaluation(head, (), (), player, class_tokens), self.head).run()


def train(workshop: Workshop) -> tuple[Script, Tensor]:
    """All stages up to the checkpoint directory."""
    views = workshop.views()
    encoder, half = workshop.vision_half(views)
    class_tokens = torch.load(workshop.out / "tokens.pt", weights_only=True)
    words, script = workshop.language_half(views.shown, class_tokens, workshop.quality(half, views.shown))
    _round(half)
    _round(words)
    judge, corrector = workshop.heads(half, words, script, views.judged)
    checkpoint.write(workshop.checkpoint, Parts(encoder, half, words, judge, corrector))
    return script, class_tokens


@torch.no_grad()
def _round(part: nn.Module) -> None:
    """To float16 values, as the checkpoint stores them."""
    for value in part.state_dict().values():
        value.copy_(value.half().float())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="directory for everything that is made")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", choices=("dev", "test", "none"), default="test")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = sources.fetch(arguments.out / "data")
    workshop = Workshop(arguments.out, source, targets.load_head(source.templates))
    split.write(HERE / "split.json")
    slices.write(HERE / "slices", workshop.head)
    slices.write_slab(HERE.parents[1] / "demo" / "dicom" / "slices", workshop.head)
    for name, chosen in (("dev", split.dev()), ("test", split.test())):
        write_dialogues(HERE / f"dialogues_{name}.json", workshop.head, chosen)
    began = time.monotonic()
    script, class_tokens = train(workshop)
    print(f"trained in {(time.monotonic() - began) / 60:.0f} minutes", flush=True)
    if arguments.evaluate != "none":
        asked = ("test", "dev") if arguments.evaluate == "test" else ("dev",)
        reports = {which: workshop.evaluate(script, class_tokens, which) for which in asked}
        if arguments.evaluate == "test":
            reports["unseen"] = workshop.evaluate_unseen(script, class_tokens)
        text = json.dumps(reports, indent=1) + "\n"
        (arguments.out / "evaluation.json").write_text(text)
        if arguments.evaluate == "test":
            (HERE / "evaluation.json").write_text(text)
            card.CARD.write_text(card.rewritten(card.CARD.read_text(), reports))


if __name__ == "__main__":
    main()
