"""Letters on pictures: the package's own font, the same as the one it was taken from."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import ImageFont

from anomaly_spotter.views.lettering import font

WORDS = "DEFECT à è ì ò ù ß œ Ł ő ř Ωλ Привет · – … “x” € × ≤ ≥ ± σ → ■ ● ✓ ✗ "


@pytest.mark.parametrize(("bold", "name"), [(False, "DejaVuSans.ttf"), (True, "DejaVuSans-Bold.ttf")])
def test_letters_are_those_of_the_whole_font(bold, name):
    whole = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf" / name), 17)
    assert bytes(font(17, bold).getmask(WORDS)) == bytes(whole.getmask(WORDS))
    assert font(17, bold).getlength(WORDS) == whole.getlength(WORDS)
