"""What files of a dataset are, by the ends of their names."""

from __future__ import annotations

CLIPS = frozenset({".mp4", ".mov", ".m4v"})
OTHER_VIDEO = frozenset(
    {
        ".webm", ".mkv", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts",
        ".mxf", ".3gp", ".ogv", ".gif",
    }
)  # fmt: skip
STILLS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
CAPTION = ".txt"
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".zst", ".7z", ".rar"})
