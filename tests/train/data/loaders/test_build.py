"""Which loader ``data.loader`` names, what it says of that, and that nothing else knows the implementations."""

from pathlib import Path

import pytest
import torch

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.train.data.loaders import Loader, LoaderSpec, build
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder
from dira_scale.train.data.views import ViewSpec

ROOT = Path(__file__).parents[4]


class Sized(CpuLoader):
    """With a setting of its own."""

    def __init__(self, spec, largest):
        super().__init__(spec)
        self.largest = largest


class Bare:
    def __init__(self, spec):
        pass


def own(target, **settings):
    return choose({"_target_": f"{__name__}.{target}", **settings})


@pytest.fixture
def arguments(make_dataset, radiograph):
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(3)])
    return {"datasets": [dataset], "split": "train", "order": EvalOrder(3, 3), "views": ViewSpec(size=16), "seed": 0}


def test_what_is_chosen_and_why(arguments):
    assert str(choose("auto")) == "loader: cpu (data.loader=auto: no GPU)"
    assert str(choose("cpu")) == "loader: cpu (data.loader=cpu)"
    for name in ("auto", "cpu"):
        assert isinstance(choose(name).build(LoaderSpec(**arguments)), CpuLoader)
    choice = own("Sized", largest=3)
    assert str(choice) == f"loader: {__name__}.Sized (data.loader._target_)"
    loader = choice.build(LoaderSpec(**arguments))
    assert isinstance(loader, Loader) and loader.largest == 3
    assert len(next(loader.iterate(0, 1)).index) == 3


def test_on_a_gpu_dali_is_chosen_where_it_decodes_everything_there(make_dataset, radiograph, monkeypatch):
    """Nothing is imported and no GPU is asked until the loader is built; a stand-in takes DALI's place."""
    jpg, png = (make_dataset([radiograph(20, 20)], codec, codec) for codec in ("jpg", "png"))
    installed = {"nvidia.dali"}
    monkeypatch.setattr(build, "find_spec", lambda name: object() if name in installed else None)
    monkeypatch.setitem(build.LOADERS, "dali", f"{__name__}.Sized")
    assert str(choose("auto", [jpg], "cuda")) == "loader: dali (data.loader=auto: decodes jpg on the GPU)"
    assert str(choose("auto", [jpg], "cpu")) == "loader: cpu (data.loader=auto: no GPU)"
    for datasets in ([png], [jpg, png]):
        why = str(choose("auto", datasets, "cuda"))
        assert why.startswith("loader: cpu") and "png has no GPU decoder: shard again with recipe.codec=gpu" in why
    installed.clear()
    why = str(choose("auto", [jpg], "cuda"))
    assert why.startswith("loader: cpu") and "nvidia-dali is not installed: " in why and "dali)" in why


@pytest.mark.parametrize(
    ("loader", "helper", "device", "workers", "processes"),
    [
        ("cpu", None, "cuda", 15, 15),
        ("stream", None, "cuda", 4, 4),
        ("dali", None, "cuda", 15, 0),
        ("cpu", None, "cpu", 15, 0),
        ("cpu", False, "cuda", 15, 0),
        ("cpu", True, "cpu", 9, 9),
        ({"_target_": f"{__name__}.Bare"}, None, "cuda", 15, 0),
        ({"_target_": f"{__name__}.Bare"}, True, "cuda", 15, 1),
    ],
)
def test_how_many_processes_load(loader, helper, device, workers, processes, monkeypatch):
    monkeypatch.setitem(build.LOADERS, "dali", f"{__name__}.Sized")
    assert choose(loader).processes(helper, device, workers) == processes


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("cup", r"loader: expected auto, cpu, .* or \{_target_: .*\}; did you mean 'cpu'"),
        (None, "loader: expected auto, cpu, .* or"),
        ({"largest": 3}, "loader: expected {_target_: my_package.MyLoader}, got {'largest': 3}"),
        ({"_target_": "nowhere.Loader"}, "data.loader._target_: nowhere.Loader cannot be imported: .*nowhere"),
    ],
)
def test_what_there_is_not_is_refused(loader, message):
    with pytest.raises((ArgumentError, UserError), match=message):
        choose(loader)


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("Sized", {}, "Sized does not take a LoaderSpec and its settings .missing a required argument: 'largest'"),
        ("Sized", {"largest": 3, "spec": 1}, "Sized does not take .* .multiple values for argument 'spec'"),
        ("Bare", {}, "Bare is not a dira_scale.train.data.loaders.Loader"),
    ],
)
def test_what_is_no_loader_is_refused(arguments, target, settings, message):
    with pytest.raises(ValueError, match=rf"^{__name__}\.{message}"):
        own(target, **settings).build(LoaderSpec(**arguments))


def test_the_loader_of_the_documentation_gives_the_cpu_loaders_views(arguments, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "explanation" / "order_and_views.md").read_text()
    (code,) = (part.partition("```")[0] for part in page.split("```python\n")[1:] if "class SimpleLoader" in part)
    (tmp_path / "my_loaders.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    spec = LoaderSpec(**arguments, fixed_epoch=0)
    (ours,) = choose({"_target_": "my_loaders.SimpleLoader"}).build(spec).iterate(0, 1)
    (theirs,) = choose("cpu").build(spec).iterate(0, 1)
    for a, b in zip(ours.to("cpu").views, theirs.to("cpu").views, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(ours.index, theirs.index)
