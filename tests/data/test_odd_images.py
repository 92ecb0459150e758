"""Files that are odd, broken, hostile or out of reach: read if they can be, told of if not."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcnify.data import load_images
from dcnify.data.dataset import ImageDataset
from dcnify.data.decode import open_image
from dcnify.data.images import load_batch
from dcnify.errors import InputError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def load(where: Path, count: int = 8, size: tuple[int, int, int] = (3, 30, 40)):
    return load_images(where, count=count, size=size, **PLAIN)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGBA", "png"), ("L", "png"), ("LA", "png"), ("CMYK", "tiff"), ("YCbCr", "tiff")],
)
def test_every_colour_model_becomes_the_picture_in_rgb(tmp_path, mode, ending):
    original = noise().convert("L").convert("RGB") if mode.startswith("L") else noise()
    original.convert(mode).save(tmp_path / f"one.{ending}")
    expected = torch.from_numpy(np.array(original)).permute(2, 0, 1) / 255
    difference = (load(tmp_path).tensor[0] - expected).abs().max()
    assert difference < 0.02


def test_a_palette_with_a_transparent_colour_is_looked_up(tmp_path):
    original = noise().quantize(16, dither=Image.Dither.NONE)
    original.save(tmp_path / "palette.png", transparency=3)
    expected = torch.from_numpy(np.array(original.convert("RGB"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(load(tmp_path).tensor[0], expected)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_picture_is_taken(tmp_path, ending):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    batch = load(tmp_path)
    assert len(batch.names) == 1
    assert batch.tensor[0, 0].min() > 0.95
    assert batch.tensor[0, 1:].max() < 0.05


def test_numbers_that_are_none_in_a_float_image_do_not_reach_the_model(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    values[0] = [np.nan, np.inf, -np.inf, -3, 0.5, 0.5, 0.5, 0.5]
    Image.fromarray(values).save(tmp_path / "float.tiff")
    tensor = load(tmp_path, size=(3, 8, 8)).tensor
    assert torch.isfinite(tensor).all()
    assert tensor[0, 0, 7, 7] == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (2, 3)])
@pytest.mark.parametrize("size", [(3, 7, 31), (1, 31, 7), (5, 1, 1)])
def test_slivers_and_single_pixels_are_images_too(tmp_path, shape, size):
    noise(*shape).save(tmp_path / "thin.png")
    tensor = load(tmp_path, size=size).tensor
    assert tensor.shape == (1, *size)
    assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_nonsense_in_the_exif_block_costs_no_picture(tmp_path, exif):
    noise().save(tmp_path / "a.png", exif=exif)
    batch = load(tmp_path)
    assert batch.skipped == ()
    expected = torch.from_numpy(np.array(noise())).permute(2, 0, 1) / 255
    torch.testing.assert_close(batch.tensor[0], expected)


def claims_to_be(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that says it is that large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_each_broken_file_is_told_with_its_reason_and_the_count_is_kept(tmp_path):
    for index in range(5):
        noise(seed=index).save(tmp_path / f"good{index}.png")
    whole = (tmp_path / "good0.png").read_bytes()
    noise(200, 200).save(tmp_path / "whole.jpg")
    jpeg = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "whole.jpg").unlink()
    broken = {
        "a half.png": whole[: len(whole) // 2],
        "b half.jpg": jpeg[: len(jpeg) // 2],
        "c zero.jpg": b"",
        "d text.png": b"no picture",
        "e bomb.png": claims_to_be(60_000, 60_000),
        "f flipped.png": whole[:300] + bytes([whole[300] ^ 255]) + whole[301:],
        "g program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    batch = load(tmp_path, count=5)
    assert set(batch.names) == {f"good{index}.png" for index in range(5)}
    reasons = dict(batch.skipped)
    assert set(reasons) == set(broken)
    assert "truncated" in reasons["a half.png"]
    assert "truncated" in reasons["b half.jpg"]
    assert reasons["c zero.jpg"] == "empty file"
    assert reasons["d text.png"] == reasons["g program.jpg"] == "not an image"
    assert reasons["e bomb.png"] == "more than 89,478,485 pixels"
    assert batch.remarks()[-1] == f"{tmp_path}: only 5 of the 12 images tried can be read"


def test_thousands_of_broken_files_are_summed_up(tmp_path):
    noise().save(tmp_path / "good.png")
    for index in range(30):
        (tmp_path / f"{index}.png").write_bytes(b"")
    remarks = load(tmp_path).remarks()
    assert len(remarks) == 10
    assert "22 more could not be read" in remarks[-2]
    assert "only 1 of the 31" in remarks[-1]


class Broken(ImageDataset):
    """A million images, none of which can be read."""

    origin = "endless"

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        return open_image(io.BytesIO(b"broken")), None


def test_a_dataset_of_nothing_but_broken_images_is_given_up():
    with pytest.raises(InputError, match=r"endless: none of the 10000 .* not an image"):
        load_batch(Broken(), 4, (3, 8, 8), **PLAIN)


def test_a_few_broken_files_among_many_are_no_reason_for_alarm(tmp_path):
    for index in range(3):
        noise(seed=index).save(tmp_path / f"{index}.png")
    (tmp_path / "a.png").write_bytes(b"")
    assert load(tmp_path).remarks() == ["a.png: empty file"]


def test_one_image_makes_a_set(tmp_path):
    noise().save(tmp_path / "only.png")
    batch = load(tmp_path, count=100)
    assert batch.tensor.shape == (1, 3, 30, 40)
    assert batch.remarks() == []


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX's")
def test_links_to_nowhere_pipes_and_circles_neither_stop_nor_hang_it(tmp_path):
    noise().save(tmp_path / "good.png")
    (tmp_path / "nowhere.jpg").symlink_to("missing.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "again").symlink_to(".")
    (tmp_path / "circle").symlink_to("circle")
    batch = load(tmp_path)
    assert batch.names == ("good.png",)
    reasons = dict(batch.skipped)
    assert set(reasons) == {"nowhere.jpg", "self.jpg", "pipe.jpg"}
    assert "a link to nowhere" in reasons["nowhere.jpg"]
    assert reasons["pipe.jpg"] == "not a regular file"


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
def test_a_pipe_given_by_itself_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg: empty file"):
        load(tmp_path / "pipe.jpg")


def test_what_file_managers_leave_behind_is_not_looked_at(tmp_path):
    noise().save(tmp_path / "good.png")
    (tmp_path / "._good.png").write_bytes(b"resource fork")
    (tmp_path / ".DS_Store").write_bytes(b"")
    for folder in (".thumbnails", "__MACOSX"):
        (tmp_path / folder).mkdir()
        noise().save(tmp_path / folder / "small.png")
    batch = load(tmp_path)
    assert batch.names == ("good.png",)
    assert batch.skipped == ()


@pytest.mark.skipif(os.name != "posix", reason="modes and users are POSIX's")
def test_files_and_folders_that_may_not_be_read_are_told():
    # Not in tmp_path, whose parents are closed to others than the person who runs the tests.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        noise().save(root / "good.png")
        noise().save(root / "closed.png")
        (root / "private").mkdir()
        noise().save(root / "private" / "one.png")
        modes = {"good.png": 0o644, "closed.png": 0, "private": 0}
        for inside, mode in modes.items():
            (root / inside).chmod(mode)
        Image.init()
        is_root = os.geteuid() == 0
        if is_root:  # root may read everything
            os.seteuid(65534)
        try:
            batch = load(root)
        finally:
            if is_root:
                os.seteuid(0)
            (root / "private").chmod(0o700)
    assert batch.names == ("good.png",)
    assert batch.skipped == (
        ("private", "permission denied"),
        ("closed.png", "permission denied"),
    )


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX's")
def test_names_with_line_breaks_and_stray_bytes_stay_on_one_line(tmp_path):
    folder = tmp_path / "my\nphotos"
    folder.mkdir()
    noise().save(folder / "日本語 写真.png")
    noise().save(folder / "new\nline.png")
    noise().save(folder / "\u202egnp.png")
    noise().save(os.fsencode(folder) + b"/\xff.png")
    (folder / "bro\rken.png").write_bytes(b"")
    batch = load(folder)
    assert set(batch.names) == {
        "日本語 写真.png",
        r"new\nline.png",
        r"\u202egnp.png",
        r"\udcff.png",
    }
    assert batch.origin == rf"{tmp_path}/my\nphotos"
    assert batch.remarks() == [r"bro\rken.png: empty file"]
    with pytest.raises(InputError) as caught:
        load(folder / "no\nwhere")
    assert "\n" not in str(caught.value)


def test_more_than_fits_in_memory_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match=r"46\.9 GiB, and 4 GiB is the limit: at most 341 fit"):
        load_images(None, count=4000, size=(3, 1024, 1024), **PLAIN)
    with pytest.raises(InputError, match="not one of that size fits"):
        load_images(None, count=1, size=(3, 1 << 15, 1 << 15), **PLAIN)
    noise().save(tmp_path / "only.png")
    batch = load_images(tmp_path, count=4000, size=(3, 1024, 1024), **PLAIN)
    assert len(batch.tensor) == 1, "what counts is how many there are"


def test_progress_is_told_image_by_image(tmp_path):
    for index in range(3):
        noise(seed=index).save(tmp_path / f"{index}.png")
    (tmp_path / "a.png").write_bytes(b"")
    heard: list[tuple[int, int]] = []
    load_images(
        tmp_path, count=3, size=(3, 8, 8), on_progress=lambda *told: heard.append(told), **PLAIN
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]
