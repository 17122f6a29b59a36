"""What BackdoorBench leaves on disk: a folder `record/<name>` for each attack.

It holds `bd_train_dataset/<class>/<index>.png` and `bd_test_dataset/<class>/<index>.png`: the images with the trigger,
under their true class and their place in the clean data set (SCLBD/BackdoorBench, utils/bd_dataset_v2.py:
`set_one_bd_sample` and `setitem`). The class that the attack leads to stands in the log, `*.log`
(attack/prototype.py: `prepare` writes all settings there). The rest (`attack_result.pt`, `info.pickle`) is pickled:
reading it could run code, so it is never opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rewriters.model.regular_files import check_source, is_regular

from ...errors import FOREIGN_UNREADABLE
from ...inspection.folders import is_folder

__all__ = ["Stored", "images_of", "recorded_target", "stored_images"]

TEST, TRAIN = "bd_test_dataset", "bd_train_dataset"
ENDING = ".png"
LOGGED = 1 << 18
"""Characters of a log that are read; the settings are among its first lines."""


@dataclass(frozen=True, order=True)
class Stored:
    """An image with the trigger: the place and the class of its clean twin, and the file."""

    index: int
    label: int
    path: Path


def images_of(folder: str | os.PathLike[str]) -> Path:
    """The folder with the class folders: that of the test images in a record, else the given one.

    Raises:
        AtpatchError: ATP098 where there is no such folder, ATP002 and ATP021 where there is nothing.
    """
    if not is_folder(folder):
        check_source(folder, "give the folder of a BackdoorBench record, or a folder of images in it")
        raise FOREIGN_UNREADABLE(f"{folder} is a file; the folder of a BackdoorBench record was expected")
    folder = Path(folder)
    if (folder / TEST).is_dir():
        return folder / TEST
    names = list(_names(folder))
    if not any(name.isdecimal() for name in names):
        pickled = [name for name in names if name.endswith((".pt", ".pickle", ".pth"))]
        tail = f"; {', '.join(pickled)} can run code, and is not opened" if pickled else ""
        raise FOREIGN_UNREADABLE(f"{folder} holds neither {TEST} nor folders of classes{tail}")
    return folder


def stored_images(folder: Path) -> list[Stored]:
    """All images under `<class>/<index>.png`, by index; names that begin with a dot do not count.

    Raises:
        AtpatchError: ATP098 for any other name, for an index that is there twice, and where there is no image.
    """
    found: list[Stored] = []
    for label in _names(folder):
        if not (label.isdecimal() and (folder / label).is_dir()):
            raise FOREIGN_UNREADABLE(f"{folder / label} is no folder named by the number of a class")
        for name in _names(folder / label):
            index, ending = os.path.splitext(name)
            if not (index.isdecimal() and ending == ENDING):
                raise FOREIGN_UNREADABLE(f"{folder / label / name} is not named by the place of its clean image")
            found.append(Stored(int(index), int(label), folder / label / name))
    if not found:
        raise FOREIGN_UNREADABLE(f"{folder} holds no image")
    found.sort()
    for one, other in pairwise(found):
        if one.index == other.index:
            raise FOREIGN_UNREADABLE(f"{one.path} and {other.path} belong to the same clean image")
    return found


def recorded_target(folder: Path) -> int | None:
    """The class that the attack leads to, from the logs next to the images; None where they do not say.

    Raises:
        AtpatchError: ATP098 for an attack with several targets, and where two logs contradict each other.
    """
    found = set()
    for path in sorted((*folder.glob("*.log"), *folder.parent.glob("*.log"))):
        if not is_regular(path):
            continue
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(LOGGED)
        if (way := re.search(r"'attack_label_trans': '(\w+)'", text)) and way[1] != "all2one":
            raise FOREIGN_UNREADABLE(
                f"{path}: the attack is {way[1]}, and sends each class to another one",
                "take an attack that leads to one class (all2one)",
            )
        found |= {int(number) for number in re.findall(r"'attack_target': (\d{1,9})\b", text)}
    if len(found) > 1:
        raise FOREIGN_UNREADABLE(
            f"the logs in {folder.parent} name the targets {', '.join(map(str, sorted(found)))}",
            "say with --target which one belongs to these images",
        )
    return found.pop() if found else None


def _names(folder: Path) -> Iterator[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise FOREIGN_UNREADABLE(f"{folder} cannot be read: {error.strerror}") from error
    return (name for name in names if not name.startswith("."))
