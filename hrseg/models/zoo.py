"""Named weights: where each is to be had."""

from __future__ import annotations

from pathlib import Path

from hrseg.errors import WeightsError

HUB_FILE = "model.safetensors"

# repositories on the Hugging Face hub: the HRNet authors' own weights under the official names, MIT licence
NAMED_WEIGHTS = {
    "imagenet": {
        "hrnetv2_w18_small_v1": "timm/hrnet_w18_small.ms_in1k",
        "hrnetv2_w18_small_v2": "timm/hrnet_w18_small_v2.ms_in1k",
        "hrnetv2_w18": "timm/hrnet_w18.ms_in1k",
        "hrnetv2_w30": "timm/hrnet_w30.ms_in1k",
        "hrnetv2_w32": "timm/hrnet_w32.ms_in1k",
        "hrnetv2_w40": "timm/hrnet_w40.ms_in1k",
        "hrnetv2_w44": "timm/hrnet_w44.ms_in1k",
        "hrnetv2_w48": "timm/hrnet_w48.ms_in1k",
        "hrnetv2_w64": "timm/hrnet_w64.ms_in1k",
    }
}


def fetch_weights(model: str, weights: str) -> Path:
    """Fetches named weights from the hub, or from its cache on this machine.

    Args:
        model: Name of the model.
        weights: A key of `NAMED_WEIGHTS`.

    Returns:
        The file.

    Raises:
        WeightsError: There are none for this model, or the hub cannot be reached and the cache does not have them.
    """
    if model not in NAMED_WEIGHTS[weights]:
        raise WeightsError(f"no {weights} weights are known for {model}; give a file of weights instead")
    # needed by few, and slow to import
    from huggingface_hub import hf_hub_download

    repository = NAMED_WEIGHTS[weights][model]
    try:
        return Path(hf_hub_download(repository, HUB_FILE))
    except Exception as error:  # the hub's own classes differ from version to version, as do those of its HTTP library
        raise WeightsError(
            f"{weights} weights of {model}: cannot fetch {HUB_FILE} of {repository} from the Hugging Face hub "
            f"({type(error).__name__}). Fetch it by hand where there is a network and give its path as weights="
        ) from error
