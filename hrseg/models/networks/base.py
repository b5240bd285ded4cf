"""What all networks of hrseg have in common: a description of themselves, a head, and the Hugging Face hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn

from hrseg.errors import HrsegError, WeightsError
from hrseg.utils.construct import RecordsArguments, given_names
from hrseg.utils.files import write_json, writing

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"

_CARD = """---
{metadata}
---

# {name}

A network of hrseg, semantic segmentation with the HRNet family. It was built with

```json
{config}
```

and is to be had with its weights by

```python
import hrseg

net = hrseg.Network.from_pretrained({source})  # in evaluation mode
```

What it was trained on, how it scores, and under which licence it may be used is not known here; please say so.
"""


class Network(nn.Module, RecordsArguments, ModelHubMixin):
    """A network that `create_model` builds.

    Attributes:
        head_names: The attributes that make up the head: what fine-tuning starts anew or trains faster.
        config: Name and constructor arguments as plain values, from which `create_model` builds the network again.
            Empty for a network built without it.
        given: Names of the arguments that `create_model` or the constructor was given, which override what a layout of
            weights is usually made with.
        loaded_from: The file of weights that `load_weights` read last; None for a random start.
    """

    head_names: ClassVar[tuple[str, ...]]

    # not the mixin's, which keeps the arguments a second time, and hides the constructor's signature from `inspect`
    if not TYPE_CHECKING:
        __new__ = object.__new__

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.given = given_names(self)
        self.loaded_from: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **parameters: Any,
    ) -> Self:
        """Builds the network that `save_pretrained` or `push_to_hub` saved, with its weights.

        `Network.from_pretrained` builds any network, that of a subclass only its own. Nothing but tensors and the
        description beside them is read.

        Args:
            pretrained_model_name_or_path: A folder, or else the name of a repository on the hub, "user/name".
            force_download: Fetch the file although it is in the hub's cache.
            token: Of the hub, for private repositories; None is that of `hf auth login`.
            cache_dir: The hub's cache; None is its usual place.
            local_files_only: Ask no network.
            revision: Branch, tag or commit of the repository.
            parameters: Constructor parameters in place of the file's, as of `create_model(from_file=...)`.

        Returns:
            The network, in evaluation mode.

        Raises:
            UnknownNameError: The network has no such parameter.
            WeightsError: There is no such file, it cannot be fetched or read, or is of a network of another class.
        """
        from hrseg.models.factory import create_model  # which imports every network

        source = os.fspath(pretrained_model_name_or_path)
        if Path(source).is_file():
            raise WeightsError(
                f"{source} is a file; give the folder that it lies in, or create_model(from_file=...) it"
            )
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
        network = create_model(from_file=path, **parameters)
        if not isinstance(network, cls):
            raise WeightsError(
                f"{source} holds {network.config['name']}, which is no {cls.__name__} but a {type(network).__name__}; "
                "Network.from_pretrained takes any"
            )
        return network.eval()

    def save_pretrained(self, save_directory: str | os.PathLike[str], **settings: Any) -> str | None:
        """Saves the network into a folder from which `from_pretrained` builds it again.

        Args:
            save_directory: Made if it is missing. Gets model.safetensors, as `save_weights` writes it; config.json with
                name and constructor arguments, for people; and README.md, a model card, unless there is one.
            settings: As of `huggingface_hub.ModelHubMixin.save_pretrained`.

        Returns:
            The address of the commit if `push_to_hub=True` is given.

        Raises:
            WeightsError: The network was not built by `create_model`, which could not build it again either.
            OutputError: The folder cannot be written to.
        """
        self._require_config()
        folder = Path(save_directory)
        card = {"source": os.fspath(save_directory)} | (settings.pop("model_card_kwargs", None) or {})
        with writing(folder):
            return super().save_pretrained(folder, model_card_kwargs=card, **settings)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Saves the network into a repository on the Hugging Face hub, which is made if it is missing.

        Args:
            repo_id: "user/name".
            settings: As of `huggingface_hub.ModelHubMixin.push_to_hub`: private, token, branch, commit_message, ...

        Returns:
            The address of the commit.

        Raises:
            WeightsError: The network was not built by `create_model`, or the hub does not take it.
        """
        self._require_config()  # before a repository is made
        card = (settings.pop("model_card_kwargs", None) or {}) | {"source": repo_id}
        try:
            return str(super().push_to_hub(repo_id, model_card_kwargs=card, **settings))
        except (HrsegError, TypeError):  # of the network, or a setting that there is not
            raise
        except Exception as error:  # the hub's own classes differ from version to version, as do its HTTP library's
            raise WeightsError(
                f"cannot push to {repo_id} on the Hugging Face hub ({type(error).__name__}); is there a network, and "
                "has `hf auth login` been given a token that may write there?"
            ) from error

    def generate_model_card(self, *args: Any, source: str = "user/name", **others: Any) -> ModelCard:
        """The text that the hub shows, with the lines that load the network; licence and data are left to be filled in.

        Args:
            args: None are taken.
            source: What those lines name: a repository or a folder.
            others: None are taken.
        """
        from hrseg.models.networks.hrnetv2 import Segmenter  # which imports this module

        task = "image-classification" if hasattr(self, "num_classes") else "image-feature-extraction"
        tags = ["hrnet"]
        if isinstance(self, Segmenter):
            task, tags = "image-segmentation", ["semantic-segmentation", "hrnet"]
        metadata = ModelCardData(library_name="hrseg", pipeline_tag=task, tags=tags).to_yaml()
        config = json.dumps(self.config, indent=2)
        return ModelCard(
            _CARD.format(metadata=metadata, name=self.config["name"], config=config, source=json.dumps(source))
        )

    def _require_config(self) -> None:
        if not self.config:
            raise WeightsError(
                f"this {type(self).__name__} was not built by create_model and could not be built again from a file; "
                "save its state_dict() instead"
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        from hrseg.models.weights.load import save_weights  # which imports this module

        save_weights(self, save_directory / WEIGHTS_FILE)
        write_json(save_directory / CONFIG_FILE, {"library_name": "hrseg", "network": self.config})


def _download(repository: str, **settings: Any) -> Path:
    """The file of weights of a repository on the hub, out of the hub's cache if it is there."""
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
            f"no folder {repository}, and cannot fetch {WEIGHTS_FILE} of {repository} from the Hugging Face hub "
            f"({type(error).__name__}), whose cache {cache} does not hold it; fetch it where there is a network, and "
            "give the folder that it lies in"
        ) from error
