"""What a step may compute again in its backward pass instead of keeping it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from prs_med.config import Settings


@dataclass(frozen=True)
class Checkpointing:
    """Which parts are computed again."""

    language_model: bool
    """``--gradient_checkpointing``"""
    encoder: bool
    """``--encoder_checkpointing``"""

    @classmethod
    def of(cls, settings: Settings) -> Checkpointing:
        """As a run's settings say."""
        return cls(settings.gradient_checkpointing, settings.encoder_checkpointing)

    def applied_to(self, settings: Settings) -> Settings:
        """The same settings with this choice."""
        return dataclasses.replace(
            settings,
            gradient_checkpointing=self.language_model,
            encoder_checkpointing=self.encoder,
        )

    @property
    def title(self) -> str:
        """For a table."""
        if self.language_model and self.encoder:
            return "both"
        if self.language_model:
            return "language"
        return "encoder" if self.encoder else "no"

    @property
    def flags(self) -> tuple[str, ...]:
        """What switches it on in training."""
        return (
            *(("--gradient_checkpointing",) if self.language_model else ()),
            *(("--encoder_checkpointing",) if self.encoder else ()),
        )


NOTHING = Checkpointing(language_model=False, encoder=False)
_CHEAPEST_FIRST = (
    NOTHING,
    Checkpointing(language_model=False, encoder=True),
    Checkpointing(language_model=True, encoder=True),
)
"""The language model alone is not among them: the encoder beside it adds a hundredth to what is
computed again, and saves two thirds of what is still kept."""


def ways(settings: Settings) -> tuple[Checkpointing, ...]:
    """What is worth comparing, the cheapest first, and last what the settings themselves say."""
    worth: tuple[Checkpointing, ...] = _CHEAPEST_FIRST
    if settings.freeze_encoder:
        # Nothing is kept for it: it has no backward pass.
        worth = (NOTHING, Checkpointing(language_model=True, encoder=False))
    return tuple(dict.fromkeys((*worth, Checkpointing.of(settings))))
