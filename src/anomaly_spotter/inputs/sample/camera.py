"""The camera that photographs the drawn parts: exposure, uneven light, lens blur, vignetting and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomaly_spotter.inputs.sample.surface import Map, blurred

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """One shot's settings, in units of a picture whose side is 1 and whose white is 1."""

    gain: float  # exposure, 1 = nominal
    tint: tuple[float, float, float]  # white balance: gain of red, green, blue
    gradient: tuple[float, float]  # relative change of the light over the picture, along x and y
    vignette: float  # relative loss of light in the corners
    blur: float  # deviation of the lens blur, fraction of the shorter side
    read_noise: float  # deviation in the dark, grey levels
    shot_noise: float  # deviation added at white, grey levels

    @classmethod
    def draw(
        cls, rng: np.random.Generator, exposure: float, blur: tuple[float, float] = (0.0014, 0.0022)
    ) -> Camera:
        """Draw the settings of one shot.

        Args:
            rng: the stream to draw from.
            exposure: half the range of the gain around 1, in (0, 1).
            blur: least and greatest deviation of the lens blur, fractions of the shorter side.
        """
        return cls(
            gain=rng.uniform(1 - exposure, 1 + exposure),
            tint=(rng.uniform(0.975, 1.025), 1.0, rng.uniform(0.97, 1.03)),
            gradient=(rng.uniform(-0.06, 0.06), rng.uniform(-0.06, 0.06)),
            vignette=rng.uniform(0.03, 0.10),
            blur=rng.uniform(*blur),
            read_noise=rng.uniform(0.7, 1.1),
            shot_noise=rng.uniform(1.0, 1.7),
        )

    def expose(self, scene: Map) -> Map:
        """Return the noiseless picture in grey levels.

        Args:
            scene: brightness, ``float32 [H, W]`` or RGB ``[H, W, 3]``, 1 = nominal white.

        Returns:
            ``float32`` of the same shape in 0..255; a lens never clips hard, so neither does this.
        """
        height, width = scene.shape[:2]
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        light = np.float32(self.gain) * (
            1 + np.float32(self.gradient[0]) * x + np.float32(self.gradient[1]) * y
        )
        light = light * (1 - np.float32(2 * self.vignette) * (x * x + y * y))
        if scene.ndim == 3:
            light = light[:, :, None] * np.array(self.tint, np.float32)
        sharp = blurred(scene, self.blur * min(height, width))
        sharp *= light
        knee = np.float32(0.9)
        bright = sharp > knee
        sharp[bright] = knee + (1 - knee) * np.tanh((sharp[bright] - knee) / (1 - knee))
        np.clip(sharp, 0, 1, out=sharp)
        sharp *= np.float32(255)
        return sharp

    def sense(self, clean: Map, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the picture as the sensor delivers it: noise added, rounded to ``uint8`` of the same shape.

        Args:
            clean: what `expose` returned.
            rng: the stream of the noise; the same stream gives the same noise whatever the picture shows.
        """
        # Colour is interpolated from neighbouring sensor cells, which makes its noise slightly coarse.
        picture = blurred(rng.standard_normal(clean.shape, dtype=np.float32), 0.55)
        picture *= np.float32(1.6)
        deviation = np.sqrt(clean)
        deviation *= np.float32(self.shot_noise / 16)
        deviation += np.float32(self.read_noise)
        # In place: on a large picture fresh memory costs more than the arithmetic.
        picture *= deviation
        picture += clean
        np.rint(picture, out=picture)
        return np.clip(picture, 0, 255, out=picture).astype(np.uint8)
