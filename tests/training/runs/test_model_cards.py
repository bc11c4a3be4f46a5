"""Every artifact of ours has a card, and the cards in the documentation are those of the promoted versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.anonymizer.assembly import OPTIONAL_ARTIFACTS, OWN_ARTIFACTS
from models.registry.store import ArtifactStore
from training.objectives.encoder_loss import ARTIFACT_NAME as LOSS_WEIGHTS
from training.runs.model_cards import PURPOSES, model_card

REPOSITORY = Path(__file__).resolve().parents[3]


def test_every_artifact_that_service_or_training_reads_from_us_has_a_purpose() -> None:
    assert set(PURPOSES) == {*OWN_ARTIFACTS, *OPTIONAL_ARTIFACTS, LOSS_WEIGHTS}


@pytest.mark.parametrize("name", PURPOSES)
def test_the_written_card_is_that_of_the_promoted_version(name: str) -> None:
    card = model_card(ArtifactStore(REPOSITORY / "artifacts"), name)
    assert (REPOSITORY / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8") == card, (
        "run `doppel-train artifacts cards`"
    )
