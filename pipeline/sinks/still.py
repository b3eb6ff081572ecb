"""A still with a grid of pixel coordinates, and the lines and zones on it: for people who write configurations."""

from __future__ import annotations

from typing import cast

from PIL import Image, ImageDraw, ImageFont

from pipeline.analytics.layout import Scale, layout_of
from pipeline.config.analytics import SourceAnalytics
from pipeline.frames import Picture
from pipeline.preprocess.reference import to_rgb
from pipeline.sinks._colour import Rgb
from pipeline.sinks._names import encodable
from pipeline.sinks._scene import LINE_RGB, ZONE_RGB, draw_line, draw_zone
from pipeline.sinks._upright import Placement

_GRID_RGB: Rgb = (1.0, 1.0, 1.0)
_GROUND_RGB: Rgb = (1.0, 0.3, 0.9)
_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 250, 500, 1000, 2000)
# Grid lines along the larger side: about so many.
_GRID_LINES = 20
_HERE = Placement(1.0, 1.0, 0.0, 0.0)

Colour = tuple[int, int, int]


def draw_still(picture: Picture, settings: SourceAnalytics | None) -> Image.Image:
    """The picture as a person sees it, with a grid, and with what is configured for it.

    Args:
        picture: With its pixels.
        settings: The source's analytics; None: only the grid.
    """
    image = Image.fromarray(to_rgb(picture))
    _shade(image)
    pen = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 360))
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(min(48, max(10, round(min(image.size) / 50)))))
    _coordinates(pen, image.size, font)
    if settings is not None:
        layout = layout_of(settings, image.size)
        for zone in layout.zones:
            draw_zone(pen, zone, _HERE, width, _eight_bit(ZONE_RGB))
            x, y = zone.polygon[0] if zone.circle is None else (zone.circle[0], zone.circle[1] - zone.circle[2])
            _text(pen, zone.name, (x, y), font, ZONE_RGB)
        for line in layout.lines:
            draw_line(pen, line, _HERE, width, _eight_bit(LINE_RGB))
            middle = (line.start[0] + line.end[0]) / 2, (line.start[1] + line.end[1]) / 2
            _text(pen, f"{line.name}: {line.directions[0]} along the arrow", middle, font, LINE_RGB)
        if settings.ground is not None:
            image_points = Scale(settings, image.size).points(settings.ground.image)
            for (x, y), metres in zip(image_points, settings.ground.metres, strict=True):
                box = (x - 2 * width, y - 2 * width, x + 2 * width, y + 2 * width)
                pen.ellipse(box, fill=_eight_bit(_GROUND_RGB))
                _text(pen, f"{metres[0]:g} m, {metres[1]:g} m", (x, y), font, _GROUND_RGB)
    return image


def grid_step(larger_side: int) -> int:
    """Pixels from one grid line to the next."""
    return min(_STEPS, key=lambda step: abs(larger_side / step - _GRID_LINES))


def _shade(image: Image.Image) -> None:
    """Thin lines that the picture shines through."""
    size, step = image.size, grid_step(max(image.size))
    shade = Image.new("RGBA", size)
    shade_pen = ImageDraw.Draw(shade)
    for x in range(step, size[0], step):
        shade_pen.line([(x, 0), (x, size[1])], fill=(*_eight_bit(_GRID_RGB), 90))
    for y in range(step, size[1], step):
        shade_pen.line([(0, y), (size[0], y)], fill=(*_eight_bit(_GRID_RGB), 90))
    image.paste(shade, mask=shade)


def _coordinates(pen: ImageDraw.ImageDraw, size: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    step = grid_step(max(size))
    for x in range(0, size[0], step):
        _text(pen, str(x), (x, 0), font, _GRID_RGB)
    for y in range(step, size[1], step):
        _text(pen, str(y), (0, y), font, _GRID_RGB)


def _text(
    pen: ImageDraw.ImageDraw, text: str, place: tuple[float, float], font: ImageFont.FreeTypeFont, rgb: Rgb
) -> None:
    """Text on a dark ground, inside the picture."""
    shown = encodable(text)
    left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
    size = pen.im.size
    x = min(max(0.0, place[0] + 2), max(0.0, size[0] - right + left - 4))
    y = min(max(0.0, place[1] + 2), max(0.0, size[1] - bottom + top - 4))
    pen.rectangle((x, y, x + right - left + 3, y + bottom - top + 3), fill=(20, 20, 20))
    pen.text((x + 2 - left, y + 2 - top), shown, font=font, fill=_eight_bit(rgb))


def _eight_bit(rgb: Rgb) -> Colour:
    red, green, blue = (round(255 * value) for value in rgb)
    return red, green, blue
