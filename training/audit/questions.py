"""Questions about a photo with a few answers to choose from, and how often both photos are given the same one (U10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.audit.statistics import Estimate, rate
from training.audit.subgroups import AGE_EDGES
from training.audit.tables import ranged

Answers = NDArray[np.int64]
UNANSWERED: Final = -1
"""Stands for a reply that is none of the choices."""
_AGES: Final = tuple(f"{edge:.0f}" for edge in AGE_EDGES)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with a choice of answers.

    Attributes:
        name: Short name.
        text: The question as it is asked of the main person in a photo.
        choices: The answers, at least two.
    """

    name: str
    text: str
    choices: tuple[str, ...]


QUESTIONS: Final = (
    Question("apparent sex", "Does the main person look female or male?", ("female", "male")),
    Question(
        "age group",
        "How old does the main person look, in years?",
        (f"under {_AGES[0]}", f"{_AGES[0]} to {_AGES[1]}", f"{_AGES[1]} to {_AGES[2]}", f"{_AGES[2]} or older"),
    ),
    Question("mouth open", "Is the mouth of the main person open?", ("no", "yes")),
    Question("eyes open", "Are the eyes of the main person open?", ("no", "yes")),
    Question("mouth stretched", "Is the mouth of the main person stretched wide, as in a smile?", ("no", "yes")),
    Question(
        "head turned",
        "Which way is the nose of the main person pointing, as seen in the picture?",
        ("to the left", "straight ahead", "to the right"),
    ),
    Question(
        "light from",
        "From which side of the picture is the main person's face lit?",
        ("the left", "neither side", "the right"),
    ),
    Question("faces", "How many faces does the picture show?", ("none", "one", "two", "three or more")),
)
"""Questions that tell nobody who it is."""


def identity_question(choices: int) -> Question:
    """Ask which of some numbered photos shows the person of the first one."""
    return Question(
        "same person",
        "The first picture shows a person. Which of the numbered pictures after it shows the same person?",
        tuple(f"picture {number}" for number in range(1, choices + 1)),
    )


def scene_question(choices: int) -> Question:
    """Ask which of some numbered photos of other people looks most like the first one, faces left out."""
    return Question(
        "most alike scene",
        "Leaving faces out, which of the numbered pictures looks most like the first one?",
        tuple(f"picture {number}" for number in range(1, choices + 1)),
    )


def agreement(first: Answers, second: Answers) -> tuple[Estimate, float]:
    """Share of photos that are given the same answer, and what it would be if the two answers had no bearing.

    Args:
        first: Answers on the originals, (n,); `UNANSWERED` is left out on either side.
        second: Answers on the releases, (n,).

    Returns:
        The share with its interval, and the agreement expected by chance, which is that of Cohen's kappa ("A
        coefficient of agreement for nominal scales", 1960): the sum over choices of the product of their shares; NaN
        without answers.

    Raises:
        ValueError: The numbers of answers differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected answers on the same photos, got {first.shape} and {second.shape}")
    both = (first != UNANSWERED) & (second != UNANSWERED)
    a, b = first[both], second[both]
    if not len(a):
        return rate(a == b), float("nan")
    shares = [np.bincount(answers, minlength=int(max(a.max(), b.max())) + 1) / len(answers) for answers in (a, b)]
    return rate(a == b), float(shares[0] @ shares[1])


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and the answers that were given.

    Attributes:
        question: The question.
        source: Who answered.
        original: Answers on the originals, (n,).
        released: Answers on the releases, (n,).
        truth: Right answers, (n,), where the question seeks the identity.
        covered: Answers on the originals with the face covered, (n,), where they were asked for.
    """

    question: Question
    source: str
    original: Answers
    released: Answers
    truth: Answers | None = None
    covered: Answers | None = None

    @property
    def agreement(self) -> tuple[Estimate, float]:
        """Agreement and chance; where the question seeks the identity, chance is one in the choices."""
        found, chance = agreement(self.original, self.released)
        return found, chance if self.truth is None else 1 / len(self.question.choices)

    def row(self) -> dict[str, object]:
        """Lay the question out as a row of a table."""
        found, chance = self.agreement
        missing = (self.original == UNANSWERED) | (self.released == UNANSWERED)
        row: dict[str, object] = {
            "question": self.question.name,
            "kind": "identity-free" if self.truth is None else "identity-seeking",
            "answered by": self.source,
            "agreement": ranged(found),
            "chance": round(chance, 3),
            "n": found.count,
            "unanswered": int(missing.sum()),
        }
        if self.truth is not None:
            ways = {"original": self.original, "release": self.released, "covered face": self.covered}
            row |= {
                f"right on the {way}": _right(answers, self.truth)
                for way, answers in ways.items()
                if answers is not None
            }
        return row


def _right(answers: Answers, truth: Answers) -> str:
    given = answers != UNANSWERED
    return ranged(rate(answers[given] == truth[given]))


def line_up(people: Sequence[int], choices: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], Answers]:
    """Draw a line-up for each person: the person and others, in random order.

    Args:
        people: The people, all different, at least two.
        choices: Entries of a line-up; fewer where there are fewer people.
        rng: Draws.

    Returns:
        Rows of `people` in each line-up, (n, c), and the place of the person in each, (n,).

    Raises:
        ValueError: There are fewer than two people or choices.
    """
    size = min(choices, len(people))
    if size < 2:
        raise ValueError(f"a line-up needs two people, got {len(people)} people and {choices} choices")
    truth = rng.integers(0, size, len(people))
    rows = np.zeros((len(people), size), dtype=np.int64)
    for row in range(len(people)):
        others = rng.permutation([other for other in range(len(people)) if other != row])[: size - 1]
        rows[row] = np.insert(others, truth[row], row)
    return rows, truth.astype(np.int64)
