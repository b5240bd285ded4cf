"""Pretrained weights by name: found on this machine, or downloaded.

A name is NETWORK.TAG, such as `hrnetv2_w48.cityscapes`. `hrseg.models.weights.published` lists them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from hrseg.errors import HrsegError, UnknownNameError, WeightsError
from hrseg.models.catalog import MODELS
from hrseg.models.weights.download import fetch, import_file
from hrseg.models.weights.mirrors import check, mirror_of, require_published
from hrseg.models.weights.published import ZOO, PublishedWeights
from hrseg.utils.paths import cache_folder


def _by_tag() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for published in ZOO.values():
        fitting = found.setdefault(published.tag, {})
        is_backbone = published.tag.startswith("imagenet")
        for name, model in MODELS.items():
            if published.network == name or (is_backbone and published.network == model.pretrained_as):
                fitting.setdefault(name, published.name)
    return {tag: fitting for tag, fitting in found.items() if fitting}


# tag -> network that `create_model` builds -> name of its weights
NAMED_WEIGHTS = _by_tag()


def list_weights(pattern: str = "*") -> list[str]:
    """Sorted names of the weights that match a shell pattern, or whose networks match it.

    >>> list_weights("hrnetv2_w48.imagenet*")
    ['hrnetv2_w48.imagenet', 'hrnetv2_w48.imagenet_cutmix', 'hrnetv2_w48.imagenet_ssld']
    >>> list_weights("hrnetv2_w44")
    ['hrnetv2_w44.imagenet']
    """
    by_name = {name for name in ZOO if fnmatchcase(name, pattern)}
    models = {model for model in MODELS if fnmatchcase(model, pattern)}
    return sorted(by_name | {fitting[model] for fitting in NAMED_WEIGHTS.values() for model in models & set(fitting)})


def unknown_weights(name: str) -> HrsegError:
    """Makes the error for an unknown name or pattern: suggests similar names, or weights of the network."""
    if name in MODELS:
        return WeightsError(f"{name} is a network; give one of its weights: {', '.join(list_weights(name))}")
    if name in NAMED_WEIGHTS:
        return WeightsError(
            f"there are {name} weights of several networks; give {' or '.join(list_weights(f'*.{name}')[:3])}, ... "
            f"(`hrseg weights list '*.{name}'`)"
        )
    return UnknownNameError("weights", name, [*ZOO, *MODELS])


def weights_folder(name: str) -> Path:
    """The cache folder of weights that are not from the hub, in `$HRSEG_HOME` or `~/.cache/hrseg`."""
    return cache_folder() / "weights" / name


def fetch_weights(model: str, weights: str) -> Path:
    """Finds weights for a network by tag or full name, as `get_weights` does.

    Args:
        model: Name of the network.
        weights: A key of `NAMED_WEIGHTS` or of `ZOO`.

    Raises:
        WeightsError: There are none for this network, or as for `get_weights`.
        OutputError: As for `get_weights`.
    """
    name = weights if weights in ZOO else NAMED_WEIGHTS.get(weights, {}).get(model)
    if name is None:
        others = [tag for tag, fitting in NAMED_WEIGHTS.items() if model in fitting]
        known = f", or {' or '.join(others)}" if others else ""
        raise WeightsError(f"no {weights} weights are known for {model}; give a file of weights instead{known}")
    return get_weights(name)


def get_weights(name: str, *, for_other_code: bool = False) -> Path:
    """Finds weights by their full name on this machine, or downloads them.

    Args:
        name: A key of `ZOO`.
        for_other_code: Accept formats that hrseg cannot read.

    Returns:
        The file.

    Raises:
        WeightsError, UnknownNameError: No weights have that name.
        WeightsError: hrseg cannot read their format; they are not on this machine and cannot be downloaded without a
            browser; or a file that was placed manually is not the published one.
        OutputError: Their folder cannot be written to.
    """
    published, folder = _published(name), weights_folder(name)
    if not (published.readable or for_other_code):
        raise WeightsError(
            f"{name} cannot be loaded: {published.note}; use other weights, or download the file for other code with "
            f"`hrseg weights get {name}`"
        )
    if path := find_weights(name):
        require_published(path, mirror_of(path, published.mirrors))
        return path
    if not published.mirrors:
        raise WeightsError(
            f"{name} is not in {folder}, and its link needs a browser: {published.page}. Download it there, and run "
            f"`hrseg weights get {name} --from FILE`, or put it into that folder as {published.page_file}"
        )
    try:
        return fetch(published.mirrors, folder, partial(_require_network, published))
    except WeightsError as error:
        page = f" {published.page_file} is also at {published.page}." if published.page else ""
        raise WeightsError(
            f"{name}: {error}. hrseg has not tried these links.{page} Download the file manually where there "
            f"is a network and put it into {folder} under its name, or give its path as weights="
        ) from error


def place_weights(name: str, source: Path) -> Path:
    """Copies a manually downloaded file, from an archive if it is in one, into the folder of the weights.

    Args:
        name: A key of `ZOO`.
        source: The file, under any name.

    Returns:
        The copy.

    Raises:
        WeightsError, UnknownNameError: No weights have that name.
        WeightsError: There is no such file, it cannot be read, or it is not the published one.
        OutputError: The folder cannot be written to.
    """
    published = _published(name)
    examine = partial(_require_network, published)
    return import_file(source, published.files, published.mirrors, weights_folder(name), examine)


def find_weights(name: str) -> Path | None:
    """The file of named weights if it is in our cache or the hub's; makes no network requests.

    Raises:
        WeightsError, UnknownNameError: No weights have that name.
    """
    published = _published(name)
    folder = weights_folder(name)
    for file in published.files:
        if (folder / file).is_file():
            return folder / file
    for mirror in published.mirrors:
        if mirror.repository:
            from huggingface_hub import try_to_load_from_cache  # slow to import

            found = try_to_load_from_cache(mirror.repository, mirror.file)
            if isinstance(found, str):
                return Path(found)
    return None


def check_weights(name: str, path: Path) -> tuple[bool, str]:
    """Checks size, hashes and network of a weights file.

    Args:
        name: A key of `ZOO`.
        path: What `find_weights` or `get_weights` returned.

    Returns:
        Whether it passes, and the finding, worded to follow the file's name.

    Raises:
        WeightsError, UnknownNameError: No weights have that name.
        WeightsError: The file cannot be read.
    """
    published = _published(name)
    sound, finding = check(path, mirror_of(path, published.mirrors))
    if sound:
        try:
            _require_network(published, path)
        except WeightsError as error:
            return False, str(error).removeprefix(str(path)).lstrip()
    return sound, finding


def _published(name: str) -> PublishedWeights:
    if name not in ZOO:
        raise unknown_weights(name)
    return ZOO[name]


def _require_network(published: PublishedWeights, path: Path) -> None:
    """Refuses files without weights of the right network; accepts any file for networks that hrseg lacks."""
    if not published.readable or published.network not in MODELS:
        return
    from hrseg.models.weights.file import open_weights  # imports torch, which listing does not need

    found = open_weights(path).description().get("name", published.network)  # files of backbones state no name
    if published.tag.startswith("imagenet"):
        fits = found in MODELS and MODELS[found].pretrained_as == MODELS[published.network].pretrained_as
    else:
        fits = found in (published.network, published.alternative)
    if not fits:
        raise WeightsError(
            f"{path} holds weights of {found}; expected {published.network}, the network of {published.name}"
        )
