"""The published weights: complete, consistent, found locally and downloaded."""

from __future__ import annotations

import dataclasses
import inspect
import io
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hrseg.errors import UnknownNameError, WeightsError
from hrseg.models import create_model, list_models, save_weights
from hrseg.models.registry import BUILDERS
from hrseg.models.weights.mirrors import Mirror
from hrseg.models.weights.published import IMAGENET_MEAN, ZOO, PublishedWeights
from hrseg.models.weights.zoo import (
    NAMED_WEIGHTS,
    check_weights,
    fetch_weights,
    find_weights,
    get_weights,
    list_weights,
    place_weights,
    weights_folder,
)

SMALL = "hrnetv2_w18_small_v1"
GITHUB = "https://github.com"
STORAGE = f"{GITHUB}/hsfzxjy/models.storage/releases/download"
OPENMMLAB = "https://download.openmmlab.com"

# all files of the READMEs and configurations that need no browser, by folder
LINKS = {
    "hf://timm": [
        f"{tag}/model.safetensors"
        for tag in (
            *(f"hrnet_w{width}.ms_in1k" for width in (18, 30, 32, 40, 44, 48, 64)),
            *("hrnet_w18.ms_aug_in1k", "hrnet_w18_ssld.paddle_in1k", "hrnet_w48_ssld.paddle_in1k"),
            *("hrnet_w18_small.ms_in1k", "hrnet_w18_small.gluon_in1k"),
            *("hrnet_w18_small_v2.ms_in1k", "hrnet_w18_small_v2.gluon_in1k"),
        )
    ],
    f"{GITHUB}/HRNet/HRNet-Image-Classification/releases/download/PretrainedWeights": [
        "HRNet_W18_C_cosinelr_cutmix_300epoch.pth.tar",
        "HRNet_W48_C_cosinelr_cutmix_300epoch.pth.tar",
        "HRNet_W18_C_ssld_pretrained.pth",
        "HRNet_W48_C_ssld_pretrained.pth",
    ],
    f"{STORAGE}/openseg-pytorch-pretrained": [
        "hrnetv2_w18_imagenet_pretrained.pth",
        "hrnetv2_w32_imagenet_pretrained.pth",
        "hrnetv2_w48_imagenet_pretrained.pth",
        "hr_rnet_bt_w20_imagenet_pretrained.pth",
    ],
    f"{OPENMMLAB}/pretrain/third_party": [
        "hrnetv2_w18_small-b5a04e21.pth",
        "hrnetv2_w18-00eb2006.pth",
        "hrnetv2_w32-dc9eeb4f.pth",
        "hrnetv2_w40-ed0b031c.pth",
        "hrnetv2_w48-d2186c55.pth",
    ],
    f"{OPENMMLAB}/mmpose/pretrain_models": [
        "hrnet_w32-36af842e.pth",
        "hrnet_w48-8ef0771d.pth",
        "hrformer_small-09516375_20220226.pth",
        "hrformer_base-32815020_20220226.pth",
    ],
    f"{STORAGE}/HRNet-OCR": [
        "hrnet_cs_8090_torch11.pth",
        "hrnet_ocr_cs_8162_torch11.pth",
        "hrnet_ocr_cs_trainval_8227_torch11.pth",
        "hrnet_lip_5583_torch04.pth",
        "hrnet_ocr_lip_5648_torch04.pth",
        "hrnet_pascal_ctx_5410_torch11.pth",
        "hrnet_ocr_pascal_ctx_5618_torch11.pth",
        "hrnet_cocostuff_3617_torch04.pth",
        "hrnet_ocr_cocostuff_3965_torch04.pth",
        "hrnet_ade20k_4312_torch04.pth",
        "hrnet_ocr_ade20k_4451_torch04.pth",
    ],
    f"{STORAGE}/openseg.pytorch.cityscapes": [
        "hrnet_w48_ocr_1_latest.pth",
        "hrnet_w48_ocr_b_mapillary_bs16_500000_1024x1024_lr0.01_1_latest.pth",
        "hrnet_w48_ocr_b_hrnet48_8_20000_trainval_coarse_trainval_mapillary_pretrain_freeze_bn_1_latest.pth",
    ],
    f"{STORAGE}/openseg.pytorch.pascal_context": ["hrnet_w48_ocr_hrnet48_2_latest.pth"],
    f"{STORAGE}/opeseg.pytorch.lip": ["hrnet_w48_ocr_1_latest.pth"],
    f"{STORAGE}/openseg.pytorch.coco_stuff": ["hrnet_w48_ocr_hrnet48_ohem_2_latest.pth"],
    f"{STORAGE}/openseg.pytorch.ade20k": ["hrnet_w48_ocr_hrnet48_ohem_1_latest.pth"],
    f"{GITHUB}/openseg-group/openseg.pytorch/releases/download/v1.0": [
        "cityscapes_hrnet_w48_ocr_rmi_paddle_lr2x_run1_latest.pth",
        "cityscapes_hrnet_w48_ocr_rmi_paddle_lr2x_run2_latest.pth",
        "pascal_context_hrnet_w48_ocr_rmi_paddle_run1_latest.pth",
        "pascal_context_hrnet_w48_ocr_rmi_paddle_run2_latest.pth",
        "lip_hrnet_w48_ocr_rmi_paddle_latest.pth",
        "ade20k_hrnet_w48_ocr_hrnet48_rmi_paddle_latest.pth",
    ],
    f"{OPENMMLAB}/mmsegmentation/v0.5": [
        "hrnet/fcn_hr48_512x1024_160k_cityscapes/fcn_hr48_512x1024_160k_cityscapes_20200602_190946-59b7973e.pth",
        "ocrnet/ocrnet_hr48_512x1024_160k_cityscapes/ocrnet_hr48_512x1024_160k_cityscapes_20200602_191037-dfbf1b0c.pth",
        "hrnet/fcn_hr48_480x480_80k_pascal_context_59/"
        "fcn_hr48_480x480_80k_pascal_context_59_20210411_003240-3ae7081e.pth",
    ],
    "https://bj.bcebos.com/paddleseg/dygraph/cityscapes": [
        "fcn_hrnetw18_cityscapes_1024x512_80k/model.pdparams",
        "fcn_hrnetw48_cityscapes_1024x512_80k/model.pdparams",
        "ocrnet_hrnetw18_cityscapes_1024x512_160k/model.pdparams",
        "ocrnet_hrnetw48_cityscapes_1024x512_160k/model.pdparams",
    ],
}
# files that need a browser
BY_HAND = {
    *(f"hrnetv2_w{width}_imagenet_pretrained.pth" for width in (18, 30, 32, 40, 44, 48, 64)),
    "hrnet_w18_small_model_v1.pth",
    "hrnet_w18_small_model_v2.pth",
    "hrnet_w32-36af842e.pth",
    "hrnet_w48-8ef0771d.pth",
    "hrnet_w48_cityscapes_cls19_1024x2048_trainset.pth",
    "hrnet_w48_cityscapes_cls19_1024x2048_ohem_trainvalset.pth",
    "hrnet_w48_pascal_context_cls59_480x480.pth",
    "hrnet_w48_lip_cls20_473x473.pth",
    "hrnet_w18_small_v1_cityscapes_cls19_1024x2048_trainset.pth",
    "ocrnet.HRNet_industrious-chicken.pth",
    "cityscapes_ocrnet.HRNet_Mscale_outstanding-turtle.pth",
    "mapillary_ocrnet.HRNet_Mscale_fast-rattlesnake.pth",
    "weights.pth",  # the page does not name the file
}


def saved(content: object) -> bytes:
    """The bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, an empty hub cache, and no network."""

    def offline(url: str) -> None:
        raise ConnectionError("no network\nreally none")

    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_every_published_link_is_listed_once() -> None:
    links = [mirror.url for checkpoint in ZOO.values() for mirror in checkpoint.mirrors]
    assert sorted(links) == sorted(f"{folder}/{file}" for folder, files in LINKS.items() for file in files)
    assert {checkpoint.page_file for checkpoint in ZOO.values() if checkpoint.page} == BY_HAND
    assert all(checkpoint.mirrors or checkpoint.page for checkpoint in ZOO.values())


def test_hashes_are_those_in_openmmlabs_file_names() -> None:
    for checkpoint in ZOO.values():
        for mirror in checkpoint.mirrors:
            found = re.search(r"-([0-9a-f]{8})(_\d{8})?\.pth$", mirror.url)
            assert mirror.sha256 == (found[1] if found else "")
            assert mirror.size is None


def test_names() -> None:
    networks = r"(hrnetv[12]_w\d\d(_small_v[12])?(_psa_[ps])?(_ocr)?(_hmsa)?|hrformer_[tsb](_ocr)?|hr_rnet_bt_w20)"
    for name, checkpoint in ZOO.items():
        assert re.fullmatch(networks + r"\.[a-z0-9_]+", name)
        assert name == f"{checkpoint.network}.{checkpoint.tag}"
        assert len({mirror.file for mirror in checkpoint.mirrors}) == len(checkpoint.mirrors)
    assert list_weights() == sorted(ZOO)
    assert list_weights("*_w64.*") == ["hrnetv2_w64.imagenet"]
    assert list_weights("unet*") == []


def test_results_are_those_in_the_official_names() -> None:
    # hrnet_cs_8090_torch11.pth; the READMEs print one or two decimals
    official = [row for row in ZOO.values() for mirror in row.mirrors if "/HRNet-OCR/" in mirror.url]
    assert len(official) == 11
    for row in official:
        found = re.search(r"_(\d{4})_torch", row.files[0])
        assert found is not None
        assert row.result == pytest.approx(int(found[1]) / 100, abs=0.0501)
        assert row.parameters["align_corners"] is ("ocr" in row.network or row.tag in ("coco_stuff", "ade20k"))


def test_arguments_and_preprocessing() -> None:
    classes = {"Cityscapes": 19, "LIP": 20, "COCO-Stuff": 171, "ADE20K": 150}
    for row in ZOO.values():
        data_set = row.data.split()[0]
        if "num_classes" in row.parameters and "Mapillary" not in row.data:
            contexts = {number for number in (59, 60) if f"_{number}" in row.tag}
            assert row.parameters["num_classes"] == (contexts.pop() if contexts else classes[data_set])
        builder = BUILDERS.get(row.network)
        if builder is not None:
            assert set(row.parameters) <= set(inspect.signature(builder).parameters)
        bgr = row.network.startswith("hrformer") or row.tag.endswith("_openseg")
        bgr &= "imagenet" not in row.tag
        assert row.channels == ("BGR" if bgr else "RGB")
        assert row.mean == ((0.5, 0.5, 0.5) if "paddleseg" in row.tag else IMAGENET_MEAN)
        assert (row.result is None) <= (row.protocol == "" or "two runs" in row.protocol)
        assert row.result_ms is None or (row.result is not None and row.result < row.result_ms < row.result + 3)
        assert row.licence == {"gluon": "Apache-2.0", "nvidia": "CC BY-NC-SA 4.0", "mmseg": "Apache-2.0"}.get(
            row.tag.split("_")[-1], "Apache-2.0" if "paddleseg" in row.tag else "" if "psa" in row.network else "MIT"
        )


def test_tags() -> None:
    assert NAMED_WEIGHTS["imagenet"]["hrnetv2_w48"] == "hrnetv2_w48.imagenet"
    assert NAMED_WEIGHTS["imagenet_ssld"].get("hrnetv2_w30") is None
    assert set(list_models("hrnetv2_w??")) <= set(NAMED_WEIGHTS["imagenet"])
    for fitting in NAMED_WEIGHTS.values():
        assert fitting
        assert set(fitting) <= set(list_models())
        assert set(fitting.values()) <= set(ZOO)
    for model, name in NAMED_WEIGHTS["imagenet"].items():
        backbone = r"_w\d\d(?:_small_v\d)?|hrformer_[tsb]"
        assert re.findall(backbone, model) == re.findall(backbone, name)


def test_unknown_names_of_weights() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown weights 'hrnetv2_w48.cityscape'; did you mean hrnetv2_w48.city"
    ):
        get_weights("hrnetv2_w48.cityscape")
    with pytest.raises(
        WeightsError, match=r"no lip weights are known for hrnetv2_w64; give a file of weights instead, or"
    ):
        fetch_weights("hrnetv2_w64", "lip")


def test_local_files_need_no_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("requests.get", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    name = f"{SMALL}.imagenet"
    network = create_model(SMALL)
    path = home / "weights" / name / "model.safetensors"
    assert find_weights(name) is None
    save_weights(network, path)
    assert find_weights(name) == get_weights(name) == path
    twin = create_model(SMALL, weights="imagenet")
    assert torch.equal(twin.get_parameter("conv1.weight"), network.get_parameter("conv1.weight"))
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]  # a read-only folder is enough


def test_files_cached_by_the_hub_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(repository: str, file: str) -> object:
        return str(tmp_path / file) if repository == "timm/hrnet_w18_small.ms_in1k" else object()

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert find_weights(f"{SMALL}.imagenet") == get_weights(f"{SMALL}.imagenet") == tmp_path / "model.safetensors"
    assert find_weights("hrnetv2_w64.imagenet") is None


def test_the_message_without_a_network_names_file_and_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Mirror("http://127.0.0.1:1/folder/w.pth")
    row = PublishedWeights(
        "n", "t", "data", mirrors=(*ZOO[f"{SMALL}.imagenet"].mirrors, nobody), page="a page", page_file="v.pth"
    )
    monkeypatch.setitem(ZOO, "n.t", row)
    with pytest.raises(WeightsError) as caught:
        get_weights("n.t")
    message = str(caught.value)
    hub = "model.safetensors of timm/hrnet_w18_small.ms_in1k from the Hugging Face hub (no network)"
    assert message.startswith(f"n.t: cannot download {hub}; w.pth from http://127.0.0.1:1/folder (")
    assert message.endswith(
        "hrseg has not tried these links. v.pth is also at a page. Download the file manually where there is a "
        f"network and put it into {home}/weights/n.t under its name, or give its path as weights="
    )
    assert "\n" not in message
    for file in ("model.safetensors", "w.pth", "v.pth"):  # any of them is found
        path = weights_folder("n.t") / file
        path.write_bytes(b"weights")
        assert get_weights("n.t") == path
        path.unlink()


def test_links_that_need_a_browser(home: Path, tmp_path: Path) -> None:
    name = f"{SMALL}.cityscapes"
    with pytest.raises(WeightsError) as caught:
        get_weights(name)
    folder, file = home / "weights" / name, "hrnet_w18_small_v1_cityscapes_cls19_1024x2048_trainset.pth"
    assert f"{name} is not in {folder}, and its link needs a browser: OneDrive or Baidu, by the links" in str(
        caught.value
    )
    assert f"run `hrseg weights get {name} --from FILE`, or put it into that folder as {file}" in str(caught.value)
    torch.save(create_model(SMALL).state_dict(), tmp_path / "download")
    assert place_weights(name, tmp_path / "download") == get_weights(name) == folder / file
    assert check_weights(name, folder / file) == (True, "is as downloaded")


def anything() -> None:
    """A function that a pickle may call."""


JUNK = {
    "a web page": (b"<!DOCTYPE html><html>sign in</html>", r"is a web page, perhaps a login; download it again$"),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"cannot be read"),
    "half an archive": (b"PK\x03\x04" + bytes(100), r"cannot be read"),
    "a pickled function": (saved(anything), r"holds a pickled \S*anything"),
    "another layout": (saved({"fc.weight": torch.zeros(1)}), r"no known layout; found keys fc\.weight"),
}


@pytest.mark.parametrize("kind", JUNK)
def test_manually_placed_junk_is_refused(kind: str, home: Path, tmp_path: Path) -> None:
    content, message = JUNK[kind]
    (tmp_path / "page.pth").write_bytes(content)
    name = f"{SMALL}.cityscapes"
    with pytest.raises(WeightsError, match=rf"page\.pth.*{message}") as caught:
        place_weights(name, tmp_path / "page.pth")
    assert "\n" not in str(caught.value)
    assert ".hrseg-" not in str(caught.value)
    assert find_weights(name) is None
    assert {path.name for path in (home / "weights" / name).iterdir()} == {".lock"}


def test_weights_of_another_network_are_refused(home: Path, tmp_path: Path) -> None:
    torch.save(create_model(f"{SMALL}_ocr").state_dict(), tmp_path / "ocr.pth")
    message = rf"ocr\.pth holds weights of {SMALL}_ocr; expected {SMALL}, the network of {SMALL}\.cityscapes"
    with pytest.raises(WeightsError, match=message):
        place_weights(f"{SMALL}.cityscapes", tmp_path / "ocr.pth")
    # its backbone is that of the classifier of the same size
    assert place_weights(f"{SMALL}.imagenet", tmp_path / "ocr.pth").is_file()
    with pytest.raises(WeightsError, match=rf"holds weights of {SMALL}_ocr; expected hrnetv2_w18, the network of"):
        place_weights("hrnetv2_w18.imagenet", tmp_path / "ocr.pth")


@pytest.mark.parametrize("name", ["hrnetv2_w18.cityscapes_paddleseg", "hr_rnet_bt_w20.imagenet_openseg"])
def test_unreadable_formats_can_be_placed(name: str, tmp_path: Path) -> None:
    file = ZOO[name].files[0]
    (tmp_path / file).write_bytes(b"of another framework")
    path = place_weights(name, tmp_path / file)
    assert get_weights(name, for_other_code=True) == path
    assert check_weights(name, path) == (True, "is as downloaded")


def test_unreadable_formats_are_refused_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrseg.models.weights.zoo.fetch", lambda *arguments: pytest.fail("fetched"))
    message = (
        r"hrnetv2_w18\.cityscapes_paddleseg cannot be loaded: Paddle's own format, which load_weights does not read; "
        "use other weights, or download the file for other code with `hrseg weights get hrnetv2_w18"
    )
    with pytest.raises(WeightsError, match=message):
        create_model("hrnetv2_w18", weights="cityscapes_paddleseg")
    with pytest.raises(WeightsError, match=message):
        create_model(from_file="hrnetv2_w18.cityscapes_paddleseg")


def test_a_manually_placed_file_is_compared_with_its_hash(home: Path) -> None:
    name, file = "hrnetv1_w32.imagenet_pose", "hrnet_w32-36af842e.pth"
    path = home / "weights" / name / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other weights")
    with pytest.raises(
        WeightsError,
        match=rf"{file} has a sha256 that starts with .*; expected 36af842e; remove it and download it again",
    ):
        get_weights(name)


def test_a_check_opens_files_without_a_known_hash(home: Path) -> None:
    name = f"{SMALL}.cityscapes"
    path = home / "weights" / name / ZOO[name].page_file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    sound, finding = check_weights(name, path)
    assert not sound
    assert finding.startswith("cannot be read (")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which it is served."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_weights_are_downloaded_from_a_mirror(
    served: tuple[Path, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    network = create_model(SMALL)
    save_file(network.state_dict(), folder / "w.safetensors")
    name = f"{SMALL}.imagenet"
    mirrors = (*ZOO[name].mirrors, Mirror(f"{address}/missing.pth"), Mirror(f"{address}/w.safetensors"))
    monkeypatch.setitem(ZOO, name, PublishedWeights(SMALL, "imagenet", "ImageNet-1k", mirrors=mirrors))
    twin = create_model(SMALL, weights="imagenet")
    assert torch.equal(twin.get_parameter("conv1.weight"), network.get_parameter("conv1.weight"))
    assert (home / "weights" / name / "w.safetensors").is_file()
    assert fetch_weights("hrnetv2_w18", name) == home / "weights" / name / "w.safetensors"  # by its full name


def test_junk_from_a_mirror_is_skipped(served: tuple[Path, str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, address = served
    whole = saved(create_model(SMALL).state_dict())
    for number, content in enumerate((*(content for content, _ in JUNK.values()), whole[: len(whole) // 2])):
        (folder / f"{number}.pth").write_bytes(content)
    (folder / "ocr.pth").write_bytes(saved(create_model(f"{SMALL}_ocr").state_dict()))
    bad = [Mirror(f"{address}/{path.name}") for path in sorted(folder.iterdir())]
    (folder / "w.pth").write_bytes(whole)
    name = f"{SMALL}.cityscapes"
    row = ZOO[name]
    monkeypatch.setitem(ZOO, name, dataclasses.replace(row, mirrors=tuple(bad)))
    with pytest.raises(WeightsError) as caught:
        get_weights(name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count("(the downloaded file") == len(bad) == 7
    finding = f"the downloaded file holds weights of {SMALL}_ocr; expected {SMALL}, the network of {name}"
    assert f"ocr.pth from {address} ({finding})" in message
    assert f"{row.page_file} is also at {row.page}" in message
    assert {path.name for path in weights_folder(name).iterdir()} == {".lock"}
    monkeypatch.setitem(ZOO, name, dataclasses.replace(row, mirrors=(*bad, Mirror(f"{address}/w.pth"))))
    assert get_weights(name).read_bytes() == whole
