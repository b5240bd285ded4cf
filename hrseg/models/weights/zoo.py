"""Pretrained weights by name: found on this machine, or downloaded.

A name is a network, a point and a tag: `hrnetv2_w48.cityscapes`. `hrseg.models.weights.published` lists them.
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
    for checkpoint in ZOO.values():
        fitting = found.setdefault(checkpoint.tag, {})
        of_backbone = checkpoint.tag.startswith("imagenet")
        for name, model in MODELS.items():
            if checkpoint.network == name or (of_backbone and checkpoint.network == model.pretrained_as):
                fitting.setdefault(name, checkpoint.name)
    return {tag: fitting for tag, fitting in found.items() if fitting}


# tag -> model that `create_model` knows -> name of the weights for it
NAMED_WEIGHTS = _by_tag()


def list_weights(pattern: str = "*") -> list[str]:
    """Sorted names of the weights that match a shell pattern, or that are for networks that match it.

    >>> list_weights("hrnetv2_w48.imagenet*")
    ['hrnetv2_w48.imagenet', 'hrnetv2_w48.imagenet_cutmix', 'hrnetv2_w48.imagenet_ssld']
    >>> list_weights("hrnetv2_w44")
    ['hrnetv2_w44.imagenet']
    """
    by_name = {name for name in ZOO if fnmatchcase(name, pattern)}
    models = {model for model in MODELS if fnmatchcase(model, pattern)}
    return sorted(by_name | {fitting[model] for fitting in NAMED_WEIGHTS.values() for model in models & set(fitting)})


def unknown_weights(name: str) -> HrsegError:
    """The error for a name or pattern without weights: suggests similar names, or weights of the network."""
    if name in MODELS:
        return WeightsError(f"{name} is a network; give one of its weights: {', '.join(list_weights(name))}")
    if name in NAMED_WEIGHTS:
        return WeightsError(
            f"there are {name} weights of several networks; give {' or '.join(list_weights(f'*.{name}')[:3])}, ... "
            f"(`hrseg weights list '*.{name}'`)"
        )
    return UnknownNameError("weights", name, [*ZOO, *MODELS])


def weights_folder(name: str) -> Path:
    """The folder of named weights that are not from the hub: in `$HRSEG_HOME`, or `~/.cache/hrseg`."""
    return cache_folder() / "weights" / name


def fetch_weights(model: str, weights: str) -> Path:
    """Finds named weights for a network on this machine, or downloads them.

    Args:
        model: Name of the network.
        weights: A key of `NAMED_WEIGHTS` or of `ZOO`.

    Returns:
        The file.

    Raises:
        WeightsError: There are none for this network, hrseg cannot read them, or they are not on this machine and
            cannot be downloaded.
        OutputError: Their folder cannot be written to.
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
        WeightsError: hrseg cannot read their format; they are not on this machine and cannot be downloaded, or only
            with a browser; or a file that was placed manually is not the published one. The message names the remedy.
        OutputError: Their folder cannot be written to.
    """
    checkpoint, folder = _checkpoint(name), weights_folder(name)
    if not (checkpoint.readable or for_other_code):
        raise WeightsError(
            f"{name} cannot be loaded: {checkpoint.note}; take other weights, or download the file for other code with "
            f"`hrseg weights get {name}`"
        )
    if path := find_weights(name):
        require_published(path, mirror_of(path, checkpoint.mirrors))
        return path
    if not checkpoint.mirrors:
        raise WeightsError(
            f"{name} is not in {folder}, and its link needs a browser: {checkpoint.page}. Download it there, and run "
            f"`hrseg weights get {name} --from FILE`, or put it into that folder as {checkpoint.page_file}"
        )
    try:
        return fetch(checkpoint.mirrors, folder, partial(_require_network, checkpoint))
    except WeightsError as error:
        page = f" {checkpoint.page_file} is also at {checkpoint.page}." if checkpoint.page else ""
        raise WeightsError(
            f"{name}: {error}. These links were copied, never tried.{page} Download the file manually where there "
            f"is a network and put it into {folder} under its name, or give its path as weights="
        ) from error


def place_weights(name: str, source: Path) -> Path:
    """Copies a manually downloaded file, or an archive that contains it, into the folder of the weights.

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
    checkpoint = _checkpoint(name)
    examine = partial(_require_network, checkpoint)
    return import_file(source, checkpoint.files, checkpoint.mirrors, weights_folder(name), examine)


def find_weights(name: str) -> Path | None:
    """The file of named weights if it is on this machine, in our cache or the hub's; uses no network.

    Raises:
        WeightsError, UnknownNameError: No weights have that name.
    """
    checkpoint = _checkpoint(name)
    if path := _in_folder(checkpoint):
        return path
    for mirror in checkpoint.mirrors:
        if mirror.repository:
            from huggingface_hub import try_to_load_from_cache  # slow to import

            found = try_to_load_from_cache(mirror.repository, mirror.file)
            if isinstance(found, str):
                return Path(found)
    return None


def check_weights(name: str, path: Path) -> tuple[bool, str]:
    """Checks a file of named weights: size, hashes, and that it is of the right network.

    Args:
        name: A key of `ZOO`.
        path: What `find_weights` or `get_weights` returned.

    Returns:
        Whether it passes, and the finding, worded to follow the file's name.

    Raises:
        WeightsError, UnknownNameError: No weights have that name.
        WeightsError: The file cannot be read.
    """
    checkpoint = _checkpoint(name)
    sound, finding = check(path, mirror_of(path, checkpoint.mirrors))
    if sound:
        try:
            _require_network(checkpoint, path)
        except WeightsError as error:
            return False, str(error).removeprefix(str(path)).lstrip()
    return sound, finding


def _checkpoint(name: str) -> PublishedWeights:
    if name not in ZOO:
        raise unknown_weights(name)
    return ZOO[name]


def _require_network(checkpoint: PublishedWeights, path: Path) -> None:
    """Refuses files that are not weights, or of another network; accepts anything for networks that hrseg lacks."""
    if not checkpoint.readable or checkpoint.network not in MODELS:
        return
    from hrseg.models.weights.file import open_weights  # torch: not for listing

    found = open_weights(path).description().get("name", checkpoint.network)  # a backbone alone does not tell its name
    if checkpoint.tag.startswith("imagenet"):
        fits = found in MODELS and MODELS[found].pretrained_as == MODELS[checkpoint.network].pretrained_as
    else:  # of some it is not published whether they are multi-scale
        fits = checkpoint.network in (found, found.removesuffix("_hmsa"))
    if not fits:
        raise WeightsError(f"{path} is of {found}; expected {checkpoint.network}, the network of {checkpoint.name}")


def _in_folder(checkpoint: PublishedWeights) -> Path | None:
    folder = weights_folder(checkpoint.name)
    return next((folder / file for file in checkpoint.files if (folder / file).is_file()), None)
