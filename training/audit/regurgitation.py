"""Do released faces repeat a face that the generator was trained on (P8)?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.audit.recognition import similarity_tail
from training.audit.tables import Table

Codes = NDArray[np.float32]


def training_set_similarity(faces: Mapping[str, Codes], training: Codes, threshold: float) -> Table:
    """Similarity of each face to the training face that is nearest to it.

    People whom the generator never saw are the measure: a released face should come no nearer to a training face than
    their photos do.

    Args:
        faces: Name of a set to unit embeddings, (n, d) each.
        training: Unit embeddings of the training faces, (m, d), at least one.
        threshold: Similarity from which two faces count as one person.

    Returns:
        For each set the tail of the largest similarities, and the share at the threshold.
    """
    table: Table = []
    for name, codes in faces.items():
        nearest = (codes @ training.T).max(axis=1).astype(np.float64)
        tail = {key: round(value, 3) for key, value in similarity_tail(nearest).items()}
        above = round(float((nearest >= threshold).mean()), 4) if len(nearest) else None
        table.append({"faces": name, "n": len(nearest), **tail, "at the threshold": above})
    return table
