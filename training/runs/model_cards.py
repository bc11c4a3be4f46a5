"""Model cards of promoted artifacts: what a manifest records, with what an artifact is for and what it cannot do.

The layout follows Mitchell et al., "Model Cards for Model Reporting", 2019, as far as a manifest can fill it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.registry.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class Purpose:
    """What the numbers in a manifest do not tell.

    Attributes:
        title: Heading of the card.
        use: What the service does with the artifact.
        misuse: What it must not be used for.
        limits: What it is known not to do well.
    """

    title: str
    use: str
    misuse: str
    limits: str


PURPOSES: Mapping[str, Purpose] = {
    "attribute-levels": Purpose(
        "Levels of the attribute code",
        "Limits what the attribute code tells: at the level `balanced` the learned part is a function of the light of "
        "the face, at `strict` the landmarks keep only what pose and expression explain.",
        "Proving that nothing else is told: landmarks of `balanced` are whole, and surroundings stay at every level.",
        "What pose and expression do to landmarks was learned on rendered heads; on photographs of real people the "
        "split is an approximation.",
    ),
    "attribute-match": Purpose(
        "Coarse attribute match",
        "Refuses drawn identities whose apparent sex or age does not suit the hair, beard and skin that a picture "
        "keeps (test T4 of the sampler).",
        "Telling sex or age of anybody: both are readings of a network about appearance, used only to avoid odd mixes.",
        "Two apparent sexes and one age line, as the labels of the network that it learned from have them.",
    ),
    "crop-restorer": Purpose(
        "Crop restorer",
        "Removes noise from a face crop before it is encoded, where the picture under it is visibly noisy, so that "
        "the oracles compare with the person and not with the noise. Never seen in a release.",
        "Making faces recognizable: it is a denoiser of small filters and adds no detail.",
        "Learned on synthetic noise. Its grades for compression are not used in the service: they restore brightness "
        "but move landmarks; see docs/methods/maid.md.",
    ),
    "face-autoencoder": Purpose(
        "Face autoencoder",
        "Turns aligned 128 px face crops into 8x16x16 latents and back; the generator works on these latents.",
        "Compression or restoration of faces: it keeps identity by design and anonymizes nothing.",
        "Fine texture of large faces is lost at 128 px; photographs unlike portraits were not trained on.",
    ),
    "face-encoder": Purpose(
        "Identity and attribute encoder",
        "Gives the identity code that is replaced, and the sampled attribute code (landmarks, light, tone) that stays.",
        "Recognition: the identity code exists to be thrown away, and no code may be stored or logged.",
        "Landmarks carry some identity. The attribute code is poor in identity, not free of it; see docs/privacy.md.",
    ),
    "face-generator": Purpose(
        "Face generator",
        "Draws a new face inside the mask of a crop from context, attribute code and a drawn identity code.",
        "Drawing the face of a real person: identity codes must come from the sampler, and every release must pass "
        "the gate.",
        "Adults only. Strong profiles, glasses, wide open mouths and hands before the face are its weak spots.",
    ),
    "identity-manifold": Purpose(
        "Identity manifold",
        "Proposes identity codes of people who do not exist and tells whether a code is plausible (test T2).",
        "Search for people: its bank holds synthetic people only.",
        "As narrow as its bank: some two thousand synthetic adults.",
    ),
    "loss-weights": Purpose(
        "Loss weights of the encoder",
        "Weights of rate and leak for `doppel-train run train-encoder --set loss_weights=VERSION`, tuned under a limit "
        "on what a linear probe reads in a small proxy. The service never reads them.",
        "Other losses, codes or resolutions: the weights are those of one sum of terms, and its units.",
        "Nothing in the problem limits the rate, which grows about fivefold, and with it the bound on what a code can "
        "tell. Compared in trainings of 200 steps only; the shipped encoder was trained with the hand-set weights.",
    ),
    "match-calibrators": Purpose(
        "Match calibrators",
        "Turn an oracle's similarity into the probability, at equal priors, that source and released face show one "
        "person. Verdicts report it, rounded and read off the rounded margin; no decision rests on it.",
        "Deciding whether to release, or identifying anybody: thresholds decide, with a stated confidence.",
        "Fitted on press photographs of public figures, all subgroups together: within a subgroup, where people look "
        "more alike, the probability is less well calibrated; see docs/methods/bsvrb.md.",
    ),
    "oracle-thresholds": Purpose(
        "Oracle thresholds",
        "Similarity from which a recognizer may see one person in two crops, with the two safe sides of decision 6.",
        "Identification at a fixed error rate in another domain: calibrate again on photographs of that domain.",
        "Calibrated on press photographs of public figures; subgroups were not calibrated apart.",
    ),
    "realism-test": Purpose(
        "Realism test",
        "Refuses released faces that do not look like photographs, because smears satisfy every privacy measure.",
        "Detecting generated faces: it looks for smears and odd texture only.",
        "A face can pass and still look odd to people.",
    ),
}


def model_card(store: ArtifactStore, name: str) -> str:
    """Write the card of a promoted artifact.

    Args:
        store: Artifact store.
        name: Artifact name; one of `PURPOSES`.

    Returns:
        Markdown text.

    Raises:
        KeyError: Nobody said what the artifact is for.
    """
    purpose = PURPOSES[name]
    artifact = store.resolve(name)
    manifest = artifact.manifest
    made = dict(manifest.produced_by)
    size = sum(entry.bytes for entry in manifest.files)
    lines = [
        f"# {purpose.title}",
        "",
        f"`{name}@{manifest.version}`, {size / 1e6:.2f} MB, license {manifest.license}.",
        "",
        f"**Use.** {purpose.use}",
        "",
        f"**Not for.** {purpose.misuse}",
        "",
        f"**Limits.** {purpose.limits}",
        "",
        f"**Data.** {_sentence(manifest.provenance)}",
        "",
        f"**Made by.** `doppel-train run {made.get('job', '?')}`"
        + (f" from {_listed(manifest.parents)}" if manifest.parents else "")
        + ".",
    ]
    settings = _settings(manifest.config)
    if settings:
        lines += ["", "| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in settings)]
    if manifest.metrics:
        rows = sorted(manifest.metrics.items())
        lines += ["", "| measured on held-out people | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in rows]
    return "\n".join(lines) + "\n"


def write_model_cards(store: ArtifactStore, folder: Path) -> list[Path]:
    """Write the cards of all promoted artifacts of `PURPOSES` into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in PURPOSES:
        path = folder / f"{name}.md"
        path.write_text(model_card(store, name), encoding="utf-8")
        written.append(path)
    return written


def _settings(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    settings = config.get("settings", config)
    return sorted((key, value) for key, value in settings.items() if not isinstance(value, dict | list))


def _sentence(provenance: str | Mapping[str, Any]) -> str:
    if isinstance(provenance, str):
        return provenance
    text = "; ".join(str(value) for _, value in sorted(provenance.items()))
    return f"{text[:1].upper()}{text[1:]}." if text else "Not recorded."


def _listed(parents: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}@{version}`" for name, version in sorted(parents.items()))
