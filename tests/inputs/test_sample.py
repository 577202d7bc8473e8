"""The procedural sample: deterministic, laid out like MVTec AD, exactly labelled, and not solvable by a trivial score."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.sample import CATEGORIES, DEFECT_KINDS, picture, render, write_sample, writer

SMALL = 96  # pixels: quick to draw
GREY = {"casting", "rail", "screw"}
EVERY_KIND = [(category, kind) for category in CATEGORIES for kind in DEFECT_KINDS[category]]
QUICK = tuple(
    category for category in CATEGORIES if category != "board"
)  # boards are large and take their time
TRAIN, TEST_GOOD, PER_KIND = 40, 40, 12


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample with the default test counts, small pictures, drawn by the process pool."""
    out = tmp_path_factory.mktemp("sample")
    seen: list[tuple[int, int]] = []
    folders = write_sample(
        out,
        QUICK,
        train=TRAIN,
        test_good=TEST_GOOD,
        per_kind=PER_KIND,
        size=SMALL,
        progress=lambda *step: seen.append(step),
    )
    assert folders == [out / category for category in QUICK]
    kinds = sum(len(DEFECT_KINDS[category]) for category in QUICK)
    total = len(QUICK) * (TRAIN + TEST_GOOD) + kinds * PER_KIND
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    return out


def shape_of(category: str, size: int, like: np.ndarray) -> tuple[int, ...]:
    """The shape a picture of this category must have; a casting's own sides where they are within the tolerance."""
    height, width = {
        "board": (round(size * 3.2), round(size * 4.8)),
        "rail": (round(size * 0.6), 3 * round(size * 0.6)),
        "casting": tuple(round(np.clip(side, size * 0.85, size * 1.15)) for side in like.shape[:2]),
    }.get(category, (size, size))
    return (height, width) if category in GREY else (height, width, 3)


def statistics(folder: Path) -> np.ndarray:
    """(mean, deviation) of every picture, [N, 2]."""
    grey = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in sorted(folder.rglob("*.png"))]
    return np.array([(image.mean(), image.std()) for image in grey])


def test_layout_is_mvtec_ads(sample: Path) -> None:
    for category in QUICK:
        root = sample / category
        kinds = DEFECT_KINDS[category]
        assert {folder.name for folder in root.iterdir()} == {"train", "test", "ground_truth"}
        assert {folder.name for folder in (root / "test").iterdir()} == {"good", *kinds}
        assert {folder.name for folder in (root / "ground_truth").iterdir()} == set(kinds)
        assert len(list((root / "train" / "good").iterdir())) == TRAIN
        for kind in kinds:
            names = sorted(file.stem for file in (root / "test" / kind).iterdir())
            assert names == [f"{index:03d}" for index in range(PER_KIND)]
            masks = sorted((root / "ground_truth" / kind).iterdir())
            assert [file.name for file in masks] == [f"{name}_mask.png" for name in names]
            mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
            shown = cv2.imread(str(root / "test" / kind / "000.png"), cv2.IMREAD_UNCHANGED)
            assert shown.shape == shape_of(category, SMALL, shown)
            assert mask.shape == shown.shape[:2]
            assert set(np.unique(mask)) == {0, 255}
    assert not list(sample.rglob("*.part"))


def test_pictures_on_disk_are_those_of_render(sample: Path) -> None:
    job = writer._Job("hazelnut", "test", "cut", 3, seed=0, size=SMALL)
    expected, mask = render("hazelnut", "cut", job.picture_seed, SMALL)
    read = cv2.imread(str(sample / "hazelnut/test/cut/003.png"))
    assert np.array_equal(read[..., ::-1], expected)
    assert np.array_equal(cv2.imread(str(sample / "hazelnut/ground_truth/cut/003_mask.png"), 0) > 0, mask)


def test_same_seed_gives_the_same_bytes_whatever_the_counts(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "a", QUICK, train=3, test_good=2, per_kind=1, size=SMALL)
    again = digests(tmp_path / "a")
    full = digests(sample)
    assert again == {name: full[name] for name in again}
    write_sample(tmp_path / "b", ["screw"], seed=1, train=3, test_good=0, per_kind=0, size=SMALL)
    other = digests(tmp_path / "b")
    assert not {full[name] for name in other} & set(other.values())


def test_no_picture_occurs_twice(sample: Path) -> None:
    pictures = [digest for name, digest in digests(sample).items() if "_mask" not in name]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize(("category", "kind"), EVERY_KIND)
def test_mask_is_exactly_where_the_good_twin_differs(category: str, kind: str) -> None:
    size = 96 if category == "board" else 192  # boards are large
    least, greatest = picture._TABLE[category].area
    for seed in range(2):
        good, nothing = render(category, "good", seed, size)
        bad, mask = render(category, kind, seed, size)
        assert good.shape == bad.shape == shape_of(category, size, good)
        assert mask.shape == nothing.shape == good.shape[:2]
        assert good.dtype == np.uint8
        assert not nothing.any()
        assert least / 2 <= mask.mean() <= greatest * 1.25
        difference = np.abs(good.astype(int) - bad.astype(int))
        difference = difference.max(axis=2) if difference.ndim == 3 else difference
        # The noise is the same draw; its strength follows the brightness, and both pictures are rounded.
        assert difference[~mask].max() <= picture._VISIBLE + 3
        assert difference[mask].max() >= 10
        assert np.median(difference[mask]) > picture._VISIBLE / 2


@pytest.mark.parametrize("category", QUICK)
def test_brightness_and_contrast_do_not_tell_good_from_bad(sample: Path, category: str) -> None:
    good = np.concatenate([statistics(sample / category / split / "good") for split in ("train", "test")])
    bad = np.concatenate([statistics(sample / category / "test" / kind) for kind in DEFECT_KINDS[category]])
    labels = np.r_[np.zeros(len(good)), np.ones(len(bad))]
    for column, name in enumerate(("mean grey", "deviation")):
        auroc = roc_auc_score(labels, np.r_[good[:, column], bad[:, column]])
        assert max(auroc, 1 - auroc) < 0.65, name


@pytest.mark.parametrize("category", QUICK)
def test_good_pictures_of_both_splits_are_alike(sample: Path, category: str) -> None:
    train = statistics(sample / category / "train" / "good")
    test = statistics(sample / category / "test" / "good")
    spread = train.std(axis=0)
    # Four standard errors of the difference of two means, and deviations within a factor of 1.6.
    assert np.all(
        np.abs(train.mean(axis=0) - test.mean(axis=0)) < 4 * spread * np.sqrt(1 / TRAIN + 1 / TEST_GOOD)
    )
    assert np.all(np.abs(np.log(test.std(axis=0) / spread)) < np.log(1.6))
    # Exposure varies by far more than a defect of a few percent could shift the mean.
    assert spread[0] > 0.04 * train[:, 0].mean()


def test_castings_differ_in_size_and_all_else_does_not(sample: Path) -> None:
    for category in QUICK:
        files = (sample / category / "train" / "good").iterdir()
        shapes = {cv2.imread(str(file), cv2.IMREAD_UNCHANGED).shape for file in files}
        assert len(shapes) > TRAIN / 2 if category == "casting" else len(shapes) == 1, category


@pytest.mark.parametrize(("category", "tolerance"), [("cap", 2.5 / 320), ("rail", 0.045)])
def test_parts_with_a_fixed_pose_stay_in_it(sample: Path, category: str, tolerance: float) -> None:
    grey = [cv2.imread(str(file), 0) for file in (sample / category / "train" / "good").iterdir()]
    # Silhouettes: the uneven light would pass for a shift.
    moments = [cv2.moments(cv2.threshold(image, 0, 1, cv2.THRESH_OTSU)[1]) for image in grey]
    centres = np.array([(moment["m10"], moment["m01"]) for moment in moments])
    centres /= np.array([[moment["m00"]] for moment in moments])
    shifts = np.abs(centres - np.median(centres, axis=0))
    assert shifts.max() < tolerance * grey[0].shape[0] + 0.25
    assert shifts.max(axis=0).min() > 0.05


def test_a_board_is_written_like_the_others(tmp_path: Path) -> None:
    """All categories are the default; the bytes depend on the seed alone here too."""
    write_sample(tmp_path / "a", train=1, test_good=0, per_kind=0, size=64)
    assert {folder.name for folder in (tmp_path / "a").iterdir()} == set(CATEGORIES)
    write_sample(tmp_path / "b", ["board"], train=2, test_good=1, per_kind=1, size=64)
    assert digests(tmp_path / "b")["board/train/good/000.png"] in digests(tmp_path / "a").values()
    for kind in DEFECT_KINDS["board"]:
        mask = cv2.imread(
            str(tmp_path / "b/board/ground_truth" / kind / "000_mask.png"), cv2.IMREAD_UNCHANGED
        )
        assert mask.shape == shape_of("board", 64, mask)[:2]
        assert set(np.unique(mask)) == {0, 255}


def test_a_boards_defect_moves_brightness_and_contrast_by_less_than_boards_differ() -> None:
    good = np.array(
        [(board.mean(), board.std()) for board, _ in (render("board", "good", seed, 64) for seed in range(8))]
    )
    for kind in DEFECT_KINDS["board"]:
        bad = render("board", kind, 0, 64)[0]
        assert np.all(np.abs((bad.mean(), bad.std()) - good[0]) < 0.2 * good.std(axis=0)), kind


def test_boards_of_every_size_carry_the_same_parts() -> None:
    small, large = (render("board", "good", 3, size)[0] for size in (64, 128))
    halved = cv2.resize(large, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), halved.ravel())[0, 1] > 0.9


def test_rows_of_the_same_seed_show_the_same_part_at_any_kind() -> None:
    first, second = (
        render("screw", kind, 5, SMALL)[0].astype(int) for kind in ("thread_top", "scratch_head")
    )
    assert np.mean(np.abs(first - second) > 8) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bolt", "good", 0, 64), "bolt"),
        (("screw", "print", 0, 64), "print"),
        (("screw", "good", -1, 64), "seed"),
        (("screw", "good", 0, 8), "64"),
    ],
)
def test_render_refuses_in_one_clear_line(arguments: tuple[str, str, int, int], message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        render(*arguments)
    assert "\n" not in str(caught.value)


def test_write_sample_refuses_in_one_clear_line_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"hazelnut, rail, screw, not 'bolt'"):
        write_sample(tmp_path / "out", ["screw", "bolt"])
    with pytest.raises(DatasetError, match=r"per_kind must be at least 0, found -1"):
        write_sample(tmp_path / "out", per_kind=-1)
    with pytest.raises(DatasetError, match=r"size must be at least 64"):
        write_sample(tmp_path / "out", size=10)
    assert not (tmp_path / "out").exists()


def test_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DatasetError, match="cannot write") as caught:
        write_sample(tmp_path / "file", ["screw"], train=1, test_good=0, per_kind=0, size=SMALL)
    assert "\n" not in str(caught.value)


def test_full_disk_is_one_clear_line_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        write_sample(tmp_path, ["screw"], train=1, test_good=0, per_kind=0, size=SMALL)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_without_processes_the_sample_is_drawn_all_the_same(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pool(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "no semaphores here")

    monkeypatch.setattr(writer, "ProcessPoolExecutor", no_pool)
    monkeypatch.setattr(writer, "_WORTH_A_POOL", 1)
    monkeypatch.setattr(writer, "_cores", lambda: 2)
    write_sample(tmp_path, ["screw"], train=2, test_good=1, per_kind=0, size=SMALL)
    drawn = digests(tmp_path)
    assert len(drawn) == 3
    assert drawn == {name: digests(sample)[name] for name in drawn}


def test_a_smaller_sample_is_not_mixed_into_a_larger_one(tmp_path: Path) -> None:
    write_sample(tmp_path, ("screw",), train=3, test_good=1, per_kind=0, size=64)
    write_sample(tmp_path, ("screw",), train=3, test_good=1, per_kind=0, size=64)
    with pytest.raises(DatasetError, match="choose an empty folder"):
        write_sample(tmp_path, ("screw",), train=2, test_good=1, per_kind=0, size=64)
