"""Every layout built on disk, and every way a data set can be wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anomaly_spotter.errors import DatasetError
from anomaly_spotter.inputs.layouts import (
    LAYOUTS,
    Dataset,
    detect_layout,
    find_categories,
    load_dataset,
)

DATA = Path(os.environ.get("ANOMALY_SPOTTER_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def touch(root: Path, *names: str) -> None:
    """Files without content: nothing is decoded when listing."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def label(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((4, 5), np.uint8)
    array[1, 2] = value
    path.write_bytes(cv2.imencode(path.suffix, array)[1].tobytes())


def rows(dataset: Dataset) -> list[tuple[str, str, str, list[str]]]:
    def name(path: Path) -> str:
        return path.relative_to(dataset.root).as_posix()

    return [
        (name(sample.path), sample.split, sample.kind, [name(mask) for mask in sample.masks])
        for sample in dataset.samples
    ]


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    touch(
        tmp_path / "screw",
        *("train/good/001.png", "train/good/000.PNG", "train/good/002.txt", "train/good/._000.png"),
        *("train/good/Thumbs.db", "train/good/.cache/9.png", "test/good/000.png", "test/cut/000.png"),
        *(
            "test/cut/001.png",
            "test/cut/002.png",
            "ground_truth/cut/000_mask.png",
            "ground_truth/cut/001.png",
        ),
    )
    return tmp_path


# --- MVTec AD ---------------------------------------------------------------------------------------------------------


def test_mvtec(mvtec: Path) -> None:
    dataset = load_dataset(mvtec, "screw")
    assert (dataset.layout, dataset.category, dataset.root) == ("mvtec", "screw", mvtec / "screw")
    assert rows(dataset) == [
        ("train/good/000.PNG", "train", "good", []),
        ("train/good/001.png", "train", "good", []),
        ("test/cut/000.png", "test", "cut", ["ground_truth/cut/000_mask.png"]),
        ("test/cut/001.png", "test", "cut", ["ground_truth/cut/001.png"]),
        ("test/cut/002.png", "test", "cut", []),
        ("test/good/000.png", "test", "good", []),
    ]
    assert dataset.kinds == ("good", "cut")
    assert len(dataset.train) == 2
    assert len(dataset.test) == 4
    assert [sample.is_defect for sample in dataset.test] == [True, True, True, False]


def test_mvtec_by_other_ways_in(mvtec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_dataset(mvtec, "screw")
    assert load_dataset(str(mvtec)) == expected  # the only category
    assert load_dataset(mvtec / "screw") == expected
    assert load_dataset(mvtec / "screw", "screw") == expected
    assert load_dataset(mvtec / "screw", layout="mvtec") == expected
    monkeypatch.chdir(mvtec / "screw")
    assert load_dataset(".").category == "screw"


def test_mvtec_without_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0.png")
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "mvtec"
    assert dataset.test == ()


def test_mvtec_with_batches_and_train_defects(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("train/good/monday/0.png", "train/good/tuesday/0.png", "train/cut/0.png", "test/cut/b/0.png"),
        "ground_truth/cut/b/0_mask.png",
    )
    dataset = load_dataset(tmp_path)
    assert len(dataset.train) == 2
    assert rows(dataset)[-1] == ("test/cut/b/0.png", "test", "cut", ["ground_truth/cut/b/0_mask.png"])


def test_a_mask_for_a_good_picture_is_kept_for_the_audit(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0.png", "test/good/0.png", "ground_truth/good/0_mask.png")
    assert load_dataset(tmp_path).test[0].masks == (tmp_path / "ground_truth/good/0_mask.png",)


# --- MVTec LOCO, BTAD, VisA, Kolektor ---------------------------------------------------------------------------------


def test_loco(tmp_path: Path) -> None:
    touch(
        tmp_path / "juice",
        *(
            "train/good/000.png",
            "validation/good/000.png",
            "test/good/000.png",
            "test/logical_anomalies/000.png",
        ),
        *("test/structural_anomalies/000.png", "ground_truth/logical_anomalies/000/000.png"),
        *("ground_truth/logical_anomalies/000/001.png", "ground_truth/structural_anomalies/000/000.png"),
    )
    dataset = load_dataset(tmp_path, "juice")
    assert dataset.layout == "loco"
    assert [row[:3] for row in rows(dataset)[:2]] == [
        ("train/good/000.png", "train", "good"),
        ("validation/good/000.png", "train", "good"),
    ]
    by_kind = {sample.kind: len(sample.masks) for sample in dataset.test}
    assert by_kind == {"good": 0, "logical_anomalies": 2, "structural_anomalies": 1}


def test_btad(tmp_path: Path) -> None:
    touch(
        tmp_path / "01",
        *("train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp", "test/ko/0001.bmp"),
        *("ground_truth/ko/0000.png", "ground_truth/ko/0001.bmp"),
    )
    dataset = load_dataset(tmp_path, "01")
    assert dataset.layout == "btad"
    assert rows(dataset) == [
        ("train/ok/0000.bmp", "train", "good", []),
        ("test/ko/0000.bmp", "test", "ko", ["ground_truth/ko/0000.png"]),
        ("test/ko/0001.bmp", "test", "ko", ["ground_truth/ko/0001.bmp"]),
        ("test/ok/0000.bmp", "test", "good", []),
    ]


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    touch(
        tmp_path / "candle",
        *(f"Data/Images/Normal/{index:04}.JPG" for index in range(21)),
        *("Data/Images/Anomaly/000.JPG", "Data/Masks/Anomaly/000.png"),
    )
    return tmp_path


def test_visa_with_its_split(visa: Path) -> None:
    touch(visa, "split_csv/other.csv")
    (visa / "split_csv/1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0003.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/0004.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
        "pcb1,train,normal,pcb1/Data/Images/Normal/0003.JPG,\n"
    )
    dataset = load_dataset(visa, "candle")
    assert dataset.layout == "visa"
    assert find_categories(visa) == ["candle"]
    assert rows(dataset) == [
        ("Data/Images/Normal/0003.JPG", "train", "good", []),
        ("Data/Images/Anomaly/000.JPG", "test", "anomaly", ["Data/Masks/Anomaly/000.png"]),
        ("Data/Images/Normal/0004.JPG", "test", "good", []),
    ]
    with (visa / "split_csv/1cls.csv").open("a") as file:
        file.write("candle,train,normal,candle/gone.JPG,\n")
    assert "line 6" in refusal(visa, "candle")
    (visa / "split_csv/1cls.csv").write_text("object,split,label,image\ncandle,dev,normal,x.JPG\n")
    assert "'dev'" in refusal(visa, "candle")


def test_visa_without_its_split(visa: Path) -> None:
    dataset = load_dataset(visa / "candle")
    assert [sample.path.stem for sample in dataset.test] == ["000", "0009", "0019"]
    assert dataset.test[0].kind == "anomaly"
    assert len(dataset.test[0].masks) == 1
    assert len(dataset.train) == 19


def test_kolektor_1(tmp_path: Path) -> None:
    for item in range(1, 11):
        for part in range(3):
            touch(tmp_path, f"kos{item:02}/Part{part}.jpg")
            label(tmp_path / f"kos{item:02}/Part{part}_label.bmp", 255 * (part == 1))
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "kolektor"
    assert len(dataset.train) == 8 * 2
    assert {sample.path.parent.name for sample in dataset.test if not sample.is_defect} == {"kos05", "kos10"}
    defects = [sample for sample in dataset.test if sample.is_defect]
    assert len(defects) == 10
    assert defects[0].masks == (tmp_path / "kos01/Part1_label.bmp",)


def test_kolektor_2(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "test/3.png", "test/4.png")
    for name, value in {"train/1": 0, "train/2": 9, "test/3": 0, "test/4": 1}.items():
        label(tmp_path / f"{name}_GT.png", value)
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "kolektor"
    assert rows(dataset) == [
        ("train/1.png", "train", "good", []),
        ("train/2.png", "train", "defect", ["train/2_GT.png"]),
        ("test/3.png", "test", "good", []),
        ("test/4.png", "test", "defect", ["test/4_GT.png"]),
    ]
    assert [sample.path.name for sample in dataset.train] == ["1.png"]


def test_kolektor_with_a_broken_label(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/1_GT.png")
    assert "1_GT.png" in refusal(tmp_path)


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_folder(tmp_path: Path) -> None:
    touch(tmp_path / "caps", "b.JPEG", "a.tif", "deeper/c.webp", "notes.txt", ".hidden.png", "__MACOSX/x.png")
    dataset = load_dataset(tmp_path / "caps")
    assert (dataset.layout, dataset.category) == ("folder", "caps")
    assert [row[0] for row in rows(dataset)] == ["a.tif", "b.JPEG", "deeper/c.webp"]
    assert dataset.train == dataset.samples
    assert load_dataset(tmp_path, "caps") == dataset


def test_folder_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "empty").mkdir()
    assert find_categories(tmp_path) == ["a", "b"]
    assert find_categories(tmp_path, "folder") == ["a", "b"]
    assert len(load_dataset(tmp_path).train) == 2
    assert len(load_dataset(tmp_path, "b").train) == 1


@pytest.mark.parametrize(
    "names",
    [("1.png", "bad/1.png"), ("good/1.png", "cut/1.png"), ("x/test/1.png",), ("a/ground_truth/1.png",)],
)
def test_a_folder_that_is_not_all_good_is_not_guessed(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    assert "does not look like a good picture" in refusal(tmp_path)
    assert len(load_dataset(tmp_path, layout="folder").train) == len(names)


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    touch(tmp_path, "a.png", "b.png", "c.png", "d e.png", "m1.png", "m2.png")
    return tmp_path / "parts.csv"


def test_csv(table: Path) -> None:
    table.write_text(
        "Label,path,mask,split\nok,a.png,,train\n0,b.png,,TEST\n1,c.png,m1.png; m2.png,test\nburr,d e.png,,test\n\n"
    )
    dataset = load_dataset(table)
    assert (dataset.layout, dataset.category) == ("csv", "parts")
    assert rows(dataset) == [
        ("a.png", "train", "good", []),
        ("b.png", "test", "good", []),
        ("c.png", "test", "defect", ["m1.png", "m2.png"]),
        ("d e.png", "test", "burr", []),
    ]
    assert load_dataset(table, "parts") == dataset
    assert load_dataset(table, layout="csv") == dataset
    assert "no category 'x'" in refusal(table, "x")


def test_csv_of_a_spreadsheet(table: Path) -> None:
    table.write_bytes("\ufeffpath;split;label\r\na.png;train;good\r\nd e.png;test;Grat\r\n".encode())
    assert [sample.kind for sample in load_dataset(table).samples] == ["good", "Grat"]


def test_csv_with_categories(table: Path) -> None:
    table.write_text("path,split,label,category\na.png,train,good,x\nb.png,train,good,y\nc.png,test,1,y\n")
    assert find_categories(table) == ["x", "y"]
    assert len(load_dataset(table, "y").samples) == 2
    assert load_dataset(table, "x").category == "x"
    assert "name one of x, y" in refusal(table)
    assert "found x, y" in refusal(table, "z")


def test_csv_in_a_folder(table: Path) -> None:
    (table.parent / "manifest.csv").write_text("path,split,label\na.png,train,good\n")
    assert detect_layout(table.parent) == "csv"
    dataset = load_dataset(table.parent)
    assert len(dataset.samples) == 1
    assert load_dataset(table.parent.parent, table.parent.name) == dataset
    assert dataset.category == table.parent.name


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "line 1: column path, split, label missing"),
        ("path,label\na.png,good\n", "column split missing"),
        ("path,split,label\na.png,train,good\nx.png,train,good\n", "line 3: path 'x.png'"),
        ("path,split,label\n,train,good\n", "line 2: path ''"),
        ("path,split,label\n.,train,good\n", "line 2: path '.'"),
        ("path,split,label\na.png,dev,good\n", "line 2: split is 'dev'"),
        ("path,split,label\na.png,train,\n", "line 2: label is empty"),
        ("path,split,label\na.png,train,good,x,y\n", "line 2: 5 cells"),
        (
            "path,split,label\na.png,train,good\nb.png,test,1\n./a.png,test,good\n",
            "line 4: ./a.png is listed",
        ),
        ("path,split,label,mask\na.png,train,good,\nb.png,test,1,m9.png\n", "line 3: mask 'm9.png'"),
        ("path,split,label\n", "no pictures"),
    ],
)
def test_csv_errors_name_the_line(table: Path, text: str, part: str) -> None:
    table.write_text(text)
    message = refusal(table)
    assert part in message
    assert "parts.csv" in message or "no good" in part or "no pictures" in part


def test_csv_that_is_no_text(table: Path) -> None:
    table.write_bytes(b"path,split,label\n\xff\xfe\x00,train,good\n")
    assert "UTF-8" in refusal(table)
    assert "no CSV manifest" in refusal(table.parent / "nothing", layout="csv")


# --- detection, categories, errors ------------------------------------------------------------------------------------


def test_find_categories_and_ambiguity(mvtec: Path) -> None:
    touch(mvtec / "01", "train/ok/0.png")
    touch(mvtec / ".git", "train/good/0.png")
    assert find_categories(mvtec) == ["01", "screw"]
    assert find_categories(mvtec, "btad") == ["01"]
    assert find_categories(mvtec, "visa") == []
    assert find_categories(mvtec / "screw") == ["screw"]
    assert detect_layout(mvtec, "screw") == "mvtec"
    assert detect_layout(mvtec, "01") == "btad"
    assert "name one of 01, screw" in refusal(mvtec)
    assert load_dataset(mvtec, layout="btad").category == "01"
    touch(mvtec / "screw", "train/ok/0.png")
    assert "mvtec and btad" in refusal(mvtec, "screw")
    assert load_dataset(mvtec, "screw", "btad").layout == "btad"


def test_errors(mvtec: Path) -> None:
    assert "found screw" in refusal(mvtec, "bolt")
    assert "found screw" in refusal(mvtec, "screw/train")
    assert "found screw" in refusal(mvtec, "..")
    assert "beside it: screw" in refusal(mvtec / "screws")
    assert "no such folder" in refusal(mvtec / "no" / "where", "screw")
    assert "choose one of mvtec" in refusal(mvtec, "screw", "zip")
    assert "no pictures found with layout visa" in refusal(mvtec, "screw", "visa")
    assert "no CSV manifest" in refusal(mvtec / "screw/train/good/001.png")
    assert "cannot be read" in refusal("x" * 400)
    assert "cannot be read" in refusal(mvtec, "x" * 400)
    (mvtec / "empty").mkdir()
    assert "no pictures" in refusal(mvtec, "empty")
    with pytest.raises(DatasetError):
        find_categories(mvtec / "nowhere")
    with pytest.raises(DatasetError):
        detect_layout(mvtec / "empty")


def test_layout_names() -> None:
    assert LAYOUTS == ("mvtec", "folder", "csv", "visa", "btad", "kolektor", "loco")


# --- the digest -------------------------------------------------------------------------------------------------------


def test_digest(mvtec: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = load_dataset(mvtec, "screw").digest()
    assert len(first) == 64
    assert load_dataset(mvtec, "screw").digest() == first
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(mvtec / "screw", elsewhere / "renamed")
    assert load_dataset(elsewhere, "renamed").digest() == first

    touch(mvtec / "screw", "train/good/extra.txt")
    assert load_dataset(mvtec, "screw").digest() == first
    changes = {first}
    (mvtec / "screw/ground_truth/cut/001.png").write_bytes(b"another mask")
    changes.add(load_dataset(mvtec, "screw").digest())
    (mvtec / "screw/test/good/000.png").rename(mvtec / "screw/test/good/009.png")
    changes.add(load_dataset(mvtec, "screw").digest())
    (mvtec / "screw/train/good/001.png").write_bytes(b"another picture")
    dataset = load_dataset(mvtec, "screw")
    changes.add(dataset.digest())
    assert len(changes) == 4
    (mvtec / "screw/train/good/001.png").unlink()
    assert dataset.digest() not in changes  # an unreadable file is no error here, but another data set


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "mvtec_ad" / "screw").is_dir(), reason=f"no real data in {DATA}")
def test_real_data() -> None:
    screw = load_dataset(DATA / "mvtec_ad", "screw")
    assert (len(screw.train), len(screw.test), len(screw.kinds)) == (320, 160, 6)
    assert all(bool(sample.masks) == sample.is_defect for sample in screw.samples)
    hazelnut = load_dataset(DATA / "hazelnut_toy")
    assert (hazelnut.category, len(hazelnut.train), len(hazelnut.test)) == ("hazelnut", 28, 23)
    assert all(bool(sample.masks) == sample.is_defect for sample in hazelnut.samples)
