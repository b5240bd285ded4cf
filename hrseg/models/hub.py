"""Saving and loading of networks in folders and on the Hugging Face hub: weights, config and model card."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hrseg.errors import HrsegError, WeightsError
from hrseg.models.factory import create_model
from hrseg.models.networks.base import Network, Segmenter
from hrseg.models.weights.save import save_weights
from hrseg.utils.files import write_json, writing

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"

_CARD = """---
{metadata}
---

# {name}

A network of hrseg, semantic segmentation with the HRNet family. It was built with

```json
{config}
```

Load it with its weights:

```python
import hrseg

net = hrseg.from_pretrained({source})  # in evaluation mode
```

Training data, scores and licence are not known here; please add them.
"""


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    force_download: bool = False,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
    **parameters: Any,
) -> Network:
    """Builds the network that `save_pretrained` or `push_to_hub` saved, with its weights.

    Reads model.safetensors only, so no code from the folder or the hub is run.

    Args:
        source: A folder, or else the name of a repository on the hub, "user/name".
        force_download: Download the file even if it is in the hub's cache.
        token: Access token for private repositories; None for that of `hf auth login`.
        cache_dir: The hub's cache; None for the default.
        local_files_only: Use the cache only.
        revision: Branch, tag or commit of the repository.
        parameters: Constructor arguments that override the file's, as in `create_model(from_file=...)`.

    Returns:
        The network, in evaluation mode.

    Raises:
        UnknownNameError: The network has no such argument.
        WeightsError: There is no such file, or it cannot be downloaded or read.
    """
    source = os.fspath(source)
    if Path(source).is_file():
        raise WeightsError(f"{source} is a file; give the folder that it is in, or use create_model(from_file=...)")
    path = Path(source) / WEIGHTS_FILE
    if not Path(source).is_dir():
        path = _download(
            source,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
    return create_model(from_file=path, **parameters).eval()


def save_pretrained(network: Network, folder: str | os.PathLike[str]) -> None:
    """Saves a network into a folder from which `from_pretrained` rebuilds it.

    Args:
        network: Built by `create_model`.
        folder: Created if missing. Gets model.safetensors, as `save_weights` writes it; config.json with name and
            constructor arguments, for people; and README.md, a model card, unless there is one.

    Raises:
        WeightsError: The network was not built by `create_model`, so that it cannot be rebuilt.
        OutputError: The folder cannot be written to.
    """
    _save(network, Path(folder), source=os.fspath(folder))


def push_to_hub(
    network: Network,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    commit_message: str = "Push a network with hrseg",
) -> str:
    """Saves a network into a repository on the Hugging Face hub, which is created if missing.

    Args:
        network: Built by `create_model`.
        repo_id: "user/name".
        private: Whether a new repository is private; None for the account's default.
        token: Access token; None for that of `hf auth login`.
        branch: Branch of the repository; None for the main one.
        commit_message: Message of the commit.

    Returns:
        The URL of the commit.

    Raises:
        WeightsError: The network was not built by `create_model`, or the upload failed.
    """
    _require_config(network)  # before a repository is created
    try:
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            _save(network, Path(folder), source=repo_id)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=branch, commit_message=commit_message
            )
        return str(commit)
    except HrsegError:  # the network cannot be saved
        raise
    except Exception as error:  # the hub's and its HTTP library's classes differ between versions
        raise WeightsError(
            f"cannot push to {repo_id} on the Hugging Face hub ({type(error).__name__}); is there a network, and "
            "was `hf auth login` run with a token that may write there?"
        ) from error


def _save(network: Network, folder: Path, source: str) -> None:
    _require_config(network)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(network, folder / WEIGHTS_FILE)
        write_json(folder / CONFIG_FILE, {"library_name": "hrseg", "network": network.config})
        if not (folder / CARD_FILE).exists():
            _model_card(network, source).save(folder / CARD_FILE)


def _model_card(network: Network, source: str) -> ModelCard:
    """The model card, with code that loads the network from `source`."""
    task = "image-classification" if hasattr(network, "num_classes") else "image-feature-extraction"
    tags = ["hrnet"]
    if isinstance(network, Segmenter):
        task, tags = "image-segmentation", ["semantic-segmentation", "hrnet"]
    metadata = ModelCardData(library_name="hrseg", pipeline_tag=task, tags=tags).to_yaml()
    config = json.dumps(network.config, indent=2)
    return ModelCard(
        _CARD.format(metadata=metadata, name=network.config["name"], config=config, source=json.dumps(source))
    )


def _require_config(network: Network) -> None:
    if not network.config:
        raise WeightsError(
            f"this {type(network).__name__} was not built by create_model and cannot be rebuilt from a file; "
            "save its state_dict() instead"
        )


def _download(repository: str, **settings: Any) -> Path:
    """Downloads the weights file of a repository on the hub, unless it is in the hub's cache."""
    from huggingface_hub import hf_hub_download  # which tests replace

    try:
        return Path(hf_hub_download(repository, WEIGHTS_FILE, **settings))
    except HFValidationError as error:
        raise WeightsError(
            f"{repository} is neither a folder nor the name of a repository on the Hugging Face hub, such as user/name"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"no folder {repository}, and no such repository on the Hugging Face hub, or one that needs a token; "
            "check the name, or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} on the Hugging Face hub has no revision {settings['revision']}") from error
    except Exception as error:  # the hub's and its HTTP library's classes differ between versions
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise WeightsError(
                f"{repository} on the Hugging Face hub has no {WEIGHTS_FILE}; was it saved by hrseg?"
            ) from error
        cache = settings["cache_dir"] or constants.HF_HUB_CACHE
        raise WeightsError(
            f"no folder {repository}, and cannot download {WEIGHTS_FILE} of {repository} from the Hugging Face hub "
            f"({type(error).__name__}), whose cache {cache} does not hold it; download it where there is a network, "
            "and give the folder that it is in"
        ) from error
