"""Photographs on disk: finding them, reading them as RGB with 8 bits per channel, and fitting them to a square."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = ["ENDINGS", "bird", "listed", "padded", "photograph", "portrait", "stretched"]

ENDINGS = (".jpg", ".jpeg", ".png")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_PIXELS = 1 << 26  # 8192 x 8192; a larger file is probably a decompression bomb


class _Refused(ValueError):
    """Raised for a photograph that can be read but does not meet the requirements."""


def photograph(path: str, levels: tuple[int, int] | None = None) -> Image.Image:
    """A photograph in RGB, with 8 bits per channel.

    `levels` are the values of a gray PNG with 16 bits that become black and white: values between are scaled linearly
    and rounded to 8 bits, and all others become black or white. They do not change pictures with 8 bits.
    """

    def require(condition: Any, expected: str, got: str) -> None:
        if not condition:
            raise _Refused(f"{path}: expected {expected}, got {got}: replace it, or take it out with its row")

    deep = False
    try:
        with open(path, "rb") as file:
            start = file.read(26)
            if start.startswith(b"\x89PNG\r\n\x1a\n"):
                file.seek(0)
                with Image.open(file, formats=["PNG"]) as picture:
                    picture.verify()  # compares the checksums, which loading the pixels does not
                # These two bytes of the header are the bit depth and the kind of picture, 0 for gray without opacity.
                # Pillow would truncate 16 bits to 8.
                depth, gray = start[24], start[25] == 0
                hint = " (gray ones can be read with levels of data.labelled_folder)" if gray else ""
                deep = depth > 8
                require(not deep or (gray and levels), "at most 8 bits per channel", f"{depth}{hint}")
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as picture:
                pixels = picture.width * picture.height
                require(pixels <= _PIXELS, f"at most {_PIXELS} pixels", f"{pixels}")
                # An MPO is a JPEG followed by smaller copies of the photograph.
                frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
                require(frames == 1, "one picture", f"an animation of {frames}")
                if deep and levels:
                    require("transparency" not in picture.info, "an opaque picture", "one with a transparent colour")
                    black, white = levels
                    shares = (np.asarray(picture).astype(float) - black) / (white - black)
                    return Image.fromarray(np.rint(255 * shares.clip(0, 1)).astype(np.uint8)).convert("RGB")
                if picture.has_transparency_data:
                    clear = picture.convert("RGBA")
                    least = np.asarray(clear)[..., 3].min()
                    require(least == 255, "an opaque picture", f"an opacity of {least} in 255")
                    return clear.convert("RGB")
                return picture.convert("RGB")
    except _Refused:
        raise
    except Exception as error:  # Pillow raises many kinds of errors
        raise ValueError(f"{path}: cannot be read ({error}), fetch it again") from error


def portrait(photograph: Image.Image, size: int) -> Image.Image:
    """The central square, resized bilinearly."""
    return _middle(photograph, min(photograph.size)).resize((size, size), Image.Resampling.BILINEAR)


def bird(photograph: Image.Image, size: int) -> Image.Image:
    """The centre of the photograph, resized bilinearly to a square that is larger by 256/224."""
    larger = size * 256 // 224
    return _middle(photograph.resize((larger, larger), Image.Resampling.BILINEAR), size)


def _middle(photograph: Image.Image, size: int) -> Image.Image:
    left, top = (round((extent - size) / 2) for extent in photograph.size)
    return photograph.crop((left, top, left + size, top + size))


def padded(photograph: Image.Image, size: int) -> Image.Image:
    """The whole photograph, resized bilinearly, between two black bars."""
    return ImageOps.pad(photograph, (size, size), Image.Resampling.BILINEAR)


def stretched(photograph: Image.Image, size: int) -> Image.Image:
    """The whole photograph, resized bilinearly; its proportions change."""
    return photograph.resize((size, size), Image.Resampling.BILINEAR)


def listed(folder: str | os.PathLike[str], prefix: str = "", endings: tuple[str, ...] = ENDINGS) -> set[str]:
    """The photographs in a folder and its subfolders, by file name extension, without hidden files."""
    found: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found |= listed(entry.path, os.path.join(prefix, entry.name), endings)
            elif entry.name.lower().endswith(endings) and entry.name[0] != "." and entry.is_file():
                found.add(os.path.join(prefix, entry.name))
    return found
