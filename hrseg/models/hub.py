"""Networks in folders and on the Hugging Face hub: weights as safetensors, a description, and a model card."""

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

What it was trained on, how it scores, and under which licence it may be used is not known here; please add it.
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

    Only tensors and the description beside them are read.

    Args:
        source: A folder, or else the name of a repository on the hub, "user/name".
        force_download: Download the file although it is in the hub's cache.
        token: Of the hub, for private repositories; None is that of `hf auth login`.
        cache_dir: The hub's cache; None is the default.
        local_files_only: Use the cache alone.
        revision: Branch, tag or commit of the repository.
        parameters: Constructor arguments in place of the file's, as of `create_model(from_file=...)`.

    Returns:
        The network, in evaluation mode.

    Raises:
        UnknownNameError: The network has no such argument.
        WeightsError: There is no such file, or it cannot be downloaded or read.
    """
    source = os.fspath(source)
    if Path(source).is_file():
        raise WeightsError(f"{source} is a file; give the folder that it lies in, or create_model(from_file=...) it")
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
    """Saves a network into a folder from which `from_pretrained` builds it again.

    Args:
        network: Made by `create_model`.
        folder: Made if it is missing. Gets model.safetensors, as `save_weights` writes it; config.json with name and
            constructor arguments, for people; and README.md, a model card, unless there is one.

    Raises:
        WeightsError: The network was not built by `create_model`, which could not build it again either.
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
    """Saves a network into a repository on the Hugging Face hub, which is made if it is missing.

    Args:
        network: Made by `create_model`.
        repo_id: "user/name".
        private: Whether a new repository is private; None is the account's default.
        token: Of the hub; None is that of `hf auth login`.
        branch: Of the repository; None is its main one.
        commit_message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        WeightsError: The network was not built by `create_model`, or the hub does not take it.
    """
    _require_config(network)  # before a repository is made
    try:
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            _save(network, Path(folder), source=repo_id)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=branch, commit_message=commit_message
            )
        return str(commit)
    except HrsegError:  # of the network
        raise
    except Exception as error:  # the hub's own classes differ from version to version, as do its HTTP library's
        raise WeightsError(
            f"cannot push to {repo_id} on the Hugging Face hub ({type(error).__name__}); is there a network, and "
            "has `hf auth login` been given a token that may write there?"
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
    """The page that the hub shows, with the lines that load the network from `source`."""
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
            f"this {type(network).__name__} was not built by create_model and could not be built again from a file; "
            "save its state_dict() instead"
        )


def _download(repository: str, **settings: Any) -> Path:
    """The file of weights of a repository on the hub, from the hub's cache if it is there."""
    from huggingface_hub import hf_hub_download  # by the name that it has at the time of the call

    try:
        return Path(hf_hub_download(repository, WEIGHTS_FILE, **settings))
    except HFValidationError as error:
        raise WeightsError(
            f"{repository} is neither a folder nor, by its name, a repository on the Hugging Face hub; "
            "expected such as user/name"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"no folder {repository}, and no such repository on the Hugging Face hub, or one that needs a token; "
            "is the name right, and has `hf auth login` been run?"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} on the Hugging Face hub has no revision {settings['revision']}") from error
    except Exception as error:  # the hub's own classes differ from version to version, as do its HTTP library's
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise WeightsError(
                f"{repository} on the Hugging Face hub has no {WEIGHTS_FILE}; is it of hrseg?"
            ) from error
        cache = settings["cache_dir"] or constants.HF_HUB_CACHE
        raise WeightsError(
            f"no folder {repository}, and cannot download {WEIGHTS_FILE} of {repository} from the Hugging Face hub "
            f"({type(error).__name__}), whose cache {cache} does not hold it; download it where there is a network, "
            "and give the folder that it lies in"
        ) from error
