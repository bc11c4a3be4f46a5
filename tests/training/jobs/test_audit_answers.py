"""The settings of the endpoint say whether originals leave, and where the key is but not what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from training.audit.questions import Answered, identity_question
from training.jobs.audit_answers import AnswersError, AuditAnswersConfig, _checks, open_endpoint

ENDPOINT = {"vision_url": "https://host.example/v1", "vision_model": "m"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_url": "https://host.example/v1"}, "go together"),
        ({"send_originals": True}, "need vision_url"),
        ({**ENDPOINT, "vision_identity": True}, "needs send_originals=true"),
        ({**ENDPOINT, "vision_url": "http://host.example/v1"}, "must be https"),
        ({**ENDPOINT, "vision_key_variable": "A", "vision_key_file": "k"}, "not in both"),
    ],
)
def test_settings_that_send_more_than_they_say_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AuditAnswersConfig(**settings)


def test_the_key_is_read_from_the_environment_or_a_file_and_is_in_no_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISION_KEY_FOR_TEST", " sk-1 \n")
    config = AuditAnswersConfig(**ENDPOINT, vision_key_variable="VISION_KEY_FOR_TEST")
    found = open_endpoint(config)
    assert found is not None
    assert (found.key, found.sends_originals) == ("sk-1", False)
    assert "sk-1" not in repr(found) + config.model_dump_json()
    (tmp_path / "key").write_text("sk-2\n")
    from_file = open_endpoint(AuditAnswersConfig(**ENDPOINT, vision_key_file=tmp_path / "key", send_originals=True))
    assert from_file is not None
    assert (from_file.key, from_file.sends_originals) == ("sk-2", True)


def test_a_key_that_is_named_and_missing_is_an_error_and_no_endpoint_needs_none(tmp_path: Path) -> None:
    with pytest.raises(AnswersError, match="is empty"):
        open_endpoint(AuditAnswersConfig(**ENDPOINT, vision_key_variable="NO_SUCH_VARIABLE_FOR_TEST"))
    with pytest.raises(AnswersError, match="cannot be read"):
        open_endpoint(AuditAnswersConfig(**ENDPOINT, vision_key_file=tmp_path / "missing"))
    assert open_endpoint(AuditAnswersConfig()) is None


def test_a_recognizer_that_still_knows_the_person_fails_the_run(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 5, 60)
    guessed = (truth + rng.integers(0, 5, 60)) % 5
    for released, holds in ((truth, False), (guessed, True)):
        (check,) = _checks([Answered(identity_question(5), "r", truth, released, truth=truth)])
        assert check.holds is holds
