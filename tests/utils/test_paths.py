from __future__ import annotations

from pathlib import Path

from hrseg.utils.paths import expanded


def test_a_home_that_nobody_has_is_a_name_like_others() -> None:
    assert expanded("~nobody-of-that-name/a") == Path("~nobody-of-that-name/a")
    assert expanded("~/a") == Path.home() / "a"
