"""What a process uses, looked at again and again, and whether it grows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass
class Usage:
    """Resident octets and open descriptors of a process, in the order of looking."""

    pid: int
    resident: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Looks once."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        if os.geteuid() == 0:  # nobody else may look: the process is closed to others
            self.descriptors.append(len(list(Path(f"/proc/{self.pid}/fd").iterdir())))
        else:
            self.descriptors.append(0)


def growth(values: list[int]) -> float:
    """Returns by how much the last quarter lies above the second one; in the first, buffers and memos fill."""
    quarter = max(1, len(values) // 4)
    return median(values[-quarter:]) - median(values[quarter : 2 * quarter])
