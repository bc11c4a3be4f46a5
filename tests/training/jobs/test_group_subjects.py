"""Grouping a folder's faces: what is joined and what never is, and the table that a run leaves behind."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from models.anonymizer.redetection import DetectionPlan
from models.faces.boxes import Face
from models.identity.errors import SubjectTableError
from models.identity.subjects import SubjectTable
from models.pictures import encode_picture
from training.data.folder_faces import find_folder_faces
from training.data.group_pictures import draw_group_pictures
from training.jobs.face_groups import (
    Limit,
    edge_weights,
    evidence,
    group_faces,
    link_averages,
    link_nearest,
)
from training.jobs.group_subjects import JOB, TABLE_FILE, GroupSubjectsConfig, run
from training.jobs.grouped_folders import choose_named, list_pictures
from training.jobs.grouping_scores import compare_ways, label_trial
from training.jobs.subject_clusters import conjugate_gradients, tree_solutions
from training.runs.config import ConfigError, resolve_config

LIMIT = {"east": Limit(0.6, 0.1)}


def arc(*degrees):
    angles = np.deg2rad(degrees)
    return {"east": np.stack([np.cos(angles), np.sin(angles)], axis=1)}


def crowd(people=40, per_person=5, noise=0.11, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(people, 32))
    rows = np.repeat(centers / np.linalg.norm(centers, axis=1, keepdims=True), per_person, axis=0)
    rows = rows + noise * rng.normal(size=rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = np.repeat(np.arange(people), per_person)
    pictures = np.arange(len(rows))
    return evidence({"east": rows}, {"east": Limit(0.55, 0.18)}, pictures), pictures, truth


def test_evidence_is_the_mean_excess_over_the_thresholds_and_one_picture_shows_two_people():
    found = evidence({**arc(0, 30, 90), "west": arc(0, 60, 90)["east"]}, {**LIMIT, "west": Limit(0.4, 0.2)},
                     np.array([0, 1, 1]), margin=0.5)  # fmt: skip
    expected = ((np.cos(np.pi / 6) - 0.6) / 0.1 + (np.cos(np.pi / 3) - 0.4) / 0.2) / 2 - 0.5
    assert found[0, 1] == found[1, 0] == pytest.approx(expected)
    assert found[1, 2] == found[0, 0] == -np.inf
    with pytest.raises(ValueError, match="limits"):
        evidence(arc(0, 1), {"west": Limit(0.5, 0.1)}, np.arange(2))


def test_edges_are_symmetric_strict_and_few():
    strength = evidence(arc(0, 10, 20, 30, 100), LIMIT, np.arange(5))
    weights = edge_weights(strength, 1)
    assert (weights == weights.T).all()
    assert not weights[4].any()
    assert (weights > 0).sum() < (strength >= 0).sum()
    assert weights[weights > 0].min() >= 1.0


def test_a_chain_of_lookalikes_is_not_one_subject_where_the_plain_way_makes_it_one():
    # neighbors look alike, the ends are at right angles: linking makes one person of them
    strength = evidence(arc(*range(0, 91, 10)), {"east": Limit(np.cos(np.deg2rad(15)), 0.1)}, np.arange(10))
    assert len(set(link_nearest(strength))) < len(set(group_faces(strength, np.arange(10))))
    groups = group_faces(strength, np.arange(10))
    assert groups[0] != groups[9]


def test_a_picture_never_shows_one_subject_twice():
    pictures = np.array([0, 0, 1, 2])
    strength = evidence(arc(0, 8, 4, 3), LIMIT, pictures)
    groups = group_faces(strength, pictures)
    assert groups[0] != groups[1]
    assert groups[2] == groups[3]
    assert groups[2] in groups[:2]


def test_labels_are_seeds_of_one_subject_and_are_never_moved():
    strength = evidence(arc(0, 5, 60, 65, 120), {"east": Limit(0.9, 0.1)}, np.arange(5))
    groups = group_faces(strength, np.arange(5), named=np.array([7, -1, 7, -1, -1]))
    assert len(set(groups[:4])) == 1
    assert groups[4] != groups[0]
    apart = group_faces(strength, np.arange(5), named=np.array([1, 2, -1, -1, -1]))
    assert apart[0] != apart[1]


def test_strangers_stay_alone_and_nobody_at_all_is_no_error():
    strength = evidence(arc(0, 90, 180), LIMIT, np.arange(3))
    for group in (link_nearest, link_averages, lambda s: group_faces(s, np.arange(3))):
        assert len(set(group(strength))) == 3
    assert len(group_faces(np.zeros((0, 0)), np.zeros(0, dtype=int))) == 0
    assert group_faces(np.array([[-np.inf]]), np.zeros(1, dtype=int)).tolist() == [0]


def test_trees_and_conjugate_gradients_find_the_same_people_and_hardly_a_wrong_pair():
    strength, pictures, truth = crowd()
    rows = {row["way"]: row for row in compare_ways(strength, pictures, truth, np.full(len(truth), -1), {"steps": 80})}
    assert rows["trees"]["pair precision"] >= 0.98
    assert rows["trees"]["pair recall"] >= rows["nearest neighbor"]["pair recall"] - 0.02
    assert rows["trees"]["pair recall"] == pytest.approx(rows["conjugate gradients"]["pair recall"], abs=0.02)
    assert rows["trees"]["pairs of one person"] == 40 * 10


def test_unknown_faces_are_grouped_and_not_counted():
    strength, pictures, truth = crowd(people=6)
    hidden = np.where(truth < 3, truth, -1)
    (row, *_) = compare_ways(strength, pictures, hidden, np.full(30, -1), {})
    assert (row["faces"], row["pairs of one person"]) == (15, 30)


def test_one_label_for_every_second_person_reaches_their_other_faces():
    strength, pictures, truth = crowd(people=12)
    trees, nearest = label_trial(strength, pictures, truth, {})
    assert trees["labeled people"] == nearest["labeled people"] == 6
    assert trees["labels that are right"] >= 0.95
    assert trees["faces of labeled people found"] > 0.7
    assert label_trial(strength, pictures, np.arange(60), {}) == []


def test_tree_steps_solve_a_system_as_conjugate_gradients_do():
    weights = torch.rand(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = (weights + weights.T).fill_diagonal_(0)
    matrix, right = torch.diag(weights.sum(1) + 1.0) - weights, torch.eye(12, dtype=torch.float64)[:, :3]
    exact = torch.linalg.solve(matrix, right)
    assert (tree_solutions(matrix, right, 300) - exact).abs().max() < 1e-4
    assert (conjugate_gradients(matrix, right, 30) - exact).abs().max() < 1e-6


def test_rendered_groups_show_everybody_equally_often_at_true_places():
    pictures = draw_group_pictures(5, 5, per_picture=2, seed=3, eye_distance=16.0)
    assert np.bincount([who for picture in pictures for who in picture.people]).tolist() == [2] * 5
    for picture in pictures:
        assert len(set(picture.people)) == 2
        for face in picture.faces:
            x0, y0, x1, y1 = face.box
            inside = (face.landmarks >= (x0, y0)) & (face.landmarks <= (x1, y1))
            assert inside.all()
    assert pictures[0].data == draw_group_pictures(5, 1, per_picture=2, seed=3, eye_distance=16.0)[0].data
    with pytest.raises(ValueError, match="per_picture"):
        draw_group_pictures(2, 1, per_picture=3, seed=0)


def test_two_pictures_of_one_rendered_person_have_one_token_in_the_table_of_a_run(make_run_context, tmp_path):
    key = "a key of the subject table, 40 characters"
    (tmp_path / "key").write_text(f"{key}\n")
    config = resolve_config(GroupSubjectsConfig, preset={**JOB.preset("smoke"), "key_file": str(tmp_path / "key")})
    context = make_run_context(tmp_path)
    report = run(config, context)
    assert [check.claim for check in report.checks if not check.holds] == []
    assert {tuple(row) for row in report.tables["in the service"]} == {
        ("method", "job", "measure", "without", "with", "n")
    }
    table = SubjectTable.load(context.directory / TABLE_FILE, key.encode())
    tokens: dict[int, set[bytes]] = {}
    for picture in draw_group_pictures(config.people, config.groups, per_picture=config.per_picture, seed=config.seed):
        digest, (height, width) = hashlib.sha256(picture.data).digest(), picture.pixels.shape[:2]
        for who, face in zip(picture.people, picture.faces, strict=True):
            box = tuple(value / side for value, side in zip(face.box, (width, height) * 2, strict=True))
            tokens.setdefault(who, set()).add(table(digest, box))
    assert len(tokens) == config.people
    assert all(len(found) == 1 and None not in found for found in tokens.values())
    assert len(set.union(*tokens.values())) == config.people
    written = [path for path in context.directory.rglob("*") if path.is_file()]
    assert [path.name for path in written if path.suffix in {".npy", ".npz", ".png", ".safetensors"}] == []
    assert set(json.loads((context.directory / TABLE_FILE).read_text())) == {
        "format", "version", "salt", "pictures", "seal"
    }  # fmt: skip


def test_a_trial_without_a_key_leaves_a_table_that_nobody_can_open(make_run_context, tmp_path):
    context = make_run_context(tmp_path)
    run(resolve_config(GroupSubjectsConfig, preset={**JOB.preset("smoke"), "groups": 2}), context)
    with pytest.raises(SubjectTableError, match="another key"):
        SubjectTable.load(context.directory / TABLE_FILE, bytes(range(32)))


@pytest.mark.parametrize(("text", "reason"), [(None, "cannot be read"), ("short", "32 bytes"), ("a" * 40, "random")])
def test_a_key_that_is_none_stops_the_run_before_a_picture_is_opened(text, reason, make_run_context, tmp_path):
    if text is not None:
        (tmp_path / "key").write_text(text)
    config = GroupSubjectsConfig(folder=tmp_path / "missing", key_file=tmp_path / "key")
    with pytest.raises(ConfigError, match=reason):
        run(config, make_run_context(tmp_path))


def test_a_missing_folder_is_said(make_run_context, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        run(GroupSubjectsConfig(folder=tmp_path / "missing"), make_run_context(tmp_path))


class TwoFaces:
    """Finds a large face, a small one without landmarks and one that is too small."""

    name = "two"

    def detect(self, pixels):
        side = float(pixels.shape[0])
        points = np.array([[0.3, 0.4], [0.5, 0.4], [0.4, 0.5], [0.33, 0.6], [0.47, 0.6]]) * side
        return [
            Face((0.2 * side, 0.2 * side, 0.6 * side, 0.75 * side), 0.9, points, self.name),
            Face((0.7 * side, 0.1 * side, 0.95 * side, 0.4 * side), 0.9, None, self.name),
            Face((0.8 * side, 0.8 * side, 0.9 * side, 0.9 * side), 0.9, 0.8 * side + points / 10, self.name),
        ]


def test_faces_of_files_come_with_the_digest_of_their_bytes_and_broken_files_are_counted():
    pixels = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    data = encode_picture(pixels, "png")
    plan = DetectionPlan(scales=(1.0,), mirrored=False)
    found = find_folder_faces([lambda: data, lambda: b"broken", lambda: data], TwoFaces(), plan=plan)
    assert found.digests == [hashlib.sha256(data).digest()]
    assert (found.num_unusable, len(found), found.is_main, found.sources) == (1, 1, [True], [0])
    assert found.boxes[0] == pytest.approx((0.15, 0.2, 0.45, 0.75))
    assert found.crops[0].shape == (128, 128, 3)
    assert "crops" not in repr(found)


def test_named_files_are_drawn_by_whole_people_and_a_plain_folder_at_every_depth(tmp_path):
    for name in ("ann_0001", "ann_0002", "ann_0003", "bob_0001"):
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.png").write_bytes(b"x")
    (tmp_path / "deep" / "notes.txt").write_bytes(b"x")
    (tmp_path / "deep" / "link.jpg").symlink_to(tmp_path / "ann_0001.jpg")
    assert [path.name for path in list_pictures(tmp_path)] == [
        "ann_0001.jpg", "ann_0002.jpg", "ann_0003.jpg", "bob_0001.jpg", "x.png"
    ]  # fmt: skip
    chosen = [path.name for path in choose_named(tmp_path, "all", 3, 2, seed=0)]
    assert "ann_0003.jpg" not in chosen
    assert "bob_0001.jpg" in chosen
