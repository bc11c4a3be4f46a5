"""Job: ask the same questions of photos and of their releases, and see which answers stay (U10).

Questions that tell nobody who it is should be answered alike; asked who it is, the release should be answered by
chance. Networks at hand answer; a vision endpoint does where one is configured. No original goes to it unless
`send_originals` says so.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from models.anonymizer.assembly import AssemblySettings
from models.anonymizer.policy import Policy
from models.encoder.levels import Level
from training.audit.endpoint_answers import Interview, endpoint_answers, endpoint_identity
from training.audit.photos import read_photos
from training.audit.questions import QUESTIONS, Answered, line_up
from training.audit.vision_endpoint import Shown, VisionEndpoint, VisionEndpointError, check_url
from training.jobs.answering_networks import answers_of_networks, identity_by_auditors, scene_by_features
from training.jobs.audited_service import NEEDS, Audited
from training.jobs.calibrate_oracles import Half
from training.jobs.photo_pairs import labeled_or_rendered
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job
from training.runs.report import Check, Report

MIN_SAMPLE = 50
"""Photos from which on an agreement is claimed to be above chance."""
CHOICES = 5
"""People in a line-up."""


class AnswersError(RuntimeError):
    """A run that has nothing to ask about, or whose endpoint has no key where one was named."""


class AuditAnswersConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(
        None, description="folder of photos, one main face in each; without it heads are rendered"
    )
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    identity_half: Half = "test"
    photos: int = Field(200, ge=2, description="people; each has a second photo, which stands in line-ups")
    batch: int = Field(10, ge=1, description="photos per pipeline call")
    level: Level = Field("balanced", description="what the attribute code may tell of a face")
    far: float = Field(1e-3, gt=0, lt=1)
    artifacts: Path | None = Field(None, description="artifact store; the run's own by default")
    vision_url: str | None = Field(
        None, description="base address of an OpenAI-compatible endpoint, as https://host/v1"
    )
    vision_model: str | None = Field(None, description="model that is asked there")
    vision_key_variable: str | None = Field(
        None, pattern="^[A-Z_][A-Z0-9_]*$", description="environment variable with the key"
    )
    vision_key_file: Path | None = Field(None, description="file with the key, instead of a variable")
    vision_photos: int = Field(20, ge=1, le=500, description="first photos that the endpoint is asked about")
    vision_timeout: float = Field(60.0, gt=0, le=600, description="seconds for one answer")
    vision_retries: int = Field(3, ge=0, le=10, description="further tries after a passing failure")
    vision_identity: bool = Field(
        False, description="ask the endpoint who it is, too; line-ups are originals, so it needs send_originals"
    )
    send_originals: bool = Field(False, description="send original photos to the endpoint, beside their releases")

    @model_validator(mode="after")
    def _endpoint_is_whole(self) -> AuditAnswersConfig:
        if (self.vision_url is None) != (self.vision_model is None):
            raise ValueError("vision_url and vision_model go together")
        if self.vision_url is None and (self.send_originals or self.vision_identity):
            raise ValueError("send_originals and vision_identity need vision_url")
        if self.vision_identity and not self.send_originals:
            raise ValueError("vision_identity sends original photos to the endpoint and needs send_originals=true")
        if self.vision_key_variable is not None and self.vision_key_file is not None:
            raise ValueError("the key is in vision_key_variable or in vision_key_file, not in both")
        if self.vision_url is not None:
            try:
                check_url(self.vision_url)
            except VisionEndpointError as error:
                raise ValueError(str(error)) from error
        return self


def run(config: AuditAnswersConfig, context: RunContext) -> Report:
    """Release photos, ask about both, compare.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks are that the recognizers do not see the person above chance and, in larger runs, that
        every identity-free question is answered alike above chance.

    Raises:
        AnswersError: No main face was replaced, or the key is missing.
        VisionEndpointError: The endpoint does not answer a first question about a gray picture.
    """
    endpoint = open_endpoint(config)
    if endpoint is not None:
        # a wrong address or key shows before anything else is done, and before any photo is sent
        endpoint.ask(QUESTIONS[-1], [Shown(np.full((64, 64, 3), 127, dtype=np.uint8), False)])
    store = context.with_store(config.artifacts).store
    rng = np.random.default_rng(config.seed)
    policy = Policy(level=config.level, media="png")
    audited = Audited.open(store, AssemblySettings(far=config.far), policy, config.batch, context.log)
    pairs = labeled_or_rendered(
        config.folder,
        config.labels,
        config.identity_half,
        config.photos,
        config.seed,
        rng,
        context.directory / "rendered",
    )
    sent = read_photos(pairs, audited.assembly.detector, config.photos)
    audited.release(sent)
    for photo in sent:
        photo.read_release(audited.detector)
    photos = [photo for photo in sent if photo.pixels is not None]
    if not photos:
        raise AnswersError(f"of {len(sent)} photos no main face was replaced: there is nothing to ask about")

    line_ups, truth = line_up(range(len(photos)), CHOICES, rng) if len(photos) > 1 else (None, None)
    found, on_originals = answers_of_networks(audited, photos)
    if line_ups is not None and truth is not None:
        found += identity_by_auditors(audited, photos, line_ups, truth)
        if line_ups.shape[1] > 2:
            found.append(scene_by_features(audited, photos, line_ups, truth))
    checks = _checks(found)
    if endpoint is not None:
        interview, few = Interview(endpoint, context.log), photos[: config.vision_photos]
        known = {name: answers[: len(few)] for name, answers in on_originals.items()}
        found += endpoint_answers(interview, few, known, sends_originals=config.send_originals)
        if config.vision_identity and line_ups is not None and truth is not None:
            found.append(endpoint_identity(interview, photos, line_ups[: len(few)], truth[: len(few)]))
        checks.append(Check("questions left when the endpoint failed", 0.0, float(interview.has_failed)))
    return Report(
        metrics={
            "photos": float(len(sent)),
            "replaced": float(len(photos)),
            **{f"U10 agreement, {each.question.name}.{each.source}": each.agreement[0].value for each in found},
        },
        checks=checks,
        tables={
            "answers (U10)": [each.row() for each in found],
            "artifacts": [{"artifact": k, "version": v} for k, v in sorted(audited.assembly.versions.items())],
        },
    )


def open_endpoint(config: AuditAnswersConfig) -> VisionEndpoint | None:
    """Set up the endpoint with its key from the environment or a file.

    Args:
        config: Settings.

    Returns:
        The endpoint; None where none is configured.

    Raises:
        AnswersError: The variable or the file with the key is missing or empty.
        VisionEndpointError: Address or key cannot be used.
    """
    if config.vision_url is None or config.vision_model is None:
        return None
    key = None
    if config.vision_key_variable is not None:
        key = os.environ.get(config.vision_key_variable, "").strip()
    elif config.vision_key_file is not None:
        try:
            key = config.vision_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AnswersError(f"the key file {config.vision_key_file} cannot be read") from error
    if key == "":
        raise AnswersError("the variable or file named for the key of the endpoint is empty")
    return VisionEndpoint(
        config.vision_url,
        config.vision_model,
        key,
        config.send_originals,
        config.vision_timeout,
        config.vision_retries,
    )


def _checks(found: list[Answered]) -> list[Check]:
    """What networks at hand should and should not agree on."""
    checks = []
    for each in found:
        agreed, chance = each.agreement
        if each.truth is not None:
            claim = f"lower limit of the agreement on the person, by {each.source}, at most chance"
            checks.append(Check(claim, chance, agreed.lower, relation="at_most"))
        elif agreed.count >= MIN_SAMPLE:
            claim = f"lower limit of the agreement on '{each.question.name}', at least chance"
            checks.append(Check(claim, chance, agreed.lower, relation="at_least"))
    return checks or [Check("photos with a question about the person", 2.0, float(len(found[0].original)))]


JOB = Job(
    name="audit-answers",
    summary="asks the same questions of photos and their releases: which answers stay, and who it is",
    config=AuditAnswersConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={"smoke": {"artifacts": "artifacts", "photos": 2}},
    needs=NEEDS,
)
