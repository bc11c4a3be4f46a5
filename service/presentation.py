"""From requests to policies, and from outcomes to the bodies of answers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from models.anonymizer.errors import VerdictForgedError
from models.anonymizer.policy import Policy
from models.anonymizer.verdict import Reason, Release, Status
from service.ports import Engine, Item, ModelInfo, Outcome, SeedNotAllowedError
from service.schemas import (
    AnonymizeOptions,
    FaceReport,
    Image,
    Model,
    OutputOptions,
    PolicyReport,
    Privacy,
)


def make_policy(options: AnonymizeOptions, output: OutputOptions, *, allow_seed: bool) -> Policy:
    """Turn what a caller asked for into a policy.

    Args:
        options: treatment of faces.
        output: encoding of the picture.
        allow_seed: whether random draws may be fixed.

    Returns:
        The policy.

    Raises:
        SeedNotAllowedError: if a seed was given and is not allowed.
    """
    if options.seed is not None and not allow_seed:
        raise SeedNotAllowedError("a known seed makes a known identity")
    return Policy(
        mode=options.mode,
        level=options.level,
        steps=options.steps,
        scope=options.scope,
        on_failure=options.on_failure,
        max_similarity=options.max_similarity,
        seed=options.seed,
        media=output.format,
        max_side=output.max_side,
    )


def image_href(collection: str, item_id: str, policy: Policy | None = None) -> str:
    """Give the path of a stored picture's release; with a policy, the very release an answer describes."""
    path = f"/v1/collections/{collection}/items/{item_id}/image"
    if policy is None:
        return path
    fields = {
        "mode": policy.mode,
        "level": policy.level,
        "steps": policy.steps,
        "scope": policy.scope,
        "on_failure": policy.on_failure,
        "max_similarity": policy.max_similarity,
        "format": policy.media,
        "max_side": policy.max_side,
    }
    return f"{path}?{urlencode({name: value for name, value in fields.items() if value is not None})}"


def released_bytes(outcome: Outcome) -> bytes | None:
    """Give the verified bytes of an outcome; None when there are none or they no longer verify."""
    if not isinstance(outcome, Release):
        return None
    try:
        return outcome.image_bytes()
    except VerdictForgedError:
        return None


def describe(outcome: Outcome, *, href: str | None = None, inline: bool = True) -> tuple[Image | None, Privacy]:
    """Describe an outcome.

    Args:
        outcome: what the anonymizer gave.
        href: where the picture can be fetched.
        inline: whether the bytes go into the answer.

    Returns:
        The picture, None when it is withheld, and the verdict on it.
    """
    if not isinstance(outcome, Release):
        return None, Privacy(status="withheld", reason=str(outcome.reason), faces=[])
    verdict = outcome.verdict
    faces = [FaceReport.model_validate(face.as_dict()) for face in verdict.faces]
    data = released_bytes(outcome)
    if data is None:
        reason = verdict.reason if verdict.status is Status.WITHHELD else Reason.BYTES_CHANGED
        return None, Privacy(status="withheld", reason=None if reason is None else str(reason), faces=faces)
    image = Image(
        media_type=outcome.media_type,
        width=outcome.width,
        height=outcome.height,
        sha256=verdict.digest or "",
        data=base64.b64encode(data).decode("ascii") if inline else None,
        href=href,
    )
    reason_text = None if verdict.reason is None else str(verdict.reason)
    return image, Privacy(status=verdict.status.value, reason=reason_text, faces=faces)


def chosen_payload(item: Item, wanted: bool | Sequence[str]) -> dict[str, Any]:
    """Choose payload fields of a record, from which the corpus has removed what may not be told.

    Args:
        item: the record.
        wanted: all, none, or the listed keys.

    Returns:
        The fields.
    """
    if isinstance(wanted, bool):
        return dict(item.payload) if wanted else {}
    return {key: item.payload[key] for key in wanted if key in item.payload}


def chat_parts(entries: Iterable[tuple[str | None, Image | None]]) -> list[dict[str, Any]]:
    """Give captions and pictures as message parts of a chat API.

    Args:
        entries: caption and inlined picture of each result; withheld ones have no picture and are left out.

    Returns:
        `text` and `image_url` parts.
    """
    parts: list[dict[str, Any]] = []
    for caption, image in entries:
        if image is None or image.data is None:
            continue
        if caption:
            parts.append({"type": "text", "text": caption})
        url = f"data:{image.media_type};base64,{image.data}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def list_models(models: Iterable[ModelInfo]) -> list[Model]:
    """List the artifacts in use."""
    return [Model(role=model.role, name=model.name, version=model.version, sha256=model.sha256) for model in models]


def report_policy(policy: Policy, engine: Engine) -> PolicyReport:
    """Describe the policy an answer was made under, with the thresholds that really applied."""
    thresholds = {name: policy.threshold(value) for model in engine.models for name, value in model.thresholds.items()}
    return PolicyReport(
        mode=policy.mode,
        level=policy.level,
        scope=policy.scope,
        on_failure=policy.on_failure,
        steps=policy.steps,
        thresholds=thresholds,
        version=engine.policy_version,
    )


def milliseconds(*timings_s: Mapping[str, float], total_s: float) -> dict[str, float]:
    """Add up seconds per stage and give milliseconds.

    Args:
        *timings_s: stage name to seconds, one mapping per picture or step.
        total_s: the whole request.

    Returns:
        Stage name to milliseconds, with `total`.
    """
    sums: dict[str, float] = {}
    for timings in timings_s:
        for stage, seconds in timings.items():
            sums[stage] = sums.get(stage, 0.0) + seconds
    sums["total"] = total_s
    return {stage: round(seconds * 1000, 2) for stage, seconds in sums.items()}
