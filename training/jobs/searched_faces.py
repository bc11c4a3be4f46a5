"""Faces whose identity code is searched: served ones, drawn and judged as the service does, and a linear stand-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.anonymizer.assembly import Assembly
from models.anonymizer.oracle_views import as_batch, as_pixels, embed, similarities
from models.anonymizer.randomness import torch_stream
from models.anonymizer.realism import RealismTest, laplacian_energy, smear_features, texture_features
from models.anonymizer.scenes import SceneMatcher
from models.faces.alignment import align_face
from models.faces.boxes import Face
from models.identity.attribute_match import load_attribute_match
from models.identity.manifold import IdentityManifold, fit_manifold
from models.identity.rejection import BinTest
from models.identity.sphere import Codes, normalize, uniform_directions
from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES, Oracle
from models.pictures import decode_picture
from models.registry.store import ArtifactStore
from training.data.rendered_heads.sampling import SamplingOptions, sample_faces
from training.jobs.calibrate_oracles import Half, crop_main_face, pick_photos, read_landmarks

Similarities = Mapping[str, NDArray[np.float64]]


class SearchedFace(Protocol):
    """A source face as a search over identity codes sees it."""

    suits: BinTest | None
    code: Codes

    def similarities(self, codes: Codes, noise: int) -> Similarities:
        """Similarity of n drawn faces to the source, the larger of crop and mirror image: per oracle, (n,)."""
        ...

    def heard(self, codes: Codes, noise: int) -> tuple[Similarities, Similarities]:
        """The same of the serving oracles, and of the recognizers that the service does not ask."""
        ...

    def similarity(self, name: str, code: Tensor, noise: int) -> Tensor:
        """Similarity (n,) of one serving oracle, differentiable in the codes (n, d), which need no norm."""
        ...

    def quality(self, codes: Codes, noise: int) -> dict[str, float]:
        """Means over n drawn faces: `realistic`, and `landmarks`, the mean deviation in eye distances."""
        ...


class ServedFace:
    """A photographed face with the networks of the service; codes are drawn in `steps` steps and judged in 8 bits."""

    def __init__(
        self,
        crop: NDArray[np.uint8],
        assembly: Assembly,
        matcher: SceneMatcher | None,
        realism: RealismTest,
        auditors: Sequence[Oracle] = (),
        *,
        steps: int,
        seed: int,
    ) -> None:
        """Encode the source.

        Args:
            crop: aligned crop (128, 128, 3).
            assembly: networks.
            matcher: coarse attribute match.
            realism: the gate's test of it.
            auditors: recognizers that the service does not ask.
            steps: denoising steps.
            seed: of the attribute noise and of the drawings.
        """
        self._crop, self._assembly, self._steps = crop, assembly, steps
        self._realism = realism
        self._auditors = tuple(auditors)
        self._seed = seed.to_bytes(8, "big")
        self._x = as_batch([crop])
        with torch.no_grad():  # inference tensors could take no part in `similarity`
            answers = embed(assembly.ensemble, self._x, SERVING_ORACLES)
            self._source = {name: answer.clone() for name, answer in answers.items()}
            code = assembly.identity({name: vector.float() for name, vector in self._source.items()})
            mean, std = assembly.attributes(self._x)
            self._heard = {oracle.name: oracle(self._x).double() for oracle in self._auditors}
        noise = torch.randn(mean.shape[1:], generator=torch_stream(self._seed))
        self._attributes = mean + std * noise
        self.code: Codes = code[0].float().numpy()
        self.suits: BinTest | None = None if matcher is None else matcher(self._x, self._attributes)[0]

    def draw(self, codes: Codes, noise: int) -> Tensor:
        """Draw n faces (n, 3, 128, 128) in 8 bit levels, all with the noise of one number."""
        n = len(codes)
        with torch.inference_mode():
            crops = self._assembly.generator.generate(
                self._x.expand(n, -1, -1, -1),
                self._attributes.expand(n, -1, -1, -1),
                torch.from_numpy(np.asarray(codes, dtype=np.float32)),
                steps=self._steps,
                guidance=2.0,
                generator=[torch_stream(self._seed, 2, noise) for _ in range(n)],
            )
        return as_batch(list(as_pixels(crops)))

    def drawing(self, code: Tensor, noise: int) -> Tensor:
        """Draw the faces (n, 3, 128, 128) of codes (n, d) so that torch can differentiate them, without rounding."""
        generator, n = self._assembly.generator, len(code)
        with torch.no_grad():
            context = generator.context(self._x)
        streams = [torch_stream(self._seed, 2, noise) for _ in range(n)]
        context, attributes = context.expand(n, -1, -1, -1), self._attributes.expand(n, -1, -1, -1)
        latents = generator.sample(context, attributes, code, self._steps, 2.0, streams)
        decoded = generator.autoencoder.decode(latents.contiguous(memory_format=torch.channels_last)).clamp(-1, 1)
        return decoded * generator.mask + self._x * (1 - generator.mask)

    def similarities(self, codes: Codes, noise: int) -> Similarities:
        """See `SearchedFace`."""
        return self._compare(self.draw(codes, noise))

    def heard(self, codes: Codes, noise: int) -> tuple[Similarities, Similarities]:
        """See `SearchedFace`."""
        crops = self.draw(codes, noise)
        with torch.inference_mode():
            outside = {o.name: (o(crops).double() * self._heard[o.name]).sum(1).numpy() for o in self._auditors}
        return self._compare(crops), outside

    def quality(self, codes: Codes, noise: int) -> dict[str, float]:
        """See `SearchedFace`. Realistic is the gate's density, discriminant and sharpness, the detector left out."""
        crops = self.draw(codes, noise)
        pixels = as_pixels(crops)
        realism = self._realism
        kept = np.array([laplacian_energy(crop) for crop in pixels]) / laplacian_energy(self._crop)
        textures = texture_features(pixels)
        realistic = (
            (realism.model.score(textures) <= realism.model.limit)
            & (realism.smears.score(smear_features(textures, kept)) >= 0.0)
            & (kept >= realism.bounds.min_sharpness)
            & (kept <= realism.bounds.max_sharpness)
        )
        with torch.inference_mode():
            found = self._assembly.attributes.landmark_net(torch.cat([self._x, crops]))
        moved = (found[1:] - found[:1]).norm(dim=-1).mean()
        eyes = (found[0, 36:42].mean(0) - found[0, 42:48].mean(0)).norm()
        return {"realistic": float(realistic.mean()), "landmarks": float(moved / eyes)}

    def similarity(self, name: str, code: Tensor, noise: int) -> Tensor:
        """See `SearchedFace`. The mirror image is left out, and so is the rounding to 8 bits."""
        crops = self.drawing(functional.normalize(code, dim=1).float(), noise)
        embedded = self._assembly.ensemble.oracles[name](crops).double()
        return (embedded * self._source[name]).sum(1)

    def _compare(self, crops: Tensor) -> Similarities:
        answers = embed(self._assembly.ensemble, torch.cat([crops, crops.flip(-1)]), SERVING_ORACLES)
        sources = {name: vector.expand(2 * len(crops), -1) for name, vector in self._source.items()}
        compared = similarities(sources, answers)
        return {name: values.unflatten(0, (2, -1)).amax(dim=0).numpy() for name, values in compared.items()}


class LinearFace:
    """A stand-in without networks: recognizers see random linear images of the code, and a little of the noise."""

    def __init__(self, recognizers: Mapping[str, NDArray[np.float64]], auditors: Sequence[str], seed: int) -> None:
        """Draw a source.

        Args:
            recognizers: name to matrix (d_k, d).
            auditors: names among them that the service does not ask.
            seed: of source and noise.
        """
        self._recognizers, self._auditors, self._seed = recognizers, tuple(auditors), seed
        dim = next(iter(recognizers.values())).shape[1]
        self.code: Codes = uniform_directions(np.random.default_rng(seed), 1, dim)[0].astype(np.float32)
        self.suits: BinTest | None = None

    def heard(self, codes: Codes, noise: int) -> tuple[Similarities, Similarities]:
        """See `SearchedFace`."""
        found = {
            name: normalize((codes + self._shift(noise)) @ matrix.T) @ normalize(matrix @ self.code)
            for name, matrix in self._recognizers.items()
        }
        asked = {name: values for name, values in found.items() if name not in self._auditors}
        return asked, {name: found[name] for name in self._auditors}

    def similarities(self, codes: Codes, noise: int) -> Similarities:
        """See `SearchedFace`."""
        return self.heard(codes, noise)[0]

    def similarity(self, name: str, code: Tensor, noise: int) -> Tensor:
        """See `SearchedFace`."""
        matrix = torch.from_numpy(self._recognizers[name])
        drawn = functional.normalize(code.double(), dim=1) + torch.from_numpy(self._shift(noise))
        wanted = functional.normalize(matrix @ torch.from_numpy(self.code).double(), dim=0)
        return functional.normalize(drawn @ matrix.T, dim=1) @ wanted

    def _shift(self, noise: int) -> NDArray[np.float64]:
        return 0.2 * uniform_directions(np.random.default_rng((self._seed, 7, noise)), 1, self.code.shape[0])[0]

    def quality(self, codes: Codes, noise: int) -> dict[str, float]:
        """Nothing is drawn, so there is nothing to see."""
        return {}


def linear_faces(count: int, *, dim: int = 24, seed: int) -> tuple[list[SearchedFace], IdentityManifold]:
    """Make stand-ins for tests, with the proposals they are searched with.

    Args:
        count: faces.
        dim: dimension of their codes.
        seed: of everything.

    Returns:
        Faces, judged by two serving recognizers and both auditors, and a manifold.
    """
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((dim, dim))
    matrices = {
        name: (common + rng.standard_normal((dim, dim))) / np.sqrt(dim)
        for name in (*SERVING_ORACLES[:2], *AUDITOR_ORACLES)
    }
    manifold = fit_manifold(
        uniform_directions(rng, 300, dim), uniform_directions(rng, 60, dim), rng=rng, components=(1,)
    )
    return [LinearFace(matrices, AUDITOR_ORACLES, seed + 1 + index) for index in range(count)], manifold


def served_faces(
    crops: Sequence[NDArray[np.uint8]],
    assembly: Assembly,
    store: ArtifactStore,
    auditors: Sequence[Oracle] = (),
    *,
    steps: int,
    seed: int,
) -> list[ServedFace]:
    """Encode crops (128, 128, 3) as the service does, with its coarse attribute match."""
    matcher = SceneMatcher(assembly.generator, load_attribute_match(store))
    artifact = store.resolve("realism-test")
    realism = RealismTest.from_files({entry.path: artifact.read_bytes(entry.path) for entry in artifact.manifest.files})
    return [
        ServedFace(crop, assembly, matcher, realism, auditors, steps=steps, seed=seed + index)
        for index, crop in enumerate(crops)
    ]


def source_crops(
    folder: Path | None, landmarks: Path | None, half: Half, count: int, assembly: Assembly, rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Aligned crops (128, 128, 3) of one photo each of at most `count` people; rendered heads without a folder."""
    if folder is None:
        options = SamplingOptions(size=224, supersampling=1)
        seed = int(rng.integers(2**31))
        rendered = [_largest(assembly, sample.face.pixels) for sample in sample_faces(count, 1, seed, options)]
        return [crop for crop in rendered if crop is not None]
    known = None if landmarks is None else read_landmarks(landmarks)
    photos = pick_photos(folder, None, half, count, rng)
    if known is None:
        found = [_largest(assembly, decode_picture(path.read_bytes())) for path in photos.first]
    else:
        found = [crop_main_face(path, known, None) for path in photos.first]
    return [crop for crop in found if crop is not None]


def _largest(assembly: Assembly, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    faces: list[Face] = [face for face in assembly.detector.detect(pixels) if face.landmarks is not None]
    if not faces:
        return None
    best = max(faces, key=lambda face: float(face.score))
    return None if best.landmarks is None else align_face(pixels, best.landmarks).crop
