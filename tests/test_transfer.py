"""Colour transfer as a user meets it: folders of photographs, pictures, the table of steps, five lines of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import Wasserstein2, after_steps, solve
from warmstart.bench import Request, bench
from warmstart.cli import main
from warmstart.errors import FamilyError
from warmstart.families import family, find
from warmstart.families.palettes import SPLITS
from warmstart.families.problem_file import read_problems, write_problems
from warmstart.model import pretrained

pytest.importorskip("skimage")


def write_image(path: Path, seed: int, mode: str = "RGB") -> None:
    from PIL import Image

    rng = np.random.default_rng(seed)
    channels = 3 if mode == "RGB" else 1
    smooth = np.kron(rng.random((4, 5, channels)), np.ones((12, 12, 1))) + 0.1 * rng.random((48, 60, channels))
    Image.fromarray((200 * smooth).astype(np.uint8).squeeze(), mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of a user, one of them grey, and a file that is none."""
    place = tmp_path / "holiday"
    place.mkdir()
    for k in range(7):
        write_image(place / f"photo{k}.png", k, "L" if k == 0 else "RGB")
    (place / "notes.txt").write_text("sunny")
    return place


def test_a_folder_of_photographs_is_a_family(folder: Path) -> None:
    source: Any = find(str(folder), {"points": "200"})
    assert (source.name, source.solver, source.settings["points"]) == ("holiday", "w2gn", 200)
    seen = [{image.tobytes() for image in source.photographs(split)} for split in SPLITS]
    assert [len(images) for images in seen] == [3, 2, 2] and not seen[0] & seen[1] and not seen[1] & seen[2]
    for split in SPLITS:
        for problem in source.sample(3, 0, split):
            assert isinstance(problem, Wasserstein2) and problem.source.shape == (200, 3)


def test_too_few_photographs_and_broken_ones_are_named(folder: Path) -> None:
    (folder / "photo6.png").write_bytes(b"no image")
    with pytest.raises(FamilyError, match=r"photo6.png is no image that can be read"):
        list(find(str(folder)).sample(1, 0, "test"))
    for k in range(2, 7):
        (folder / f"photo{k}.png").unlink()
    with pytest.raises(FamilyError, match=r"has 2 images .* at least 6 are needed"):
        find(str(folder))
    with pytest.raises(FamilyError, match="no setting 'n'"):
        find(str(folder), {"n": "3"})


def test_no_photograph_is_in_two_splits() -> None:
    source: Any = family("color-transfer")
    seen = [{image.tobytes() for image in source.photographs(split)} for split in SPLITS]
    assert all(not a & b for k, a in enumerate(seen) for b in seen[:k])
    with pytest.raises(FamilyError, match="unknown split"):
        list(source.sample(1, 0, "all"))


def test_pairs_and_problems_are_of_one_stream() -> None:
    source: Any = family("color-transfer", points=64)
    pairs, problems = list(source.pairs(3, 2, "test")), list(source.sample(3, 2, "test"))
    for pair, problem in zip(pairs, problems, strict=True):
        np.testing.assert_array_equal(pair.problem.source, problem.source)
        known = {row.tobytes() for row in pair.source.reshape(-1, 3)}
        assert all(row.tobytes() in known for row in problem.source)


def test_problems_in_files(tmp_path: Path) -> None:
    problems: list[Any] = list(family("gauss-mixtures", points=50, hidden=4).sample(3, 0, "train"))
    write_problems(tmp_path / "p.npz", problems)
    again: Any = read_problems(tmp_path / "p.npz")
    for a, b in zip(problems, again, strict=True):
        assert b.hidden == 4
        np.testing.assert_array_equal(a.source, b.source)
        np.testing.assert_array_equal(a.target, b.target)


def test_pictures_show_both_maps(tmp_path: Path) -> None:
    report = bench(family("color-transfer"), request=Request(instances=2, seed=3, curves=True))
    report.plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    assert (tmp_path / "report-transfer.png").stat().st_size > 50_000
    for row in report.transfers:
        assert row.refined <= 1.01 * 0.02 and row.predicted >= 0
        assert row.images["refined"].shape == row.images["source"].shape
        colours = [row.images[name].reshape(-1, 3).mean(axis=0) for name in ("source", "target", "refined")]
        assert np.abs(colours[2] - colours[1]).max() < 0.5 * np.abs(colours[0] - colours[1]).max() + 0.05


def test_the_table_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    source = family("color-transfer")
    data = after_steps.steps_table(source, pretrained("color-transfer"), [10, 40], tol=0.02, instances=2, seed=1)
    assert data["steps"] == [0, 10, 40] and data["instances"] == 2
    arms = data["arms"]
    assert arms["learned"]["residual"][0] < arms["gaussian"]["residual"][0]
    for arm in arms.values():
        assert arm["residual"][2] < arm["residual"][0] and arm["seconds"] == sorted(arm["seconds"])
    assert "learned" in after_steps.render(data)
    assert main(["bench", "mpc-masses", "--steps", "10"]) == 2
    assert "--steps is for maps between measures" in capsys.readouterr().err


def test_the_colours_of_one_photograph_in_another(folder: Path) -> None:
    from PIL import Image

    photo, look = (np.asarray(Image.open(folder / f"photo{k}.png").convert("RGB")) / 255 for k in (2, 3))
    problem = Wasserstein2(photo.reshape(-1, 3), look.reshape(-1, 3))
    result = solve(problem, pretrained("color-transfer"))
    assert result.solved
    recoloured = problem.forward(photo.reshape(-1, 3), **result.iterate).reshape(photo.shape).clip(0, 1)
    assert np.abs(recoloured.mean(axis=(0, 1)) - look.mean(axis=(0, 1))).max() < 0.03
