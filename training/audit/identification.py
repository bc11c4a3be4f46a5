"""Attacks by stock recognizers (A0, A4, A6) and by attackers trained on releases of other people (A2, A3, A5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from training.audit.attackers import PairAttacker, RidgeAttacker
from training.audit.attribute_probe import CodeProbe
from training.audit.baselines import BASELINES
from training.audit.label_attacker import LabelAttacker
from training.audit.probes import Probes, Score
from training.audit.recognition import (
    Views,
    own_original_found,
    privacy_measures,
    replaced_measures,
    self_similarity,
    similarity_tail,
)
from training.audit.statistics import Estimate
from training.audit.tables import Table
from training.audit.views import DRAWN_BACK, Codebook, joined

Codes = NDArray[np.float32]
Estimates = dict[str, Estimate]

GALLERIES = ("mate", "source")
OWN_ORIGINAL_BY = ("dlib", "faceres")
"""Recognizers of FaceNet's kind that search the test set (P4); the first is a serving oracle, the second is not."""


def recognized(
    name: str, codes: Codebook, probes: Probes, threshold: float
) -> tuple[Estimates, Table, NDArray[np.float64]]:
    """Attack by one stock recognizer.

    Args:
        name: The recognizer.
        codes: Everything it was shown.
        probes: The probes.
        threshold: Similarity from which two faces count as one person.

    Returns:
        Estimates by `measure.recognizer`, rows of other treatments of the same faces, and the similarity of each probe
        to its source, (n,).
    """
    views = Views(codes["own"], codes["shared"], codes["source"], codes["mate"], probes)
    found = privacy_measures(views, threshold)
    if name in OWN_ORIGINAL_BY:
        found["P4 rank-1 own original"] = own_original_found(views)
    elsewhere: Table = []
    for treatment in BASELINES:
        measures = replaced_measures(codes[treatment], codes["source"], probes, threshold)
        elsewhere.append(
            {"treatment": treatment, "recognizer": name} | {k: round(v.value, 4) for k, v in measures.items()}
        )
    for gallery in GALLERIES:
        found[f"A6 rank-1 {gallery}"] = probes.found(codes["mask"], codes[gallery])
        for measure, key in DRAWN_BACK.items():
            if len(codes[key]):
                found[f"{measure} rank-1 {gallery}"] = probes.found(codes[key], codes[gallery])
    return {f"{measure}.{name}": value for measure, value in found.items()}, elsewhere, self_similarity(views)


def tails(similarities: Mapping[str, NDArray[np.float64]]) -> Table:
    """P5 of every recognizer."""
    return [
        {"recognizer": name, **{k: round(v, 3) for k, v in similarity_tail(values).items()}}
        for name, values in similarities.items()
    ]


def trained(
    codebooks: Mapping[str, Codebook],
    attribute_codes: Callable[[str], Codes],
    probes: Probes,
    pupils: NDArray[np.int64],
    rng: np.random.Generator,
) -> Estimates:
    """Attack by attackers who learned from released photos of other people.

    The same attackers learn from covered faces too: what training makes of the context alone.

    Args:
        codebooks: Everything that was shown, by recognizer.
        attribute_codes: Codes of the `probes` and of the `pupils`, as the generator is told them.
        probes: The probes.
        pupils: Person of each released photo that is learned from, (p,), at least two people.
        rng: Draws wrong pairs.

    Returns:
        Estimates by `measure.attacker`.
    """
    eyes, splits = joined(codebooks)
    clean, clean_people = eyes["pupil sources"], pupils
    if len(np.unique(pupils)) == len(pupils):
        clean, clean_people = np.concatenate([clean, eyes["pupil mates"]]), np.concatenate([pupils, pupils])
    estimates: Estimates = {}
    ways = (("A2", "A3", "pupils", "own"), ("A6 named", "A6 trained", "pupil masks", "mask"))
    for by_name, by_pairs, learned_from, shown in ways:
        attackers: dict[str, tuple[str, Score]] = {
            "ridge": (by_pairs, RidgeAttacker.fit(eyes[learned_from], eyes["pupil mates"]).scores),
            "pairs": (
                by_pairs,
                PairAttacker.fit(eyes[learned_from], eyes["pupil mates"], splits, rng, people=pupils).scores,
            ),
            "names": (by_name, LabelAttacker.fit(eyes[learned_from], clean, pupils, clean_people).scores),
        }
        for name, (measure, score) in attackers.items():
            for gallery in GALLERIES:
                found = probes.found(eyes[shown], eyes[gallery], score)
                estimates[f"{measure} rank-1 {gallery}.{name} attacker"] = found
    # the code that the generator is told, and what stays in view around the face, by one and the same probe
    inputs = {
        "attribute code": (attribute_codes("pupils"), attribute_codes("probes")),
        "context alone": (eyes["pupil masks"], eyes["mask"]),
    }
    for name, (theirs, ours) in inputs.items():
        for gallery in GALLERIES:
            probe = CodeProbe.fit(theirs, eyes[f"pupil {gallery}s"], people=pupils)
            estimates[f"A5 rank-1 {gallery}.{name}"] = probes.found(ours, eyes[gallery], probe.scores)
    return estimates
