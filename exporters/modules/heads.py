"""Judgment and Correction: is a [SEG] feature good enough, and if not, a better one.

Knows the two small networks and the rule that joins them. Does not know where thresholds come from
(the orchestrator's correction policy) nor how a feature becomes a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURE = 256
"""Length of a [SEG] feature."""
HIDDEN = 512


class FeatureMLP(nn.Module):
    """Three linear layers with exact (erf) GELU between them, published as fc1, fc2, fc3."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(FEATURE, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))  # type: ignore[no-any-return]  # nn.Module.__call__


class Judge(FeatureMLP):
    """Features [..., 256] → the expected IoU of their masks [...], in (0, 1)."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(x)).squeeze(-1)


class Corrector(FeatureMLP):
    """Features [..., 256] → corrected features [..., 256]."""

    def __init__(self) -> None:
        super().__init__(FEATURE)


class Heads(nn.Module):
    """Judge and corrector under one rule: a feature whose score is at most its threshold is replaced.

    Without them (a stage 1 checkpoint) every score is NaN, which no threshold reaches.
    """

    def __init__(self, judge: Judge | None, corrector: Corrector | None) -> None:
        super().__init__()
        if (judge is None) != (corrector is None):
            raise ValueError("judge and corrector come together or not at all")
        self.judge = judge
        self.corrector = corrector

    def forward(self, seg_features: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, K, 256], thresholds [B, K] → score [B, K], corrected bool [B, K], features [B, K, 256]."""
        if self.judge is None or self.corrector is None:
            score = torch.full_like(threshold, torch.nan)
            corrected = score <= threshold  # never
            # A graph's output must not be one of its inputs, hence the choice between what is and what never is.
            return score, corrected, torch.where(corrected.unsqueeze(-1), torch.nan, seg_features)
        score = self.judge(seg_features)
        corrected = score <= threshold
        features = torch.where(corrected.unsqueeze(-1), self.corrector(seg_features), seg_features)
        return score, corrected, features
