"""Write and read Label Studio's brush RLE without decoding pixels.

A brush RLE is a bit stream over the flattened RGBA image: a 32-bit count of bytes, 5 bits word size - 1, four
times 4 bits run size - 1, then tokens. A token is one bit (1 = run, 0 = literals), two bits that choose the
run size, the count - 1 in that many bits, and one word (run) or count words (literals). The mask is the alpha
channel. ``encode_brush`` writes the same bytes as the encoder of Label Studio's SDK; ``decode_brush`` reads
any stream of the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadRegion
from ml_backend.instances import Rle
from ml_backend.label_studio.codecs.base import RegionCodec
from ml_backend.masks.rle import (
    DENSE,
    Ints,
    decode_rle,
    encode_mask,
    fill_toggles,
    mask_toggles,
    rle_hw,
    rle_toggles,
    toggles_to_rle,
    transpose_toggles,
)

__all__ = ["BRUSH", "brush_to_rle", "check_brush", "decode_brush", "encode_brush", "rle_to_brush"]

_HEADER_BITS: Final = 32 + 5 + 16
_RUN_BITS: Final = np.array([3, 4, 8, 16], np.int64)
_LONGEST: Final = 1 << 16
_MOST_BITS: Final = 3 + 16 + 8
"""Most bits that one value can take: a token for it alone, with the largest run size. Bits after the last
value are not read, so an overlong list costs no more than its image can need."""
_BLOCK_BITS: Final = 1 << 16


# Label Studio's brush RLE


def encode_brush(mask: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> list[int]:
    """Brush RLE of an (H, W) mask (non-zero = inside, written as 255)."""
    if mask.size == 0:
        raise BadRegion(f"a mask of size {mask.shape} has no pixels", field="mask")
    return _encode_toggles(mask_toggles(mask), mask.size)


def rle_to_brush(rle: Rle) -> list[int]:
    """Brush RLE of a COCO RLE, without making the pixels."""
    height, width = rle_hw(rle)
    if height * width == 0:
        raise BadRegion(f"a mask of size {height}×{width} has no pixels", field="mask")
    toggles = rle_toggles(rle)
    if len(toggles) * DENSE > height * width:
        return encode_brush(decode_rle(rle))
    return _encode_toggles(transpose_toggles(toggles, width, height), height * width)


def _encode_toggles(toggles: Ints, size: int) -> list[int]:
    """Bits of all tokens at once: their values and widths as columns, packed by summing into bytes."""
    edges = np.concatenate(([0], toggles, [size]))
    runs: Ints = np.diff(edges) * 4  # RGBA: every pixel four times
    value: Ints = (np.arange(len(runs)) % 2) * 255
    runs, value = runs[runs > 0], value[runs > 0]
    pieces = -(-runs // _LONGEST)  # a run beyond 2^16 is cut into full pieces and a rest
    is_long = runs > 256
    index = np.repeat(np.arange(len(runs)), pieces)
    length = np.full(len(index), _LONGEST, np.int64)
    rest = np.cumsum(pieces) - 1
    length[rest] = runs - (pieces - 1) * _LONGEST
    choice = np.where(is_long[index], 3, np.searchsorted([8, 16], length))
    width = _RUN_BITS[choice]
    token = ((((4 | choice) << width) | (length - 1)) << 8) | value[index]
    width = width + 11
    header = (size * 4 << 21) | (7 << 16) | 0x237F  # word size 8; run sizes 3, 4, 8, 16
    token = np.concatenate(([header >> 27, header & (1 << 27) - 1], token)).astype(np.uint64)
    width = np.concatenate(([26, 27], width))
    stop = np.cumsum(width)
    start = stop - width
    n_bytes = int(stop[-1]) // 8 + 1  # as the SDK: a stream that ends on a byte gets one more byte of zeros
    shifted = token << (np.uint64(40) - (width + (start & 7)).astype(np.uint64))
    first = start >> 3
    out = np.zeros(n_bytes + 5, np.int64)
    for k in range(5):
        part = ((shifted >> np.uint64(32 - 8 * k)) & np.uint64(0xFF)).astype(np.float64)
        out += np.bincount(first + k, weights=part, minlength=n_bytes + 5).astype(np.int64)
    return cast("list[int]", out[:n_bytes].tolist())


def check_brush(data: Sequence[int] | bytes, hw: tuple[int, int]) -> None:
    """Look at the header only. Raises BadRegion when it is missing or states another image size."""
    if len(data) * 8 < _HEADER_BITS:
        raise BadRegion(f"rle of {len(data)} bytes is too short for its header", field="value.rle")
    try:
        total = int.from_bytes(bytes(data[:4]), "big")
    except (TypeError, ValueError) as error:
        raise BadRegion("rle is not a list of bytes (0..255)", field="value.rle") from error
    if total != hw[0] * hw[1] * 4:
        raise BadRegion(
            f"rle holds {total} values, an image of {hw[1]}×{hw[0]} pixels needs {hw[0] * hw[1] * 4}",
            field="value.rle",
            hint="original_width and original_height must be those of the image the mask was drawn on",
        )


def decode_brush(
    data: Sequence[int] | bytes, hw: tuple[int, int], *, threshold: int = 127
) -> npt.NDArray[np.bool_]:
    """(H, W) bool mask of a brush RLE: alpha above ``threshold``. Raises BadRegion when it does not fit."""
    toggles = _decode_toggles(data, hw, threshold=threshold)
    return fill_toggles(toggles, hw[0] * hw[1]).reshape(hw)


def brush_to_rle(data: Sequence[int] | bytes, hw: tuple[int, int], *, threshold: int = 127) -> Rle:
    """COCO RLE of a brush RLE, without making the pixels."""
    toggles = _decode_toggles(data, hw, threshold=threshold)
    if len(toggles) * DENSE > hw[0] * hw[1]:
        return encode_mask(fill_toggles(toggles, hw[0] * hw[1]).reshape(hw))
    return toggles_to_rle(transpose_toggles(toggles, hw[0], hw[1]), hw)


def _decode_toggles(data: Sequence[int] | bytes, hw: tuple[int, int], *, threshold: int) -> Ints:
    """Row-major toggles of the alpha channel.

    Of the four values of a pixel only the last counts. A run holds the last values of the pixels from
    start // 4 to end // 4, also where the channels differ and a run ends inside of a pixel.
    """
    parts: list[Ints] = []
    done, before = 0, False
    for value, length in _runs(data, hw):
        end = done + np.cumsum(length)
        start, stop = (end - length) >> 2, end >> 2
        inside, start = (value > threshold)[stop > start], start[stop > start]
        if len(start):
            parts.append(start[inside != np.concatenate(([before], inside[:-1]))])
            before = bool(inside[-1])
        done = int(end[-1])
    return np.concatenate(parts).astype(np.int64, copy=False)


def _runs(data: Sequence[int] | bytes, hw: tuple[int, int]) -> Iterator[tuple[Ints, Ints]]:
    """(values, lengths) of the byte stream, both (k,), block by block: tables of all its bits at once would
    take hundreds of times the memory of the stream.
    """
    check_brush(data, hw)
    longest = (_HEADER_BITS + hw[0] * hw[1] * 4 * _MOST_BITS) // 8 + 1
    try:
        raw = np.frombuffer(bytes(data[:longest]), np.uint8)
    except (TypeError, ValueError) as error:
        raise BadRegion("rle is not a list of bytes (0..255)", field="value.rle") from error
    padded = np.concatenate((raw, np.zeros(8, np.uint8)))
    total, n_bits = int.from_bytes(raw[:4].tobytes(), "big"), len(raw) * 8
    if not total:
        raise BadRegion("rle is empty", field="value.rle")
    word, *sizes = (_bits(padded, np.array([32, 37, 41, 45, 49])) >> (19, 20, 20, 20, 20)).tolist()
    word, run_bits = word + 1, np.array([size % 16 + 1 for size in sizes], np.int64)
    if word > 8:
        raise BadRegion(f"rle has words of {word} bits, expected at most 8", field="value.rle")
    position, done = _HEADER_BITS, 0
    while done < total:
        if position >= n_bits:
            raise BadRegion(f"rle ends after {done} of {total} values", field="value.rle")
        first = position
        size, count, is_run = _tokens(padded, np.arange(first, min(first + _BLOCK_BITS, n_bits)), run_bits)
        steps = (3 + size + word * np.where(is_run, 1, count)).tolist()
        counts = count.tolist()
        starts: list[int] = []
        # where tokens start: the one sequential part; then all of the block are read at once
        while done < total and (place := position - first) < len(steps):
            starts.append(place)
            done += counts[place]
            position += steps[place]
        if position > n_bits:
            where = "inside its last value" if done >= total else f"after {done} of {total} values"
            raise BadRegion(f"rle ends {where}", field="value.rle")
        at = np.array(starts, np.int64)
        number = np.where(is_run[at], 1, count[at])  # words that follow the token
        offset = np.cumsum(number) - number
        nth = np.arange(int(number.sum())) - np.repeat(offset, number)
        value = _bits(padded, np.repeat(first + at + 3 + size[at], number) + nth * word) >> (24 - word)
        length = np.repeat(np.where(is_run[at], count[at], 1), number)
        if done > total:  # a last run may reach beyond the end
            length[-1] -= done - total
            if length[-1] <= 0:
                raise BadRegion("rle is longer than its header says", field="value.rle")
        yield value, length


def _bits(padded: npt.NDArray[np.uint8], at: Ints) -> Ints:
    """The 24 bits from each of these bits on."""
    byte = at >> 3
    four = np.zeros(len(at), np.int64)
    for k in range(4):
        four = four << 8 | padded[byte + k]
    return four >> (8 - (at & 7)) & 0xFFFFFF


def _tokens(
    padded: npt.NDArray[np.uint8], at: Ints, run_bits: Ints
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Size of the count, count, and whether it is a run, of the tokens that would start at these bits."""
    window = _bits(padded, at)
    code = window >> 21
    size = run_bits[code & 3]
    return size, ((window >> (21 - size)) & ((1 << size) - 1)) + 1, code >= 4


def _read(value: Mapping[str, Any], hw: tuple[int, int]) -> Rle:
    return brush_to_rle(_rle_list(value), hw)


def _write(
    rle: Rle, hw: tuple[int, int], box_xyxy: tuple[float, float, float, float], tolerance_px: float
) -> tuple[dict[str, Any], float]:
    return {"format": "rle", "rle": rle_to_brush(rle)}, 1.0


def _check(value: Mapping[str, Any], hw: tuple[int, int]) -> None:
    check_brush(_rle_list(value), hw)


def _rle_list(value: Mapping[str, Any]) -> Sequence[int]:
    if value.get("format", "rle") != "rle":
        raise BadRegion(f"brush format {value.get('format')!r} is not rle", field="value.format")
    data = value.get("rle")
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise BadRegion("there is no rle list", field="value.rle")
    return data


BRUSH: Final = RegionCodec("mask", _read, _write, _check)
