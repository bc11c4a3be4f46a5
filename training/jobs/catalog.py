"""The catalog: every job by module name, read without importing it and loaded one at a time."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.runs.job import Job

# One line per job, sorted; the job's name is the last part with hyphens for underscores.
JOBS: tuple[str, ...] = (
    "training.jobs.ablate_distillation",
    "training.jobs.ablate_encoder",
    "training.jobs.ablate_service",
    "training.jobs.attack_gate",
    "training.jobs.audit",
    "training.jobs.audit_answers",
    "training.jobs.audit_curve",
    "training.jobs.audit_restorer",
    "training.jobs.benchmark",
    "training.jobs.block_coordinate_descent",
    "training.jobs.bo_rep",
    "training.jobs.bsvrb",
    "training.jobs.calibrate_oracles",
    "training.jobs.clean_identities",
    "training.jobs.consensus_based_optimization",
    "training.jobs.demo_corpus",
    "training.jobs.directional_attacks",
    "training.jobs.distill_generator",
    "training.jobs.encoder_trials",
    "training.jobs.exponentiated_gradient",
    "training.jobs.export_networks",
    "training.jobs.factor_variance",
    "training.jobs.fit_attribute_levels",
    "training.jobs.fit_attribute_match",
    "training.jobs.fit_block_calibrators",
    "training.jobs.fit_crop_restorer",
    "training.jobs.fit_feature_projection",
    "training.jobs.fit_identity_manifold",
    "training.jobs.fit_match_calibrators",
    "training.jobs.generator_trials",
    "training.jobs.gradient_normalized_smoothness",
    "training.jobs.gradient_sliding",
    "training.jobs.group_subjects",
    "training.jobs.hinge_from_values",
    "training.jobs.langevin_averaging",
    "training.jobs.langevin_proposal",
    "training.jobs.large_step_logistic",
    "training.jobs.lv_hba",
    "training.jobs.maid",
    "training.jobs.muon",
    "training.jobs.oracle_weights",
    "training.jobs.prepare_faces",
    "training.jobs.probe_attribute_leaks",
    "training.jobs.render_faces",
    "training.jobs.repair_codes",
    "training.jobs.small_gain_nash",
    "training.jobs.train_autoencoder",
    "training.jobs.train_encoder",
    "training.jobs.train_generator",
    "training.jobs.tune_loss_weights",
    "training.jobs.zeroth_order_family",
)


class CatalogError(LookupError):
    """A job that is not listed, or a listed module that is missing or not a job."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a job without importing it."""

    name: str
    family: str
    summary: str
    module: str


def read_cards(modules: Sequence[str] = JOBS) -> tuple[list[Card], list[str]]:
    """Read name, family and summary of every listed job from its source text.

    Args:
        modules: Dotted names of job modules.

    Returns:
        The cards, and one message for every module that has none.
    """
    cards: list[Card] = []
    problems: list[str] = []
    for module in modules:
        try:
            cards.append(_read_card(module))
        except CatalogError as error:
            problems.append(str(error))
    return cards, problems


def load_job(name: str, modules: Sequence[str] = JOBS) -> Job[Any]:
    """Import one job.

    Args:
        name: The job's name, for example ``large-step-logistic``.
        modules: Dotted names of job modules.

    Returns:
        The job.

    Raises:
        CatalogError: The name is not listed, the module is missing, or it has no job of that name.
    """
    module = next((m for m in modules if _job_name(m) == name), None)
    if module is None:
        raise CatalogError(f"no job is called {name!r}; `doppel-train list` shows {len(modules)} names")
    if importlib.util.find_spec(module) is None:
        raise CatalogError(f"{module} is listed but missing")
    job = getattr(importlib.import_module(module), "JOB", None)
    if not isinstance(job, Job) or job.name != name:
        raise CatalogError(f"{module} must end with JOB = Job(name={name!r}, ...)")
    return job


def _job_name(module: str) -> str:
    return module.rpartition(".")[2].replace("_", "-")


def _read_card(module: str) -> Card:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise CatalogError(f"{module} is listed but missing")
    try:
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise CatalogError(f"{module} does not parse: {error}") from error
    for statement in tree.body:
        call = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if isinstance(call, ast.Call) and _assigns_job(statement):
            words = {
                keyword.arg: keyword.value.value
                for keyword in call.keywords
                if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
            }
            if {"name", "summary"} <= words.keys():
                return Card(words["name"], words.get("family", "product"), words["summary"], module)
    raise CatalogError(f"{module} must end with JOB = Job(name=..., family=..., summary=...) in literals")


def _assigns_job(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "JOB" for target in targets)
