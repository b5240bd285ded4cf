"""A disk cache of per-sample results, valid until the files change."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hrseg.data.dataset import Sample
from hrseg.errors import OutputError
from hrseg.utils.files import replacing
from hrseg.utils.locks import locked
from hrseg.utils.parallel import map_in_processes
from hrseg.utils.paths import cache_folder

_log = logging.getLogger(__name__)


def map_cached(
    function: Callable[[Sample], Any], samples: Iterable[Sample], kind: str, settings: Any, what: str
) -> tuple[dict[Sample, Any], int]:
    """Applies a function to samples in parallel, with the results cached on disk.

    A cached result is valid while paths, sizes and modification times of its files and the settings stay the same.
    Results up to an interrupt are kept. If several processes, on machines that share the cache, want the same results,
    one of them computes while the others wait.

    Args:
        function: Defined at the top level of a module; returns JSON-serialisable values.
        samples: Its inputs.
        kind: Folder in the cache directory.
        settings: Everything else that the results depend on, JSON-serialisable.
        what: Description in the progress bar, such as "reading".

    Returns:
        The results, and the number of them that were computed.
    """
    keys = {sample: _key(sample) for sample in samples}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()
    cache = cache_folder() / kind / f"{digest}.json"
    known = _load(cache)
    if all(key in known for key in keys.values()):
        return {sample: known[key] for sample, key in keys.items()}, 0
    with locked(cache.with_suffix(".lock")):
        known = _load(cache)  # another process may have computed them meanwhile
        missing = [sample for sample, key in keys.items() if key not in known]
        try:
            results = map_in_processes(function, missing, what) if missing else ()
            for sample, result in zip(missing, results, strict=True):
                known[keys[sample]] = result
        finally:
            if missing:
                _store(cache, {key: known[key] for key in keys.values() if key in known})
    return {sample: known[key] for sample, key in keys.items()}, len(missing)


def _key(sample: Sample) -> str:
    return json.dumps([sample.holds_train_ids, *(_state(path) for path in (sample.image, sample.label) if path)])


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path.absolute()} missing"
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _load(cache: Path) -> dict[str, Any]:
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):  # missing or damaged
        return {}
    return known if isinstance(known, dict) else {}


def _store(cache: Path, results: dict[str, Any]) -> None:
    try:
        with replacing(cache) as temporary:
            temporary.write_text(json.dumps(results))
    except OutputError as error:
        _log.warning("%s; the next time all files will be read again", error)
