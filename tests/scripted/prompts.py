"""Prompts for language engines, put together token by token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from serving.bundle import Manifest
from serving.domain import Reference, TowerImage
from serving.ports import Prompt
from tests.scripted.pictures import reference, tower_image


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt in the making; every step returns a new one."""

    manifest: Manifest
    image: TowerImage
    token_ids: tuple[int, ...]
    references: tuple[Reference, ...] = ()
    positions: tuple[int, ...] = field(default=())

    def say(self, *words: int) -> Draft:
        """Text, as numbers: each stands for a token that is not reserved."""
        reserved = set(self.manifest.tokens.model_dump().values())
        plain = [token for token in range(64) if token not in reserved]
        return replace(self, token_ids=(*self.token_ids, *(plain[word] for word in words)))

    def refer(self, seed: int) -> Draft:
        """A reference drawn from ``seed``."""
        return self.refer_to(reference(self.manifest, seed))

    def refer_to(self, shown: Reference) -> Draft:
        ids = (*self.token_ids, self.manifest.tokens.crop, self.manifest.tokens.bbox)
        return replace(self, token_ids=ids, references=(*self.references, shown))

    def read(self) -> Draft:
        """The feature is wanted at the last token."""
        return replace(self, positions=(*self.positions, len(self.token_ids) - 1))

    def close(self) -> Draft:
        """``[SEG]``, a word, the end."""
        tokens = self.manifest.tokens
        ids = replace(self, token_ids=(*self.token_ids, tokens.seg)).say(9).token_ids
        return replace(self, token_ids=(*ids, tokens.eos))

    def prompt(
        self,
        dialogue: str = "dialogue",
        max_new_tokens: int = 0,
        *,
        ensure_seg: bool = False,
        tenant: str = "tenant",
    ) -> Prompt:
        return Prompt(
            dialogue=dialogue,
            tenant=tenant,
            token_ids=self.token_ids,
            image=self.image,
            references=self.references,
            feature_positions=self.positions,
            max_new_tokens=max_new_tokens,
            ensure_seg=ensure_seg,
        )


def draft(manifest: Manifest, image_seed: int = 1) -> Draft:
    """Begins with the image and a word on either side."""
    tokens = manifest.tokens
    begun = Draft(manifest, tower_image(manifest, image_seed), (tokens.bos,)).say(3)
    return replace(begun, token_ids=(*begun.token_ids, tokens.image)).say(4)
