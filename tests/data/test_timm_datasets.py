"""Any dataset that timm reads, by timm's name for it; without network, so from local files."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.readers.reader import Reader

from dcnify.data import ImageBatch, load_images
from dcnify.data.images import load_batch
from dcnify.data.readers.timm_dataset import ImageStream
from dcnify.errors import InputError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def load(name: str, count: int = 100, **options):
    return load_images(name, count=count, size=(3, 28, 28), **PLAIN, **options)


def noise(seed: int = 0, size: int = 28) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(size, size, 3))
    return Image.fromarray(values.astype(np.uint8))


def class_folders(root: Path, *kinds: str, each: int = 2) -> Path:
    for number, kind in enumerate(kinds):
        (root / kind).mkdir(parents=True)
        for index in range(each):
            noise(number * each + index).save(root / kind / f"{index}.png")
    return root


@pytest.fixture
def mnist(tmp_path):
    """Ten training and six test images in the files of MNIST."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    truth = {}
    for part, total in (("train", 10), ("t10k", 6)):
        pixels = rng.integers(256, size=(total, 28, 28)).astype(np.uint8)
        labels = rng.integers(10, size=total).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, total, 28, 28) + pixels.tobytes()
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, total) + labels.tobytes()
        )
        truth[part] = torch.from_numpy(pixels) / 255, labels.tolist()
    return tmp_path, truth


def check(batch: ImageBatch, truth: tuple[torch.Tensor, list[int]], indices) -> None:
    """The batch holds these of the true images, each with its label."""
    which = [int(name.split()[-1]) for name in batch.names]
    assert sorted(which) == list(indices)
    torch.testing.assert_close(batch.tensor, truth[0][which][:, None].expand(-1, 3, -1, -1))
    assert batch.labels.tolist() == [truth[1][index] for index in which]


def test_a_torchvision_dataset_gives_its_images_labels_and_class_names(mnist):
    root, truth = mnist
    batch = load("torch/mnist", data_dir=root)
    check(batch, truth["train"], range(10))
    assert len(batch.classes) == 10
    assert batch.origin == f"torch/mnist in {root}"


def test_of_a_dataset_some_are_taken_at_even_distances(mnist):
    root, truth = mnist
    batch = load("torch/mnist", count=3, data_dir=str(root))
    check(batch, truth["train"], [0, 3, 6])


@pytest.mark.parametrize("split", ["test", "validation", "Val"])
def test_another_split_has_other_images(mnist, split):
    root, truth = mnist
    check(load("TORCH/MNIST", split=split, data_dir=root), truth["t10k"], range(6))


def test_a_misspelt_split_is_not_taken_for_the_test_images(mnist):
    with pytest.raises(InputError, match="no split 'trian': it has train and test"):
        load("torch/mnist", split="trian", data_dir=mnist[0])


@pytest.mark.parametrize("name", ["ImageFolder", "torch/image_folder", "folder"])
def test_class_folders_are_read_by_timm_and_by_torchvision(tmp_path, name):
    class_folders(tmp_path / "train", "ant", "bee", "cat")
    class_folders(tmp_path / "val", "ant", "bee", "cat", each=1)
    batch = load(name, data_dir=tmp_path)
    assert batch.names[0] == "ant/0.png"
    assert batch.classes == ("ant", "bee", "cat")
    for image, label, path in zip(batch.tensor, batch.labels, batch.names, strict=True):
        kind, number = Path(path).parts[0], int(Path(path).stem)
        assert batch.classes[label] == kind
        original = noise(2 * batch.classes.index(kind) + number)
        expected = torch.from_numpy(np.array(original)).permute(2, 0, 1) / 255
        torch.testing.assert_close(image, expected)
    assert len(load(name, data_dir=tmp_path, split="validation").names) == 3


@pytest.mark.parametrize(
    ("name", "classes"),
    [("ImageFolder", ("2", "10")), ("torch/image_folder", ("10", "2"))],
)
def test_naming_the_reader_settles_the_order_of_the_classes(tmp_path, name, classes):
    class_folders(tmp_path, "2", "10")
    assert load(str(tmp_path)).labels is None
    batch = load(name, data_dir=tmp_path)
    assert batch.classes == classes
    assert [classes[label] for label in batch.labels] == [Path(n).parts[0] for n in batch.names]


@pytest.mark.parametrize("name", ["ImageFolder", "torch/image_folder"])
def test_a_broken_file_is_skipped_and_not_replaced_by_its_neighbour(tmp_path, name):
    class_folders(tmp_path, "a", "b")
    (tmp_path / "a" / "1.png").write_bytes(b"broken")
    (tmp_path / "a" / "._0.png").write_bytes(b"")
    batch = load(name, data_dir=tmp_path)
    labels = dict(zip(batch.names, batch.labels.tolist(), strict=True))
    assert labels == {"a/0.png": 0, "b/0.png": 1, "b/1.png": 1}
    assert batch.skipped == (("a/1.png", "not an image"),)
    assert len(batch.tensor.flatten(1).unique(dim=0)) == 3


def test_classes_that_timm_numbers_at_random_have_no_labels(tmp_path):
    class_folders(tmp_path, "Cat", "cat", "dog")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("the file system takes Cat and cat for the same")
    batch = load("ImageFolder", data_dir=tmp_path)
    assert batch.labels is None
    assert "differ in capitals only" in batch.unlabelled


def test_a_tar_file_of_images_is_read_without_unpacking(tmp_path):
    class_folders(tmp_path / "in", "a", "b")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "in" / "a", "a")
        tar.add(tmp_path / "in" / "b", "b")
    before = set(tmp_path.rglob("*"))
    batch = load(str(tmp_path / "all.tar"))
    labels = dict(zip(batch.names, batch.labels.tolist(), strict=True))
    assert labels == {"a/0.png": 0, "a/1.png": 0, "b/0.png": 1, "b/1.png": 1}
    assert set(tmp_path.rglob("*")) == before
    named = load("ImageFolder", data_dir=tmp_path / "all.tar")
    assert named.origin == f"ImageFolder in {tmp_path / 'all.tar'}"
    assert torch.equal(named.tensor, batch.tensor)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "empty file"), (b"123", "header"), (None, "no image files")]
)
def test_a_tar_file_with_no_images_is_one_line(tmp_path, content, words):
    path = tmp_path / "some.tar"
    if content is None:
        with tarfile.open(path, "w") as tar:
            tar.addfile(tarfile.TarInfo("readme.txt"), io.BytesIO())
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"some\.tar.*{words}|{words}.*some\.tar"):
        load(str(path))


@pytest.mark.parametrize(
    ("name", "data_dir", "words"),
    [
        ("torch/cifar10", None, "say with --data-dir in which folder"),
        ("torch/cifar10", ".", "Dataset not found or corrupted$"),
        ("torch/cifar10", "nowhere", "there is no folder nowhere"),
        ("torch/cifr10", ".", "Unknown torchvision dataset cifr10"),
        ("torch/", ".", "the name of the dataset is missing"),
        ("torch/image_folder", ".", "find any class folder"),
        ("ImageFolder", None, "say with --data-dir in which folder"),
        ("ImageFolder", ".", "Found 0 images"),
        ("photos/mine", None, "no folder photos/mine; datasets are builtin:.*hfds/OWNER/NAME"),
        ("builtin:cluttered-digits", ".", "--data-dir is for a dataset such as torch/cifar10"),
    ],
)
def test_a_dataset_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch, name, data_dir, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load(name, data_dir=data_dir)
    assert re.search(words, str(caught.value))
    assert "download=True" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("hfds/owner/name", "datasets", "pip install datasets"),
        ("HFIDS/owner/name", "datasets", "pip install datasets"),
        ("tfds/name", "tensorflow_datasets", "pip install tensorflow tensorflow-datasets"),
        ("wds/name", "webdataset", "pip install webdataset"),
    ],
)
def test_a_missing_package_is_named_as_pip_knows_it(name, package, install):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(InputError, match=install):
        load(name)


def test_an_existing_folder_is_a_folder_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "torch" / "mnist", "a", "b")
    assert sorted(load("torch/mnist").labels.tolist()) == [0, 0, 1, 1]


class Endless(Reader):
    """A stream that counts what is taken from it."""

    def __init__(self, targets, breaks_at: int | None = None) -> None:
        super().__init__()
        self.taken, self.targets, self.breaks_at = 0, targets, breaks_at
        self.class_to_idx = {"even": 0, "odd": 1}

    def __iter__(self):
        while True:
            if self.taken == self.breaks_at:
                raise ConnectionError("the hub\nhung up")
            index, self.taken = self.taken, self.taken + 1
            yield noise(index), self.targets(index)


def stream(reader: Reader, count: int):
    return load_batch(ImageStream(reader, "stream"), count, (3, 28, 28), **PLAIN)


def test_of_a_stream_the_first_are_taken_and_no_more():
    reader = Endless(lambda index: index % 2)
    batch = stream(reader, 5)
    assert reader.taken == 5
    expected = torch.from_numpy(np.array(noise(4))).permute(2, 0, 1) / 255
    torch.testing.assert_close(batch.tensor[4], expected)
    assert batch.labels.tolist() == [0, 1, 0, 1, 0]
    assert batch.classes == ("even", "odd")


def test_a_stream_that_breaks_off_gives_what_it_gave():
    batch = stream(Endless(lambda index: index % 2, breaks_at=3), 5)
    assert batch.tensor.shape == (3, 3, 28, 28)
    assert batch.labels.tolist() == [0, 1, 0]
    assert batch.skipped == (("stream 3", "the hub hung up"),)
    with pytest.raises(InputError, match=r"stream: .*the hub hung up"):
        stream(Endless(int, breaks_at=0), 5)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (lambda index: None, "the images have no label"),
        (lambda index: [0, 1], "the images have no label that is one class"),
        (lambda index: -1 if index else 1, "some of the images have no label"),
    ],
)
def test_targets_that_are_no_single_class_are_no_labels(targets, reason):
    batch = stream(Endless(targets), 3)
    assert batch.labels is None
    assert reason in batch.unlabelled
    assert stream(Endless(lambda index: np.int64(1)), 3).labels.tolist() == [1, 1, 1]


def test_a_local_webdataset_is_streamed(tmp_path):
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for index in range(4):
            image = io.BytesIO()
            noise(index).save(image, "PNG")
            for ending, content in (("png", image.getvalue()), ("cls", str(index % 3).encode())):
                member = tarfile.TarInfo(f"{index:04}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    batch = load("wds/mine", count=3, data_dir=tmp_path)
    assert batch.labels.tolist() == [0, 1, 2]


def test_a_local_hugging_face_dataset_is_read(tmp_path):
    pytest.importorskip("datasets")
    class_folders(tmp_path / "photos" / "train", "ant", "bee")
    batch = load(f"hfds/{tmp_path / 'photos'}", data_dir=tmp_path / "cache")
    assert sorted(batch.labels.tolist()) == [0, 0, 1, 1]
    assert batch.classes == ("ant", "bee")
