"""What else can lie in a base's folder: each file is pinned, refused, or never seen by a loader."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from tests.support.images import write_folder
from tests.support.runs import SITES, call, tiny_study
from undertone.core.canonical import digest_of
from undertone.errors import ModelError, PlanChanged
from undertone.models.base import LoadedBase, load_base
from undertone.models.part_files import STEMS
from undertone.models.pinned import PinnedBase, check_pins, files_digest, pin
from undertone.models.staging import staged
from undertone.study.schema import load_study
from undertone_client.compute import preparing

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTED = ("unet", "vae", "text_encoder")


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def tensors(loaded: LoadedBase) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value
        for part in WEIGHTED
        for name, value in getattr(loaded.pipeline, part).named_parameters()
    }


def same(left: LoadedBase, right: LoadedBase) -> bool:
    one, two = tensors(left), tensors(right)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def single(folder: Path, part: str) -> Path:
    return folder / part / f"{STEMS[part]}.safetensors"


def zeros(folder: Path, part: str, name: str) -> Path:
    """Other weights of the same shapes."""
    save_file(
        {key: torch.zeros_like(value) for key, value in load_file(single(folder, part)).items()},
        folder / part / name,
        metadata={"format": "pt"},
    )
    return folder / part / name


def write_index(folder: Path, part: str, name: str, shards: dict[str, str]) -> None:
    (folder / part / name).write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}), encoding="utf-8"
    )


def shard(folder: Path, part: str, half: bool = False) -> None:
    """Cut a part's one file into two shards and an index, as `save_pretrained` names them."""
    path, stem = single(folder, part), STEMS[part]
    values = load_file(path)
    names = sorted(values)
    middle, listed = len(names) // 2, {}
    dot = ".fp16" if half else ""
    for number, keys in enumerate((names[:middle], names[middle:]), 1):
        file = f"{stem}{dot}-0000{number}-of-00002.safetensors"
        held = {key: values[key].half() if half else values[key] for key in keys}
        save_file(held, path.with_name(file), metadata={"format": "pt"})
        listed |= dict.fromkeys(keys, file)
    write_index(folder, part, f"{stem}.safetensors.index{dot}.json", listed)
    path.unlink()


def halve(folder: Path, part: str, keep: bool = False) -> None:
    path = single(folder, part)
    half = {name: value.half() for name, value in load_file(path).items()}
    save_file(half, path.with_name(f"{STEMS[part]}.fp16.safetensors"), metadata={"format": "pt"})
    if not keep:
        path.unlink()


# --- one file more ----------------------------------------------------------------------------------


def text(name: str, value: str = "{}") -> Callable[[Path], Path]:
    def add(folder: Path) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(value, encoding="utf-8")
        return folder / name

    return add


def other_weights(part: str, name: str) -> Callable[[Path], Path]:
    return lambda folder: zeros(folder, part, name)


def index_and_shard(part: str) -> Callable[[Path], Path]:
    def add(folder: Path) -> Path:
        shard_file = zeros(folder, part, "shard-00001-of-00001.safetensors")
        keys = load_file(shard_file)
        write_index(folder, part, f"{STEMS[part]}.safetensors.index.json", dict.fromkeys(keys, shard_file.name))
        return shard_file

    return add


def setting(name: str, **values: Any) -> Callable[[Path], Path]:
    """A key more in a file of settings."""

    def add(folder: Path) -> Path:
        held = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(held | values), encoding="utf-8")
        return folder / name

    return add


PINNED = {
    "added tokens": text("tokenizer/added_tokens.json", '{"<more>": 60}'),
    "special tokens": text("tokenizer/special_tokens_map.json"),
    "a tokenizer for another version": text("tokenizer/tokenizer.9.0.0.json"),
    "a chat template": text("tokenizer/chat_template.jinja", "{{ messages }}"),
    "an older chat template": text("tokenizer/chat_template.json"),
    "a sentencepiece model": text("tokenizer/tokenizer.model", "x"),
    "settings of generation": text("text_encoder/generation_config.json"),
    "a processor's settings": text("text_encoder/preprocessor_config.json"),
    "other settings of the UNet": text("unet/quantization.json"),
    "a list of words": text("scheduler/words.txt", "a"),
}
REFUSED = {
    "an index beside the UNet": (index_and_shard("unet"), "two sets of weights for unet"),
    "an index beside the autoencoder": (index_and_shard("vae"), "two sets of weights for vae"),
    "an index beside the text encoder": (index_and_shard("text_encoder"), "two sets of weights for text_encoder"),
    "an adapter": (text("text_encoder/adapter_config.json"), "adapter_config"),
    "an adapter of the UNet": (text("unet/adapter_config.json"), "adapter_config"),
    "code of the model's own": (setting("text_encoder/config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
    "code of the tokenizer's own": (setting("tokenizer/tokenizer_config.json", auto_map={"A": "m.M"}), "auto_map"),
    "weights by another name": (
        setting("text_encoder/config.json", transformers_weights="other.safetensors"),
        "transformers_weights",
    ),
    "a pipeline of its own": (setting("model_index.json", _class_name=["pipeline", "Mine"]), "code of its own"),
    "a module of its own": (setting("model_index.json", unet=["mine", "UNet2DConditionModel"]), "mine"),
    "a second text encoder": (
        setting("model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        "text_encoder_2",
    ),
    "an image encoder": (
        setting("model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"]),
        "image_encoder",
    ),
    "settings with an odd name": (text("unet/a b\x1b.json"), r"a b\\x1b\.json"),
    "a folder for settings": (text("unet/folder.json/x"), "folder.json .* is not a file"),
    "a link that leads nowhere": (lambda folder: dangling(folder / "unet" / "more.json"), "more.json .* is not a file"),
    "a pipe for settings": (lambda folder: os.mkfifo(folder / "unet" / "more.json"), "more.json .* is not a file"),
}
UNSEEN = {
    "half precision": other_weights("unet", "diffusion_pytorch_model.fp16.safetensors"),
    "another precision": other_weights("unet", "diffusion_pytorch_model.non_ema.safetensors"),
    "another library's name": other_weights("unet", "model.safetensors"),
    "an adapter's weights": other_weights("text_encoder", "adapter_model.safetensors"),
    "a shard that no index names": other_weights("vae", "diffusion_pytorch_model-00001-of-00002.safetensors"),
    "pickled weights": text("unet/diffusion_pytorch_model.bin", "pickle"),
    "an index of pickled weights": text("text_encoder/pytorch_model.bin.index.json"),
    "Flax": text("vae/diffusion_flax_model.msgpack", "x"),
    "a whole checkpoint": text("v1-5.ckpt", "x"),
    "a module": text("unet/modeling.py", "raise SystemExit"),
    "a pipeline's module": text("pipeline.py", "raise SystemExit"),
    "a folder of templates": text("tokenizer/additional_chat_templates/tool.jinja", "x"),
    "a part that the index does not name": text("text_encoder_2/config.json"),
}


def dangling(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


@pytest.mark.parametrize("case", PINNED)
def test_a_file_that_a_loader_could_read_is_pinned(copy: Path, case: str) -> None:
    added = PINNED[case](copy)
    planned = pin(str(copy))
    assert str(added.relative_to(copy)) in planned.files
    added.write_text(added.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(PlanChanged, match=added.name):
        check_pins(pin(str(copy)), planned.files)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_make_loaders_differ_is_refused_by_name(copy: Path, case: str) -> None:
    add, says = REFUSED[case]
    add(copy)
    with pytest.raises(ModelError, match=says):
        pin(str(copy))


@pytest.mark.parametrize("case", UNSEEN)
def test_any_other_file_is_never_seen_by_a_loader(
    copy: Path, case: str, monkeypatch: pytest.MonkeyPatch, tiny_base: Path
) -> None:
    UNSEEN[case](copy)
    base, seen = pin(str(copy)), files_given_to_diffusers(monkeypatch)
    check_pins(base, pin(str(tiny_base)).files)
    loaded = load_base(base)
    assert seen == [sorted(base.files)]
    assert same(loaded, load_base(pin(str(tiny_base))))


def files_given_to_diffusers(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What lies in the folder of each `from_pretrained`."""
    seen: list[list[str]] = []
    load = StableDiffusionPipeline.from_pretrained

    def loading(folder: Path, **options: Any) -> StableDiffusionPipeline:
        seen.append(sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()))
        return load(folder, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", loading)
    return seen


def test_what_is_loaded_does_not_name_the_view_and_the_view_is_gone(copy: Path, tmp_path: Path) -> None:
    base = pin(str(copy))
    with staged(base) as view:
        assert view.is_dir()
    assert not view.exists()
    loaded = load_base(base)
    loaded.pipeline.save_pretrained(tmp_path / "saved")
    written = [path.read_text(encoding="utf-8") for path in (tmp_path / "saved").rglob("*.json")]
    assert not [words for words in written if "undertone-base-" in words]


# --- shards and precisions --------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("unet",), ("text_encoder",), WEIGHTED], ids=" ".join)
def test_a_sharded_base_loads_and_every_shard_is_pinned(copy: Path, tiny_base: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        shard(copy, part)
    base, whole = pin(str(copy)), pin(str(tiny_base))
    for part in parts:
        held = {name for name in base.files if name.startswith(f"{part}/{STEMS[part]}")}
        assert held == {f"{part}/{path.name}" for path in (copy / part).glob(f"{STEMS[part]}*")}
        assert len(held) == 3
    assert [base.shapes(part) for part in WEIGHTED] == [whole.shapes(part) for part in WEIGHTED]
    assert base.embedding_of("picture").tolist() == whole.embedding_of("picture").tolist()
    assert same(load_base(base), load_base(whole))
    victim = copy / parts[0] / f"{STEMS[parts[0]]}-00002-of-00002.safetensors"
    rewritten(victim)
    with pytest.raises(PlanChanged, match="00002-of-00002"):
        check_pins(pin(str(copy)), base.files)


@pytest.mark.parametrize("cut", [(), ("unet",), WEIGHTED], ids=str)
def test_a_base_of_half_precision_alone_loads(copy: Path, tiny_base: Path, cut: tuple[str, ...]) -> None:
    for part in WEIGHTED:
        shard(copy, part, half=True) if part in cut else halve(copy, part)
    base, whole = pin(str(copy)), pin(str(tiny_base))
    assert [base.shapes(part) for part in WEIGHTED] == [whole.shapes(part) for part in WEIGHTED]
    assert base.embedding_of("picture") == pytest.approx(whole.embedding_of("picture"), abs=1e-3)
    found, wanted = tensors(load_base(base)), tensors(load_base(whole))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value.half().float(), rtol=0, atol=0)


@pytest.mark.parametrize("part", WEIGHTED)
def test_half_precision_of_one_part_beside_full_precision_of_others_loads(
    copy: Path, tiny_base: Path, part: str
) -> None:
    halve(copy, part)
    found, wanted = tensors(load_base(pin(str(copy)))), tensors(load_base(pin(str(tiny_base))))
    for name, value in wanted.items():
        expected = value.half().float() if name.startswith(f"{part}.") else value
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)


def test_the_older_name_of_a_half_precision_index_is_known_and_two_are_refused(copy: Path, tiny_base: Path) -> None:
    shard(copy, "unet", half=True)
    new = copy / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json"
    old = new.with_name("diffusion_pytorch_model.fp16.safetensors.index.json")
    shutil.copyfile(new, old)
    with pytest.raises(ModelError, match="two sets of weights for unet"):
        pin(str(copy))
    new.unlink()
    base = pin(str(copy))
    assert f"unet/{old.name}" in base.files
    assert base.shapes("unet") == pin(str(tiny_base)).shapes("unet")
    load_base(base)


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        ("missing.safetensors", "missing.safetensors of .* is missing"),
        ("folder.safetensors", "folder.safetensors of .* is missing"),
        ("../vae/diffusion_pytorch_model.safetensors", "beside its index"),
        ("sub/a.safetensors", "beside its index"),
        ("/etc/hostname", "beside its index"),
        ("..", "beside its index"),
        ("", "beside its index"),
        ("model.bin", "beside its index"),
        ("a\n.safetensors", "beside its index"),
        (7, "beside its index"),
        (None, "names no shards"),
    ],
)
def test_an_index_that_names_what_is_no_shard_is_refused(copy: Path, shards: Any, says: str) -> None:
    (copy / "unet" / "sub").mkdir()
    (copy / "unet" / "folder.safetensors").mkdir()
    shutil.copyfile(single(copy, "unet"), copy / "unet" / "sub" / "a.safetensors")
    single(copy, "unet").unlink()
    listed = {} if shards is None else {"w": shards}
    write_index(copy, "unet", "diffusion_pytorch_model.safetensors.index.json", listed)
    with pytest.raises(ModelError, match=says):
        pin(str(copy))


@pytest.mark.parametrize("words", ["", "[]", "{", '{"weight_map": []}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(copy: Path, words: str) -> None:
    single(copy, "unet").unlink()
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(words, encoding="utf-8")
    with pytest.raises(ModelError, match=r"index\.json"):
        pin(str(copy))


def test_a_tensor_in_two_shards_is_refused(copy: Path) -> None:
    shard(copy, "text_encoder")
    first, second = sorted((copy / "text_encoder").glob("*.safetensors"))
    save_file(load_file(first) | load_file(second), second, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="another shard holds too"):
        pin(str(copy)).shapes("text_encoder")


# --- a safety checker, where it is kept --------------------------------------------------------------


@pytest.fixture
def checked(copy: Path) -> Path:
    """The base with a safety checker of random weights."""
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        projection_dim=4,
        text_config=tower | {"vocab_size": 8, "projection_dim": 4},
        vision_config=tower | {"image_size": 32, "patch_size": 16, "projection_dim": 4},
    )
    StableDiffusionSafetyChecker(config).save_pretrained(copy / "safety_checker")
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(copy / "feature_extractor")
    setting(
        "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )(copy)
    return copy


def test_a_safety_checker_is_pinned_and_kept_where_people_look(checked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, seen = pin(str(checked)), files_given_to_diffusers(monkeypatch)
    assert {"safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json"} <= base.files.keys()
    assert load_base(base, keep_safety_checker=True).pipeline.safety_checker is not None
    assert load_base(base).pipeline.safety_checker is None
    assert seen == [sorted(base.files)] * 2


@pytest.mark.parametrize("part", ["safety_checker", "feature_extractor"])
def test_what_is_refused_elsewhere_is_refused_in_a_safety_checker_too(checked: Path, part: str) -> None:
    planned = pin(str(checked))
    (name,) = (path.name for path in (checked / part).glob("*config.json"))
    setting(f"{part}/{name}", more=1)(checked)
    with pytest.raises(PlanChanged, match=part):
        check_pins(pin(str(checked)), planned.files)
    setting(f"{part}/{name}", auto_map={"AutoModel": "m.M"})(checked)
    with pytest.raises(ModelError, match="auto_map"):
        pin(str(checked))


def test_an_index_beside_the_safety_checker_is_refused(checked: Path) -> None:
    index_and_shard("safety_checker")(checked)
    with pytest.raises(ModelError, match="two sets of weights for safety_checker"):
        pin(str(checked))


# --- changes between hashing and loading ------------------------------------------------------------


def rewritten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replaced(path: Path) -> None:
    """Another file of the same length in its place."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet/config.json", rewritten),
        ("unet/diffusion_pytorch_model.safetensors", rewritten),
        ("unet/diffusion_pytorch_model.safetensors", replaced),
        ("unet/diffusion_pytorch_model.safetensors", Path.unlink),
    ],
)
def test_a_file_that_changed_after_it_was_hashed_is_not_loaded(
    copy: Path, name: str, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, seen = pin(str(copy)), files_given_to_diffusers(monkeypatch)
    change(copy / name)
    with pytest.raises((PlanChanged, ModelError), match=name):
        load_base(base)
    assert seen == []


def test_a_part_may_be_a_link_and_counts_by_what_it_leads_to(copy: Path, tiny_base: Path) -> None:
    shutil.move(copy / "unet", copy.parent / "unet")
    (copy / "unet").symlink_to(copy.parent / "unet")
    base = pin(str(copy))
    check_pins(base, pin(str(tiny_base)).files)
    assert same(load_base(base), load_base(pin(str(tiny_base))))
    shutil.copytree(copy.parent / "unet", copy.parent / "other")
    (copy / "unet").unlink()
    (copy / "unet").symlink_to(copy.parent / "other")
    with pytest.raises(PlanChanged, match="unet/"):
        load_base(base)


def test_a_file_that_changes_while_it_is_loaded_is_found_out(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pin(str(copy))
    load = StableDiffusionPipeline.from_pretrained

    def loading(folder: Path, **options: Any) -> StableDiffusionPipeline:
        rewritten(single(copy, "vae"))
        return load(folder, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", loading)
    with pytest.raises(PlanChanged, match="vae/"):
        load_base(base)


def test_settings_are_those_that_were_hashed_although_they_change_while_loading(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = pin(str(copy))
    load = StableDiffusionPipeline.from_pretrained

    def loading(folder: Path, **options: Any) -> StableDiffusionPipeline:
        setting("vae/config.json", scaling_factor=7.0)(copy)
        return load(folder, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", loading)
    assert load_base(base).pipeline.vae.config.scaling_factor == 1.0


def test_a_node_loads_the_files_whose_digests_it_checked_and_no_later_ones(copy: Path) -> None:
    checked = digest_of(dict(pin(str(copy)).files))
    rewritten(single(copy, "unet"))
    with pytest.raises(PlanChanged, match="changed"):
        preparing._loaded(str(copy), None, "cpu", checked, "any")


# --- no network -------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever opens a socket or asks for an address is refused, and found out even where the refusal is swallowed."""
    tried: list[str] = []

    class Refused(socket.socket):
        def __init__(self, *_: object, **__: object) -> None:
            tried.append("socket")
            raise OSError("no network in this test")

    def asked(host: object, *_: object, **__: object) -> None:
        tried.append(str(host))
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", Refused)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    yield
    assert not tried


@pytest.fixture
def cached(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedBase:
    """`some/base` in a Hugging Face cache: links to blobs, as the hub's own client leaves them."""
    cache, blobs = tmp_path / "hub", tmp_path / "hub" / "models--some--base" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in tiny_base.rglob("*") if path.is_file())):
        shutil.copyfile(path, blobs / str(number))
        link = cache / "models--some--base" / "snapshots" / COMMIT / path.relative_to(tiny_base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return pin(str(tiny_base))


@pytest.mark.usefixtures("no_network")
def test_a_hub_id_is_found_in_the_cache_and_loaded_without_a_network(cached: PinnedBase) -> None:
    base = pin("some/base", COMMIT)
    assert base.files == cached.files
    assert same(load_base(base), load_base(cached))


@pytest.mark.usefixtures("no_network", "cached")
def test_a_hub_id_that_is_not_in_the_cache_says_how_to_put_it_there() -> None:
    with pytest.raises(ModelError, match=f"undertone model pin other/base --revision {COMMIT}"):
        pin("other/base", COMMIT)
    with pytest.raises(ModelError, match="undertone model pin some/base"):
        pin("some/base", "main")
    with pytest.raises(ModelError, match=r"model\.revision"):
        pin("some/base")


@pytest.mark.usefixtures("no_network")
def test_plan_coordinator_node_and_release_open_no_socket(cached: PinnedBase, tmp_path: Path) -> None:
    del cached
    study = tiny_study(tmp_path / "study.toml", Path("some/base"))
    study.write_text(
        study.read_text(encoding="utf-8").replace('"some/base"', f'"some/base"\nrevision = "{COMMIT}"'),
        encoding="utf-8",
    )
    assert load_study(study).model.revision == COMMIT
    write_folder(tmp_path / "data", 36, 32, sites=SITES)
    planned = call("plan", study)
    assert planned.exit_code == 0, planned.output
    done = call("simulate", study, "--data", tmp_path / "data", "--split-by", "site", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output


@pytest.mark.usefixtures("cached")
def test_model_pin_alone_goes_online_and_prints_what_a_plan_pins(
    cached: PinnedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    find = huggingface_hub.snapshot_download

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name} | options)
        return find(name, revision=COMMIT, local_files_only=True)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    result = call("model", "pin", "some/base", "--revision", "main")
    assert result.exit_code == 0, result.output
    assert [one.get("local_files_only", False) for one in asked] == [False, True]
    for name, digest in cached.files.items():
        assert f"{digest}  {name}\n" in result.output
    assert f'model.revision = "{COMMIT}"' in result.output
    assert files_digest(cached.files) in result.output
    folder = call("model", "pin", str(cached.folder))
    assert folder.exit_code == 0
    assert [line for line in result.output.splitlines() if "  " in line] == [
        line for line in folder.output.splitlines() if "  " in line
    ]
    assert call("model", "pin", str(tmp_path), "--revision", "main").exit_code == 2


# --- the licence that a card names ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0"),
        ('---\nlicense: "cc-by-4.0"\n---\n', "cc-by-4.0"),
        ("---\nlicense: mit  # as agreed\ntags: [a]\n---\n", "mit"),
        ("---\nlicense:\n- mit\n- apache-2.0\ntags:\n- x\n---\n", "mit, apache-2.0"),
        ("---\nlicense:\n  - mit\n---\n", "mit"),
        ("---\nlicense: [mit, 'gpl-3.0']\n---\n", "mit, gpl-3.0"),
        ("---\ntags: [a]\n---\nlicense: mit\n", "unknown"),
        ("license: mit\n", "unknown"),
        ("---\nlicense: mit\n", "unknown"),
        ("---\nlicense: >-\n  mit\n  and more\n---\n", "unknown"),
        ("---\nlicense: mit\n  and more\n---\n", "unknown"),
        ("---\nlicense: mit\nlicense: gpl\n---\n", "unknown"),
        ('---\nlicense: "`x` <b>"\n---\n', "unknown"),
        ("---\nlicense: \x1b[31m\n---\n", "unknown"),
        ("---\nlicense: " + "x" * 61 + "\n---\n", "unknown"),
        ("---\nlicense:\n---\n", "unknown"),
        ("---\nlicense: {a: b}\n---\n", "unknown"),
        ("---\n" + "a: b\n" * 30_000 + "license: mit\n---\n", "unknown"),
        ("\udcff", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_licence_is_a_word_or_a_list_or_unknown(copy: Path, card: str, licence: str) -> None:
    (copy / "README.md").write_bytes(card.encode(errors="surrogateescape"))
    assert pin(str(copy)).licence == licence


def test_a_card_that_is_no_file_names_no_licence(copy: Path) -> None:
    (copy / "README.md").unlink()
    assert pin(str(copy)).licence == "unknown"
    (copy / "README.md").mkdir()
    assert pin(str(copy)).licence == "unknown"
