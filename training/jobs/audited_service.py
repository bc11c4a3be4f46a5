"""A service under audit, with the recognizers and the detector that look at what it releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from models.anonymizer.assembly import OWN_ARTIFACTS, UPSTREAM_ARTIFACTS, Assembly, AssemblySettings, assemble
from models.anonymizer.policy import Policy
from models.faces.detection import FaceDetector, MtcnnDetector
from models.oracles.ensemble import AUDITOR_ORACLES, ORACLES, Oracle, load_oracle
from models.registry.store import ArtifactStore
from training.audit.keys import Keys
from training.audit.photos import AuditedPhoto
from training.audit.released import Log, Service
from training.audit.remembering_detector import RememberingDetector
from training.audit.utility import Instruments
from training.audit.views import Codes, Crops
from training.data.apparent_attributes import apparent_sex_and_age
from training.jobs.calibrate_oracles import embed_crops

NEEDS: Final = tuple(
    f"artifacts/{name}"
    for name in (*OWN_ARTIFACTS, *UPSTREAM_ARTIFACTS, *(ORACLES[name].artifact for name in AUDITOR_ORACLES))
)
"""What a job needs that runs the service and asks recognizers which the gate does not ask."""


def instruments_of(assembly: Assembly, store: ArtifactStore, detector: FaceDetector) -> Instruments:
    """What released photos of a service are read with.

    Args:
        assembly: The service.
        store: Its artifacts.
        detector: Finds faces again; one pass.

    Returns:
        The instruments.
    """
    return Instruments(detector, assembly.attributes.landmark_net, partial(apparent_sex_and_age, store=store))


@dataclass(slots=True)
class Audited:
    """A service under audit and what it is looked at with.

    Attributes:
        store: Its artifacts.
        settings: How it is assembled.
        policy: What it is asked for.
        batch: Photos per call.
        log: Told of progress.
        assembly: The assembled service.
        detector: Finds released faces again; one pass, remembered.
    """

    store: ArtifactStore
    settings: AssemblySettings
    policy: Policy
    batch: int
    log: Log
    assembly: Assembly
    detector: RememberingDetector = field(default_factory=lambda: RememberingDetector(MtcnnDetector()))
    _oracles: dict[str, Oracle] = field(default_factory=dict)

    @classmethod
    def open(cls, store: ArtifactStore, settings: AssemblySettings, policy: Policy, batch: int, log: Log) -> Audited:
        """Assemble the service."""
        return cls(store, settings, policy, batch, log, assemble(store, settings))

    def release(self, photos: Sequence[AuditedPhoto]) -> None:
        """Anonymize photos and set their `release`."""
        Service(self.assembly.anonymizer, self.policy, self.batch, self.log).release(photos)

    def embed(self, name: str, crops: Crops) -> Codes:
        """Embed crops (n, 128, 128, 3) by a recognizer; (n, d)."""
        if name not in self._oracles:
            center = self.assembly.thresholds.centers.get(name)
            self._oracles[name] = load_oracle(self.store, name, center=center)
        return embed_crops(self._oracles[name], crops, 32)

    def threshold(self, name: str) -> float:
        """The attacker's operating point: the empirical threshold over all impostor pairs."""
        return self.assembly.thresholds.get(name, self.settings.far).point_estimate

    def with_keys(self, keys: Keys) -> tuple[Service, Service]:
        """Start the service anew with keys; asked for fresh faces with the seed, and for pseudonyms."""
        anonymizer = assemble(
            self.store,
            self.settings,
            attribute_key=keys.attribute,
            pseudonym_key=keys.pseudonym,
            pseudonym_epoch=keys.epoch,
        ).anonymizer
        policies = replace(self.policy, seed=keys.seed), replace(self.policy, scope="pseudonym")
        fresh, named = (Service(anonymizer, policy, self.batch, self.log) for policy in policies)
        return fresh, named
