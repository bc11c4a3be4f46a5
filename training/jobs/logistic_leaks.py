"""What logistic probes read off attribute codes: the side of an identity component, and which enrolled person it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.jobs.coded_faces import Matrix
from training.jobs.logistic_probes import Form, ProbeProblem, Way, compare, newton_probe

_METHOD = "gradient_normalized_smoothness"
_BINARY_FORMS: tuple[Form, ...] = ("dense", "products")
_BINARY_SOLVERS = ("lbfgs", "newton-cholesky")
_SOFTMAX_FORMS: tuple[Form, ...] = ("products",)  # the matrix would have (people times codes)^2 entries
_SOFTMAX_SOLVERS = ("lbfgs", "newton-cg")
_WORDS: dict[str, str] = {"dense": "dense Hessian", "products": "Hessian by products"}
_ALIKE: dict[str, str] = {"dense": "newton-cholesky", "products": "newton-cg"}
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FOLDS = 3


@dataclass(frozen=True, slots=True)
class LogisticLeak:
    """A question put to logistic probes.

    Attributes:
        question: In few words.
        ridge: Penalty chosen on the rows of the fit.
        ways: What every solver did, probe by probe.
        accuracy: Held-out accuracy of every solver, mean over the probes.
        plain: Held-out accuracy of the way without a logistic probe.
        tested: Held-out pictures.
    """

    question: str
    ridge: float
    ways: Sequence[dict[str, Way]]
    accuracy: dict[str, float]
    plain: float
    tested: int

    def mean(self, way: str, field: str) -> float:
        """Mean of a field of `Way` over the probes."""
        return float(np.mean([getattr(ways[way], field) for ways in self.ways]))

    def largest(self, way: str, field: str) -> float:
        """Largest value of a field of `Way` over the probes."""
        return max(getattr(ways[way], field) for ways in self.ways)


def side_probes(
    codes: Matrix, targets: Matrix, people: NDArray[np.int64], held: NDArray[np.bool_], guessed: Matrix
) -> LogisticLeak:
    """Tell on which side of the mean of every identity component a person is, whom no probe was fitted on.

    Args:
        codes: Standardized codes (n, d).
        targets: Components (n, p).
        people: Person of each row (n,).
        held: Rows of the people held out (n,).
        guessed: Components of the held-out rows as a regression predicts them (h, p); their signs are the plain way.

    Returns:
        The answers; the penalty is chosen by leaving people of the fit out.
    """
    features, fitted = _with_constant(codes), torch.from_numpy(~held)
    labels = torch.from_numpy((targets > 0).astype(np.int64))
    problems = tuple(ProbeProblem(features[fitted], column, 2, 1.0) for column in labels[fitted].T)
    ridge = choose_ridge(problems, people[~held] // 2 % _FOLDS, _RIDGES)
    ways = [compare(replace(problem, ridge=ridge), _BINARY_FORMS, _BINARY_SOLVERS) for problem in problems]
    asked = list(zip(problems, ways, labels[~fitted].T, strict=True))
    accuracy = {
        name: float(np.mean([problem.accuracy(found[name].x, features[~fitted], y) for problem, found, y in asked]))
        for name in ways[0]
    }
    plain = float(((guessed > 0) == labels[~fitted].numpy()).mean())
    return LogisticLeak(
        "on which side of an identity component a person is", ridge, ways, accuracy, plain, int(held.sum())
    )


def side_accuracy(codes: Matrix, targets: Matrix, held: NDArray[np.bool_], ridge: float) -> float:
    """Held-out accuracy of the same probes with a given penalty, fitted by the method alone.

    Args:
        codes: Standardized codes (n, d).
        targets: Components (n, p).
        held: Rows of the people held out (n,).
        ridge: Penalty.

    Returns:
        Mean share of the right sides.
    """
    features, fitted = _with_constant(codes), torch.from_numpy(~held)
    found = []
    for column in torch.from_numpy((targets > 0).astype(np.int64)).T:
        problem = ProbeProblem(features[fitted], column[fitted], 2, ridge)
        found.append(problem.accuracy(newton_probe(problem).x, features[~fitted], column[~fitted]))
    return float(np.mean(found))


def enrolled_probe(codes: Matrix, people: NDArray[np.int64]) -> LogisticLeak:
    """Tell which of all people a picture shows, of whom all pictures but the last one are known.

    Args:
        codes: Codes (n, d).
        people: Person of each row (n,), numbered from zero, with two pictures or more each.

    Returns:
        The answers beside the nearest mean code; the penalty is chosen by leaving out the last known picture of people
        with two.
    """
    last = _last_rows(people)
    known = ~last
    known_people = people[known]
    second = _last_rows(known_people) & (np.bincount(known_people)[known_people] > 1)
    standard = (codes - codes[known].mean(0)) / codes[known].std(0).clip(1e-6)
    features, labels = _with_constant(standard), torch.from_numpy(people)
    fitted, num_people = torch.from_numpy(known), int(people.max()) + 1
    problem = ProbeProblem(features[fitted], labels[fitted], num_people, 1.0)
    ridge = choose_ridge((problem,), np.where(second, 0, -1), _RIDGES)
    ways = compare(replace(problem, ridge=ridge), _SOFTMAX_FORMS, _SOFTMAX_SOLVERS)
    accuracy = {name: problem.accuracy(way.x, features[~fitted], labels[~fitted]) for name, way in ways.items()}
    means = np.stack([standard[known & (people == person)].mean(0) for person in range(num_people)])
    nearest = ((standard[last][:, None] - means) ** 2).sum(2).argmin(1)
    plain = float((nearest == people[last]).mean())
    return LogisticLeak(
        f"which of {num_people} enrolled people a picture shows", ridge, [ways], accuracy, plain, int(last.sum())
    )


def choose_ridge(problems: tuple[ProbeProblem, ...], fold: NDArray[np.int64], ridges: tuple[float, ...]) -> float:
    """The penalty, one for all problems, under which rows left out of a fit are least surprising.

    Args:
        problems: Problems over the same rows (n,).
        fold: Part (n,) of every row; a part below zero is never left out.
        ridges: Penalties to choose from.

    Returns:
        The penalty with the least sum of log losses.
    """

    def loss(ridge: float) -> float:
        total = 0.0
        for part in range(int(fold.max()) + 1):
            out = torch.from_numpy(fold == part)
            for whole in problems:
                fit = replace(whole, features=whole.features[~out], labels=whole.labels[~out], ridge=ridge)
                logits = whole.log_odds(newton_probe(fit, tolerance=1e-5).x, whole.features[out])
                total += float(torch.nn.functional.cross_entropy(logits, whole.labels[out], reduction="sum"))
        return total

    return min(ridges, key=loss)


def leak_rows(leak: LogisticLeak) -> list[dict[str, Any]]:
    """One row for every solver, means over the probes."""
    return [
        {
            "question": leak.question,
            "ridge": leak.ridge,
            "way": name,
            "held-out accuracy": leak.accuracy[name],
            **{field.replace("_", " "): leak.mean(name, field) for field in Way._fields[1:]},
        }
        for name in leak.ways[0]
    ]


def service_rows(leak: LogisticLeak, plain_name: str) -> list[dict[str, Any]]:
    """Rows of the table of service uses.

    Args:
        leak: What was found.
        plain_name: The way without a logistic probe.

    Returns:
        Rows beside that way, beside L-BFGS at equal calls, and for every form of the Hessian calls beside L-BFGS and
        processor time beside L-BFGS and the Newton method of scikit-learn that solves its equations alike.
    """
    forms = [name for name in leak.ways[0] if name in _WORDS]
    first, accuracy = forms[0], "held-out accuracy, share"
    gap = f"relative gap after the calls that ours takes to 1e-8, {_WORDS[first]}"
    rows = [
        (plain_name, accuracy, leak.plain, leak.accuracy[first]),
        ("L-BFGS", accuracy, leak.accuracy["L-BFGS"], leak.accuracy[first]),
        ("L-BFGS", gap, leak.mean("L-BFGS", "gap_at_calls"), leak.mean(first, "gap_at_calls")),
    ]
    for form in forms:
        calls = f"oracle calls to a relative gap of 1e-8, {_WORDS[form]}"
        rows.append(("L-BFGS", calls, leak.mean("L-BFGS", "calls"), leak.mean(form, "calls")))
        seconds = f"processor time to a relative gap of 1e-8, {_WORDS[form]}, s"
        rows += [
            (f"scikit-learn's {solver}", seconds, leak.mean(solver, "seconds"), leak.mean(form, "seconds"))
            for solver in ("lbfgs", _ALIKE[form])
            if solver in leak.ways[0]
        ]
    job = f"tell from the attribute code {leak.question}; plain:"
    return [
        {
            "method": _METHOD,
            "job": f"{job} {plain}",
            "measure": what,
            "without": without,
            "with": ours,
            "n": leak.tested,
        }
        for plain, what, without, ours in rows
    ]


def _with_constant(codes: Matrix) -> Tensor:
    return torch.from_numpy(np.concatenate([codes, np.ones((len(codes), 1))], axis=1))


def _last_rows(people: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row (n,) is the last one of its person."""
    backwards = np.unique(people[::-1], return_index=True)[1]
    return np.isin(np.arange(len(people)), len(people) - 1 - backwards)
