"""Decoding against Pillow and against exact round trips; damaged files must end in a PictureError."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import timeit
import zlib
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from anomaly_spotter.errors import PictureError
from anomaly_spotter.inputs.decode import (
    as_picture,
    decode_bytes,
    read_info,
    read_mask,
    read_picture,
    white_level,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


def smooth(height: int = 60, width: int = 80, channels: int = 3) -> NDArray[np.uint8]:
    """A picture without fine detail, so that lossy formats keep it."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return big.reshape(height, width, channels) if channels > 1 else big.reshape(height, width)


def encode(image: Image.Image, picture_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def encode_cv2(suffix: str, array: NDArray[Any]) -> bytes:
    return cv2.imencode(suffix, array)[1].tobytes()


def difference(a: NDArray[Any], b: NDArray[Any]) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# --- exact round trips ------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["PNG", "TIFF", "BMP"]), st.sampled_from([(), (3,)]))
def test_8_bit_round_trip_is_exact(
    data: st.DataObject, picture_format: str, channels: tuple[int, ...]
) -> None:
    array = data.draw(hnp.arrays(np.uint8, shapes.map(lambda shape: (*shape, *channels))))
    picture = decode_bytes(encode(Image.fromarray(array), picture_format), name="x")
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags["C_CONTIGUOUS"]
    assert picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, array)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([".png", ".tiff"]), st.sampled_from([(), (3,)]))
def test_16_bit_round_trip_scales_exactly(
    data: st.DataObject, suffix: str, channels: tuple[int, ...]
) -> None:
    array = data.draw(hnp.arrays(np.uint8, shapes.map(lambda shape: (*shape, *channels))))
    picture = decode_bytes(encode_cv2(suffix, array.astype(np.uint16) * 257), name="x")
    assert picture.notes == ("16-bit scaled to 8-bit",)
    np.testing.assert_array_equal(picture.pixels, array[..., ::-1] if channels else array)


# --- types of pictures ------------------------------------------------------------------------------------------------


MODES_OF_FORMATS = [
    (picture_format, mode)
    for picture_format in FORMATS
    for mode in ("1", "L", "P", "RGB", "CMYK")
    if not (mode == "CMYK" and picture_format not in ("JPEG", "TIFF"))
    and (picture_format, mode) != ("JPEG", "P")
]


@pytest.mark.parametrize(("picture_format", "mode"), MODES_OF_FORMATS)
def test_modes_agree_with_pillow(picture_format: str, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    options = {"lossless": True} if picture_format == "WEBP" else {}
    data = encode(image, picture_format, **options)
    with Image.open(io.BytesIO(data)) as stored:
        is_grey = stored.mode in ("1", "L")
        expected = np.asarray(stored.convert("L" if is_grey else "RGB"))
    picture = decode_bytes(data, name="x")
    assert picture.notes == ()
    assert difference(picture.pixels, expected) <= (2 if picture_format == "JPEG" else 0)


def test_equal_channels_stay_rgb() -> None:
    grey = np.repeat(smooth(channels=1)[:, :, None], 3, axis=2)
    assert decode_bytes(encode(Image.fromarray(grey), "PNG"), name="x").pixels.shape == (60, 80, 3)


@pytest.mark.parametrize("picture_format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_black(picture_format: str) -> None:
    rgba = np.dstack([smooth(), np.linspace(0, 255, 80, dtype=np.uint8)[None].repeat(60, 0)])
    options = {"lossless": True, "exact": True} if picture_format == "WEBP" else {}
    picture = decode_bytes(encode(Image.fromarray(rgba), picture_format, **options), name="x")
    expected = np.round(rgba[..., :3] * (rgba[..., 3:] / 255.0))
    assert difference(picture.pixels, expected) <= 1
    assert picture.notes == ("alpha channel composited on black",)


@pytest.mark.parametrize("picture_format", ["PNG", "TIFF", "WEBP"])
def test_opaque_alpha_is_dropped_silently(picture_format: str) -> None:
    options = {"lossless": True} if picture_format == "WEBP" else {}
    image = Image.fromarray(smooth()).convert("RGBA")
    picture = decode_bytes(encode(image, picture_format, **options), name="x")
    assert picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, smooth())


def test_grey_with_alpha_stays_grey() -> None:
    grey, alpha = smooth(channels=1), smooth(channels=1)[::-1].copy()
    data = encode(Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))), "PNG")
    picture = decode_bytes(data, name="x")
    assert difference(picture.pixels, np.round(grey * (alpha / 255.0))) <= 1
    assert picture.notes == ("alpha channel composited on black",)


def test_grey_tiff_with_alpha_says_what_it_dropped() -> None:
    grey = smooth(channels=1)
    data = encode(Image.merge("LA", (Image.fromarray(grey), Image.fromarray(grey))), "TIFF")
    picture = decode_bytes(data, name="x")
    np.testing.assert_array_equal(picture.pixels, grey)
    assert picture.notes == ("alpha channel ignored",)


def test_palette_with_transparency() -> None:
    image = Image.fromarray(smooth()).convert("P")
    data = encode(image, "PNG", transparency=int(np.asarray(image)[0, 0]))
    picture = decode_bytes(data, name="x")
    assert picture.pixels.shape == (60, 80, 3)
    assert not picture.pixels[0, 0].any()
    assert picture.notes == ("alpha channel composited on black",)


def test_16_bit_alpha_is_composited() -> None:
    rgba = np.full((4, 5, 4), 40000, np.uint16)
    rgba[:2, :, 3] = 65535
    picture = decode_bytes(encode_cv2(".png", rgba), name="x")
    assert picture.notes == ("alpha channel composited on black", "16-bit scaled to 8-bit")
    assert picture.pixels[0, 0, 0] == round(40000 / 257)
    assert abs(int(picture.pixels[3, 0, 0]) - round(40000 * 40000 / 65535 / 257)) <= 1


DEPTHS_OF_FORMATS = [
    (picture_format, mode)
    for picture_format in ("PNG", "JPEG", "TIFF", "WEBP")
    for mode in ("L", "RGB", "I;16")
    if mode != "I;16" or picture_format in ("PNG", "TIFF")
]


@pytest.mark.parametrize(("picture_format", "mode"), DEPTHS_OF_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_agrees_with_pillow(
    picture_format: str, mode: str, orientation: int, tmp_path: Path
) -> None:
    image = (
        Image.fromarray(smooth(channels=1).astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(smooth()).convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if picture_format == "WEBP" else {}
    data = encode(image, picture_format, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as stored:
        # Pillow turns a TIFF by itself, and old versions turn it twice when asked to
        turned = np.asarray(stored if picture_format == "TIFF" else ImageOps.exif_transpose(stored))
    expected = (turned / 257.0).round() if mode == "I;16" else turned
    path = tmp_path / "x"
    path.write_bytes(data)
    picture = read_picture(path)
    assert difference(picture.pixels, expected) <= (2 if picture_format == "JPEG" else 0)
    assert (f"EXIF orientation {orientation} applied" in picture.notes) == (orientation != 1)
    info = read_info(path)
    assert (info.height, info.width) == picture.pixels.shape[:2]


def test_png_exif_after_the_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = exif.tobytes().removeprefix(b"Exif\0\0")
    plain = encode(Image.fromarray(smooth()), "PNG")
    chunk = b"eXIf" + payload
    late = (
        plain[:-12]
        + struct.pack(">I", len(payload))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + plain[-12:]
    )
    picture = decode_bytes(late, name="x")
    np.testing.assert_array_equal(picture.pixels, np.rot90(smooth(), -1))


def test_damaged_exif_is_ignored() -> None:
    data = encode(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0MM\0*garbage")
    assert decode_bytes(data, name="x").notes == ()


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "array", "mode"),
    [
        (".png", np.zeros((3, 4), np.uint8), "L"),
        (".png", np.zeros((3, 4, 3), np.uint8), "RGB"),
        (".png", np.zeros((3, 4, 4), np.uint8), "RGBA"),
        (".png", np.zeros((3, 4), np.uint16), "I;16"),
        (".png", np.zeros((3, 4, 3), np.uint16), "RGB;16"),
        (".tiff", np.zeros((3, 4), np.uint16), "I;16"),
        (".tiff", np.zeros((3, 4, 3), np.uint16), "RGB;16"),
        (".bmp", np.zeros((3, 4, 3), np.uint8), "RGB"),
        (".jpg", np.zeros((3, 4), np.uint8), "L"),
    ],
)
def test_read_info(tmp_path: Path, suffix: str, array: NDArray[Any], mode: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(encode_cv2(suffix, array))
    info = read_info(path)
    assert (info.width, info.height, info.mode) == (4, 3, mode)
    assert info.file_size == path.stat().st_size


def test_odd_names_and_wrong_suffixes_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "schöne Teile 螺丝" / "no 1 é.jpg"
    path.parent.mkdir()
    path.write_bytes(encode(Image.fromarray(smooth()), "PNG"))
    np.testing.assert_array_equal(read_picture(path).pixels, smooth())
    assert read_info(str(path)).format == "PNG"


# --- what is refused --------------------------------------------------------------------------------------------------


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(PictureError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("read", [read_picture, read_info])
def test_files_that_are_no_pictures(tmp_path: Path, read: Any) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "riff.webp").write_bytes(b"RIFF0000WAVEfmt " + bytes(40))
    assert "no such file" in refusal(read, tmp_path / "missing.png")
    assert "folder" in refusal(read, tmp_path)
    assert "empty" in refusal(read, tmp_path / "empty.png")
    assert "not a picture" in refusal(read, tmp_path / "text.png")
    assert "not a picture" in refusal(read, tmp_path / "riff.webp")
    assert "cannot be read" in refusal(read, tmp_path / ("x" * 400))
    assert "cannot be read" in refusal(read, "nul\0byte.png")
    for name in ("missing.png", "empty.png", "text.png"):
        assert name in refusal(read, tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode(Image.fromarray(smooth()), "PNG"))
    path.chmod(0)
    assert "permission" in refusal(read_picture, path)


def test_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    assert "permission denied" in refusal(read_picture, tmp_path / "x.png")


def test_too_many_pixels_are_refused_before_decoding() -> None:
    data = encode(Image.fromarray(smooth()), "PNG")
    assert "60" in refusal(decode_bytes, data, name="x", max_pixels=4799)
    assert decode_bytes(data, name="x", max_pixels=4800).pixels.shape == (60, 80, 3)
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    assert "exceed the limit" in refusal(decode_bytes, bomb, name="x")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_float_and_32_bit_tiff(dtype: type) -> None:
    data = encode(Image.fromarray(np.zeros((4, 5), dtype)), "TIFF")
    assert "8 or 16 bits" in refusal(decode_bytes, data, name="x.tif")


@pytest.mark.parametrize("picture_format", FORMATS)
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.3, 0.6, 0.95, 0.999])
def test_truncated_files(picture_format: str, fraction: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8)
    data = encode(Image.fromarray(noise), picture_format)
    assert "cut.img" in refusal(decode_bytes, data[: int(len(data) * fraction)], name="cut.img")


@pytest.mark.parametrize("suffix", [".tiff", ".png", ".jpg", ".webp", ".bmp"])
def test_truncated_files_of_opencv(suffix: str) -> None:
    data = encode_cv2(suffix, np.random.default_rng(0).integers(0, 256, (150, 150, 3), np.uint8))
    for fraction in (0.05, 0.5, 0.97):
        refusal(decode_bytes, data[: int(len(data) * fraction)], name="x")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_truncated_compressed_tiff(compression: str) -> None:
    data = encode(Image.fromarray(smooth(150, 150)), "TIFF", compression=compression)
    decode_bytes(data, name="x")
    for fraction in (0.3, 0.6, 0.9):
        refusal(decode_bytes, data[: int(len(data) * fraction)], name="x")


def test_jpeg_cut_after_its_thumbnail() -> None:
    """The end marker of the thumbnail inside EXIF must not be taken for the picture's."""
    plain = encode(Image.fromarray(smooth()), "JPEG")
    thumbnail = encode(Image.fromarray(smooth(8, 8)), "JPEG")
    segment = b"Exif\0\0" + thumbnail
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert decode_bytes(data, name="x").pixels.shape == (60, 80, 3)
    assert "truncated" in refusal(decode_bytes, data[:-30], name="x")
    assert "truncated" in refusal(decode_bytes, data[:-30] + bytes(30), name="x")


def test_jpeg_with_bytes_after_its_end_is_fine() -> None:
    data = encode(Image.fromarray(smooth()), "JPEG", progressive=True)
    assert decode_bytes(data + b"trailer of a camera", name="x").pixels.shape == (60, 80, 3)


def test_damaged_png() -> None:
    data = bytearray(encode(Image.fromarray(smooth()), "PNG"))
    data[len(data) // 2] ^= 1
    assert "damaged" in refusal(decode_bytes, bytes(data), name="x")


SOURCES = {
    picture_format: encode(Image.fromarray(smooth(24, 31)), picture_format) for picture_format in FORMATS
} | {
    "TIFF LZW": encode(Image.fromarray(smooth(24, 31)), "TIFF", compression="tiff_lzw"),
    "PNG 16": encode_cv2(".png", smooth(24, 31).astype(np.uint16)),
    "JPEG progressive": encode(Image.fromarray(smooth(24, 31)), "JPEG", progressive=True),
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(SOURCES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
)
def test_damage_never_raises_anything_else(source: str, edits: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(SOURCES[source])
    for where, value in edits:
        data[int(where * min(len(data), 200))] = value
    try:
        picture = decode_bytes(bytes(data[: int(keep * len(data)) + 1]), name="x")
    except PictureError as error:
        assert "\n" not in str(error)
    else:
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.ndim in (2, 3)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"RIFF0000WEBP"]),
    st.binary(max_size=200),
)
def test_garbage_is_refused(magic: bytes, tail: bytes) -> None:
    refusal(decode_bytes, magic + tail, name="x")


def test_nothing_is_printed_about_common_damage() -> None:
    script = (
        "import io, numpy as np\nfrom PIL import Image\n"
        "from anomaly_spotter.inputs.decode import decode_bytes, PictureError\n"
        "noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8))\n"
        "for f in ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP'):\n"
        "    b = io.BytesIO(); noise.save(b, f); d = b.getvalue()\n"
        "    for cut in (10, 100, len(d) // 2, len(d) - 1):\n"
        "        try: decode_bytes(d[:cut], name='x')\n"
        "        except Exception as e: assert 'PictureError' in type(e).__name__\n"
    ).replace("import decode_bytes, PictureError", "import decode_bytes")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_as_picture_takes_what_is_a_picture() -> None:
    grey, rgb = smooth(channels=1), smooth()
    assert as_picture(grey).pixels is grey
    np.testing.assert_array_equal(as_picture(grey[:, :, None]).pixels, grey)
    np.testing.assert_array_equal(as_picture(rgb).pixels, rgb)
    np.testing.assert_array_equal(as_picture(rgb[::2, ::-2]).pixels, rgb[::2, ::-2])
    np.testing.assert_array_equal(as_picture(Image.fromarray(rgb)).pixels, rgb)
    rgba = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    assert not as_picture(rgba).pixels.any()
    assert as_picture(rgba).notes == ("alpha channel composited on black",)
    deep = as_picture(rgb.astype(np.uint16) * 16, white_level=4095)
    assert difference(deep.pixels, rgb) <= 1
    assert "16-bit scaled to 8-bit" in deep.notes


@pytest.mark.parametrize(
    ("array", "cure"),
    [
        (np.zeros((4, 5)), "255"),
        (np.zeros((4, 5), np.bool_), "astype"),
        (np.zeros((4, 5), np.int64), "astype"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.zeros((3, 40, 50), np.uint8), "transpose"),
        (np.zeros((2, 4, 5, 3), np.uint8), "one picture"),
        (np.zeros((4, 5, 2), np.uint8), "[H, W, 3]"),
        (np.zeros(5, np.uint8), "[H, W]"),
        ("not an array", "uint8"),
        (None, "uint8"),
    ],
)
def test_as_picture_says_how_to_mend_the_rest(array: Any, cure: str) -> None:
    assert cure in refusal(as_picture, array)


# --- the white level --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("brightest", "level"),
    [(0, 255), (255, 255), (256, 1023), (4000, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_white_level(tmp_path: Path, brightest: int, level: int) -> None:
    paths = []
    for index, value in enumerate([0, brightest, brightest // 2]):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(encode_cv2(".png", np.full((4, 5), value, np.uint16)))
    (tmp_path / "broken.png").write_bytes(paths[0].read_bytes()[:-5])
    assert white_level([*paths, tmp_path / "broken.png", tmp_path / "missing.png"]) == level


def test_white_level_of_8_bit_pictures(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode_cv2(".png", smooth()))
    assert white_level([tmp_path / "x.png"]) == 65535
    assert white_level([]) == 65535


def test_a_12_bit_camera_is_not_black() -> None:
    deep = np.linspace(0, 4095, 200).astype(np.uint16).reshape(10, 20)
    picture = decode_bytes(encode_cv2(".png", deep), name="x", white_level=4095)
    assert difference(picture.pixels, (deep / 4095 * 255).round()) == 0
    clipped = decode_bytes(encode_cv2(".png", deep), name="x", white_level=2047)
    assert clipped.pixels.max() == 255
    assert "values above the white level 2047 clipped" in clipped.notes
    assert "white_level" in refusal(decode_bytes, encode_cv2(".png", deep), name="x", white_level=0)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masks_are_united_and_any_value_counts(tmp_path: Path) -> None:
    arrays = [np.zeros((6, 7), np.uint8), np.zeros((6, 7), np.uint16), np.zeros((6, 7, 3), np.uint8)]
    arrays[0][0, 0] = 1
    arrays[1][1, 1] = 1  # would vanish if it were scaled to 8 bits
    arrays[2][2, 2, 1] = 9
    paths = []
    for index, array in enumerate(arrays):
        paths.append(tmp_path / f"{index}.png")
        paths[-1].write_bytes(encode_cv2(".png", array))
    mask = read_mask(paths, (6, 7))
    assert mask.dtype == np.bool_
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert not read_mask([], (6, 7)).any()
    message = refusal(read_mask, paths, (7, 6))
    assert "7 x 6" in message
    assert "6 x 7" in message


def test_jpeg_masks_forgive_ringing(tmp_path: Path) -> None:
    array = np.zeros((40, 40), np.uint8)
    array[10:20, 11:23] = 255
    (tmp_path / "m.jpg").write_bytes(encode_cv2(".jpg", array))
    np.testing.assert_array_equal(read_mask([tmp_path / "m.jpg"], (40, 40)), array > 0)


# --- speed ------------------------------------------------------------------------------------------------------------


def test_reading_costs_little_more_than_decoding(tmp_path: Path) -> None:
    data = encode_cv2(".png", smooth(512, 512, 1))
    path = tmp_path / "x.png"
    path.write_bytes(data)
    raw = np.frombuffer(data, np.uint8)
    bare = min(timeit.repeat(lambda: cv2.imdecode(raw, cv2.IMREAD_UNCHANGED), number=10, repeat=7)) / 10
    ours = min(timeit.repeat(lambda: read_picture(path), number=10, repeat=7)) / 10
    assert ours - bare < 0.002  # measured 0.0002 s; wide, for a busy machine
