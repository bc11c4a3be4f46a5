"""Repair of an exhausted search: from the best refused code to one that every oracle lets pass, by comparisons alone.

A directional attack on the oracles without their gradients: start at the refused code with the smallest worst excess
and step away from the one with the largest; while a step helps, repeat it twice as long. Where it does not, poll random
directions of a subspace and, as every fourth trial, cover with a fresh proposal; a row of failures halves the radius.

What it leaks. Let R be the randomness, drawn without looking at any source. Given R, the released code is a function of
the two indices and of the answers "worse, better, passes", so I(source; code) <= H(indices, answers | R), and the mean
length of any prefix code is at least that entropy. The meter charges the length of one: log2 n for each index, and the
answers by Krichevsky and Trofimov's sequential estimate (IEEE Transactions on Information Theory, 1981). Gradients or
similarities would be real numbers, about which no such bound holds: the search never sees more than the answers.

Source: P.-Y. Bouchet, T. Vidal, arXiv:2510.01461, 2025; `training.optimizers.derivative_free.directional_attacks` is
the full method. Differs: attacks along differences of judged codes instead of gradients; one trial at a time; on the
sphere; stops at the first code that passes, since every further look tells more about the source.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.identity.errors import PreviewError
from models.identity.leakage import leaked_bits
from models.identity.rejection import Preview, Proposal
from models.identity.sphere import Codes, as_codes, tangent_step

Answer = Literal["worse", "better", "passes"]

_COVER_EVERY = 4  # every fourth trial is a fresh draw, so that a quarter of the budget is plain rejection
_KT_PRIOR = 0.5
_ANSWERS = 3


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """Budget and radii of the search.

    Attributes:
        budget: codes shown to the oracles at most, the certificate included.
        radius: angle of the first steps, radians.
        max_radius: largest angle of a step.
        patience: failures in a row after which the radius is halved.
    """

    budget: int = 64
    radius: float = 0.4
    max_radius: float = 1.2
    patience: int = 8

    def __post_init__(self) -> None:
        """Refuse an empty search.

        Raises:
            ValueError: if the budget is below 3, patience below 1, or the radii are out of range.
        """
        if self.budget < 3 or self.patience < 1:
            raise ValueError(f"budget must be at least 3 and patience 1, got {self.budget} and {self.patience}")
        if not 0.0 < self.radius <= self.max_radius <= np.pi / 2:
            raise ValueError(f"need 0 < radius <= max_radius <= pi/2, got {self.radius} and {self.max_radius}")


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    """A code that passed every oracle twice.

    code: (d,) unit float32. certificate: similarity of each oracle on the second look. calls: codes shown to the
    oracles. leaked_bits: bound on the bits about the source, those of the refused candidates included.
    """

    code: Codes = field(repr=False)
    certificate: Mapping[str, float]
    calls: int
    leaked_bits: float


@dataclass(frozen=True, slots=True)
class Unrepaired:
    """The budget is spent; the face must be redacted or withheld. Counts as in `Repaired`."""

    calls: int
    leaked_bits: float


class _Judge:
    """Asks the oracles, and tells the search nothing but how a code compares with the best so far."""

    def __init__(self, preview: Preview, limits: Mapping[str, float], scales: Mapping[str, float]) -> None:
        if not limits or set(limits) != set(scales) or not all(scale > 0 for scale in scales.values()):
            raise ValueError(f"need a limit and a positive scale of each oracle, got {sorted(limits)}, {dict(scales)}")
        self._preview, self._limits, self._scales = preview, limits, scales
        self._best = np.inf
        self.answers: list[Answer] = []
        self.seen: dict[str, float] = {}

    def ask(self, code: Codes) -> Answer:
        similarities = self._preview(code[None])
        missing = sorted(set(self._limits) - set(similarities))
        if missing:
            raise PreviewError(f"the preview has no similarity of the oracles {missing}")
        self.seen = {name: float(np.asarray(similarities[name]).reshape(())) for name in self._limits}
        if not all(np.isfinite(value) for value in self.seen.values()):
            raise PreviewError("an oracle answered with a number that is not finite")
        excess = worst_excess({k: np.array([v]) for k, v in self.seen.items()}, self._limits, self._scales)[0]
        answer: Answer = "worse"
        if all(self.seen[name] < limit for name, limit in self._limits.items()):
            answer = "passes"
        elif excess < self._best:
            answer = "better"
        self._best = min(self._best, float(excess))
        self.answers.append(answer)
        return answer


def repair_code(
    refused: NDArray[Any],
    excesses: NDArray[Any],
    preview: Preview,
    limits: Mapping[str, float],
    scales: Mapping[str, float],
    proposal: Proposal,
    *,
    rng: np.random.Generator,
    basis: NDArray[Any] | None = None,
    allowed: Callable[[Codes], NDArray[np.bool_]] | None = None,
    settings: RepairSettings = RepairSettings(),
) -> Repaired | Unrepaired:
    """Search for a code that stays below every limit, from the candidates that did not.

    Args:
        refused: all n refused candidates, (n, d) unit codes.
        excesses: their worst excess, (n,), see `worst_excess`.
        preview: similarity of each oracle for (m, d) codes, the largest over source and views. It must draw every code
            with the same noise, so that what is certified is what is released.
        limits: tau_k - m_k, the largest similarity of each oracle, not reached.
        scales: unit of each oracle's excess, such as the standard deviation of its impostors.
        proposal: fresh codes, drawn without looking at the source, and the test of the manifold (T2).
        rng: source of randomness, independent of the source photo.
        basis: orthonormal rows (k, d) that span the directions polled, see `principal_directions`; all when left out.
        allowed: further tests that look at no source (T3, T4), of (m, d) codes; refused trials cost no oracle call.
        settings: budget and radii.

    Returns:
        A certified code, or the fact that there is none.

    Raises:
        IdentityCodeError: when a code is malformed.
        PreviewError: when an oracle is missing or its answer is not a finite number.
        ValueError: when there is no refused candidate, or shapes or scales disagree.
    """
    codes = as_codes(refused, "refused candidates", proposal.dim)
    order = np.asarray(excesses, dtype=np.float64)
    if codes.shape[0] == 0 or order.shape != (codes.shape[0],):
        raise ValueError(f"need one excess for each refused candidate, got {codes.shape[0]} and {order.shape}")
    best, worst = codes[int(np.argmin(order))], codes[int(np.argmax(order))]
    judge = _Judge(preview, limits, scales)
    search = _Trials(best, worst, proposal, rng, basis, settings)
    judge.ask(best)  # the noise of the repair is another than that of the refused draw
    while len(judge.answers) < settings.budget - 1:
        trial = search.next(allowed)
        if trial is None:
            break
        answer = judge.ask(trial)
        if answer == "passes" and judge.ask(trial) == "passes":
            bits = repair_bits(codes.shape[0], judge.answers)
            return Repaired(trial, dict(judge.seen), len(judge.answers), bits)
        search.tell(answer != "worse")
    return Unrepaired(len(judge.answers), repair_bits(codes.shape[0], judge.answers))


def worst_excess(
    similarities: Mapping[str, NDArray[Any]], limits: Mapping[str, float], scales: Mapping[str, float]
) -> NDArray[np.float64]:
    """max_k (s_k - limit_k) / scale_k of n codes, shape (n,); negative where every oracle lets the code pass."""
    excesses = [(np.asarray(similarities[name]) - limit) / scales[name] for name, limit in limits.items()]
    return np.asarray(np.max(excesses, axis=0), dtype=np.float64)


def principal_directions(bank: Codes, count: int = 32) -> NDArray[np.float64]:
    """Orthonormal rows (count, d) of the largest principal components of bank codes (n, d)."""
    centered = bank.astype(np.float64) - bank.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centered.T @ centered)
    return np.ascontiguousarray(vectors.T[::-1][:count])


def repair_bits(num_refused: int, answers: Sequence[Answer]) -> float:
    """Bound the bits about the source that a repaired code tells.

    The refusals of the n candidates cost H_n / ln 2, as in `leaked_bits`, and once more because the search starts from
    them: the refused codes have the law of codes that the source refuses. That charge may fall short by 0.53 * 2^-g
    bits in the mean over all faces, g the charge itself (0.01 bits for n = 32). Two indices and the answers follow.

    Args:
        num_refused: n >= 1.
        answers: of the search, in order.

    Returns:
        Bits, >= 0.
    """
    return 2.0 * leaked_bits(num_refused + 1) + search_bits(num_refused, answers)


def search_bits(num_refused: int, answers: Sequence[Answer]) -> float:
    """Length of the prefix code of a search: 2 log2 n for best and worst candidate, then its answers.

    Args:
        num_refused: n >= 1.
        answers: of the search, in order.

    Returns:
        Bits, >= 0; their mean over any law of sources is at least the entropy of the searches.
    """
    counts = dict.fromkeys(("worse", "better", "passes"), _KT_PRIOR)
    length = 2.0 * float(np.log2(num_refused))
    for seen, answer in enumerate(answers):
        length -= float(np.log2(counts[answer] / (seen + _ANSWERS * _KT_PRIOR)))
        counts[answer] += 1.0
    return length


class _Trials:
    """Where to look next; knows codes and whether they helped, and neither source nor similarity."""

    def __init__(
        self,
        best: Codes,
        worst: Codes,
        proposal: Proposal,
        rng: np.random.Generator,
        basis: NDArray[Any] | None,
        settings: RepairSettings,
    ) -> None:
        self._best = best
        self._proposal, self._rng, self._settings = proposal, rng, settings
        self._basis = None if basis is None else np.asarray(basis, dtype=np.float64)
        self._radius = settings.radius
        self._direction: NDArray[np.float64] | None = best.astype(np.float64) - worst  # the first attack
        self._failures = self._count = 0
        self._polls = self._directions()
        self._trial = best
        self._step = self._direction

    def next(self, allowed: Callable[[Codes], NDArray[np.bool_]] | None) -> Codes | None:
        """The next trial that the source-blind tests let through; None when a thousand in a row do not."""
        for _ in range(1000):
            trial = self._propose()
            fits = self._proposal.contains(trial[None])[0] and (allowed is None or bool(allowed(trial[None])[0]))
            if fits:
                self._trial = trial
                return trial
            self._direction = None  # what leads off the manifold is no direction to go on in
        return None

    def tell(self, helped: bool) -> None:
        """Take the answer about the last trial."""
        if helped:
            self._best, self._failures = self._trial, 0
            self._direction = self._step
            self._radius = min(2.0 * self._radius, self._settings.max_radius)
            return
        self._failures += 1
        if self._direction is not None or self._failures % self._settings.patience == 0:
            self._radius = max(self._radius / 2.0, 0.05)
        self._direction = None

    def _propose(self) -> Codes:
        self._count += 1
        base = self._best.astype(np.float64)
        if self._direction is None and self._count % _COVER_EVERY == 0:
            fresh = self._proposal.propose(self._rng)
            self._step = fresh - base
            return fresh
        direction = self._direction if self._direction is not None else next(self._polls)
        tangent = direction - float(direction @ base) * base
        length = float(np.linalg.norm(tangent))
        self._step = direction
        step = tangent * (self._radius / length) if length > 0 else tangent
        return tangent_step(base, step).astype(np.float32)

    def _directions(self) -> Iterator[NDArray[np.float64]]:
        dim = self._proposal.dim if self._basis is None else self._basis.shape[0]
        while True:
            rotation, _ = np.linalg.qr(self._rng.standard_normal((dim, dim)))
            rows = rotation if self._basis is None else rotation @ self._basis
            for index in self._rng.permutation(2 * dim):
                yield rows[index // 2] * (1.0 if index % 2 else -1.0)
