"""The formats that rankings come in and go out in (docs/labelling-formats.md), one a file: each reads and writes items and rankings."""
