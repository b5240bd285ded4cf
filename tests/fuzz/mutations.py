"""How bytes, text, trees of settings, and pictures are altered."""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

# values that stand at a border of what is meant, or beyond it
VALUES = [
    *("", " ", "0", "-1", "1", "2", "3", "0.5", "-0.0", "1e309", "nan", "inf", "-inf", "1e-400", "2147483648"),
    *(
        "99999999999999999999",
        "null",
        "None",
        "true",
        "false",
        "[]",
        "{}",
        "[1, 2]",
        "[[]]",
        "{a: b}",
        "x",
        "é",
        "\udcff",
    ),
    *("a" * 300, "a/" * 2000, "..", ".", "no/such", "/dev/null", "/dev/null/x", "/proc/x", "street", "street/0.png"),
    *(
        "\x1b[31m",
        "a\nb",
        "[/]",
        "[",
        "{",
        "%s",
        "{0}",
        "*",
        "&a",
        "!!python/name:os.system",
        "!x",
        "-",
        "--",
        "~",
        "~x",
    ),
    *("hrseg", "torch.nn.Conv2d", "builtins.print", "os.getcwd", "hrseg.Nothing", "cuda:7", "1,2", "0x10", "1_000"),
]
_OBJECTS: list[Any] = [
    *(None, True, 0, -1, 1, 3, 2**31, 10**20, 0.5, -1.5, float("nan"), float("inf"), "", "x", "é", "a" * 300, "[/]"),
    *([], {}, [None], [1, 2], [[1], [2, 3]], {"a": 1}, {1: 2}, {None: None}, "torch.nn.Conv2d", "hrseg.Nothing", "1e9"),
    *({"class_path": "builtins.print"}, {"class_path": "hrseg.Nothing", "init_args": {}}, {"init_args": {"a": 1}}),
]
_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\n"
_LOOP = "a: &a\n  b: *a\n"


def value(rng: random.Random) -> Any:
    """Some value that a setting is not meant to have."""
    return rng.choice(_OBJECTS)


def altered_tree(rng: random.Random, tree: Any) -> tuple[Any, str]:
    """A tree of lists and dictionaries with one or two of its nodes altered, and what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        paths = list(_paths(tree))
        if not paths:
            break
        path = rng.choice(paths)
        *above, last = path
        node = tree
        for key in above:
            node = node[key]
        kind = rng.choice(("put", "put", "put", "remove", "rename", "double"))
        if kind == "put" or not isinstance(node, dict):
            node[last] = new = value(rng)
            done.append(f"{'.'.join(map(str, path))} = {new!r}"[:200])
        elif kind == "remove":
            del node[last]
            done.append(f"{'.'.join(map(str, path))} removed")
        else:
            new_key = rng.choice((f"{last}x", 7, "", "__class__"))
            node[new_key] = node[last]
            if kind == "rename":
                del node[last]
            done.append(f"{'.'.join(map(str, path))} {kind}d as {new_key!r}")
    return tree, "; ".join(done)


def _paths(tree: Any, above: tuple[Any, ...] = ()) -> Any:
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield (*above, key)
        if len(above) < 8:
            yield from _paths(child, (*above, key))


def altered_text(rng: random.Random, text: str) -> tuple[bytes, str]:
    """A text file with a line, its encoding or its end altered, and what was done."""
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    kind = rng.choice(
        ("cut", "line", "double", "indent", "value", "utf-16", "bom", "nul", "bytes", "bomb", "loop", "tab")
    )
    if kind == "line":
        del lines[at]
    elif kind == "double":
        lines.insert(at, lines[at])
    elif kind == "indent":
        lines[at] = " " * rng.randrange(1, 5) + lines[at]
    elif kind == "tab":
        lines[at] = "\t" + lines[at]
    elif kind == "value":
        separator = ":" if ":" in lines[at] else ","
        new = rng.choice(VALUES)
        lines[at] = f"{lines[at].split(separator)[0]}{separator} {new}\n"
    elif kind in ("bomb", "loop"):
        lines.append(_BOMB if kind == "bomb" else _LOOP)
    content = "".join(lines).encode("utf-8", "surrogateescape")
    if kind == "cut":
        content = content[: rng.randrange(len(content) + 1)]
    elif kind == "utf-16":
        content = "".join(lines).encode("utf-16", "surrogatepass")
    elif kind == "bom":
        content = b"\xef\xbb\xbf" + content
    elif kind in ("nul", "bytes"):
        place = rng.randrange(len(content) + 1)
        content = content[:place] + (b"\0" if kind == "nul" else rng.randbytes(5)) + content[place:]
    return content, f"{kind} in line {at + 1}"


def altered_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """A binary file cut, flipped, filled or replaced, and what was done."""
    kind = rng.choice(("cut", "flip", "flip", "head", "zeros", "double", "text", "empty", "random"))
    at = rng.randrange(max(len(content), 1))
    if kind == "cut":
        return content[:at], f"cut at {at}"
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(rng.choice((1, 8, 64))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed), "bits flipped"
    if kind == "head":
        changed = bytearray(content)
        for index in range(min(64, len(changed))):
            if rng.random() < 0.1:
                changed[index] = rng.randrange(256)
        return bytes(changed), "head altered"
    if kind == "zeros":
        return content[:at] + bytes(min(1000, len(content) - at)) + content[at + 1000 :], f"zeros from {at}"
    return {
        "double": (content + content, "twice"),
        "text": (b"<html>not found</html>\n", "a web page"),
        "empty": (b"", "empty"),
        "random": (rng.randbytes(100), "random"),
    }[kind]


def png(
    width: int, height: int, depth: int = 8, color: int = 0, data: bytes | None = None, *, crc: bool = True
) -> bytes:
    """A PNG file with this header; its pixels are zero, whatever their number, unless they are given."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color, 1)
    rows = min(height, 2000) if data is None else 0
    pixels = bytes((width * channels * depth + 7) // 8 % 10**6 + 1) * rows if data is None else data
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body) ^ (0 if crc else 1))
    return content
