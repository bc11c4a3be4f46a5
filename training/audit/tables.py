"""Tables of the audit's report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES
from training.audit.photos import REPLACED, AuditedPhoto
from training.audit.probes import Probes
from training.audit.statistics import Estimate, rate
from training.audit.subgroups import gap, subgroups

RECOGNIZERS = (*SERVING_ORACLES, *AUDITOR_ORACLES)

Table = list[dict[str, object]]


def estimate_row(name: str, estimate: Estimate) -> dict[str, object]:
    """One measure with its interval and sample size."""
    return {
        "measure": name,
        "value": round(estimate.value, 4),
        "95 % interval": f"{estimate.lower:.4f} .. {estimate.upper:.4f}",
        "n": estimate.count,
    }


def subgroup_table(
    photos: Sequence[AuditedPhoto],
    probes: Probes,
    labels: NDArray[np.float64],
    similarities: Mapping[str, NDArray[np.float64]],
) -> Table:
    """Refusals, landmark error and similarity by apparent sex and age, and the gaps between the groups (U11)."""
    everyone, chosen = subgroups(labels), probes.places
    refused = np.array([not photo.is_replaced for photo in photos], dtype=np.float64)
    error = np.array([photos[place].measures.get("landmark_error", np.nan) for place in chosen])
    table: Table = []
    for name, mask in everyone.items():
        inside = mask[chosen]
        row: dict[str, object] = {
            "group": name,
            "people": len(np.unique(np.flatnonzero(mask) % probes.gallery)),
            "released": int(inside.sum()),
        }
        row["not replaced"] = round(float(refused[mask].mean()), 3) if mask.any() else None
        if inside.any():
            row["landmark error"] = round(float(np.nanmean(error[inside])), 4)
            row["faceres similarity"] = round(float(similarities["faceres"][inside].mean()), 3)
        table.append(row)
    inner = {name: mask[chosen] for name, mask in everyone.items()}
    table.append(
        {
            "group": "gap of groups of 20 and more",
            "not replaced": round(gap(refused, everyone), 3),
            "landmark error": round(gap(error, inner), 4),
            "faceres similarity": round(gap(similarities["faceres"], inner), 3),
        }
    )
    return table


def released_rates(photos: Sequence[AuditedPhoto], probes: Probes) -> dict[str, Estimate]:
    """What was not replaced, found again (U1) and left as it was outside the masks (U8)."""
    people = np.arange(len(photos)) % probes.gallery
    faces = [
        (person, face.status.value not in REPLACED)
        for person, photo in zip(people.tolist(), photos, strict=True)
        if photo.release
        for face in photo.release.verdict.faces
    ]
    of, left = np.array(faces, dtype=np.int64).reshape(-1, 2).T
    chosen = [photos[place] for place in probes.places]
    equal = np.array([photo.measures.get("outside_equal", 0.0) == 1.0 for photo in chosen])
    return {
        "main face not replaced": rate(np.array([not photo.is_replaced for photo in photos]), people),
        "all faces, not replaced": rate(left == 1, of),
        "U1 found again": probes.rate(np.array([photo.found is not None for photo in chosen])),
        "U8 outside equal": probes.rate(equal),
    }


def floor_table(utility: Mapping[str, Estimate]) -> Table:
    """Every reading of released faces beside what the autoencoder alone, and a mirror, do to the same reading."""
    table: Table = []
    for name, found in utility.items():
        floors = {way: utility.get(f"{name}, {way}") for way in ("autoencoder only", "mirrored")}
        if any(floors.values()):
            row = {"measure": name, "released": ranged(found), "n": found.count}
            table.append(row | {way: "" if floor is None else ranged(floor) for way, floor in floors.items()})
    return table


def ranged(found: Estimate) -> str:
    """A value with its interval, as text."""
    return f"{found.value:.3f} ({found.lower:.3f} .. {found.upper:.3f})"


def inversion_table(privacy: Mapping[str, Estimate]) -> Table:
    """Rank-1 with the source enrolled: release (A0), original drawn from it (A4), context (A6), drawn from that."""
    measures = {
        "released face (A0)": "P3",
        "drawn back (A4)": "A4",
        "context alone (A6)": "A6",
        "drawn back from the context alone": "A6 drawn",
    }
    table: Table = []
    for name in RECOGNIZERS:
        if f"A4 rank-1 source.{name}" not in privacy:
            continue
        row: dict[str, object] = {"recognizer": name, "in the attacker's loss": name in SERVING_ORACLES}
        for label, measure in measures.items():
            found = privacy[f"{measure} rank-1 source.{name}"]
            row[label] = ranged(found)
        table.append({**row, "n": privacy[f"A4 rank-1 source.{name}"].count})
    return table


_FLOORS: Final[Mapping[str, str]] = {"P3": "A6", "A2": "A6 named", "A3": "A6 trained", "A4": "A6 drawn"}
"""The same attacker or recognizer on covered faces, from which its advantage counts."""


def criteria_table(privacy: Mapping[str, Estimate], links: Table, people: int) -> Table:
    """Singling out, linkability and inference (WP29 Opinion 05/2014), as far as this run tells.

    An attacker is compared with itself on covered faces: one that learned to read surroundings finds people by them.
    """
    advantages = {
        name: (found.upper, privacy[covered].value)
        for name, found in privacy.items()
        for measure, of_context in _FLOORS.items()
        if name.startswith(f"{measure} rank-1 mate.")
        and (covered := f"{of_context}{name.removeprefix(measure)}") in privacy
    }
    worst = max(advantages, key=lambda name: advantages[name][0] - advantages[name][1])
    upper, floor = advantages[worst]
    return [
        {
            "criterion": "singling out",
            "measured": f"{worst}: upper limit {upper:.3f}, on covered faces {floor:.3f}",
            "limit": "advantage over the context alone at most .01",
            "passes": bool(upper - floor <= 0.01),
        },
        _linkability(links),
        _inference(privacy, people),
    ]


def service_table(privacy: Mapping[str, Estimate]) -> Table:
    """What the large-step logistic attacker on pairs finds beside the ridge attacker, as a row of the methods page."""
    names = {way: f"A3 rank-1 source.{way} attacker" for way in ("ridge", "pairs")}
    if names["pairs"] not in privacy:
        return []
    return [
        {
            "method": "large_step_logistic",
            "job": "attacks releases, trained on pairs; plain: ridge regression",
            "measure": "rank-1 with the source photo enrolled (a stronger attacker finds more)",
            "without": round(privacy[names["ridge"]].value, 4),
            "with": round(privacy[names["pairs"]].value, 4),
            "n": privacy[names["pairs"]].count,
        }
    ]


def _inference(privacy: Mapping[str, Estimate], people: int) -> dict[str, object]:
    limit = "probe of the attribute code finds another photo at most 2x as often as chance"
    if "A5 rank-1 mate.attribute code" not in privacy:
        return {"criterion": "inference", "measured": "not in this run", "limit": limit, "passes": ""}
    code, context = (privacy[f"A5 rank-1 mate.{source}"].value for source in ("attribute code", "context alone"))
    return {
        "criterion": "inference",
        "measured": f"A5: {code:.3f}, context alone {context:.3f}, chance {1 / people:.4f}",
        "limit": limit,
        "passes": bool(code <= 2 / people),
    }


def _linkability(links: Table) -> dict[str, object]:
    limit = "EER of fresh faces at least .45"
    if not links:
        return {"criterion": "linkability", "measured": "not in this run", "limit": limit, "passes": ""}
    worst = min(links, key=lambda row: float(str(row["EER, released"])))
    error = float(str(worst["EER, released"]))
    return {
        "criterion": "linkability",
        "measured": f"{worst['recognizer']}: EER {error:.3f}, context alone {worst['EER, context alone']}",
        "limit": limit,
        "passes": error >= 0.45,
    }


def count_table(name: str, values: Iterable[str]) -> Table:
    """How often each value occurs, the most frequent first."""
    return [{name: key, "count": count} for key, count in Counter(values).most_common()]
