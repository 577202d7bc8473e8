"""Alignment on parts drawn in known poses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.alignment import Aligner, AlignmentError, Pose, Reason, fit_aligner

SIDE = 160
OUTLINES = {
    "bar": [(-52, -11), (52, -11), (52, 11), (-52, 11)],
    "key": [(-52, -11), (20, -11), (20, -22), (52, -22), (52, 11), (-30, 11), (-30, 3), (-52, 3)],
    "ell": [(-30, -30), (-6, -30), (-6, 8), (30, 8), (30, 30), (-30, 30)],
    "square": [(-28, -28), (28, -28), (28, 28), (-28, 28)],
    "lozenge": [(-28, -28), (16, -28), (28, -16), (28, 28), (-16, 28), (-28, 16)],
}


@dataclass(frozen=True)
class Scene:
    """How parts are drawn."""

    shape: str
    part: tuple[int, ...] = (60,)
    ground: tuple[int, ...] = (190,)
    turns: float = 180.0  # largest turn, degrees
    shift: float = 12.0  # largest shift from the middle, pixels
    middle: tuple[float, float] = (SIDE / 2, SIDE / 2)
    size: tuple[int, int] = field(default=(SIDE, SIDE))  # width, height

    def draw(self, rng: np.random.Generator, pose: tuple[float, float, float] | None = None) -> np.ndarray:
        x, y, angle = pose or self.pose(rng)
        cover = _cover(self.shape, self.size, x, y, angle)[..., None]
        picture = cover * np.array(self.part) + (1 - cover) * np.array(self.ground)
        picture = picture + rng.normal(0, 2, picture.shape)
        return np.clip(picture, 0, 255).astype(np.uint8).squeeze()

    def pose(self, rng: np.random.Generator) -> tuple[float, float, float]:
        right, down = rng.uniform(-self.shift, self.shift, 2)
        turn = math.radians(rng.uniform(-self.turns, self.turns))
        return self.middle[0] + right, self.middle[1] + down, turn

    def goods(self, count: int = 16, seed: int = 1) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [self.draw(rng) for _ in range(count)]


def _cover(shape: str, size: tuple[int, int], x: float, y: float, angle: float) -> np.ndarray:
    """How much of each pixel the part covers, 0..1."""
    fine = 4
    canvas = np.zeros((size[1] * fine, size[0] * fine), np.uint8)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    outline = np.array(OUTLINES.get(shape, [(0, 0)]), float) @ turn.T + (x, y)
    enlarged = np.round((outline + 0.5) * fine - 0.5).astype(np.int32)
    if shape == "disc":
        cv2.circle(canvas, tuple(int(value) for value in enlarged[0]), 34 * fine, 255, -1)
    else:
        cv2.fillPoly(canvas, [enlarged], 255)
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype(float) / 255


def errors(
    scene: Scene, aligner: Aligner, *, fold: int = 1, count: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of found poses against drawn ones, up to one motion common to all: pixels and degrees."""
    rng = np.random.default_rng(99)
    drawn = [scene.pose(rng) for _ in range(count)]
    found = [aligner.locate(scene.draw(rng, pose)) for pose in drawn]
    assert [pose.reason for pose in found] == [None] * count
    turns = np.array([turn_of(pose) for pose in found]) - [angle for _, _, angle in drawn]
    common = np.angle(np.exp(1j * fold * turns).mean()) / fold
    off = (turns - common + math.pi / fold) % (math.tau / fold) - math.pi / fold
    centres = np.array([centre_of(aligner, pose) for pose in found]) - [(x, y) for x, y, _ in drawn]
    own = np.array([_turned(c, -a - o) for c, (_, _, a), o in zip(centres, drawn, turns, strict=True)])
    return np.linalg.norm(own - np.median(own, axis=0), axis=1), np.degrees(np.abs(off))


def turn_of(pose: Pose) -> float:
    return math.atan2(pose.matrix[1, 0], pose.matrix[0, 0])


def centre_of(aligner: Aligner, pose: Pose) -> np.ndarray:
    return pose.matrix @ [(aligner.frame[0] - 1) / 2, (aligner.frame[1] - 1) / 2, 1.0]


def _turned(point: np.ndarray, angle: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * point[0] - sin * point[1], sin * point[0] + cos * point[1]


@pytest.fixture(scope="module")
def key_aligner() -> Aligner:
    return fit_aligner("template", Scene("key").goods(24))[0]


@pytest.mark.parametrize(
    ("scene", "fold"),
    [
        pytest.param(Scene("key"), 1, id="elongated"),
        pytest.param(Scene("bar"), 2, id="elongated-two-equal-ends"),
        pytest.param(Scene("ell"), 1, id="compact"),
        pytest.param(Scene("lozenge"), 2, id="compact-twofold"),
        pytest.param(Scene("square"), 4, id="compact-fourfold"),
        pytest.param(Scene("key", part=(200,), ground=(40,)), 1, id="light-on-dark"),
        pytest.param(Scene("key", part=(200, 60, 60), ground=(90, 110, 100)), 1, id="colour"),
        pytest.param(Scene("ell", turns=6, shift=5), 1, id="fixed-pose"),
        pytest.param(Scene("key", size=(240, 170), middle=(120, 85)), 1, id="wide-picture"),
    ],
)
def test_poses_are_found_to_a_fraction_of_a_pixel(scene: Scene, fold: int) -> None:
    aligner, poses = fit_aligner("template", scene.goods(24))

    shift, turn = errors(scene, aligner, fold=fold)

    assert all(pose.reason is None for pose in poses)
    assert np.median(shift) < 0.5
    assert np.median(turn) < 0.3
    assert np.quantile(turn, 0.95) < 2


def test_foreground_tells_the_ends_apart() -> None:
    scene = Scene("key")
    aligner, _ = fit_aligner("foreground", scene.goods(24))

    shift, turn = errors(scene, aligner)

    assert np.median(shift) < 1.5
    assert turn.max() < 5


@pytest.mark.parametrize("method", ["foreground", "template"])
def test_a_part_without_orientation_is_not_turned(method: str) -> None:
    aligner, poses = fit_aligner(method, Scene("disc").goods())

    assert [turn_of(pose) for pose in poses] == [0.0] * len(poses)
    assert aligner.registrar.orientation.reach == 0


def test_equal_orientations_keep_the_turn_small() -> None:
    poses = fit_aligner("template", Scene("square").goods(24))[1]

    turns = np.degrees([turn_of(pose) for pose in poses])

    assert np.ptp(turns) < 130  # a quarter turn and slack, not a full one


def test_a_fixed_pose_is_kept() -> None:
    scene = Scene("ell", turns=5, shift=4)
    aligner, poses = fit_aligner("template", scene.goods(24))

    assert np.abs(np.degrees([turn_of(pose) for pose in poses])).max() < 20
    assert aligner.registrar.orientation.reach < math.radians(30)


def test_the_frame_holds_the_part_with_its_long_axis_horizontal(key_aligner: Aligner) -> None:
    width, height = key_aligner.frame

    assert 104 < width < 150
    assert 33 < height < 80


def test_the_matrix_is_a_rigid_motion(key_aligner: Aligner) -> None:
    for picture in Scene("key").goods(5, seed=3):
        rotation = key_aligner.locate(picture).matrix[:, :2]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(2), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)


@pytest.mark.parametrize("change", [(1.0, 15), (1.0, -15), (0.9, 0), (1.1, 0)])
def test_light_does_not_move_the_part(key_aligner: Aligner, change: tuple[float, float]) -> None:
    for picture in Scene("key").goods(5, seed=4):
        lit = np.clip(picture * change[0] + change[1], 0, 255).astype(np.uint8)
        before, after = key_aligner.locate(picture), key_aligner.locate(lit)
        assert after.reason is None
        assert np.linalg.norm(centre_of(key_aligner, before) - centre_of(key_aligner, after)) < 0.3


def test_uneven_light_is_background() -> None:
    ramp = np.linspace(-40, 30, SIDE)[None, :] + np.linspace(-20, 20, SIDE)[:, None] ** 2 / 20
    goods = [np.clip(p + ramp, 0, 255).astype(np.uint8) for p in Scene("key", part=(20,)).goods(12)]

    assert all(pose.reason is None for pose in fit_aligner("template", goods)[1])


def test_a_larger_picture_shows_the_same_part(key_aligner: Aligner) -> None:
    picture = Scene("key", size=(300, 260), middle=(190, 150)).goods(1, seed=5)[0]

    pose = key_aligner.locate(picture)

    assert pose.reason is None
    assert np.linalg.norm(centre_of(key_aligner, pose) - (190, 150)) < 25


def test_a_large_picture_is_aligned_in_its_own_pixels() -> None:
    goods = [cv2.resize(p, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC) for p in Scene("key").goods(8)]
    aligner, poses = fit_aligner("template", goods)

    assert aligner.scale == pytest.approx(512 / 960)
    assert 6 * 104 < aligner.frame[0] < 6 * 150
    assert all(pose.reason is None for pose in poses)


def test_new_good_parts_are_not_refused(key_aligner: Aligner) -> None:
    assert [key_aligner.locate(p).reason for p in Scene("key").goods(40, seed=6)] == [None] * 40


def test_a_blank_picture_has_no_part(key_aligner: Aligner) -> None:
    blank = np.clip(np.random.default_rng(0).normal(190, 3, (SIDE, SIDE)), 0, 255).astype(np.uint8)

    assert key_aligner.locate(blank).reason is Reason.NO_PART
    assert key_aligner.locate(np.full((SIDE, SIDE), 190, np.uint8)).reason is Reason.NO_PART
    assert key_aligner.locate(np.zeros((3, 5), np.uint8)).reason is Reason.NO_PART


def test_two_parts_are_several(key_aligner: Aligner) -> None:
    first, second = Scene("key").goods(2, seed=7)

    assert key_aligner.locate(np.hstack([first, second])).reason is Reason.SEVERAL


def test_a_part_half_outside_is_cut(key_aligner: Aligner) -> None:
    scene, rng = Scene("key"), np.random.default_rng(8)

    for turn in (0.0, 1.0, 2.0, 3.0):
        assert key_aligner.locate(scene.draw(rng, (5.0, 80.0, turn))).reason is Reason.CUT


def test_another_part_is_a_misfit(key_aligner: Aligner) -> None:
    scene, rng = Scene("lozenge"), np.random.default_rng(9)

    assert key_aligner.locate(scene.draw(rng)).reason is Reason.MISFIT


def test_a_part_that_always_touches_the_border_is_not_cut() -> None:
    scene = Scene("key", turns=4, shift=4, middle=(44.0, 80.0))
    aligner, poses = fit_aligner("template", scene.goods(20))

    assert [pose.reason for pose in poses] == [None] * 20
    assert [aligner.locate(p).reason for p in scene.goods(20, seed=11)] == [None] * 20


@pytest.mark.parametrize("method", ["foreground", "template"])
def test_fitted_poses_are_those_of_locate_and_survive_storage(method: str) -> None:
    goods = Scene("ell").goods(10)
    aligner, poses = fit_aligner(method, goods)

    stored = json.loads(json.dumps(aligner.to_dict()))
    again = Aligner.from_parts(stored, {name: array.copy() for name, array in aligner.arrays().items()})

    for picture, pose in zip(goods, poses, strict=True):
        for other in (aligner.locate(picture), again.locate(picture)):
            np.testing.assert_array_equal(other.matrix, pose.matrix)
            assert (other.quality, other.reason) == (pose.quality, pose.reason)
    assert again.frame == aligner.frame
    assert again.to_dict() == aligner.to_dict()


def test_fitting_is_deterministic() -> None:
    goods = Scene("ell").goods(10)
    first, second = (fit_aligner("template", goods)[0] for _ in range(2))

    assert first.to_dict() == second.to_dict()
    np.testing.assert_array_equal(first.arrays()["template"], second.arrays()["template"])


def test_broken_parts_are_refused(key_aligner: Aligner) -> None:
    values, arrays = key_aligner.to_dict(), key_aligner.arrays()

    with pytest.raises(ValueError, match="incomplete"):
        Aligner.from_parts(values, {})
    with pytest.raises(ValueError, match="incomplete"):
        Aligner.from_parts({key: value for key, value in values.items() if key != "gates"}, arrays)
    with pytest.raises(ValueError, match="does not fit"):
        Aligner.from_parts(values, {"template": arrays["template"][:-3]})
    with pytest.raises(ValueError, match="incomplete"):
        Aligner.from_parts({**values, "level": {"usual": 3.0}}, arrays)


def test_every_picture_is_asked_for_once_and_progress_is_told() -> None:
    asked: list[int] = []
    told: list[tuple[int, int]] = []
    goods = Scene("key").goods(9)

    class Lazy(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    fit_aligner("template", Lazy(goods), progress=lambda done, total: told.append((done, total)))

    assert sorted(asked) == list(range(9))
    assert told[-1] == (9, 9)


def test_more_pictures_than_are_kept_are_all_located(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_spotter.inputs.alignment.learning.KEPT_PICTURES", 8)
    goods = Scene("key").goods(21)

    aligner, poses = fit_aligner("template", goods)

    assert len(poses) == 21
    for index in (0, 7, 20):
        np.testing.assert_array_equal(poses[index].matrix, aligner.locate(goods[index]).matrix)


def _texture(rng: np.random.Generator, sigma: float) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)), (0, 0), sigma)
    return np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [0.8, 3.0, 8.0])
def test_a_texture_has_nothing_to_align(sigma: float) -> None:
    rng = np.random.default_rng(12)

    with pytest.raises(AlignmentError) as raised:
        fit_aligner("template", [_texture(rng, sigma) for _ in range(16)])

    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, DatasetError)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_blank_pictures_have_nothing_to_align(count: int) -> None:
    rng = np.random.default_rng(13)
    blank = [np.clip(rng.normal(128, 3, (SIDE, SIDE)), 0, 255).astype(np.uint8) for _ in range(count)]

    with pytest.raises(AlignmentError):
        fit_aligner("foreground", blank)


def test_parts_missing_from_many_good_pictures_are_an_error() -> None:
    goods = Scene("key").goods(20)
    goods[3:7] = [np.full((SIDE, SIDE), 190, np.uint8)] * 4

    with pytest.raises(AlignmentError, match="4 of 20"):
        fit_aligner("template", goods)


def test_one_bad_picture_among_the_good_does_no_harm() -> None:
    goods = Scene("key").goods(60)
    goods[10] = np.full((SIDE, SIDE), 190, np.uint8)

    poses = fit_aligner("template", goods)[1]

    assert [i for i, pose in enumerate(poses) if pose.reason] == [10]
    assert poses[10].reason is Reason.NO_PART


@pytest.mark.parametrize("shape", [(1, 1), (1, 600), (600, 1), (3, 900), (5, 5, 3), (4, 7, 1)])
def test_slivers_have_no_part(key_aligner: Aligner, shape: tuple[int, ...]) -> None:
    assert key_aligner.locate(np.full(shape, 100, np.uint8)).reason is Reason.NO_PART


def test_a_part_lying_the_wrong_way_round_in_a_fixed_pose_is_a_misfit() -> None:
    scene = Scene("key", turns=5, shift=5)
    aligner, _ = fit_aligner("template", scene.goods(20))

    pose = aligner.locate(scene.draw(np.random.default_rng(15), (80.0, 80.0, math.pi)))

    assert pose.reason is Reason.MISFIT


def test_several_parts_in_every_good_picture_are_an_error() -> None:
    goods = [np.hstack(pair) for pair in zip(Scene("ell").goods(8), Scene("ell").goods(8, 5), strict=True)]

    with pytest.raises(AlignmentError, match="more than one part"):
        fit_aligner("template", goods)


def test_good_pictures_may_differ_in_size() -> None:
    wide = Scene("key", size=(240, 200), middle=(120, 100))

    poses = fit_aligner("template", Scene("key").goods(8) + wide.goods(8, seed=2))[1]

    assert [pose.reason for pose in poses] == [None] * 16
