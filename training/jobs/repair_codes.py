"""Job: faces whose candidates are all refused, repaired from the best of them, against more tries and CMA-ES."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.identity.leakage import leaked_bits
from models.identity.manifold import IdentityManifold
from models.identity.rejection import Accepted, RejectionSampler, Subject
from models.identity.sphere import Codes, normalize
from training.jobs.code_repair import Repaired, RepairSettings, repair_code, worst_excess
from training.jobs.face_search import FaceSearchConfig, load_face_search
from training.jobs.searched_faces import SearchedFace
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "directional_attacks"
_REPAIR_NOISE = 10_000  # beyond the noise of every refused candidate
_ARMS = ("repair", "more tries", "CMA-ES")


class RepairCodesConfig(FaceSearchConfig):
    """Settings of the run."""

    faces: int = Field(240, ge=1, description="faces that are tried, at most")
    max_tries: int = Field(4, ge=1, description="refused candidates after which a face is exhausted; the service: 32")
    max_exhausted: int = Field(40, ge=1, description="exhausted faces that are repaired, at most; the first of them")
    max_calls: int = Field(1400, ge=1, description="codes shown to the oracles after which no further face is taken")
    budget: int = Field(32, ge=3, description="codes shown to the oracles in a repair, for every arm")
    margin: float = Field(1.0, ge=0, le=3, description="distance from the thresholds, in deviations")
    identity_threshold: float = Field(0.15, gt=-1, le=1, description="cosine to the source's code, not reached")


@dataclass(frozen=True, slots=True)
class Rules:
    """What every arm must respect: limits and scales of the oracles, proposals, and cosine to the source's code."""

    manifold: IdentityManifold
    limits: Mapping[str, float]
    scales: Mapping[str, float]
    identity_threshold: float
    budget: int
    basis: NDArray[np.float64]

    def passes(self, similarities: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
        """Whether every oracle lets the codes pass, (n,)."""
        return worst_excess(similarities, self.limits, self.scales) < 0

    def proposals(self, face: SearchedFace, count: int, rng: np.random.Generator) -> Codes:
        """Fresh codes that pass the tests on codes, (m, d) with m at most `count`."""
        sampler = RejectionSampler(self.manifold, self.identity_threshold, max_tries=1024)
        drawn = [sampler.draw(Subject(face.code), bin_test=face.suits, rng=rng) for _ in range(count)]
        codes = [each.code for each in drawn if isinstance(each, Accepted)]
        return np.stack(codes) if codes else np.zeros((0, self.manifold.dim), np.float32)

    def allowed(self, face: SearchedFace) -> Callable[[Codes], NDArray[np.bool_]]:
        """The coarse attribute match and the cosine to the source's code, of (n, d) codes."""

        def test(codes: Codes) -> NDArray[np.bool_]:
            far = codes @ face.code < self.identity_threshold
            return far if face.suits is None else far & face.suits(codes)

        return test


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm did with one face."""

    code: Codes | None
    calls: int
    bits: float
    quality: Mapping[str, float]


def run(config: RepairCodesConfig, context: RunContext) -> Report:
    """Find exhausted faces, repair each in every way, report.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report.
    """
    rng = np.random.default_rng(config.seed)
    search = load_face_search(config, context, rng, stand_in_limit=-0.05)
    identity_threshold = 1.0 if config.linear else config.identity_threshold
    limits, scales = search.limits(config.margin), search.scales()
    rules = Rules(search.manifold, limits, scales, identity_threshold, config.budget, search.basis)
    exhausted: list[tuple[SearchedFace, Codes, NDArray[np.float64]]] = []
    found: dict[str, list[Outcome]] = {arm: [] for arm in _ARMS}
    tried = calls = 0
    for face in search.serve(()):
        if len(exhausted) == config.max_exhausted or calls >= config.max_calls or context.should_stop():
            break
        tried += 1
        codes, excesses = exhaust(face, rules, config.max_tries, rng)
        calls += len(codes)
        if not (len(codes) and (excesses >= 0).all()):
            continue
        exhausted.append((face, codes, excesses))
        found["repair"].append(_repair(face, codes, excesses, rules, rng))
        found["more tries"].append(_more_tries(face, len(codes), rules, rng))
        found["CMA-ES"].append(_cma(face, codes, excesses, rules, config.seed + len(exhausted)))
        calls += sum(outcomes[-1].calls for outcomes in found.values())
        context.log({f"{arm}: calls": float(outcomes[-1].calls) for arm, outcomes in found.items()})
        context.log({f"{arm}: repaired": float(outcomes[-1].code is not None) for arm, outcomes in found.items()})
    metrics = {"tried": float(tried), "exhausted": float(len(exhausted)), "calls": float(calls)}
    context.log(metrics)
    rows = [_row(arm, outcomes) for arm, outcomes in found.items()] if exhausted else []
    checks = [_certified(exhausted, found["repair"], rules)]
    tables: dict[str, Sequence[Mapping[str, Any]]] = {"exhausted faces": rows}
    tables["artifacts"] = search.artifacts()
    if exhausted:
        tables["in the service"] = in_the_service(found, config.max_tries)
    return Report(metrics, checks, tables=tables)


def exhaust(
    face: SearchedFace, rules: Rules, max_tries: int, rng: np.random.Generator
) -> tuple[Codes, NDArray[np.float64]]:
    """Draw as the service does until a candidate passes or the tries are used up.

    Args:
        face: The source.
        rules: Limits and proposals.
        max_tries: Candidates judged at most.
        rng: Draws the candidates.

    Returns:
        The candidates judged (n, d) and their worst excesses (n,), of which only the last can be negative.
    """
    codes: list[Codes] = []
    excesses: list[float] = []
    for attempt in range(max_tries):
        proposal = rules.proposals(face, 1, rng)
        if not len(proposal):
            break
        codes.append(proposal[0])
        seen = face.similarities(proposal, attempt)
        excesses.append(float(worst_excess(seen, rules.limits, rules.scales)[0]))
        if excesses[-1] < 0:
            break
    return np.array(codes, dtype=np.float32).reshape(len(codes), rules.manifold.dim), np.array(excesses)


def _repair(
    face: SearchedFace, codes: Codes, excesses: NDArray[np.float64], rules: Rules, rng: np.random.Generator
) -> Outcome:
    result = repair_code(
        codes,
        excesses,
        lambda trials: face.similarities(trials, _REPAIR_NOISE),
        rules.limits,
        rules.scales,
        rules.manifold,
        rng=rng,
        basis=rules.basis,
        allowed=rules.allowed(face),
        settings=RepairSettings(budget=rules.budget),
    )
    code = result.code if isinstance(result, Repaired) else None
    return Outcome(code, result.calls, result.leaked_bits, _quality(face, code, _REPAIR_NOISE))


def _more_tries(face: SearchedFace, refused: int, rules: Rules, rng: np.random.Generator) -> Outcome:
    for attempt in range(rules.budget):
        proposal = rules.proposals(face, 1, rng)
        noise = refused + attempt
        if len(proposal) and rules.passes(face.similarities(proposal, noise))[0]:
            bits = leaked_bits(refused + attempt + 1)
            return Outcome(proposal[0], attempt + 1, bits, _quality(face, proposal[0], noise))
    return Outcome(None, rules.budget, leaked_bits(refused + rules.budget + 1), {})


def _cma(face: SearchedFace, codes: Codes, excesses: NDArray[np.float64], rules: Rules, seed: int) -> Outcome:
    """Minimize the worst excess over the principal directions, with all similarities at hand: no bound on the bits."""
    import cma  # type: ignore[import-untyped]  # no type information

    start = codes[int(np.argmin(excesses))].astype(np.float64)
    allowed = rules.allowed(face)
    strategy = cma.CMAEvolutionStrategy(
        np.zeros(len(rules.basis)), 0.4 / np.sqrt(len(rules.basis)), {"seed": seed, "verbose": -9}
    )
    calls = 0
    while calls < rules.budget:
        points = strategy.ask()
        values = []
        for point in points:
            code = normalize(start + np.asarray(point) @ rules.basis).astype(np.float32)
            if not (rules.manifold.contains(code[None])[0] and allowed(code[None])[0]):
                values.append(10.0 + float(np.linalg.norm(point)))
                continue
            if calls == rules.budget:
                break
            calls += 1
            seen = face.similarities(code[None], _REPAIR_NOISE)
            values.append(float(worst_excess(seen, rules.limits, rules.scales)[0]))
            if values[-1] < 0:
                return Outcome(code, calls, np.inf, _quality(face, code, _REPAIR_NOISE))
        if len(values) < len(points) or strategy.countevals > 50 * rules.budget:
            break
        strategy.tell(points, values)
    return Outcome(None, calls, np.inf, {})


def _quality(face: SearchedFace, code: Codes | None, noise: int) -> Mapping[str, float]:
    return {} if code is None else face.quality(code[None], noise)


def _certified(
    exhausted: Sequence[tuple[SearchedFace, Codes, NDArray[np.float64]]], repaired: Sequence[Outcome], rules: Rules
) -> Check:
    """Ask once more about everything that was called repaired."""
    wrong = sum(
        not rules.passes(face.similarities(outcome.code[None], _REPAIR_NOISE))[0]
        for (face, _, _), outcome in zip(exhausted, repaired, strict=True)
        if outcome.code is not None
    )
    return Check("repaired codes that a fresh look refuses", 0.0, float(wrong))


def _row(arm: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {"arm": arm, "faces": len(outcomes), **{name: value(outcomes) for name, value in _MEASURES.items()}}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


_MEASURES: Mapping[str, Callable[[Sequence[Outcome]], float]] = {
    "share repaired": lambda outcomes: _mean([float(o.code is not None) for o in outcomes]),
    "oracle calls, all faces": lambda outcomes: _mean([float(o.calls) for o in outcomes]),
    "bits about the source, bound, repaired": lambda outcomes: _mean([o.bits for o in outcomes if o.code is not None]),
    "share realistic of the repaired": lambda outcomes: _mean([o.quality["realistic"] for o in outcomes if o.quality]),
    "landmark deviation, eye distances": lambda outcomes: _mean(
        [o.quality["landmarks"] for o in outcomes if o.quality]
    ),
}


def in_the_service(found: Mapping[str, Sequence[Outcome]], max_tries: int) -> list[Mapping[str, object]]:
    """Rows of the table of service uses, against more tries and against CMA-ES; without what an arm cannot have."""
    rows: list[Mapping[str, object]] = [
        {
            "method": _METHOD,
            "job": f"repair a face that used up {max_tries} tries; plain: {plain}",
            "measure": measure,
            "without": value(found[plain]),
            "with": value(found["repair"]),
            "n": len(found["repair"]),
        }
        for plain in ("more tries", "CMA-ES")
        for measure, value in _MEASURES.items()
        if all(np.isfinite(value(found[arm])) for arm in (plain, "repair"))
    ]
    return rows


JOB = Job(
    name="repair-codes",
    summary="repairs identity codes of faces whose candidates are all refused, against more tries",
    source=Source(
        "Optimization by Directional Attacks: Solving Problems with Neural Network Surrogates",
        "https://arxiv.org/abs/2510.01461",
        2025,
    ),
    config=RepairCodesConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={"smoke": {"linear": True, "faces": 60, "max_tries": 2, "max_exhausted": 16}},
)
