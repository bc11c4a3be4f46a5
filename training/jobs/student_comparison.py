"""A distilled generator beside its teacher, on unseen faces with swapped identities: numbers and a contact sheet."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.diffusion.generator import FaceGenerator
from models.encoder.attributes import FaceAttributes
from training.data.face_crops import contact_sheet, reduce_crops
from training.objectives.privacy import landmark_distance
from training.objectives.reconstruction import laplacian_energy
from training.objectives.swap_judge import SwapJudge


@torch.no_grad()
def compare_students(
    teacher: FaceGenerator, student: FaceGenerator, judge: SwapJudge, crops: Tensor, codes: Tensor
) -> dict[str, float]:
    """Teacher and students on the same unseen faces with swapped identities and the same first noise.

    Args:
        teacher: Undistilled generator.
        student: Distilled generator.
        judge: Reads identity and landmarks.
        crops: Unseen crops, (n, 3, s, s).
        codes: Their identity codes; each face is drawn with its neighbor's.

    Returns:
        For the teacher at 20 and 4 steps and the student at 4, 2 and 1: Laplacian energy over that of 20 teacher
        steps, landmark distance to the source in crop pixels, cosine of the code read back to the wanted one, share of
        the faces that every oracle keeps below its limit, that share for the oracle where it is least, and mean
        similarity among the faces (`source`: of the crops). And the distance of one student step to the 20-step
        picture, over that of one teacher step.
    """
    attribute_codes = judge.attributes.sample(reduce_crops(crops), torch.Generator().manual_seed(3))
    other = codes.roll(1, 0)

    def draw(model: FaceGenerator, steps: int) -> Tensor:
        noise = torch.Generator().manual_seed(4)
        return model.generate(crops, attribute_codes, other, steps=steps, guidance=2.0, generator=noise)

    best = draw(teacher, 20)
    pictures = {"teacher_20": best, "teacher_4": draw(teacher, 4)}
    pictures |= {f"student_{steps}": draw(student, steps) for steps in (4, 2, 1)}
    energy = laplacian_energy(best).mean()
    wanted_points = judge.read(crops)[1]
    result = {"alikeness_source": judge.alikeness(crops)}
    for name, faces in pictures.items():
        found_codes, points = judge.read(faces)
        accepted = torch.stack(list(judge.margins(faces, crops).values())) < 0
        result[f"sharpness_{name}"] = float(laplacian_energy(faces).mean() / energy)
        result[f"landmarks_{name}"] = float(landmark_distance(points, wanted_points).mean())
        result[f"accepted_{name}"] = float(accepted.all(0).float().mean())
        result[f"accepted_worst_{name}"] = float(accepted.float().mean(1).min())
        result[f"alikeness_{name}"] = judge.alikeness(faces)
        result[f"identity_{name}"] = float((found_codes * other).sum(1).mean())
    one_step = (pictures["student_1"] - best).abs().mean()
    result["distance_ratio_1"] = float(one_step / (draw(teacher, 1) - best).abs().mean())
    return result


@torch.no_grad()
def draw_students(
    teacher: FaceGenerator, student: FaceGenerator, attributes: FaceAttributes, crops: Tensor, codes: Tensor
) -> NDArray[np.uint8]:
    """Contact sheet: the crops, the teacher at 20 and 4 steps and the student at 4, 2 and 1, each in a row.

    Args:
        teacher: Undistilled generator.
        student: Distilled generator.
        attributes: Attribute code.
        crops: Unseen crops, (n, 3, s, s).
        codes: Their identity codes; each face is drawn with its neighbor's.

    Returns:
        Picture, (h, w, 3) uint8 RGB.
    """
    attribute_codes = attributes.sample(reduce_crops(crops), torch.Generator().manual_seed(3))
    rows = [crops]
    for model, steps in ((teacher, 20), (teacher, 4), (student, 4), (student, 2), (student, 1)):
        noise = torch.Generator().manual_seed(4)
        rows.append(
            model.generate(crops, attribute_codes, codes.roll(1, 0), steps=steps, guidance=2.0, generator=noise)
        )
    return contact_sheet(rows)
